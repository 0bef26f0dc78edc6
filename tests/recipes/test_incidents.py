"""A step that is not finite, or a spike: not applied on any process; its rows named; stopped, skipped or gone back."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from launch import BIN, TINY, events, execute, free_port, run, write_corpus

from nlp_ssl.data.sequences.order import rows_at

STEPS = [
    "--train.steps",
    "40",
    "--train.global_batch_size",
    "12",
    "--evaluation.every",
    "20",
    "--checkpoint.every",
    "10",
]
STEPS += ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3"]
ROW = 142  # visited by step 23 of 308 rows


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")
    return ["--data.sources", str(corpus), *TINY, *STEPS]


@pytest.fixture(scope="module")
def clean(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clean") / "run"
    run("pretrain_mlm.py", *arguments, "--output_dir", out)
    return out


def visited_at(row: int, num_rows: int) -> int:
    """The step that visits a row in the first epoch."""
    rows, _ = rows_at(np.arange(num_rows), num_rows, 0)
    return int(np.flatnonzero(rows == row)[0]) // 12 + 1


def poisoned(arguments: list[str], out: Path, factor: str, *more: str, processes: int = 1, expect: int = 0) -> str:
    script = str(Path(__file__).with_name("poisoned.py"))
    start = [sys.executable]
    if processes > 1:
        start = [str(BIN / "torchrun"), "--nproc_per_node", str(processes), "--master_port", str(free_port())]
    variables = {"POISON": f"{ROW} {factor}", "PYTHONPATH": os.pathsep.join(sys.path)}
    return execute([*start, script, *arguments, *more, "--output_dir", str(out)], expect, **variables)


def digests(folder: Path) -> dict[int, str]:
    return {event["step"]: event["digest"] for event in events(folder, "step")}


def losses(folder: Path) -> dict[int, float]:
    return {event["step"]: float(event["loss"]) for event in events(folder, "step")}


def test_stop_names_the_rows_and_resume_goes_past_them(arguments: list[str], clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = poisoned(arguments, out, "nan", "--train.incident_texts", expect=2)
    (incident,) = events(out, "incident")
    bad = incident["step"]
    last = printed.splitlines()[-1]
    assert f"step {bad}: not finite (loss nan, gradient norm nan); it was not applied; its rows: " in last
    assert ROW in incident["rows"]
    assert incident["loss"] == "nan"
    rows = [json.loads(line) for line in (out / "incidents.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == incident["rows"]
    assert all(len(row["documents"]) == len(row["text"]) and row["text"][0].strip() for row in rows)
    assert bad == visited_at(ROW, num_rows=int(re.search(r"documents in (\d+) sequences", printed)[1]))

    # go on without these rows: up to there the clean run, nothing that is not finite behind it
    printed = poisoned(arguments, out, "nan", "--resume", "--train.on_nonfinite", "skip")
    assert [step for step in losses(out) if not np.isfinite(losses(out)[step])] == [bad]
    assert digests(out) == digests(clean)
    assert all(losses(out)[step] == losses(clean)[step] for step in range(1, bad))
    assert all(np.isfinite(event["held_out_loss"]) for event in events(out, "evaluation"))


def test_the_step_is_not_applied_on_any_process(arguments: list[str], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    skip = ("--train.on_nonfinite", "skip")
    poisoned(arguments, one, "nan", *skip)
    poisoned(arguments, two, "nan", *skip, "--train.micro_batch_size", "3", processes=2)
    a, b = losses(one), losses(two)
    (bad,) = (step for step, loss in a.items() if np.isnan(loss))
    assert np.isnan(b.pop(bad))
    assert np.isnan(a.pop(bad))
    assert [b[step] for step in a] == pytest.approx(list(a.values()), rel=1e-4)


def test_a_spike_is_skipped(arguments: list[str], clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = poisoned(arguments, out, "1e3", "--train.spike_factor", "20")
    (incident,) = events(out, "incident")
    bad = incident["step"]
    assert f"warning: step {bad}: a spike (loss " in printed
    norms = {event["step"]: event["grad_norm"] for event in events(out, "step")}
    assert norms[bad] > 20 * np.median([norm for step, norm in norms.items() if step < bad])
    assert losses(out)[bad + 1] < losses(clean)[1]


def test_going_back_passes_over_the_rows_that_led_there(arguments: list[str], clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = poisoned(arguments, out, "nan", "--train.on_nonfinite", "rewind")
    (rewind,) = events(out, "rewind")
    back, bad, passed_over = rewind["step"], rewind["after"], rewind["passed_over"]
    assert f"went back from step {bad} to {back}; the rows of {passed_over} steps are passed over" in printed
    assert back == (bad - 1) // 10 * 10
    assert passed_over == bad - back
    found, expected = digests(out), digests(clean)
    assert list(found) == list(range(1, 41))  # no step twice, none missing
    assert all(found[step] == expected[step] for step in range(1, back + 1))
    assert all(found[step] == expected[step + passed_over] for step in range(back + 1, 41 - passed_over))
    assert all(np.isfinite(loss) for loss in losses(out).values())
    assert not [event for event in events(out, "incident") if event["step"] > back]  # it is of the past
