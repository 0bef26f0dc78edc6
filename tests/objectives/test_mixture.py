"""Mixtures of objectives: what they are made of, by itself and in a run. That steps are exact: `test_splits.py`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForMaskedLM

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from launch import TINY, events, run, write_corpus, write_labelled
from parity_cases import BATCH, ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.config.mixture import MemberConfig, MixtureConfig
from nlp_ssl.config.pretraining import CLMConfig, MaskingConfig, MLMConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases, apportion
from nlp_ssl.doctor.proofs import trajectory
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.mixture import Mixture
from nlp_ssl.objectives.mlm import MaskedLanguageModeling

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]


def packed():
    return PackedModel(tiny_model("bert", isolated=True, vocab_size=VOCABULARY, **ROLES), True)


def mixture(*members):
    config = MixtureConfig(members=list(members), model=ModelConfig(name="bert-tiny"))
    return Mixture.for_config(config), config


def batches(sizes, collators):
    first, *others = (Phase(ROWS, n, n, None, c) for n, c in zip(sizes, collators, strict=True))
    phase = Phase(ROWS, first.batch_size, first.micro_batch, None, first.collator, beside=tuple(others))
    return TrainBatches(Phases([phase]), first.collator, seed=SEED)


def test_its_gradient_is_the_weighted_sum_of_those_of_its_members_on_their_shares_of_the_rows():
    kind, config = mixture(
        MemberConfig("mlm", share=3, weight=2.0, options={"masking.probability": 0.3}), MemberConfig("clm", weight=0.5)
    )
    module = kind(packed(), TOKENIZER, config).double()
    streams = kind.streams(TOKENIZER, config, seed=SEED)
    sizes = apportion(BATCH, [stream.share for stream in streams])
    assert sizes == [12, 4]
    taken = batches(sizes, [stream.collator for stream in streams])
    found = trajectory(module, torch.optim.SGD(module.parameters(), lr=0.0), taken, Accelerator(cpu=True), 1)

    # the rows of the step in their order: the first twelve are masked, the last four are read causally
    _, numbers, epochs = TrainBatches(Phases([Phase(ROWS, BATCH, BATCH)]), None, seed=SEED).step_rows(0)
    masked = MaskedLanguageModeling(packed(), TOKENIZER, MLMConfig()).double()
    causal = CausalLanguageModeling(masked.model, TOKENIZER, CLMConfig()).double()
    collators = [
        MaskedLanguageModeling.collator(TOKENIZER, MLMConfig(masking=MaskingConfig(probability=0.3)), seed=SEED),
        CausalLanguageModeling.collator(TOKENIZER, CLMConfig(), seed=SEED),
    ]
    loss = 0.0
    for objective, collator, part, weight, term in (
        (masked, collators[0], slice(0, 12), 2.0, "mlm"), (causal, collators[1], slice(12, 16), 0.5, "clm"),
    ):  # fmt: skip
        rows = [{**ROWS[n], "row": n, "epoch": e} for n, e in zip(numbers[part], epochs[part], strict=True)]
        batch = collator(rows)
        batch.pop("digest")
        loss = loss + weight * objective(batch)[term] / collator.counts(batch)[term]
    loss.backward()
    assert found.losses[0] == pytest.approx(loss.item(), rel=1e-12)
    expected = {n: p.grad for n, p in masked.model.named_parameters()}
    for name, gradient in found.gradient.items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("model.")], rtol=1e-10, atol=1e-13)


def test_one_member_is_that_objective():
    kind, config = mixture(MemberConfig("mlm"))
    module = kind(packed(), TOKENIZER, config).double()
    (stream,) = kind.streams(TOKENIZER, config, seed=SEED)
    found = trajectory(module, torch.optim.SGD(module.parameters(), lr=0.1), batches([BATCH], [stream.collator]),
                       Accelerator(cpu=True), 3)  # fmt: skip
    alone = MaskedLanguageModeling(packed(), TOKENIZER, MLMConfig()).double()
    collator = alone.collator(TOKENIZER, MLMConfig(), seed=SEED)
    expected = trajectory(alone, torch.optim.SGD(alone.parameters(), lr=0.1), batches([BATCH], [collator]),
                          Accelerator(cpu=True), 3)  # fmt: skip
    assert found.losses == expected.losses
    assert all(torch.equal(found.parameters[name], value) for name, value in expected.parameters.items())


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], "--members is empty"),
        ([MemberConfig("no")], "'no' is no pretraining objective"),
        ([MemberConfig("mlm"), MemberConfig("mlm")], "each needs a name of its own"),
        ([MemberConfig("mlm", weight=-1.0)], "each weight must be at least 0"),
        ([MemberConfig("mlm", weight=0.0)], "each weight must be at least 0, and one above 0"),
        ([MemberConfig("mlm", share=0.0), MemberConfig("clm")], "mlm, the first, needs a share"),
        ([MemberConfig("mlm"), MemberConfig("clm", share=0.0)], "clm has a share of 0"),
        ([MemberConfig("supervised"), MemberConfig("mlm")], "supervised learns from labelled rows"),
        ([MemberConfig("mlm", options={"masking.share": 0.1})], "--members, mlm: unknown key"),
    ],
)
def test_what_cannot_be_mixed_is_one_sentence(members, said):
    with pytest.raises(UserError, match=said):
        mixture(*members)


def test_objectives_that_read_all_vectors_at_once_are_refused():
    kind, config = mixture(MemberConfig("mlm"), MemberConfig("contrastive"))
    with pytest.raises(UserError, match="contrastive reads all vectors of a step at once"):
        kind(packed(), TOKENIZER, config)


# ---------------------------------------------------------------------------------------------------------------------
# a run: text of its own, labelled rows, stopped and resumed


def test_a_run_of_a_mixture_is_the_same_when_it_is_resumed(tmp_path):
    corpus, other = write_corpus(tmp_path / "corpus.txt"), write_corpus(tmp_path / "other.txt", seed=7)
    rows, _ = write_labelled(tmp_path)
    members = [
        {"objective": "mlm", "share": 2},
        {"objective": "mlm", "name": "elsewhere", "options": {"data.sources": str(other)}},
        {"objective": "rtd", "weight": 0.5},
        {"objective": "supervised", "options": {"supervised.data.train_file": str(rows), "supervised.batch_size": 6}},
    ]
    given = ["--data.sources", corpus, *TINY, "--members", json.dumps(members), "--train.global_batch_size", "12"]
    given += ["--train.micro_batch_size", "5", "--evaluation.every", "3", "--checkpoint.every", "3"]
    given += ["--schedule.name", "constant"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    printed = run("pretrain_mixture.py", *given, "--train.steps", "6", "--output_dir", whole)
    run("pretrain_mixture.py", *given, "--train.steps", "3", "--output_dir", stopped)
    run("pretrain_mixture.py", *given, "--train.steps", "6", "--output_dir", stopped, "--resume.allow_changed")
    assert "corpus of elsewhere" in printed
    assert "elsewhere: held-out loss" in printed
    assert "of the rows right" in printed
    steps = events(whole, "step")
    terms = ("mlm.mlm", "elsewhere.mlm", "rtd.mlm", "rtd.rtd", "supervised.loss")
    assert all(f"{term}_loss" in steps[0] for term in terms)
    assert steps[0]["supervised.loss_targets"] == 6
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    keep = ("step", "loss", "digest", "grad_norm", *(f"{term}_loss" for term in terms))
    assert [[e[k] for k in keep] for e in steps] == [[e[k] for k in keep] for e in events(stopped, "step")]
    assert {"held_out_loss", "mlm.masked_accuracy", "supervised.accuracy"} <= events(whole, "evaluation")[-1].keys()
    _, found = AutoModelForMaskedLM.from_pretrained(whole, output_loading_info=True)
    assert not found["missing_keys"]
    assert "a mixture (mlm: masked language modelling; elsewhere:" in (whole / "README.md").read_text()
    rows.write_text(rows.read_text() + "another text,cat\n")
    changed = run("pretrain_mixture.py", *given, "--train.steps", "9", "--output_dir", stopped,
                  "--resume.allow_changed", expect=2)  # fmt: skip
    assert "the labelled rows of supervised changed" in changed


# ---------------------------------------------------------------------------------------------------------------------
# streams


def test_streams_over_the_same_rows_share_them():
    rows, other = [{"x": i} for i in range(100)], [{"x": -i} for i in range(50)]
    streams = (Phase(rows, 3, 3), Phase(other, 2, 2))
    phases = Phases([Phase(rows, 5, 5, 4, beside=streams), Phase(rows, 10, 5)])
    batches = TrainBatches(phases, None, seed=0)
    seen = [batches.step_rows(step, stream=s)[1] for step in range(4) for s in (0, 1)]
    plain = TrainBatches(Phases([Phase(rows, 8, 8)]), None, seed=0)
    assert np.concatenate(seen).tolist() == np.concatenate([plain.step_rows(step)[1] for step in range(4)]).tolist()
    assert batches.step_rows(4)[1].tolist() == TrainBatches(Phases([Phase(rows, 32, 8, 1), Phase(rows, 10, 8)]), None,
                                                            seed=0).step_rows(1)[1].tolist()  # fmt: skip
    assert len(set(np.concatenate([batches.step_rows(step, stream=2)[1] for step in range(4)]).tolist())) == 8
    assert [stream for _, stream, _ in batches.parts(0)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [(16, [3, 1], [12, 4]), (10, [1, 1, 1], [4, 3, 3]), (3, [100, 1, 1], [1, 1, 1]), (8, [1, 0, 1], [4, 0, 4]),
     (7, [0.5, 0.25, 0.25], [3, 2, 2])],
)  # fmt: skip
def test_shares_are_whole_sequences(total, shares, expected):
    found = apportion(total, shares)
    assert sum(found) == total
    assert sorted(found, reverse=True) == sorted(expected, reverse=True)


def test_more_members_than_sequences_are_refused():
    with pytest.raises(UserError, match="a global batch of 2 sequences is too small for 3 parts"):
        apportion(2, [1, 1, 1])
