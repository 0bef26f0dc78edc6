"""A run that is never stopped, and how it is started."""

from pathlib import Path

import pytest
from interrupting import STEPS
from launch import TINY, run, write_corpus


@pytest.fixture(scope="session")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Steps of a tenth of a second or less, and evaluations of a second: of row after row."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", documents=1200)
    steps = ["--train.steps", str(STEPS), "--train.global_batch_size", "64", "--train.micro_batch_size", "8"]
    often = ["--evaluation.every", "20", "--evaluation.batch_size", "1", "--checkpoint.every", "5"]
    adamw = ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3"]  # Muon amplifies rounding
    return ["--data.sources", str(corpus), *TINY, "--data.held_out_fraction", "0.15", *steps, *often, *adamw]


@pytest.fixture(scope="session")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run("pretrain_mlm.py", *arguments, "--output_dir", out)
    return out
