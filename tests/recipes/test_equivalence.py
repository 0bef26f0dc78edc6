"""However a run is split, interrupted and resumed, it is the same run."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forks import Fork
from launch import TINY, command, environment, events, run, write_corpus

STEPS = ["--train.steps", "12", "--train.global_batch_size", "12", "--evaluation.every", "6", "--checkpoint.every", "5"]
STEPS += ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3"]  # Muon rounds to bf16 inside, which amplifies rounding


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")
    return ["--data.sources", str(corpus), *TINY, *STEPS]


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run("pretrain_mlm.py", *arguments, "--output_dir", out)
    return out


def curve(folder: Path, *names: str) -> list[tuple[float, ...]]:
    return [tuple(event[name] for name in names) for event in events(folder, "step")]


@pytest.mark.parametrize(
    ("processes", "more"),
    [(1, ["--train.micro_batch_size", "5", "--train.workers", "2"]), (2, ["--train.micro_batch_size", "3"])],
    ids=["micro-batches of 5", "2 processes x micro-batches of 3"],
)
def test_split_does_not_matter(
    arguments: list[str], whole: Path, tmp_path: Path, processes: int, more: list[str]
) -> None:
    run("pretrain_mlm.py", *arguments, *more, "--output_dir", tmp_path / "run", processes=processes)
    expected, got = curve(whole, "loss", "grad_norm"), curve(tmp_path / "run", "loss", "grad_norm")
    assert got[0] == pytest.approx(expected[0], rel=2e-6)  # the first step: the same loss and gradient, to rounding
    for at, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert b == pytest.approx(a, rel=1e-4), f"step {at}"
    assert curve(whole, "num_targets", "tokens", "lr") == curve(tmp_path / "run", "num_targets", "tokens", "lr")


def test_stopped_by_sigterm_and_resumed_is_bit_for_bit_the_same_run(
    arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    started = [*arguments, "--output_dir", str(out)]
    with subprocess.Popen(
        command("pretrain_mlm.py", *started), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "log.jsonl").exists() or not events(out, "step"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 75, printed
    status = json.loads((out / "run_status.json").read_text())
    assert (status["status"], status["reason"]) == ("interrupted", "SIGTERM")
    assert 0 < status["step"] < 12
    printed = run("pretrain_mlm.py", *started, "--resume")
    assert f"(step {status['step']})" in printed
    assert curve(out, "step", "loss", "grad_norm", "lr", "tokens") == curve(
        whole, "step", "loss", "grad_norm", "lr", "tokens"
    )
    scores = [[(e["step"], e["held_out_loss"]) for e in events(folder, "evaluation")] for folder in (out, whole)]
    assert scores[0] == scores[1]
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


PHASES = (
    '--phases=[{"steps": 12, "global_batch_size": 6, "mask_probability": 0.3}, {"steps": 12, "global_batch_size": 9}, '
)
PHASES += '{"steps": 12, "sequence_length": 24, "objective": "clm"}]'
LIFE = ["--train.steps", "48", "--train.global_batch_size", "12", "--evaluation.every", "8", "--checkpoint.every", "7"]
LIFE += ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3", PHASES]


def stopped_after(step: int, arguments: list[str], out: Path, processes: int) -> None:
    """Start a recipe, and ask it to stop once it has taken a step."""
    arguments = command("pretrain_mlm.py", *arguments, "--output_dir", out, processes=processes)
    with Fork(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not (out / "log.jsonl").exists() or all(e["step"] < step for e in events(out, "step")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0].decode()
    status = json.loads((out / "run_status.json").read_text())
    assert (status["status"], status["reason"]) == ("interrupted", "SIGTERM"), printed


def test_one_life_over_processes_workers_micro_batches_and_phases(tmp_path: Path) -> None:
    """A batch ramp, a change of row length, four stops, 1 -> 2 -> 3 -> 1 processes: the same rows, masks and rates."""
    corpus = write_corpus(tmp_path / "corpus.txt")
    arguments = ["--data.sources", str(corpus), *TINY, *LIFE]
    whole, life = tmp_path / "whole", tmp_path / "life"
    run("pretrain_mlm.py", *arguments, "--output_dir", whole)
    stopped_after(3, arguments, life, processes=1)
    two = ["--train.workers", "2", "--train.micro_batch_size", "2", "--resume"]
    stopped_after(14, [*arguments, *two], life, processes=2)
    stopped_after(26, [*arguments, "--train.micro_batch_size", "5", "--resume"], life, processes=3)
    run("pretrain_mlm.py", *arguments, "--train.workers", "2", "--resume", "--output_dir", life)

    exact = ("step", "digest", "num_targets", "tokens", "lr")
    assert curve(life, *exact) == curve(whole, *exact)
    assert [step for (step,) in curve(life, "step")] == list(range(1, 49))
    for kind, names in (("step", ("loss", "grad_norm")), ("evaluation", ("step", "held_out_loss"))):
        for expected, got in zip(events(whole, kind), events(life, kind), strict=True):
            assert [got[n] for n in names] == pytest.approx([expected[n] for n in names], rel=1e-4), got


def test_resume_with_other_data_is_refused(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other.txt", seed=5)
    arguments = [*arguments, "--output_dir", str(whole), "--resume", "--data.sources", str(other)]
    printed = run("pretrain_mlm.py", *arguments, expect=2)
    changed = "the corpus changed (corpus.txt is gone, other.txt is new)"
    assert f"{changed}, and with it the tokenizer trained on it" in printed.splitlines()[-1]
    tokenizer = ["--tokenizer.path", str(whole)]
    printed = run("pretrain_mlm.py", *arguments, *tokenizer, expect=2)
    assert f"would give another result: {changed}" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--optimizer.lr", "1e-3"], "--optimizer.lr was 0.002 and is 0.001"),
        (["--train.steps", "14"], "--train.steps was 12 and is 14"),
        (["--model.overrides.hidden_size", "64"], "the model's architecture changed"),
    ],
)
def test_resume_with_other_settings_is_refused(
    arguments: list[str], whole: Path, changed: list[str], sentence: str
) -> None:
    printed = run("pretrain_mlm.py", *arguments, *changed, "--output_dir", whole, "--resume", expect=2)
    assert sentence in printed.splitlines()[-1]


def test_resume_with_other_settings_on_purpose(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    shutil.copytree(whole, out)
    more = ["--train.steps", "14", "--output_dir", out, "--resume.allow_changed"]
    more += ["--train.gradient_checkpointing", "--hub.license", "mit", "--checkpoint.keep_last", 3]
    printed = run("pretrain_mlm.py", *arguments, *more)
    assert "warning: --train.steps was 12 and is 14 from here on" in printed
    same = "from here on; the result stays the same"
    assert f"--train.gradient_checkpointing was False and is True {same} to rounding\n" in printed
    assert f"--checkpoint.keep_last was 2 and is 3 {same}\n" in printed
    assert f"--hub.license was not given and is mit {same}\n" in printed
    assert [event["step"] for event in events(out, "step")] == list(range(1, 15))
