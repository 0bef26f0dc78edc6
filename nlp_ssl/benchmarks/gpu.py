"""Measure everything on a GPU with one command, in parts, each with a time limit and its result on disk at once.

    python -m nlp_ssl.benchmarks.gpu --minutes 10 --out gpu

proves the kernels (`pytest -m gpu`), measures training steps of four architectures beside `transformers.Trainer`,
fine-tuning, and where the time of a step goes, and pretrains in what is left of the time. A part that fails or is
cut off loses only itself. `--device cpu --tiny` rehearses it without a GPU. README's rows from a folder of results:

    python -m nlp_ssl.benchmarks.gpu --table gpu
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nlp_ssl import console
from nlp_ssl.command_line import parse
from nlp_ssl.console import UserError

NEEDED = ("torch", "transformers", "accelerate", "datasets", "evaluate", "jsonargparse", "docstring_parser", "psutil")
MINUTES_FOR_ITSELF = 0.2  # that a part must at least have


@dataclass
class GpuConfig:
    """What is measured, on what, for how long."""

    minutes: float = 10.0
    """All parts together take at most so long; what is then missing is said."""
    out: str = "gpu"
    """Folder of the results, one JSON file and one log a part. Parts that are there already are measured again."""
    parts: list[str] | None = None
    """Which parts to run, in this order. Derived: all."""
    sources: str | list[str] = "builtin"
    """Text to train on, as `--data.sources` of the recipes."""
    wordpiece: str | None = None
    """Folder of a tokenizer for the BERT. Derived: trained on the text."""
    bpe: str | None = None
    """Folder of a tokenizer for the others. Derived: trained on the text."""
    labelled: str | None = None
    """File of labelled texts for fine-tuning. Derived: the built-in task."""
    rounds: int = 5
    """How often every contender has its turn; medians are of these."""
    steps: int = 10
    """Optimizer steps in a turn."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cpu` rehearses."""
    tiny: bool = False
    """Models of two small layers: does every part run through?"""
    table: str | None = None
    """Only print README's rows from this folder of results."""
    part: str | None = field(default=None)
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


def main(config: GpuConfig) -> None:
    """Run the parts one after the other; or one of them, here; or print the rows of a folder."""
    if config.table is not None:
        console.say(table(Path(config.table)))
        return
    _check(config)
    if config.part is not None:
        found = PARTS[config.part].measure(config)
        _result(config, config.part).write_text(json.dumps(found, indent=1))
        return
    end = time.monotonic() + 60 * config.minutes
    Path(config.out).mkdir(parents=True, exist_ok=True)
    for name in config.parts or PARTS:
        left = (end - time.monotonic()) / 60
        if left < MINUTES_FOR_ITSELF:
            console.say(f"{name}: not measured, no time was left")
            continue
        console.say(f"{name}: at most {min(left, PARTS[name].minutes):.1f} minutes")
        console.say(_run(config, name, min(left, PARTS[name].minutes)))
    console.say(table(Path(config.out)))


def _check(config: GpuConfig) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"missing on this machine: {', '.join(missing)}; install them (pip install {' '.join(missing)})"
        )
    for name in [*(config.parts or []), *([config.part] if config.part else [])]:
        if name not in PARTS:
            raise UserError(f"there is no part '{name}'; there are {', '.join(PARTS)}")
    if min(config.minutes, config.rounds, config.steps) <= 0:
        raise UserError("--minutes, --rounds and --steps must be positive")
    if config.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError("PyTorch sees no CUDA GPU here; --device cpu --tiny rehearses the command without one")


def _run(config: GpuConfig, name: str, minutes: float) -> str:
    """Run a part in a process of its own, at most so long; returns a sentence on how it went."""
    out = Path(config.out)
    result, log = _result(config, name), out / f"{name.replace(' ', '-')}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "nlp_ssl.benchmarks.gpu", *sys.argv[1:], "--part", name, "--minutes", str(minutes)]
    begun = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the contenders that it started
            process.wait()
    seconds = time.monotonic() - begun
    if result.exists():
        return f"{name}: done in {seconds:.0f} s"
    last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")
    how = f"was cut off after {seconds:.0f} s" if code is None else f"failed with exit code {code}"
    result.with_suffix(".failed").write_text(f"{how}: {last}")
    return f"{name}: {how} ({last[:300]}); its output: {log}"


def _result(config: GpuConfig, name: str) -> Path:
    return Path(config.out) / f"{name.replace(' ', '-')}.json"


# ---------------------------------------------------------------------------------------------------------------------
# the parts


def hardware(config: GpuConfig) -> dict[str, Any]:
    """What the machine is, and what it reaches."""
    import torch

    from nlp_ssl.machine import DTYPES, best_precision, library_versions, training_device
    from nlp_ssl.training.throughput import datasheet_peak, measured_bandwidth, measured_peak

    device = training_device()
    precision = best_precision(device)
    found: dict[str, Any] = {"commit": _commit(), "versions": library_versions(), "precision": precision}
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
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") and config.device == "cuda" else []
    command = [sys.executable, "-m", "pytest", str(folder), "-m", "gpu", "-v", "-rs", "--tb=short", *workers]
    # small kernels are compiled faster by the process that wants them
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ) as process:
        clock = threading.Timer(max(1.0, 60 * config.minutes - 10), process.terminate)
        clock.start()
        lines = []
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

    return compare_steps(_benchmark(config, model))


def _benchmark(config: GpuConfig, model: Model) -> Any:
    """The options of `recipes/benchmark.py` for a model."""
    from nlp_ssl.benchmarks.settings import BenchmarkConfig

    chosen = BenchmarkConfig(against=list(model.against), rounds=config.rounds, steps=config.steps)
    chosen.output_dir = str(_work(config) / model.name)
    chosen.model.name = model.name
    chosen.data.sources = config.sources
    chosen.tokenizer.kind = model.tokenizer
    chosen.tokenizer.path = getattr(config, model.tokenizer)
    chosen.tokens.row_length = model.length
    chosen.train.batch_size = chosen.train.micro_batch = _batch(config, model.length)
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
    chosen.tokenizer.vocab_size, chosen.tokens.row_length = 320, 48
    chosen.data.held_out_fraction = 0.1
    chosen.train.batch_size = chosen.train.micro_batch = 8
    chosen.train.cpu_threads = 1


def _work(config: GpuConfig) -> Path:
    """Where runs leave what is too large to carry away."""
    from nlp_ssl.files import cache_dir

    return cache_dir() / "gpu"


def data(config: GpuConfig) -> dict[str, Any]:
    """Tokenise and pack the text for every model, so that no contender waits for it."""
    from nlp_ssl.preparation import kind_of, prepare

    found = {}
    for name, model in MODELS.items():
        begun, chosen = time.monotonic(), _benchmark(config, model)
        prepared = prepare(chosen, kind_of(chosen))
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
    from nlp_ssl.preparation import kind_of, prepare

    model = MODELS["bert-base 512"]
    pretrained = _benchmark(config, model)
    prepared = prepare(pretrained, kind_of(pretrained))
    folder = _work(config) / "untrained"
    AutoModelForMaskedLM.from_config(prepared.model_config).save_pretrained(folder)
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
    from nlp_ssl import preparation, pretraining
    from nlp_ssl.config import MLMConfig

    chosen = MLMConfig(output_dir=str(_work(config) / "pretraining"))
    chosen.resume.enabled = True
    chosen.data.sources, chosen.tokenizer.kind, chosen.tokenizer.path = config.sources, "bpe", config.bpe
    chosen.model.name, chosen.tokens.row_length = "modernbert-base", 1024
    chosen.train.minutes = max(0.05, 0.8 * config.minutes - 1.0)  # less what goes before, and evaluations
    if config.tiny:
        _make_tiny(chosen)
        chosen.train.minutes, chosen.train.steps, chosen.train.micro_batch = None, 4, None
    prepared = preparation.prepare(chosen, "mlm")
    run = pretraining.start(chosen, "mlm", prepared)
    results = run.train()
    pretraining.show(run, prepared, "mlm")
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return {
        "model": chosen.model.name,
        "results": results,
        "unigram": prepared.unigram,
        "steps": run.step,
        "tokens": run.tokens_seen,
        "seconds": run.elapsed,
        "tokens_per_second": run.tokens_seen / run.step_seconds,
        "batch_size": chosen.train.batch_size,
        "micro_batch": chosen.train.micro_batch,
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


# ---------------------------------------------------------------------------------------------------------------------
# what came out


def table(folder: Path) -> str:
    """README's rows, from a folder of results; what is missing in it is said."""
    from nlp_ssl.benchmarks.profiling import profile_rows

    results = {name: json.loads(path.read_text()) for name in PARTS if (path := _result_in(folder, name)).exists()}
    if not results:
        raise UserError(f"{folder} holds no results; python -m nlp_ssl.benchmarks.gpu --out {folder} makes them")
    lines = []
    if machine := results.get("hardware"):
        peak = f"{machine['measured_peak'] / 1e12:.3g} TFLOP/s of {machine['precision']} products"
        lines += [
            f"{machine.get('device', 'CPU')}: {peak}, copies {machine['measured_bandwidth'] / 1e9:,.0f} GB/s; "
            f"commit {machine['commit']}; Python {machine['python']}, {machine['versions']}",
            "",
        ]
    if proof := results.get("proofs"):
        lines += [f"tests on the device: {proof['summary']}", ""]
    lines += _step_rows({name: results[name] for name in MODELS if name in results})
    if tuned := results.get("finetuning"):
        lines += [*_markdown(tuned["rows"]), *tuned["notes"], ""]
    for name in MODELS:
        if name in results and (own := results[name]["contenders"][0])["kernels"]:
            rows, sentence = profile_rows(own)
            lines += [f"{name}: {sentence}", "", *_markdown(rows), ""]
    if run := results.get("pretraining"):
        lines += [
            f"pretraining: {run['model']}, {run['seconds'] / 60:.1f} minutes, {run['tokens'] / 1e6:,.0f} M tokens at "
            f"{run['tokens_per_second']:,.0f} a second, held-out loss {run['results']['held_out_loss']:.3f} "
            f"(unigram {run['unigram']:.3f})",
            "",
        ]
    missing = [name for name in PARTS if name not in results]
    if missing:
        lines.append(f"not measured: {', '.join(missing)}")
    return "\n".join(lines)


def _result_in(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.json"


def _step_rows(measured: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for name, found in measured.items():
        by_name = {each["name"]: each for each in found["contenders"]}
        own = by_name["nlp_ssl"]
        row = {
            "": name,
            "tokens/s": f"{own['tokens_per_second']:,.0f}",
            "MFU": f"{own['mfu']:.0%}",
            "peak GB": f"{own['peak_memory'] / 1e9:.1f}",
        }
        for other, title in (("eager", "not compiled"), ("script", "`script`"), ("best", "`best`")):
            each = by_name.get(other)
            spread = "" if each is None else "{:.2f} - {:.2f}".format(*each["slower_between"])
            row[f"{title} is times slower"] = "" if each is None else f"{each['slower']:.2f} ({spread})"
        rows.append(row)
    return [*_markdown(rows), ""] if rows else []


def _markdown(rows: list[dict[str, Any]]) -> list[str]:
    header = list(rows[0])
    body = [[str(row[key]) for key in header] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)]


if __name__ == "__main__":
    console.run(main, lambda: parse(GpuConfig, __doc__))
