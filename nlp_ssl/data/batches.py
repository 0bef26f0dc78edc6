"""From a step number to the rows of its global batch, and from there to collated micro-batches.

The global batch of a step is defined first, by the step number alone; then it is split over processes and
micro-batches. So neither the number of processes, nor the micro-batch, nor the number of loader workers changes what a
step learns from.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nlp_ssl.data.order import rows_at

Batch = dict[str, torch.Tensor]


class Rows(Protocol):
    """Anything with a length and rows that are dictionaries: packed rows, a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Any]: ...


class TrainBatches(Dataset):
    """The micro-batches of one process, addressed by (step, number).

    Args:
        rows: what to visit.
        collate: rows (each with its `row` and `epoch`) -> batch of tensors.
        seed: decides the order.
        batch_size: rows in a global batch.
        micro_batch: rows in a micro-batch, at most.
        rank: this process.
        world_size: processes.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
        pin_memory: copy batches to page-locked memory, for a GPU.
    """

    def __init__(
        self,
        rows: Rows,
        collate: Callable[[list[dict[str, Any]]], Batch],
        *,
        seed: int,
        batch_size: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < world_size:
            raise ValueError(f"a global batch of {batch_size} rows cannot be split over {world_size} processes")
        self.rows, self.collate, self.seed, self.batch_size = rows, collate, seed, batch_size
        self.workers, self.pin_memory = workers, pin_memory
        begin, end = rank * batch_size // world_size, (rank + 1) * batch_size // world_size
        self.slices = [slice(at, min(at + micro_batch, end)) for at in range(begin, end, micro_batch)]

    def step_rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """`(row, epoch)` of the whole global batch of a step (counted from 0), over all processes."""
        return rows_at(np.arange(step * self.batch_size, (step + 1) * self.batch_size), len(self.rows), self.seed)

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        step, number = index
        rows, epochs = (values[self.slices[number]].tolist() for values in self.step_rows(step))
        return self.collate([{**self.rows[r], "row": r, "epoch": e} for r, e in zip(rows, epochs, strict=True)])

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step from `start` on, without end; starting anywhere costs nothing."""
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=_Addresses(start, len(self.slices)),
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            prefetch_factor=4 if self.workers else None,
            generator=torch.Generator(),  # its seeds for workers must not come out of the generator of dropout
        )
        batches = iter(loader)
        while True:
            yield [next(batches) for _ in self.slices]


class _Addresses:
    """(step, number) of every micro-batch from a step on, without end."""

    def __init__(self, start: int, per_step: int) -> None:
        self.start, self.per_step = start, per_step

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.start
        while True:
            yield from ((step, number) for number in range(self.per_step))
            step += 1


def held_out_batches(
    rows: Rows,
    collate: Callable[[list[dict[str, Any]]], Batch],
    *,
    batch_size: int,
    max_rows: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every held-out row once, in its own order, over the processes; with `max_rows`, the same few spread evenly.

    The rows say `epoch` 0 always, so masks made from it never change.
    """
    chosen = held_out_rows(len(rows), max_rows)[rank::world_size].tolist()
    for at in range(0, len(chosen), batch_size):
        yield collate([{**rows[r], "row": r, "epoch": 0} for r in chosen[at : at + batch_size]])


def held_out_rows(num_rows: int, max_rows: int | None) -> np.ndarray:
    """The rows that an evaluation visits."""
    count = min(num_rows, max_rows or num_rows)
    return np.arange(count) * num_rows // count
