"""From a step number to the rows of its global batch, and from there to collated micro-batches.

The global batch of a step is defined first, by the step number alone; then it is split over processes and
micro-batches. So neither the number of processes, nor the micro-batch, nor the number of loader workers changes what a
step learns from.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nlp_ssl.core.signals import block_signals_in_children
from nlp_ssl.data.sequences.order import rows_at
from nlp_ssl.data.sequences.phases import Phases, Rows, Selection

Batch = dict[str, torch.Tensor]
Part = slice | np.ndarray  # of a step's rows: which of them, counted from the first


class Collator(Protocol):
    """Makes batches of rows; pure and picklable, as loader workers have it, so it holds no model."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows as the data set gives them, each with its `row` and `epoch`, as CPU tensors.

        The batch also holds `digest`, 0-d: what it teaches, as one number.
        """
        ...

    def counts(self, batch: Batch) -> dict[str, int]:
        """Targets of each loss term in a batch, known before anything is computed."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass of a process learns from, and what the host knows of it beforehand.

    Attributes:
        inputs: CPU tensors for the objective.
        counts: targets of each loss term.
        num_tokens: tokens that are not padding.
        digest: of what it teaches.
    """

    inputs: Batch
    counts: dict[str, int]
    num_tokens: int
    digest: int

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], collator: Collator) -> "MicroBatch":
        """Of some rows."""
        inputs = collator(rows)
        digest = int(inputs.pop("digest"))
        return cls(inputs, collator.counts(inputs), num_real_tokens(inputs), digest)

    def pin_memory(self) -> "MicroBatch":
        """The same in page-locked memory; a `DataLoader` calls it."""
        return replace(self, inputs={name: tensor.pin_memory() for name, tensor in self.inputs.items()})


def num_real_tokens(batch: Batch) -> int:
    """Tokens of a collated batch that are not padding."""
    for key in ("document_ids", "attention_mask"):
        if key in batch:
            return int((batch[key] > 0).sum())
    return batch["input_ids"].numel()


def _all_is_well() -> None:
    """No check."""


class TrainBatches(Dataset):
    """The micro-batches of one process, addressed by (step, stream, which of its rows).

    Args:
        phases: which rows a step visits, and how many.
        collator: makes batches of the rows; a phase may have its own.
        seed: decides the order.
        rank: this process.
        world_size: processes.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
        pin_memory: copy batches to page-locked memory, for a GPU.
        check: called before every step; raises where the rows must not be learnt from.
    """

    def __init__(
        self,
        phases: Phases,
        collator: Collator,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        check: Callable[[], None] = _all_is_well,
    ) -> None:
        smallest = min(stream.batch_size for phase in phases.phases for stream in phase.streams)
        if smallest < world_size:
            raise ValueError(f"a global batch of {smallest} rows cannot be split over {world_size} processes")
        self.phases, self.collator, self.seed = phases, collator, seed
        self.rank, self.world_size, self.workers, self.pin_memory = rank, world_size, workers, pin_memory
        self.check = check

    def step_rows(self, step: int, part: Part = slice(None), stream: int = 0) -> tuple[Rows, np.ndarray, np.ndarray]:
        """The rows that a step (counted from 0) visits of one of its streams, over all processes, or a part of these.

        Returns:
            `(data set, row numbers, epochs)`.
        """
        phase, cursor = self.phases.at(step, stream)
        visits = cursor + np.arange(phase.batch_size)[part]
        numbers, epochs = rows_at(visits, len(phase.rows), self.seed)
        return phase.rows, numbers, epochs

    def micro_batches(self, step: int, stream: int = 0) -> Sequence[Part]:
        """This process's share of a step's rows of one of its streams, cut into micro-batches."""
        phase, _ = self.phases.at(step, stream)
        if phase.cut is not None:
            _, numbers, _ = self.step_rows(step, stream=stream)
            own = np.argsort(-phase.cut.lengths[numbers], kind="stable")[self.rank :: self.world_size]
            return [own[part] for part in phase.cut(numbers[own])]
        begin, end = (r * phase.batch_size // self.world_size for r in (self.rank, self.rank + 1))
        return [slice(at, min(at + phase.micro_batch, end)) for at in range(begin, end, phase.micro_batch)]

    def __getitem__(self, index: tuple[int, int, Part]) -> MicroBatch:
        step, stream, part = index
        collator = self.phases.at(step, stream)[0].collator or self.collator
        return MicroBatch.of(Selection(*self.step_rows(step, part, stream)), collator)

    def parts(self, step: int) -> list[tuple[int, int, Part]]:
        """Where this process's micro-batches of a step are found, those of all its streams."""
        streams = range(len(self.phases.at(step)[0].streams))
        return [(step, stream, part) for stream in streams for part in self.micro_batches(step, stream)]

    def steps(self, start: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step from `start` on, without end; starting anywhere costs nothing."""
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=(plan := _Plan(self, start)),
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            prefetch_factor=4 if self.workers else None,
            generator=torch.Generator(),  # its seeds for workers must not come out of the generator of dropout
        )
        with block_signals_in_children():  # a signal to the whole group must not take the batches of the last step
            batches = iter(loader)
        while True:
            self.check()
            first = next(batches)
            yield [first, *(next(batches) for _ in range(plan.sizes.popleft() - 1))]


class _Plan:
    """Where every micro-batch is found from a step on, without end.

    Attributes:
        sizes: micro-batches of each step that was planned, for whoever puts them together to take.
    """

    def __init__(self, batches: TrainBatches, start: int) -> None:
        self.batches, self.start = batches, start
        self.sizes: deque[int] = deque()

    def __iter__(self) -> Iterator[tuple[int, int, Part]]:
        for step in count(self.start):
            parts = self.batches.parts(step)
            self.sizes.append(len(parts))
            yield from parts


def held_out_batches(
    rows: Rows,
    collator: Collator,
    *,
    batch_size: int,
    max_rows: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[MicroBatch]:
    """Every held-out row once, in its own order, over the processes; with `max_rows`, the same few spread evenly."""
    chosen = held_out_rows(len(rows), max_rows)[rank::world_size]
    return (MicroBatch.of(some, collator) for some in selections(rows, chosen, batch_size))


def selections(rows: Rows, numbers: np.ndarray, batch_size: int) -> Iterator[Selection]:
    """Rows by number, this many at a time; they say `epoch` 0 always, so masks made from it never change."""
    for at in range(0, len(numbers), batch_size):
        part = numbers[at : at + batch_size]
        yield Selection(rows, part, np.zeros_like(part))


def held_out_rows(num_rows: int, max_rows: int | None) -> np.ndarray:
    """The rows that an evaluation visits."""
    count = min(num_rows, max_rows or num_rows)
    return np.arange(count) * num_rows // count
