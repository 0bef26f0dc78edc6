"""Options that had another name, or have one in transformers: a sentence for who gives it, and older checkpoints are
still read."""

import dataclasses
import re

import pytest
from test_options import options

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import flatten, plain, to_dict
from nlp_ssl.config.finetuning import ClassificationConfig, GlueConfig
from nlp_ssl.config.pretraining import MLMConfig, PhaseConfig
from nlp_ssl.config.renamed import IN_TRANSFORMERS, RENAMED, RENAMED_OF_PHASES, name_here, renamed
from nlp_ssl.core.errors import UserError


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_option_is_told_its_new_name(old, new, tmp_path):
    assert new in flatten(to_dict(MLMConfig()))
    for argv in ([f"--{old}", "3"], [f"--{old}=3"]):
        with pytest.raises(UserError, match=rf"--{old}: it is now --{new}$"):
            parse(MLMConfig, argv=argv)
    section, _, name = old.partition(".")
    (tmp_path / "old.yaml").write_text(f"{section}:\n  {name}: 3\n")
    with pytest.raises(UserError, match=rf"'{old}': it is now --{new}$"):
        parse(MLMConfig, argv=["--config", str(tmp_path / "old.yaml")])


def test_fine_tuning_knows_them_too():
    with pytest.raises(UserError, match=r"it is now --train\.global_batch_size"):
        parse(ClassificationConfig, argv=["--train.batch_size", "3"])


@pytest.mark.parametrize(("old", "new"), RENAMED_OF_PHASES.items())
def test_an_old_key_of_a_phase_is_told_its_new_name(old, new):
    assert new in {f.name for f in dataclasses.fields(PhaseConfig)}
    with pytest.raises(UserError, match=rf"'{old}': it is now '{new}"):
        parse(MLMConfig, argv=["--phases", f"[{{steps: 3, {old}: 1}}]"])


def test_the_options_of_an_earlier_run_are_read_under_their_new_names():
    config = MLMConfig(
        phases=[PhaseConfig(3, global_batch_size=4, sequence_length=64), PhaseConfig(2, objective="clm")]
    )
    config.train.global_batch_size, config.tokens.sequence_length = 12, 128
    now = flatten(plain(to_dict(config)))
    old = {next((o for o, n in RENAMED.items() if n == key), key): value for key, value in now.items()}
    none = {"mask_probability": None}
    old["phases"] = [
        {"steps": 3, "batch_size": 4, "row_length": 64, "causal": False, **none},
        {"steps": 2, "batch_size": None, "row_length": None, "causal": True, **none},
    ]
    assert old != now
    assert renamed(old) == now
    assert renamed(now) == now


@pytest.mark.parametrize(
    ("kind", "given", "ours"),
    [
        (MLMConfig, "learning_rate", "--optimizer.lr"),
        (GlueConfig, "learning_rate", "--lr"),
        (MLMConfig, "fp16", "--train.mixed_precision fp16"),
        (ClassificationConfig, "bf16", "--train.mixed_precision bf16"),
        (MLMConfig, "max_seq_length", "--tokens.sequence_length"),
        (ClassificationConfig, "max_seq_length", "--max_length"),
        (MLMConfig, "train_file", "--data.sources"),
        (ClassificationConfig, "train_file", "--data.train_file"),
        (ClassificationConfig, "validation_file", "--data.validation_file"),
        (MLMConfig, "dataset_name", "--data.sources"),
        (ClassificationConfig, "dataset_name", "--data.task"),
        (MLMConfig, "mlm_probability", "--masking.probability"),
        (MLMConfig, "max_steps", "--train.steps"),
        (MLMConfig, "resume_from_checkpoint", "--resume"),
        (MLMConfig, "optimizer.learning_rate", "--optimizer.lr"),
    ],
)
def test_a_name_of_transformers_gets_ours(kind, given, ours, tmp_path):
    for argv in ([f"--{given}", "3"], [f"--{given.replace('_', '-')}=3"]):
        with pytest.raises(UserError, match=rf"^unknown option --[\w.-]+: here it is {re.escape(ours)}$"):
            parse(kind, argv=argv)
    if "." not in given:
        (tmp_path / "theirs.yaml").write_text(f"{given}: 3\n")
        with pytest.raises(UserError, match=rf"'{given}': here it is {re.escape(ours)}$"):
            parse(kind, argv=["--config", str(tmp_path / "theirs.yaml")])


def test_several_names_of_transformers_are_answered_at_once():
    with pytest.raises(UserError) as caught:
        parse(MLMConfig, argv=["--do_train", "--num_train_epochs", "3", "--save_steps", "500"])
    said = str(caught.value)
    assert "--do_train: here it is not needed" in said
    assert "--num_train_epochs: here it is --train.epochs; unknown option --save_steps: here it is --chec" in said


def test_ours_are_named_only_where_the_recipe_has_them():
    known = [set(options(kind)) for kind in (MLMConfig, ClassificationConfig, GlueConfig)]
    for theirs, answers in IN_TRANSFORMERS.items():
        assert not any(theirs in keys for keys in known)
        assert {name_here(theirs, keys) for keys in known} - {None} == set(answers)
    assert name_here("mlm_probability", known[1]) is None


def test_the_output_folder_and_the_seed_have_the_same_names():
    config = parse(MLMConfig, argv=["--output-dir", "x", "--seed", "3"])
    assert (config.output_dir, config.seed) == ("x", 3)
