"""Whether an objective's steps depend on how they are split, or on a stop between them: for every objective alike.

A file in `cases/` says `CASES`: by name, a small objective in float64 and what makes its batches. `stopped_and_resumed`
takes it through the project's loop and checkpoints; `test_splits.py` compares.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from parity_cases import BATCH, ROW_LENGTH, SEED, documents, packed_row

from nlp_ssl.config.common import CheckpointConfig, OptimizerConfig, ScheduleConfig
from nlp_ssl.data.sequences.batches import Collator, TrainBatches, held_out_batches
from nlp_ssl.data.sequences.phases import Phase, Phases, apportion
from nlp_ssl.doctor.proofs import relative_distance
from nlp_ssl.evaluation.held_out import evaluate
from nlp_ssl.models.loading import save_model
from nlp_ssl.objectives.objective import PretrainingObjective, Stream
from nlp_ssl.training.checkpoints import Checkpoints, load
from nlp_ssl.training.loop import train
from nlp_ssl.training.optimizers import build_optimizer
from nlp_ssl.training.schedules import Horizon

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]
STEPS, STOP = 3, 2
SPLITS = {"1 x 16": 16, "4 x 4": 4, "3, 3, 3, 3, 3, 1": 3}


@dataclass(frozen=True)
class SplitCase:
    """An objective as it is proved.

    Attributes:
        objective: a new one, with the same weights every time; in float64, without dropout.
        collator: makes its batches.
        rows: what it learns from: 20 packed rows of 40 tokens, several documents in most.
        streams: what it learns from, where that is more than the rows.
    """

    objective: Callable[[], PretrainingObjective]
    collator: Callable[[], Collator] | None = None
    rows: Any = field(default_factory=lambda: ROWS)
    streams: Callable[[], list[Stream]] | None = None

    def all_streams(self) -> list[Stream]:
        """What a step learns from."""
        if self.streams is not None:
            return self.streams()
        assert self.collator is not None
        return [Stream(self.collator())]


def all_cases() -> dict[str, SplitCase]:
    """Those of every file in `cases/`."""
    found: dict[str, SplitCase] = {}
    for path in sorted(Path(__file__).with_name("cases").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"cases_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not found.keys() & module.CASES.keys()
        found |= module.CASES
    return found


@dataclass
class Taken:
    """What some steps did.

    Attributes:
        losses: of every step, by term.
        gradient: of the last step, by parameter.
        state: of the objective after it: weights, buffers, queues.
        scores: of the held-out rows after it.
    """

    losses: list[dict[str, float]]
    gradient: dict[str, Tensor]
    state: dict[str, Tensor]
    scores: dict[str, float]


def stopped_and_resumed(
    case: SplitCase, micro_batch: int, accelerator: Accelerator, folder: Path
) -> tuple[Taken, Taken]:
    """Three steps with a checkpoint after the second, and the third of another objective that is resumed from it."""

    def fresh() -> tuple[PretrainingObjective, torch.optim.Optimizer]:
        module = case.objective()
        return module, build_optimizer(module, OptimizerConfig(name="adamw", lr=1e-3))

    first, optimizer = fresh()
    before = _take(case, first, optimizer, micro_batch, accelerator, 0, STOP).losses
    resumed, other = fresh()
    with torch.no_grad():
        for name, value in resumed.state_dict().items():
            if value.is_floating_point() and not name.startswith(tuple(f"{each}." for each in resumed.unsaved)):
                value += 1.0  # what is not loaded would show

    def write(into: Path, parts: Any, facts: Any) -> None:
        for name, model in first.published().items():
            save_model(model, into / name, parts[name])

    checkpoints = Checkpoints(folder, CheckpointConfig(), write)
    checkpoints.save(STOP, first, optimizer, {}, {})
    checkpoints.finish()
    accelerator.wait_for_everyone()
    load(folder / f"step-{STOP:08d}", resumed, other)
    whole, after = (
        _scored(case, *parts, micro_batch, accelerator, before) for parts in ((first, optimizer), (resumed, other))
    )
    return whole, after


def _scored(
    case: SplitCase,
    module: PretrainingObjective,
    optimizer: torch.optim.Optimizer,
    micro_batch: int,
    accelerator: Accelerator,
    before: list[dict[str, float]],
) -> Taken:
    """The last step, and what the held-out rows are then; behind the losses of the steps before it."""
    taken = _take(case, module, optimizer, micro_batch, accelerator, STOP, STEPS)
    scoring = chain.from_iterable(
        held_out_batches(
            stream.held_out or case.rows, stream.collator, batch_size=min(micro_batch, 7),
            rank=accelerator.process_index, world_size=accelerator.num_processes,
        )
        for stream in case.all_streams()
    )  # fmt: skip
    found = evaluate(accelerator.prepare(module), scoring, accelerator)
    return replace(taken, losses=before + taken.losses, scores=module.evaluate(found.sums, found.counts, 1000.0))


def _take(
    case: SplitCase,
    module: PretrainingObjective,
    optimizer: torch.optim.Optimizer,
    micro_batch: int,
    accelerator: Accelerator,
    first: int,
    last: int,
) -> Taken:
    gradient: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                gradient[name] = parameter.grad.clone()

    for group in optimizer.param_groups:
        group["peak_lr"] = 1e-3
    hook = optimizer.register_step_pre_hook(keep)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    streams = case.all_streams()
    sizes = apportion(BATCH, [0.0 if stream.rows else stream.share for stream in streams])
    own, *others = (
        Phase(stream.rows or case.rows, stream.batch_size or size, micro_batch, None, stream.collator)
        for stream, size in zip(streams, sizes, strict=True)
    )
    phases = Phases([replace(own, beside=tuple(others))])
    batches = TrainBatches(phases, own.collator, seed=SEED, rank=rank, world_size=world_size)
    prepared = accelerator.prepare(module, optimizer)
    steps = train(
        *prepared, batches.steps(first), accelerator=accelerator, schedule=ScheduleConfig(name="constant", warmup=0),
        horizon=Horizon(last), max_grad_norm=0, first_step=first,
    )  # fmt: skip
    losses = [step.losses for step in steps]
    hook.remove()
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return Taken(losses, gradient, state, {})


def distances(found: Taken, expected: Taken) -> dict[str, float]:
    """The largest relative difference of a term's loss in any step, of the last gradient, the state, the scores."""
    terms = [(a[name], b[name]) for a, b in zip(found.losses, expected.losses, strict=True) for name in b]
    scores = [(value, expected.scores[name]) for name, value in found.scores.items()]
    return {
        "loss of a term": max(_apart(*pair) for pair in terms),
        "gradient": relative_distance(found.gradient, expected.gradient),
        "state": relative_distance(_numbers(found.state), _numbers(expected.state)),
        "held-out numbers": max(_apart(*pair) for pair in scores),
    }


def _apart(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-3)


def _numbers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in state.items()}
