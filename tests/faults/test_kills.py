"""A run that is killed (SIGKILL) at any moment, and resumed, is the run that was never killed."""

import random
import subprocess
import sys
from pathlib import Path

import kills
import pytest
from forks import Fork
from launch import write_corpus

SPREAD = ["tokenise", "steps", "save"]


def test_killed_in_three_stages_and_resumed_is_the_run_never_killed(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt", documents=1500)
    reference = kills.never_killed(kills.Life(tmp_path / "never", corpus, "one process", program=Fork))
    life = kills.Life(tmp_path / "killed", corpus, "one process", program=Fork)
    assert kills.live(life, reference, SPREAD, random.Random(0)) == []
    assert len(life.kills) == len(SPREAD), life.kills
    assert len(set(life.kills)) >= 2, life.kills  # a kill may land a little behind the stage that it was aimed at


@pytest.mark.long
def test_a_hundred_kills() -> None:
    script = [sys.executable, kills.__file__, "--kills", "100"]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "100 of 100 runs ended as the one never killed" in done.stdout
