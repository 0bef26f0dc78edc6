"""Stopped anywhere, by anyone, a run says so within seconds, and resumed it is the run that was never stopped."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from interrupting import (
    SECONDS,
    STEPS,
    Started,
    accelerate_launch,
    assert_interrupted,
    assert_same_run,
    in_evaluation,
    in_training,
    spoiled,
)
from launch import TINY, command, events, run, write_labelled

SIGHUP, SIGINT, SIGTERM, SIGKILL = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL


def test_stopped_again_and_again(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [*arguments, "--output_dir", str(out)]
    pretrain = command("pretrain_mlm.py", *arguments)

    # in the evaluation before the first step: at once, nothing is lost
    with Started(pretrain, tmp_path / "0") as started:
        started.wait_until(lambda: "evaluate:" in started.printed)
        started.send(SIGTERM)
        assert started.ends(SECONDS) == 75
    assert_interrupted(out, started, "SIGTERM", step=0)

    # in training, the whole process group with its loader workers; `timeout -s INT` sends the signal twice at once
    with Started([*pretrain, "--train.workers", "2", "--resume"], tmp_path / "1") as started:
        started.wait_until(in_training(started, out))
        started.send(SIGINT)
        started.send(SIGINT, group=True)
        assert started.ends(SECONDS) == 75
    step = assert_interrupted(out, started, "SIGINT")
    assert 0 < step < 20
    assert f"stopped (SIGINT) after step {step}; everything is saved: continue with --resume\n" in started.printed

    # in an evaluation
    with Started([*pretrain, "--resume"], tmp_path / "2") as started:
        started.wait_until(in_evaluation(started, out, 20))
        started.send(SIGTERM)
        assert started.ends(SECONDS) == 75
    assert f"(step {step})" in started.printed
    assert_interrupted(out, started, "SIGTERM", step=20)
    assert [e["step"] for e in events(out, "evaluation")] == [0]

    # while a checkpoint is being written, for seconds
    slow = spoiled("slow_disk", "pretrain_mlm.py", *arguments, "--resume")
    with Started(slow, tmp_path / "3") as started:
        started.wait_until((out / "checkpoints" / ".step-00000025.tmp").exists)
        assert [e["step"] for e in events(out, "evaluation")] == [0, 20]  # it begins with the one that was interrupted
        started.send(SIGTERM)
        assert started.ends(SECONDS) == 75
    step = assert_interrupted(out, started, "SIGTERM")
    assert 25 <= step < STEPS

    # a second Ctrl-C, while the last checkpoint is being written: at once, and what was saved before is still there
    with Started(slow, tmp_path / "4") as started:
        started.wait_until(in_training(started, out, beyond=step))
        started.send(SIGINT)
        time.sleep(1.2)  # the second within a second counts as the first
        started.send(SIGINT)
        assert started.ends(SECONDS) == 75
    assert_interrupted(out, started, "SIGINT, twice")
    assert "stopped at once" in started.printed
    assert list((out / "checkpoints").glob(".step-*.tmp"))

    run("pretrain_mlm.py", *arguments, "--resume")
    assert_same_run(out, whole)


@pytest.mark.long
def test_stopped_through_accelerate_launch_in_more_ways(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    out, step = tmp_path / "run", 0
    arguments = [*arguments, "--output_dir", str(out)]
    launch = accelerate_launch("pretrain_mlm.py", *arguments, "--resume")
    for number, group, reason in (
        (SIGTERM, False, "the launcher is gone"),  # which it does not pass on
        (SIGKILL, False, "the launcher is gone"),
        (SIGTERM, True, "SIGTERM"),
        (SIGINT, True, "SIGINT"),
    ):
        with Started(launch, tmp_path / f"{number.name} {group}") as started:
            started.wait_until(in_training(started, out, beyond=step))
            started.send(number, group=group)
            started.ends(SECONDS)
        former, step = step, assert_interrupted(out, started, reason, launcher_complains=number == SIGINT)
        assert former < step < STEPS
    run("pretrain_mlm.py", *arguments, "--resume")
    assert_same_run(out, whole)


@pytest.mark.long
def test_stopped_while_compiling(arguments: list[str], tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    out = tmp_path / "run"
    with Started(
        command("pretrain_mlm.py", *arguments, "--train.compile", "--output_dir", out), tmp_path / "0"
    ) as started:
        started.wait_until(lambda: "cc1plus" in started.names())
        started.send(SIGTERM)
        assert started.ends(SECONDS) == 75
    assert_interrupted(out, started, "SIGTERM", step=0)


def test_stopped_while_preparing(whole: Path, tmp_path: Path) -> None:
    out, corpus, tokens = tmp_path / "run", tmp_path / "corpus.txt", tmp_path / "tokens"
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(200_000)]
    corpus.write_text("\n\n".join(" ".join(words[at : at + 100]) for at in range(0, len(words), 100)))
    arguments = ["--data.sources", corpus, *TINY, "--output_dir", out]

    # 20,000 entries out of words that do not repeat: ten seconds in which only native code is at work
    with Started(command("pretrain_mlm.py", *arguments, "--tokenizer.vocab_size", "20000"), tmp_path / "0") as started:
        started.wait_until(lambda: "training a bpe tokenizer" in started.printed)
        started.send(SIGTERM)
        assert started.ends(5) == 75
    assert_interrupted(out, started, "SIGTERM", step=0)

    # tokenising in two processes: what they have finished is kept
    arguments += ["--tokenizer.path", whole, "--tokens.num_proc", "2", "--tokens.folder", tokens]
    with Started(spoiled("small_parts", "pretrain_mlm.py", *arguments), tmp_path / "1") as started:
        started.wait_until(lambda: list(tokens.glob("train/part-*.json")))
        started.send(SIGHUP, group=True)
        assert started.ends(SECONDS) == 75
    assert_interrupted(out, started, "SIGHUP", step=0)
    assert "resource_tracker" not in started.printed
    assert not (tokens / "train" / "manifest.json").exists()
    assert "there already, continuing" in run("prepare_tokens.py", *arguments)


def test_fine_tuning_stopped(whole: Path, tmp_path: Path) -> None:
    labelled, _ = write_labelled(tmp_path, rows=1500)
    arguments = ["--model.name", whole, "--data.train_file", labelled, "--train.steps", "30"]
    arguments += ["--train.global_batch_size", "32", "--train.micro_batch_size", "4", "--train.log_every", "1"]
    arguments += ["--evaluation.batch_size", "1", "--evaluation.every", "20"]
    arguments += ["--train.mixed_precision", "no", "--train.cpu_threads", "1"]
    reference, out = tmp_path / "whole", tmp_path / "run"
    run("finetune_classification.py", *arguments, "--output_dir", reference)
    finetune = command("finetune_classification.py", *arguments, "--output_dir", out)
    with Started(finetune, tmp_path / "0") as started:
        started.wait_until(in_training(started, out))
        started.send(SIGINT)
        assert started.ends(SECONDS) == 75
    assert 0 < assert_interrupted(out, started, "SIGINT") < 20
    with Started([*finetune, "--resume"], tmp_path / "1") as started:
        started.wait_until(in_evaluation(started, out, 20))
        started.send(SIGTERM)
        assert started.ends(SECONDS) == 75
    assert_interrupted(out, started, "SIGTERM", step=20)
    assert [e["step"] for e in events(out, "evaluation")] == [0]
    run("finetune_classification.py", *arguments, "--output_dir", out, "--resume")
    assert_same_run(out, reference)
