"""Ways to run that change memory, speed or what is installed, and not what is learnt."""

import sys
from pathlib import Path

import pytest
from launch import ROOT, TINY, events, execute, run, write_corpus, write_labelled

STEPS = ["--train.steps", "6", "--train.global_batch_size", "12", "--optimizer.name", "adamw", "--optimizer.lr", "2e-3"]
NAMES = ("step", "digest", "num_targets", "lr", "tokens")
EXTRAS = ["matplotlib", "peft", "sklearn", "tensorboard", "trackio", "wandb"]
WITHOUT = f"""
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(name == extra or name.startswith(extra + ".") for extra in {EXTRAS}):
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

for name in list(sys.modules):
    if any(name == extra or name.startswith(extra + ".") for extra in {EXTRAS}):
        del sys.modules[name]
sys.meta_path.insert(0, Missing())
del sys.argv[0]
sys.path.insert(0, "recipes")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")
    return ["--data.sources", str(corpus), *TINY, *STEPS]


@pytest.fixture(scope="module")
def plain(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    run("pretrain_mlm.py", *arguments, "--output_dir", out)
    return out


def assert_learns_the_same(out: Path, plain: Path, rel: float) -> None:
    for got, expected in zip(events(out, "step"), events(plain, "step"), strict=True):
        assert [got[name] for name in NAMES] == [expected[name] for name in NAMES]
        assert got["loss"] == pytest.approx(expected["loss"], rel=rel)
        assert got["grad_norm"] == pytest.approx(expected["grad_norm"], rel=10 * rel)
    scores = [events(folder, "evaluation")[-1]["held_out_loss"] for folder in (out, plain)]
    assert scores[0] == pytest.approx(scores[1], rel=rel)


def test_gradient_checkpointing(arguments: list[str], plain: Path, tmp_path: Path) -> None:
    run("pretrain_mlm.py", *arguments, "--train.gradient_checkpointing", "--output_dir", tmp_path / "run")
    assert_learns_the_same(tmp_path / "run", plain, 1e-5)


def test_compiled_to_its_end(arguments: list[str], plain: Path, tmp_path: Path) -> None:
    """With a C++ compiler; a machine without one gets its sentence."""
    printed = run(
        "pretrain_mlm.py", *arguments, "--train.compile", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert "compile: the first step takes" in printed
    assert_learns_the_same(tmp_path / "run", plain, 1e-4)


def test_without_any_extra(arguments: list[str], plain: Path, tmp_path: Path) -> None:
    def without(recipe: str, *options: object, expect: int = 0) -> str:
        return execute([sys.executable, "-c", WITHOUT, f"{ROOT}/recipes/{recipe}", *map(str, options)], expect)

    out, labelled = tmp_path / "run", write_labelled(tmp_path, rows=60)[0]
    printed = without("pretrain_mlm.py", *arguments, "--output_dir", out)
    assert (out / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert "matplotlib" in printed  # what to install for the pictures
    few = ["--train.steps", "3", "--train.mixed_precision", "no", "--train.cpu_threads", "1"]
    tuned = ["--model.name", out, "--data.train_file", labelled, *few]
    without("finetune_classification.py", *tuned, "--output_dir", tmp_path / "tuned")
    assert (tmp_path / "tuned" / "predictions.jsonl").exists()
    adapters = without(
        "finetune_classification.py", *tuned, "--transfer.lora_rank", 4, "--output_dir", tmp_path / "lora", expect=2
    )
    assert "pip install -U peft" in adapters.splitlines()[-1]
    maps = without(
        "explore_embeddings.py", "--model.name", out, "--data.train_file", labelled, "--output_dir", tmp_path / "map",
        expect=2,
    )  # fmt: skip
    assert "pip install" in maps.splitlines()[-1]
