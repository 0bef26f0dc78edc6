"""The parts of `python -m nlp_ssl.benchmarks.gpu`: each measures one thing, in a process of its own."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace


@dataclass
class GpuConfig:
    """What is measured, on what, for how long."""

    minutes: float = 25.0
    """Time limit of all parts together; parts that were not measured are named."""
    out: str = "gpu"
    """Folder of the results, one JSON file and one log per part. Older results of a part are replaced."""
    parts: list[str] | None = None
    """Parts to run, in this order. Derived: all."""
    sources: str | list[str] = "builtin"
    """Text to train on, as `--data.sources` of the recipes."""
    wordpiece: str | None = None
    """Folder of a tokenizer for the BERT. Derived: trained on the text."""
    bpe: str | None = None
    """Folder of a tokenizer for the others. Derived: trained on the text."""
    labelled: str | None = None
    """File of labelled texts for fine-tuning. Derived: the built-in task."""
    rounds: int = 5
    """Turns of every contender, of which medians are taken."""
    steps: int = 10
    """Optimizer steps in a turn."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Device; `cpu` rehearses."""
    tiny: bool = False
    """Use models of two small layers, to see whether every part runs."""
    table: str | None = None
    """Only print README's rows from this folder of results."""
    part: str | None = None
    """Run this part in this process; the command calls itself with it."""


@dataclass(frozen=True)
class Part:
    """One part of the measurement.

    Attributes:
        minutes: that it may take.
        measure: returns what is written; runs in a process of its own.
    """

    minutes: float
    measure: Callable[[GpuConfig], dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """A model whose training step is measured, and its batch of 32,768 tokens.

    Attributes:
        name: of a preset.
        tokenizer: `wordpiece` or `bpe`.
        length: tokens of a sequence.
        against: the other contenders.
    """

    name: str
    tokenizer: str
    length: int
    against: tuple[str, ...] = ("eager", "script", "best")


MODELS = {
    "bert-base 512": Model("bert-base", "wordpiece", 512),
    "gpt2-small 1024": Model("gpt2-small", "bpe", 1024),
    "modernbert-base 1024": Model("modernbert-base", "bpe", 1024),
    "modernbert-base 512": Model("modernbert-base", "bpe", 512, ("eager", "best")),
    "llama-small 1024": Model("llama-small", "bpe", 1024, ("eager", "best")),
}
TOKENS = 32_768  # of a batch


def result_file(folder: Path, name: str) -> Path:
    """Where the result of a part lies."""
    return folder / f"{name.replace(' ', '-')}.json"


def write_result(config: GpuConfig, found: dict[str, Any]) -> None:
    """Put what this process's part has found so far where the command looks for it."""
    replace(result_file(Path(config.out), config.part or ""), json.dumps(found, indent=1))


def hardware(config: GpuConfig) -> dict[str, Any]:
    """What the machine is, and what it reaches."""
    import torch

    from nlp_ssl.core import libraries
    from nlp_ssl.training.device import DTYPES, best_precision, training_device
    from nlp_ssl.training.throughput import datasheet_peak, measured_bandwidth, measured_peak

    device = training_device()
    precision = best_precision(device)
    found: dict[str, Any] = {"commit": _commit(), "versions": libraries.versions(), "precision": precision}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": properties.total_memory,
        }
        if properties.major < 8:
            console.warn(
                f"compute capability {found['capability']}: no bfloat16; {precision} is measured, under a mask"
            )
    return found | {
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "datasheet_peak": datasheet_peak(device),
        "measured_peak": measured_peak(device, DTYPES[precision]),
        "measured_bandwidth": measured_bandwidth(device),
    }


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return os.environ.get("COMMIT") or done.stdout.strip() or "unknown"


def proofs(config: GpuConfig) -> dict[str, Any]:
    """The tests that need a GPU."""
    folder = Path(__file__).parents[2] / "tests" / "gpu"
    if not folder.is_dir():
        raise UserError("the tests lie in a clone of the project, not in an installed package; run this in a clone")
    if importlib.util.find_spec("pytest") is None:
        raise UserError("pytest is not installed here, and the proofs are tests: pip install pytest")
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") and config.device == "cuda" else []
    plainly = ["-o", "addopts=--strict-markers"]  # the project's own options need pytest-xdist
    command = [sys.executable, "-m", "pytest", str(folder), *plainly, "-m", "gpu", "-v", "-rs", "--tb=short", *workers]
    # small kernels are compiled faster by the process that wants them
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ) as process:
        clock = threading.Timer(max(1.0, 60 * config.minutes - 10), process.terminate)
        clock.start()
        lines = []
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            lines.append(line.rstrip())
            print(line, end="", flush=True)  # into this part's log, as it happens
        clock.cancel()
    outcomes = [line for line in lines if "::" in line]
    counts = Counter(word for line in outcomes for word in ("PASSED", "FAILED", "SKIPPED", "ERROR") if word in line)
    whole = next((line for line in reversed(lines) if re.search(r"\d (passed|failed|skipped|error)", line)), None)
    summary = whole.strip("= ") if whole else f"cut off at {dict(counts)}"
    return {"exit_code": process.returncode, "summary": summary, "output": lines[-300:]}


def steps(config: GpuConfig, model: Model) -> dict[str, Any]:
    """A training step beside others."""
    from nlp_ssl.benchmarks.contest import compare_steps

    return compare_steps(_benchmark(config, model), partial(write_result, config))


def _benchmark(config: GpuConfig, model: Model) -> Any:
    """The options of `recipes/benchmark.py` for a model."""
    from nlp_ssl.benchmarks.settings import BenchmarkConfig

    chosen = BenchmarkConfig(against=list(model.against), rounds=config.rounds, steps=config.steps)
    chosen.output_dir = str(_work(config) / model.name)
    chosen.model.name = model.name
    chosen.data.sources = config.sources
    chosen.tokenizer.kind = model.tokenizer
    chosen.tokenizer.path = getattr(config, model.tokenizer)
    chosen.tokens.sequence_length = model.length
    chosen.train.global_batch_size = chosen.train.micro_batch_size = _batch(config, model.length)
    if config.tiny:
        chosen.against = ["script"]
        _make_tiny(chosen)
    elif chosen.tokenizer.path is None:
        chosen.tokenizer.vocab_size = {"wordpiece": 30_522, "bpe": 32_768}[model.tokenizer]
    return chosen


def _batch(config: GpuConfig, length: int) -> int:
    """Rows of 32,768 tokens together, or fewer on a GPU with less than 70 GB."""
    import torch

    share = 1.0
    if config.device == "cuda":
        share = min(1.0, torch.cuda.get_device_properties(0).total_memory / 70e9)
    return max(1, int(share * TOKENS) // length)


def _make_tiny(chosen: Any) -> None:
    gpt = chosen.model.name.startswith("gpt2")
    layers, width = ("n_layer", "n_embd") if gpt else ("num_hidden_layers", "hidden_size")
    inner = "n_inner" if gpt else "intermediate_size"
    chosen.model.name = {"bert": "bert-tiny", "gpt2": "gpt2-tiny"}.get(chosen.model.name.split("-")[0], "bert-tiny")
    chosen.model.overrides = {layers: 2, width: 32, inner: 48}
    chosen.tokenizer.kind, chosen.tokenizer.vocab_size, chosen.tokens.sequence_length = "bpe", 320, 48
    chosen.data.held_out_fraction = 0.1
    chosen.train.global_batch_size = chosen.train.micro_batch_size = 8
    chosen.train.cpu_threads = 1


def _work(config: GpuConfig) -> Path:
    """Where runs leave what is too large to carry away."""
    from nlp_ssl.core.files import cache_dir

    return cache_dir() / "gpu"


def data(config: GpuConfig) -> dict[str, Any]:
    """Tokenise and pack the text for every model, so that no contender waits for it."""
    from nlp_ssl.runs.pretraining_data import infer_objective, prepare

    found = {}
    for name, model in MODELS.items():
        begun, chosen = time.monotonic(), _benchmark(config, model)
        prepared = prepare(chosen, infer_objective(chosen))
        tokens = prepared.train.tokens.manifest
        documents = tokens["documents"]
        found[name] = {
            "seconds": time.monotonic() - begun,
            "documents": documents,
            "tokens": tokens["tokens"],
            "tokens_per_document": tokens["tokens"] / documents,
            "rows": len(prepared.train),
            "packing": str(prepared.train.stats),
        }
        if config.tiny:
            break
    return found


def finetuning(config: GpuConfig) -> dict[str, Any]:
    """Rows a second of fine-tuning beside a Trainer, of a BERT-base with random weights."""
    from transformers import AutoModelForMaskedLM

    from nlp_ssl.benchmarks.finetuning import FinetuneBenchmarkConfig, compare_finetuning
    from nlp_ssl.runs.pretraining_data import infer_objective, prepare

    model = MODELS["bert-base 512"]
    pretrained = _benchmark(config, model)
    prepared = prepare(pretrained, infer_objective(pretrained))
    folder = _work(config) / "untrained"
    AutoModelForMaskedLM.from_config(prepared.model_config, trust_remote_code=False).save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)
    chosen = FinetuneBenchmarkConfig(rounds=config.rounds, steps=2 if config.tiny else 2 * config.steps)
    chosen.model.name, chosen.output_dir = str(folder), str(_work(config) / "finetuning")
    if config.labelled is not None:
        chosen.data.train_file = config.labelled
    if config.tiny:
        chosen.max_length, chosen.rounds, chosen.against, chosen.train.cpu_threads = 48, 1, ["script"], 1
    return compare_finetuning(chosen)


def pretraining(config: GpuConfig) -> dict[str, Any]:
    """Pretrain the default encoder in what is left of the time, and on from there if it was begun."""
    from nlp_ssl.config.pretraining import MLMConfig
    from nlp_ssl.objectives.mlm import MaskedLanguageModeling
    from nlp_ssl.runs import pretraining, pretraining_data

    chosen = MLMConfig(output_dir=str(_work(config) / "pretraining"))
    chosen.resume.enabled = chosen.resume.allow_changed = True  # other minutes than before
    chosen.data.sources, chosen.tokenizer.kind, chosen.tokenizer.path = config.sources, "bpe", config.bpe
    chosen.model.name, chosen.tokens.sequence_length = "modernbert-base", 1024
    chosen.train.minutes = max(0.05, 0.8 * config.minutes - 1.0)  # less what goes before, and evaluations
    if config.tiny:
        _make_tiny(chosen)
        chosen.train.minutes, chosen.train.steps, chosen.train.micro_batch_size = None, 4, None
    prepared = pretraining_data.prepare(chosen, MaskedLanguageModeling)
    run = pretraining.start(chosen, MaskedLanguageModeling, prepared)
    results = run.train()
    pretraining.show(run, prepared)
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "model": chosen.model.name,
        "results": results,
        "unigram": prepared.unigram,
        "steps": run.state.step,
        "tokens": run.state.tokens_seen,
        "seconds": run.state.elapsed,
        "tokens_per_second": run.state.tokens_seen / run.state.step_seconds,
        "batch_size": run.config.train.global_batch_size,
        "micro_batch": run.config.train.micro_batch_size,
        "log": log,
    }


PARTS: dict[str, Part] = {
    "hardware": Part(1.0, hardware),
    "data": Part(3.0, data),
    "proofs": Part(4.0, proofs),
    **{name: Part(4.0, partial(steps, model=model)) for name, model in MODELS.items()},
    "finetuning": Part(3.0, finetuning),
    "pretraining": Part(600.0, pretraining),
}
