"""Runs that a launcher or a scheduler starts again by itself: they resume, and end as if nothing had happened."""

import signal
from pathlib import Path

import pytest
from interrupting import Started, in_training, status, story
from launch import BIN, ROOT, TINY, command, events, execute, write_corpus

from nlp_ssl.core.restarts import SHARED_STORE

AGAIN = {"requeued": "SLURM_RESTART_COUNT", "restarted": "TORCHELASTIC_RESTART_COUNT"}


@pytest.mark.parametrize("counted", AGAIN)
def test_a_second_start_resumes_without_being_asked(tmp_path: Path, counted: str) -> None:
    corpus, out = write_corpus(tmp_path / "corpus.txt"), tmp_path / "run"
    start = command("pretrain_mlm.py", "--data.sources", corpus, *TINY, "--output_dir", out, "--train.steps", 4)
    execute(start)
    assert not status(out).keys() & AGAIN.keys()
    execute([*start, "--resume.enabled", "false"], expect=2, **{AGAIN[counted]: "2"})  # who says so means it
    printed = execute(start, **{AGAIN[counted]: "2"})
    assert f"resume: continuing from {out / 'checkpoints' / 'step-00000004'} (step 4)" in printed
    assert status(out)[counted] == 2
    assert [event["step"] for event in events(out, "step")] == [1, 2, 3, 4]


def test_restarts_that_would_fail_are_said_when_the_run_starts(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    start = command("pretrain_mlm.py", "--data.sources", corpus, *TINY, "--train.steps", 1)
    said = execute([*start, "--output_dir", str(tmp_path / "a")], TORCHELASTIC_MAX_RESTARTS="3")
    assert "warning: torchrun's --max_restarts 3 cannot connect restarted workers unless it is started with" in said
    assert f"{SHARED_STORE}=1" in said
    kept = {"TORCHELASTIC_MAX_RESTARTS": "3", SHARED_STORE: "1"}
    assert SHARED_STORE not in execute([*start, "--output_dir", str(tmp_path / "b")], **kept)


@pytest.mark.long
def test_a_worker_that_dies_is_restarted_by_torchrun(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", "--max_restarts", "2"]
    start = ["env", f"{SHARED_STORE}=1", *torchrun, str(ROOT / "recipes" / "pretrain_mlm.py"), *arguments]
    with Started([*start, "--output_dir", str(out)], tmp_path / "log") as started:
        for rank, beyond in ((1, 6), (0, 20)):
            started.wait_until(in_training(started, out, beyond=beyond))
            started.recipe(rank).send_signal(signal.SIGKILL)
            started.wait_until(lambda rank=rank: started.printed.count("resume: continuing from") > 1 - rank)
        assert started.ends(120) == 0
    assert status(out)["restarted"] == 2
    (steps, _), (expected, _) = story(out), story(whole)
    assert [(s[0], *s[3:]) for s in steps] == [(s[0], *s[3:]) for s in expected]
    for got, wanted in zip(steps, expected, strict=True):
        assert got[1:3] == pytest.approx(wanted[1:3], rel=1e-3)
