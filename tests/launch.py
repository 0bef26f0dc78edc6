"""Runs recipes as a user does: real processes, real files, exit codes."""

import csv
import json
import os
import random
import sys
from pathlib import Path

import forks

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TINY = ["--model.overrides.num_hidden_layers", "2", "--model.overrides.hidden_size", "32"]
TINY += ["--model.overrides.intermediate_size", "48", "--tokenizer.vocab_size", "320", "--tokens.sequence_length", "48"]
TINY += ["--data.held_out_fraction", "0.1", "--train.log_every", "1"]
TINY += ["--train.mixed_precision", "no", "--train.cpu_threads", "1"]


def environment() -> dict[str, str]:
    # offline: the tests never ask the Hub, and say so at once instead of waiting for a time-out
    # and a machine with GPUs runs them on the CPU too, where two runs give the same bits
    return {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def command(recipe: str, *args: object, processes: int = 1) -> list[str]:
    """The command line of a recipe: `accelerate launch` would add a launcher's seconds to every test."""
    start = [sys.executable]
    if processes > 1:
        start = [str(BIN / "torchrun"), "--nproc_per_node", str(processes), "--master_port", str(free_port())]
    return [*start, str(ROOT / "recipes" / recipe), *map(str, args)]


def run(recipe: str, *args: object, processes: int = 1, expect: int = 0, timeout: int = 300) -> str:
    """Run a recipe to its end; returns what it printed."""
    return execute(command(recipe, *args, processes=processes), expect, timeout)


def execute(
    arguments: list[str], expect: int = 0, timeout: int = 300, cwd: Path | None = None, **variables: str
) -> str:
    """Run a command line with more environment variables, in a folder; returns what it printed."""
    done = forks.run(arguments, timeout=timeout, cwd=cwd, env=environment() | variables)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def events(folder: Path, kind: str) -> list[dict]:
    """Lines of a run's log of one kind, but for one that is just being written."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().split("\n")[:-1]]
    return [line for line in lines if line["event"] == kind]


SENTENCE = "the model reads a text and writes tokens while cats sleep near old stone walls under warm summer rain"
WORDS = SENTENCE.split()


def write_corpus(path: Path, documents: int = 300, seed: int = 0) -> Path:
    """Documents with structure: every word is mostly followed by the next one of a fixed circle."""
    rng = random.Random(seed)
    texts = []
    for _ in range(documents):
        at, words = rng.randrange(len(WORDS)), []
        for _ in range(rng.randint(6, 60)):
            words.append(WORDS[at])
            at = (at + 1) % len(WORDS) if rng.random() < 0.9 else rng.randrange(len(WORDS))
        texts.append(" ".join(words))
    path.write_text("\n\n".join(texts))
    return path


def write_labelled(folder: Path, rows: int = 160) -> tuple[Path, Path]:
    """A csv of texts with a label that one word decides, and a conll file whose capitalised words are entities."""
    rng = random.Random(1)
    with open(folder / "labelled.csv", "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["text", "label"])
        for _ in range(rows):
            words = rng.sample(WORDS, 8)
            out.writerow([" ".join(words), "cat" if "cats" in words else "other"])
    sentences = []
    for _ in range(rows):
        words = rng.sample(WORDS, 6)
        sentences.append("\n".join(f"{w} {'B-ANIMAL' if w == 'cats' else 'O'}" for w in words))
    (folder / "labelled.conll").write_text("\n\n".join(sentences) + "\n")
    return folder / "labelled.csv", folder / "labelled.conll"
