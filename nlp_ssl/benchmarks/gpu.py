"""Measure everything on a GPU with one command, in parts, each with a time limit and its result on disk at once.

    python -m nlp_ssl.benchmarks.gpu --minutes 25 --out gpu

proves the kernels (`pytest -m gpu`), measures training steps of four architectures beside `transformers.Trainer`,
with the kernels of each step, and fine-tuning, and pretrains in what is left of the time. A part that fails or is cut
off loses only itself. `--device cpu --tiny` rehearses it without a GPU. README's rows from a folder of results:

    python -m nlp_ssl.benchmarks.gpu --table gpu
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nlp_ssl.benchmarks.gpu_parts import MODELS, PARTS, GpuConfig, result_file, write_result
from nlp_ssl.config.command_line import parse
from nlp_ssl.core import console, program
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import make_folder

NEEDED = ("torch", "transformers", "accelerate", "datasets", "evaluate", "jsonargparse", "docstring_parser", "psutil")
MINUTES_FOR_ITSELF = 0.2  # that a part must at least have


def main(config: GpuConfig) -> None:
    """Run the parts one after the other; or one of them, here; or print the rows of a folder."""
    if config.table is not None:
        console.say(table(Path(config.table)))
        return
    _check(config)
    if config.part is not None:
        write_result(config, PARTS[config.part].measure(config))
        return
    end = time.monotonic() + 60 * config.minutes
    make_folder(Path(config.out))
    for name in config.parts or PARTS:
        left = (end - time.monotonic()) / 60
        if left < MINUTES_FOR_ITSELF:
            console.say(f"{name}: not measured, no time was left")
            continue
        console.say(f"{name}: at most {min(left, PARTS[name].minutes):.1f} minutes")
        console.say(_run(config, name, min(left, PARTS[name].minutes)))
    console.say(table(Path(config.out)))


def _parse() -> GpuConfig:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"not installed on this machine: {', '.join(missing)}; pip install {' '.join(missing)}")
    return parse(GpuConfig, __doc__)


def _check(config: GpuConfig) -> None:
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
    result, log = result_file(out, name), out / f"{name.replace(' ', '-')}.log"
    for old in (result, result.with_suffix(".failed")):
        old.unlink(missing_ok=True)
    command = [sys.executable, "-m", "nlp_ssl.benchmarks.gpu", *sys.argv[1:], "--part", name, "--minutes", str(minutes)]
    begun = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
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
        done = "done" if code == 0 else "not looked at to its end, but measured"
        return f"{name}: {done} in {seconds:.0f} s"
    last = next(
        (line for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()) if line.strip()), ""
    )
    how = f"was cut off after {seconds:.0f} s" if code is None else f"failed with exit code {code}"
    result.with_suffix(".failed").write_text(f"{how}: {last}", encoding="utf-8")
    return f"{name}: {how} ({last[:300]}); its output: {log}"


# ---------------------------------------------------------------------------------------------------------------------
# what came out


def table(folder: Path) -> str:
    """README's rows, from a folder of results; what is missing in it is said."""
    from nlp_ssl.benchmarks.profiling import profile_rows

    results = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in PARTS
        if (path := result_file(folder, name)).exists()
    }
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
    program.run(main, _parse)
