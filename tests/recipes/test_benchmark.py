"""`recipes/benchmark.py`: every stage on a toy corpus; what it prints can be recomputed from the file it leaves."""

import json
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from launch import TINY, run, write_corpus
from transformers import TrainerControl

from nlp_ssl.benchmarks.contenders import TakesTurns


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


def benchmark(corpus: Path, folder: Path, *options: object, **more: object) -> tuple[str, dict]:
    results = folder / "results.json"
    fixed = ["--data.sources", corpus, *TINY, "--tokenizer.kind", "bpe", "--results", results]
    printed = run("benchmark.py", *fixed, *options, **more)
    return printed, json.loads(results.read_text())


def test_a_step_beside_the_trainer(corpus, tmp_path):
    options = ["--model.name", "bert-tiny", "--against", "[script]", "--rounds", 3, "--steps", 2]
    printed, measured = benchmark(corpus, tmp_path, *options, "--train.global_batch_size", 8)
    assert "Trainer, script" in printed
    assert "MFU = operations asked for" in printed
    names = [each["name"] for each in measured["contenders"]]
    assert names == ["nlp_ssl", "script"]
    for each in measured["contenders"]:
        turns = measured["turns"][each["name"]]
        assert [len(turn) for turn in turns] == [2, 2, 2]  # the warm-up is not counted
        steps = [step for turn in turns for step in turn]
        assert each["seconds"] == statistics.median(step["seconds"] for step in steps)
        for step in steps:
            assert 0 < sum(step["parts"].values()) <= step["seconds"]
            assert all(seconds > 0 for seconds in step["parts"].values())
    ours, theirs = measured["turns"]["nlp_ssl"], measured["turns"]["script"]
    tokens = [step["tokens"] for turn in ours for step in turn]
    assert all(0.5 * 8 * 48 < count <= 8 * 48 for count in tokens)  # padding is no token
    assert {step["tokens"] for turn in theirs for step in turn} == {8 * 48}
    median = [statistics.median(step["seconds"] for step in turn) for turn in ours]
    slower = [statistics.median(s["seconds"] for s in turn) / m for turn, m in zip(theirs, median, strict=True)]
    assert measured["contenders"][1]["slower"] == statistics.median(slower)


def test_time_to_a_loss(corpus, tmp_path):
    options = [
        "--stage",
        "loss",
        "--target",
        5.6,
        "--against",
        "[script]",
        "--train.steps",
        40,
        "--train.global_batch_size",
        8,
    ]
    options += ["--evaluation.every", 5, "--optimizer.lr", "1e-2", "--patience", 3]
    printed, measured = benchmark(corpus, tmp_path, *options, "--trainer_model", "bert-tiny")
    assert "times ours" in printed
    ours, theirs = measured["curves"]["nlp_ssl"], measured["curves"]["script"]
    reached = measured["seconds"]["nlp_ssl"]
    assert next(seconds for seconds, loss in ours if loss <= 5.6) == reached
    assert all(b[0] > a[0] for a, b in pairwise(ours))
    # it stopped where it reached the loss, or when its time was over
    assert (theirs[-1][1] <= 5.6) == (measured["seconds"]["script"] is not None)
    assert theirs[-1][1] <= 5.6 or theirs[-1][0] >= 3 * reached


@pytest.mark.parametrize("stage", ["tokenise", "batches", "masking", "resume", "save"])
def test_parts_by_themselves(stage, corpus, tmp_path, monkeypatch):
    few = ["--rounds", 1, "--steps", 1, "--train.global_batch_size", 4]
    printed, measured = benchmark(corpus, tmp_path, "--stage", stage, "--model.name", "bert-tiny", *few)
    assert measured["rows"]
    for note in measured["notes"]:
        assert note in printed
    if stage == "resume":
        seconds = {row["to"]: row["seconds"] for row in measured["rows"]}
        assert set(seconds) == {"imports", "first step", "first step after --resume"}
        assert min(seconds.values()) > 0
    if stage in ("tokenise", "batches", "masking"):
        assert all(row["rate"] > 0 for row in measured["rows"])
        assert measured["rows"][0][""] == "nlp_ssl"


def test_a_million_documents_are_packed(corpus, tmp_path):
    _, measured = benchmark(corpus, tmp_path, "--stage", "pack")
    assert [row["row length"] for row in measured["rows"]] == [128, 512, 1024]
    assert all(float(row["full"].rstrip("%")) > 99 for row in measured["rows"])


def test_a_trainer_that_is_at_its_end_ends_though_its_turn_goes_on():
    control = TrainerControl(should_training_stop=True)  # as its own callback says at max_steps
    TakesTurns(lambda: True).on_step_end(None, None, control)
    assert control.should_training_stop


def test_an_unknown_trainer_is_a_users_mistake(corpus, tmp_path):
    printed = run("benchmark.py", "--against", "[fast]", expect=2)
    assert "fast" in printed.splitlines()[-1]
    assert "script, bf16, best" in printed.splitlines()[-1]
