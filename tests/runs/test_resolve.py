"""What a run leaves open is filled in, in a copy: the configuration that was given stays as it is."""

import copy
import dataclasses

import pytest
from toys import tiny_config

from nlp_ssl.config.common import EvaluationConfig, ResumeConfig, freeze, to_dict
from nlp_ssl.config.contrastive import ContrastiveConfig
from nlp_ssl.config.finetuning import ClassificationConfig
from nlp_ssl.config.pretraining import MLMConfig, PhaseConfig
from nlp_ssl.config.span_corruption import SpanCorruptionConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.models import presets
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.contrastive import Contrastive
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.span_corruption import SpanCorruption
from nlp_ssl.runs import resolve


def given(**more):
    config = MLMConfig(phases=[PhaseConfig(steps=3)], **more)
    config.model.name, config.tokens.sequence_length = "modernbert-tiny", 128
    return config


def complete(config, world_size=1):
    return resolve.pretraining(resolve.lengths(config), MaskedLanguageModeling, tiny_config("modernbert"), world_size)


def test_nothing_that_was_given_is_written_to():
    config = given()
    before = copy.deepcopy(to_dict(config))
    made = complete(resolve.precision(resolve.implied(config)))
    assert to_dict(config) == before
    assert made.train.global_batch_size == 4096 // 128
    assert made.phases[0].sequence_length == 128
    assert made.phases[0].global_batch_size == made.train.global_batch_size
    assert made.train.mixed_precision in ("no", "bf16", "fp16")
    assert made.optimizer.name == "muon"


def test_what_was_given_stays():
    config = given()
    config.train.global_batch_size, config.train.micro_batch_size, config.optimizer.lr = 12, 5, 0.25
    config.phases[0].global_batch_size = 20
    made = complete(config)
    assert (made.train.global_batch_size, made.train.micro_batch_size, made.optimizer.lr) == (12, 5, 0.25)
    assert made.phases[0].global_batch_size == 20


def test_a_run_gets_a_frozen_one_and_the_next_starts_from_a_copy():
    made = freeze(complete(given()))
    for part, name in ((made, "seed"), (made.train, "steps"), (made.phases[0], "steps")):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"{name} of a resolved configuration"):
            setattr(part, name, 1)
    again = resolve.implied(made)
    again.train.steps = 7
    assert made.train.steps != 7


def test_what_some_options_mean_for_others():
    config = given(evaluation=EvaluationConfig(patience=2), resume=ResumeConfig(allow_changed=True))
    made = resolve.implied(config)
    assert made.checkpoint.keep_best
    assert made.resume.enabled
    assert not config.checkpoint.keep_best
    assert not config.resume.enabled


def test_the_objective_chooses_the_model():
    assert resolve.model(MLMConfig(), MaskedLanguageModeling).model.name.startswith("modernbert-")
    assert resolve.model(MLMConfig(), CausalLanguageModeling).model.name.startswith("llama-")


@pytest.mark.parametrize(
    ("loss", "length", "sequences"), [("infonce", 512, 64), ("infonce", 32, 128), ("moco", 512, 8), ("byol", 512, 8)]
)
def test_a_step_has_texts_enough_to_be_told_apart(loss, length, sequences):
    config = ContrastiveConfig()
    config.model.name, config.tokens.sequence_length, config.contrastive.loss = "modernbert-tiny", length, loss
    made = resolve.pretraining(resolve.lengths(config), Contrastive, tiny_config("modernbert"), world_size=1)
    assert made.train.global_batch_size == sequences
    config.train.global_batch_size = 16
    made = resolve.pretraining(resolve.lengths(config), Contrastive, tiny_config("modernbert"), world_size=1)
    assert made.train.global_batch_size == 16


def test_a_batch_for_every_process():
    config = given()
    config.phases[0].global_batch_size = 1
    with pytest.raises(UserError, match="a batch of 1 row is smaller than the 2 processes"):
        complete(config, world_size=2)


def test_fine_tuning_small_sets_takes_more_epochs_and_is_frozen():
    config = ClassificationConfig()
    before = copy.deepcopy(to_dict(config))
    made = resolve.finetuning(config, num_rows=320, hidden_size=768, main_metric="accuracy", world_size=1)
    assert to_dict(config) == before
    assert made.train.epochs == 20
    assert made.evaluation.every == 10
    assert made.evaluation.metric == "accuracy"
    assert made.optimizer.lr == pytest.approx(31 / 768**2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.optimizer.lr = 1.0


def test_a_run_shorter_than_an_epoch_is_evaluated_at_its_end():
    config = ClassificationConfig()
    config.train.steps = 3
    made = resolve.finetuning(config, num_rows=320, hidden_size=768, main_metric="accuracy", world_size=1)
    assert made.evaluation.every == 3


@pytest.mark.parametrize(("name", "scales", "lr"), [("t5-tiny", True, 0.02), ("bart-tiny", False, 0.5 / 128)])
def test_the_rate_of_every_weight_follows_its_size_in_t5_alone(name, scales, lr):
    config = SpanCorruptionConfig()
    config.model.name = name
    made = resolve.pretraining(resolve.lengths(config), SpanCorruption, presets.preset_config(name, 300), 1)
    assert made.optimizer.scale_parameter is scales
    assert made.optimizer.lr == pytest.approx(lr)
    config.optimizer.scale_parameter = False
    made = resolve.pretraining(resolve.lengths(config), SpanCorruption, presets.preset_config(name, 300), 1)
    assert made.optimizer.lr == pytest.approx(0.5 / 128)
    assert not complete(given()).optimizer.scale_parameter
