"""The plan of a run's data: phases with rows and batches of their own, and where each step stands in them.

A batch ramp is a few phases with growing batches; short rows first is a phase with another packing. Where a step stands
is computed from its number, at step 10 million as fast as at step 10.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from nlp_ssl.data.sequences.length_batching import LengthBatching


class Rows(Protocol):
    """Anything with a length and rows that are dictionaries: packed rows, a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Selection(Sequence):
    """Rows of a data set by number: a sequence of its dictionaries, each with its `row` and `epoch`.

    Attributes:
        rows: the data set.
        numbers: which of its rows, int64.
        epochs: how often each was visited before, int64.
    """

    rows: Rows
    numbers: np.ndarray
    epochs: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override] # nobody asks for a slice
        number = int(self.numbers[i])
        return {**self.rows[number], "row": number, "epoch": int(self.epochs[i])}


@dataclass(frozen=True)
class Phase:
    """A stretch of steps that learn from the same rows in batches of the same size.

    Attributes:
        rows: what it visits.
        batch_size: rows in a global batch, over all processes and micro-batches.
        micro_batch: rows in a micro-batch, at most.
        steps: how many steps it lasts; `None` in the last phase, which has no end of its own.
        collator: makes batches of its rows, where it learns from them in a way of its own.
        cut: for rows of different lengths, instead of `micro_batch`.
    """

    rows: Rows
    batch_size: int
    micro_batch: int
    steps: int | None = None
    collator: Any = None  # a Collator
    cut: LengthBatching | None = None

    @property
    def tokens_per_row(self) -> int | None:
        """Tokens in a row, or `None` where rows have lengths of their own."""
        return getattr(self.rows, "sequence_length", None) if getattr(self.rows, "fixed_length", False) else None


class Phases:
    """Phases in their order.

    Phases over the same rows go on where the one before stopped, so that a batch ramp repeats no row; other rows are
    visited from their beginning.

    Args:
        phases: at least one; only the last one has no number of steps.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        assert all(p.steps for p in phases[:-1]), "only the last phase is open"
        assert phases[-1].steps is None, "the last phase is open"
        self.phases = list(phases)
        self.begins = [0, *accumulate(p.steps or 0 for p in phases[:-1])]
        visited: dict[int, int] = {}
        self.cursors: list[int] = []  # rows visited, of the same ones, before each phase
        for phase in phases:
            self.cursors.append(visited.get(id(phase.rows), 0))
            visited[id(phase.rows)] = self.cursors[-1] + (phase.steps or 0) * phase.batch_size

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step (counted from 0), and how many of the phase's rows the run visited before that step."""
        number = bisect_right(self.begins, step) - 1
        phase = self.phases[number]
        return phase, self.cursors[number] + (step - self.begins[number]) * phase.batch_size

    @property
    def fixed_length(self) -> bool:
        """Whether the rows of every phase have a fixed length."""
        return all(phase.tokens_per_row for phase in self.phases)

    def num_steps(self, *, tokens: float | None = None, epochs: float | None = None) -> int:
        """Steps that a budget in tokens of rows, or in passes over the last phase's rows, lasts; at least 1."""
        last, steps = self.phases[-1], 0
        if tokens is None:
            assert epochs is not None, "a budget is in tokens or in epochs"
            tokens = epochs * len(last.rows) * (last.tokens_per_row or 1)
        left = tokens
        for phase in self.phases:
            a_step = phase.batch_size * (phase.tokens_per_row or 1)
            if phase.steps is None or left <= phase.steps * a_step:
                return max(1, steps + math.ceil(left / a_step - 1e-9))
            steps, left = steps + phase.steps, left - phase.steps * a_step
        raise AssertionError("the last phase has no end")
