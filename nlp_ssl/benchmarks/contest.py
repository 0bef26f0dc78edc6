"""Contenders take turns in one run, each in a process of its own; what comes out is ratios with their spread."""

import contextlib
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch

from nlp_ssl.benchmarks import contenders
from nlp_ssl.benchmarks.contenders import PARTS, Parts, TakesTurns
from nlp_ssl.benchmarks.load import Load
from nlp_ssl.benchmarks.profiling import start_profiler, stop_profiler
from nlp_ssl.benchmarks.settings import BenchmarkConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.runs import pretraining_data, resolve
from nlp_ssl.training.device import DTYPES, best_precision, training_device
from nlp_ssl.training.throughput import datasheet_peak, measured_bandwidth, measured_peak

OURS, EAGER = "nlp_ssl", "eager"
TRUSTED = 0.1  # of the machine, in other programs' hands
Steps = list[dict[str, Any]]
# how a turn is looked at: `apart` keeps a GPU from overlapping a step's parts, `profiled` notes its kernels
Look = Literal["plainly", "apart", "profiled"]
PROFILED = 3  # steps; of a deep model each has thousands of kernels to note


class Contender:
    """A process that trains when it has its turn.

    Args:
        name: `nlp_ssl`, or another of `BenchmarkConfig.against`.
        config: what is trained.
        contend: what the process does: `(name, config, connection)`.

    Attributes:
        turns: the steps of every turn.
        loads: for every turn the share of the machine that other programs took meanwhile.
        kernels: of the last turn, if it was profiled.
    """

    def __init__(self, name: str, config: Any, contend: Callable[[str, Any, Connection], None]) -> None:
        self.name, self.peak_memory = name, 0.0
        self.turns: list[Steps] = []
        self.loads: list[float] = []
        self.parts: Steps = []
        self.kernels: dict[str, float] = {}
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=contend, args=(name, config, other))
        self.process.start()

    def take_turn(self, steps: int, how: Look = "plainly") -> Steps:
        """Train for some steps; returns what each of them was."""
        self.begin_turn(steps, how)
        return self.end_turn()

    def begin_turn(self, steps: int, how: Look = "plainly") -> None:
        """Have the process train for some steps."""
        self.connection.send((steps, how))

    def end_turn(self) -> Steps:
        """Wait until it has; returns what each step was."""
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(f"{self.name} died with exit code {code}; -9 is often too little memory") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name} failed:\n{answer}")
        self.peak_memory, self.kernels = answer["peak_memory"], answer["kernels"]
        return answer["steps"]

    def dismiss(self) -> None:
        """Ask the process to end."""
        with contextlib.suppress(BrokenPipeError):
            self.connection.send((0, "plainly"))

    def end(self) -> None:
        """Wait until the process has ended."""
        self.process.join(20)
        self.process.kill()


@contextlib.contextmanager
def contest(config: Any, contend: Callable[[str, Any, Connection], None]) -> Iterator[list[Contender]]:
    """This project and the Trainers after `rounds` turns of `steps` each, still ready for more within the block.

    Args:
        config: names them in `against`.
        contend: what the process of each does.
    """
    everyone = [Contender(name, config, contend) for name in (OURS, *config.against)]
    try:
        for contender in everyone:  # all at once: most of it is importing and compiling
            contender.begin_turn(config.steps)
        for contender in console.progress(everyone, desc="warm up", unit="contender"):
            contender.end_turn()
        for _ in console.progress(range(config.rounds), desc="measure", unit="round"):
            for contender in everyone:
                load = Load()
                contender.turns.append(contender.take_turn(config.steps))
                contender.loads.append(load.of_others())
        yield everyone
    finally:
        for contender in everyone:
            contender.dismiss()
        for contender in everyone:
            contender.end()


def judge_load(everyone: list[Contender]) -> tuple[float, list[str]]:
    """The largest share of the machine that others took in a turn, and what that says about the ratios."""
    worst = max(load for contender in everyone for load in contender.loads)
    if worst <= TRUSTED:
        return worst, []
    return worst, [
        f"NOT TO BE TRUSTED: other programs took up to {worst:.0%} of the machine in a turn; ratios change with that. "
        "Measure again when it is idle"
    ]


def compare_steps(
    config: BenchmarkConfig, keep: Callable[[dict[str, Any]], None] = lambda found: None
) -> dict[str, Any]:
    """Seconds of a training step, of this project and of the Trainers that it is measured against, in alternation.

    Args:
        config: the model, its batches and the others.
        keep: called with what is measured before kernels are looked at, which may take as long again.

    Returns:
        What was measured: `contenders` (a list of dictionaries), the machine's peaks, and every turn's steps.
    """
    objective = pretraining_data.infer_objective(config)
    if objective.packed is not PackedModel:
        raise UserError(
            f"{config.model.name} is no model that run_mlm.py or run_clm.py trains: nothing to compare with"
        )
    data = pretraining_data.prepare(config, objective)  # once, and seen; the contenders find it
    config.train.steps, config.train.minutes = 10**9, None
    resolved = resolve.precision(data.resolved(config))
    config = resolve.pretraining(resolved, objective, data.model_config, world_size=1)
    with contest(config, _contend) as everyone:
        for contender in everyone:
            contender.parts = contender.take_turn(config.steps, "apart")
        if training_device().type == "cuda":
            keep(summarise(everyone))
            for contender in console.progress(everyone, desc="look at kernels", unit="contender"):
                contender.take_turn(min(config.steps, PROFILED), "profiled")
    return summarise(everyone)


def summarise(everyone: list[Contender]) -> dict[str, Any]:
    """What was measured of contenders, the first of which is this project; see `compare_steps`."""
    device = training_device()
    dtype = DTYPES[best_precision(device)]
    peak, bandwidth = measured_peak(device, dtype), measured_bandwidth(device)
    first = everyone[0]
    needed = _median(first, "operations") / _median(first, "tokens")  # a token; the Trainers' rows ask for as much
    load, warnings = judge_load(everyone)
    results = []
    for contender in everyone:
        seconds = _median(contender, "seconds")
        operations = needed * _median(contender, "tokens")
        found = ratios(contender, first)
        results.append(
            {
                "name": contender.name,
                "tokens_per_second": _median(contender, "tokens") / seconds,
                "seconds": seconds,
                "parts": _parts(contender),
                "mfu": operations / seconds / peak,
                "peak_memory": contender.peak_memory,
                "slower": statistics.median(found),
                "slower_between": [min(found), max(found)],
                "floor": {"products": operations / peak},
                "kernels": contender.kernels,
            }
        )
    measured = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "precision": str(dtype).removeprefix("torch."),
        "measured_peak": peak,
        "datasheet_peak": datasheet_peak(device),
        "measured_bandwidth": bandwidth,
        "operations_per_token": needed,
        "load_of_others": load,
        "contenders": results,
        "turns": {contender.name: contender.turns for contender in everyone},
    }
    return measured | {"rows": _table(measured), "notes": _notes(measured) + warnings}


def _table(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What a person reads of it."""
    rows = []
    for each in measured["contenders"]:
        low, high = each["slower_between"]
        ratio = f"{each['slower']:.2f} ({low:.2f} - {high:.2f})"
        rows.append(
            {
                "": label(each["name"]),
                "tokens/s": f"{each['tokens_per_second']:,.0f}",
                "ms per step": f"{each['seconds'] * 1e3:.0f}",
                **{part: f"{each['parts'][part] * 1e3:.0f}" for part in (*PARTS, "rest")},
                "MFU": f"{each['mfu']:.0%}",
                "peak GB": f"{each['peak_memory'] / 1e9:.2f}",
                "times slower": "1" if each["name"] == OURS else ratio,
            }
        )
    return rows


def _notes(measured: dict[str, Any]) -> list[str]:
    """What the table is to be read against: the machine's limits, and the least that a step of ours can take."""
    own, peak = measured["contenders"][0], measured["measured_peak"]
    stated = f", {peak / measured['datasheet_peak']:.0%} of the datasheet's" if measured["datasheet_peak"] else ""
    return [
        f"on {measured['device']}: {measured['precision']} products reach {peak / 1e12:.2f} TFLOP/s{stated}, copies "
        f"{measured['measured_bandwidth'] / 1e9:.0f} GB/s",
        f"MFU = operations asked for ({measured['operations_per_token'] / 1e6:.1f} MFLOP per token: logits where there "
        "are labels, attention inside documents) / seconds / measured peak",
        f"floor of a step: {own['floor']['products'] * 1e3:.0f} ms of products at that peak",
    ]


def label(name: str) -> str:
    """A contender's name as tables have it."""
    return {OURS: OURS, EAGER: f"{OURS}, not compiled"}.get(name, f"Trainer, {name}")


def _median(contender: Contender, key: str) -> float:
    return statistics.median(step[key] for turn in contender.turns for step in turn)


def ratios(
    contender: Contender, first: Contender, middle: Callable[[Iterable[float]], float] = statistics.median
) -> list[float]:
    """How many times as long as the first one's a contender's step takes, turn by turn."""

    def seconds(turn: Steps) -> float:
        return middle([step["seconds"] for step in turn])

    return [seconds(turn) / seconds(own) for turn, own in zip(contender.turns, first.turns, strict=True)]


def _parts(contender: Contender) -> dict[str, float]:
    found = {name: statistics.median(step["parts"][name] for step in contender.parts) for name in PARTS}
    rest = statistics.median(step["seconds"] - sum(step["parts"].values()) for step in contender.parts)
    return found | {"rest": max(0.0, rest)}


# ---------------------------------------------------------------------------------------------------------------------
# in the process of a contender


def _contend(name: str, config: BenchmarkConfig, connection: Connection) -> None:
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            parts = Parts(training_device())
            answers = Answers(connection, parts)
            objective = pretraining_data.infer_objective(config)
            data = pretraining_data.prepare(config, objective)
            if name == EAGER:
                config.train.compile = False
            if name in (OURS, EAGER):
                for step in contenders.ours(config, objective, data, parts):
                    if not answers.step_done(step):
                        return
            tokens = config.train.global_batch_size * config.tokens.sequence_length
            arguments = contenders.trainer_arguments(name, config)
            watch = TakesTurns(lambda: answers.step_done({"tokens": tokens}))
            model = contenders.trainer_model(config, objective, data.model_config)
            trainer = contenders.trainer(arguments, model, objective, data, watch)
            contenders.time_parts(trainer, parts)
            trainer.train()
        except Exception:  # whatever it is, the process that asked must say it
            connection.send(traceback.format_exc())


class Answers:
    """What a contender says about its steps, a turn at a time.

    Args:
        connection: gives the number of steps in the next turn, 0 at the end, and how they are looked at.
        parts: of these steps.
    """

    def __init__(self, connection: Connection, parts: Parts) -> None:
        self.connection, self.parts = connection, parts
        self._begin()

    def _begin(self) -> None:
        self.steps: Steps = []
        self.profiler = None
        self.left, how = self.connection.recv()
        self.parts.apart = how == "apart"
        if how == "profiled":
            self.profiler = start_profiler()
        self.begun = time.perf_counter()

    def step_done(self, step: dict[str, Any]) -> bool:
        """Note a step; behind the last one of a turn wait for the next. Returns whether there is one."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.begun
        self.steps.append(step | {"seconds": seconds, "parts": self.parts.take()})
        self.left -= 1
        if self.left == 0:
            kernels = {} if self.profiler is None else stop_profiler(self.profiler, len(self.steps))
            self.connection.send({"steps": self.steps, "peak_memory": _peak_memory(), "kernels": kernels})
            self._begin()
        self.begun = time.perf_counter()
        return self.left > 0


def _peak_memory() -> float:
    """Bytes: on a GPU what torch allocated at most, on a CPU what the process had resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
