"""However a run is split, interrupted and resumed, it is the same run."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launch import TINY, command, environment, events, run, write_corpus

STEPS = ["--train.steps", "12", "--train.batch_size", "12", "--evaluation.every", "6", "--checkpoint.every", "5"]
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
    [(1, ["--train.micro_batch", "5", "--train.workers", "2"]), (2, ["--train.micro_batch", "3"])],
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


def test_resume_with_other_data_is_refused(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other.txt", seed=5)
    printed = run("pretrain_mlm.py", *arguments, "--data.sources", other, "--output_dir", whole, "--resume", expect=2)
    assert "cannot resume" in printed.splitlines()[-1]
