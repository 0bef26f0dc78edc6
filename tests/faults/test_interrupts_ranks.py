"""Of several processes all stop at the same step; and when one dies, the others end with its error, and do not hang."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from interrupting import SECONDS, STEPS, Started, assert_interrupted, in_training, last_step, spoiled, status, story
from launch import command, events, run, write_corpus

SIGINT, SIGTERM, SIGKILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
ANOTHER = "another process was asked to stop"


def assert_failed(out: Path, started: Started, error: str) -> None:
    """Rank 0 says what another process died of, in one sentence, and so does the status."""
    found = status(out)
    assert (found["status"], found["exit_code"], found["error"]) == ("failed", 1, error)
    assert f"error: {error}; --resume continues from the newest checkpoint\n" in started.printed
    assert "[rank0]" not in started.printed  # nor a stack trace


def test_two_processes_stop_together_and_end_together(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [*arguments, "--output_dir", str(out)]
    pretrain = command("pretrain_mlm.py", *arguments, "--resume", processes=2)

    # one rank raises in the ninth step
    with Started(spoiled("broken_rank", "pretrain_mlm.py", *arguments, processes=2), tmp_path / "0") as started:
        started.wait_until(in_training(started, out))
        assert started.ends(40) == 1
    assert_failed(out, started, "OSError: the disk of rank 1 is gone")
    assert "[rank1]: OSError: the disk of rank 1 is gone\n" in started.printed

    # one rank is asked to stop
    step = last_step(out)
    with Started(pretrain, tmp_path / "2") as started:
        started.wait_until(in_training(started, out, beyond=step + 1))  # so all have finished a step
        started.recipe(rank=1).send_signal(SIGTERM)
        assert started.ends(SECONDS) == 1
    saved = assert_interrupted(out, started, ANOTHER, launcher_complains=True)
    assert step < saved < STEPS
    manifest = json.loads((out / "checkpoints" / f"step-{saved:08d}" / "MANIFEST.json").read_text())
    assert {"training_state/rank-0.pt", "training_state/rank-1.pt"} <= manifest.keys()

    # one process finishes it: the same to rounding, out of the same rows under the same masks
    run("pretrain_mlm.py", *arguments, "--resume")
    (steps, evaluations), (expected_steps, expected_evaluations) = story(out), story(whole)
    assert [(s[0], *s[3:]) for s in steps] == [(s[0], *s[3:]) for s in expected_steps]
    for got, expected in zip(steps, expected_steps, strict=True):
        assert got[1:3] == pytest.approx(expected[1:3], rel=1e-3)
    for got, expected in zip(map(dict, evaluations), map(dict, expected_evaluations), strict=True):
        assert got["step"] == expected["step"]
        assert got["held_out_loss"] == pytest.approx(expected["held_out_loss"], rel=1e-3)


@pytest.mark.long
def test_two_processes_stopped_in_more_ways(arguments: list[str], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    run("pretrain_mlm.py", *arguments, "--output_dir", whole, processes=2)
    arguments = [*arguments, "--output_dir", str(out)]
    pretrain = command("pretrain_mlm.py", *arguments, "--resume", processes=2)

    # one rank is killed
    with Started(pretrain, tmp_path / "killed") as started:
        started.wait_until(in_training(started, out))
        started.recipe(rank=1).send_signal(SIGKILL)
        assert started.ends(40) == 1
    assert_failed(out, started, "another process of the run has died without a word")
    shutil.rmtree(out)

    # only one of them, in the evaluation before the first step
    with Started(pretrain, tmp_path / "0") as started:
        started.wait_until(lambda: "evaluate:" in started.printed)
        started.recipe(rank=1).send_signal(SIGTERM)
        assert started.ends(SECONDS) == 1
    assert_interrupted(out, started, "SIGTERM", step=0, launcher_complains=True)
    assert "stopped with another process (SIGTERM)" in started.printed
    assert "[rank0]" not in started.printed

    # the launcher, which passes it on; or dies of it, which one of them notices first
    step = 0
    for number, reasons in (
        (SIGTERM, {"SIGTERM"}),
        (SIGINT, {"SIGINT"}),
        (SIGKILL, {"the launcher is gone", ANOTHER}),
    ):
        with Started(pretrain, tmp_path / number.name) as started:
            started.wait_until(in_training(started, out, beyond=step + 1))  # so all have finished a step
            started.send(number)
            assert started.ends(SECONDS) in (1, -SIGKILL)
        found = status(out)
        assert (found["status"], found["exit_code"]) == ("interrupted", 75)
        assert found["reason"] in reasons
        assert step < found["step"] < STEPS
        assert "[rank0]" not in started.printed
        assert "[rank1]" not in started.printed
        step = found["step"]

    # only one of them, in the last evaluation
    with Started(pretrain, tmp_path / "evaluation") as started:
        started.wait_until(lambda: last_step(out) == STEPS)
        started.recipe(rank=1).send_signal(SIGTERM)
        assert started.ends(SECONDS) == 1
    assert_interrupted(out, started, ANOTHER, step=STEPS, launcher_complains=True)
    assert [e["step"] for e in events(out, "evaluation")] == [0, 20, 40]

    run("pretrain_mlm.py", *arguments, "--resume", processes=2)
    assert story(out) == story(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.long
def test_two_processes_stopped_while_preparing(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    out, tokens = tmp_path / "run", tmp_path / "tokens"
    arguments = [*arguments, "--output_dir", str(out), "--tokenizer.path", str(whole), "--tokens.folder", str(tokens)]
    corpus = write_corpus(tmp_path / "corpus.txt", documents=20_000)
    prepare = spoiled("small_parts", "pretrain_mlm.py", *arguments, "--data.sources", corpus, processes=2)

    # the launcher is asked to stop: rank 0 is tokenising, rank 1 waits for it
    with Started(prepare, tmp_path / "0") as started:
        started.wait_until(lambda: list(tokens.glob("train/part-*.json")))
        started.send(SIGTERM)
        assert started.ends(SECONDS) == 1
    assert_interrupted(out, started, "SIGTERM", step=0, launcher_complains=True)
    assert "[rank" not in started.printed

    # the one that waits is killed: the launcher ends the other, which keeps what it has finished
    with Started(prepare, tmp_path / "1") as started:
        started.wait_until(lambda: "continuing from" in started.printed)
        started.recipe(rank=1).send_signal(SIGKILL)
        assert started.ends(SECONDS) == 1
    assert_interrupted(out, started, "SIGTERM", step=0, launcher_complains=True)
    assert not (tokens / "train" / "manifest.json").exists()

    # rank 0 is killed in training: nobody is left to write but rank 1
    out = tmp_path / "other"
    with Started(
        command("pretrain_mlm.py", *arguments[:-6], "--output_dir", out, processes=2), tmp_path / "2"
    ) as started:
        started.wait_until(in_training(started, out))
        started.recipe(rank=0).send_signal(SIGKILL)
        assert started.ends(40) == 1
    found = status(out)
    assert (found["status"], found["error"]) == ("failed", "another process of the run has died without a word")
    assert "[rank1]" not in started.printed
