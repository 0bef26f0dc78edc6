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

from nlp_ssl.core.errors import UserError
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
        beside: what each of its steps learns from besides; their `steps` and `beside` are not read.
    """

    rows: Rows
    batch_size: int
    micro_batch: int
    steps: int | None = None
    collator: Any = None  # a Collator
    cut: LengthBatching | None = None
    beside: "tuple[Phase, ...]" = ()

    @property
    def streams(self) -> "tuple[Phase, ...]":
        """What each step learns from: its own rows, and those beside them."""
        return (self, *self.beside)

    @property
    def tokens_per_row(self) -> int | None:
        """Tokens in a row, or `None` where rows have lengths of their own."""
        return getattr(self.rows, "sequence_length", None) if getattr(self.rows, "fixed_length", False) else None


class Phases:
    """Phases in their order.

    Phases over the same rows continue where the one before stopped, so that a batch ramp repeats no row, and streams of
    a step over the same rows share them; other rows are visited from their beginning.

    Args:
        phases: at least one; only the last one has no number of steps.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        assert all(p.steps for p in phases[:-1]), "only the last phase is open"
        assert phases[-1].steps is None, "the last phase is open"
        self.phases = list(phases)
        self.begins = [0, *accumulate(p.steps or 0 for p in phases[:-1])]
        visited: dict[int, int] = {}
        # for each stream of each phase: rows visited, of the same ones, before its first step, and those of a step
        self.cursors: list[list[tuple[int, int]]] = []
        for phase in phases:
            a_step: dict[int, int] = {}
            begins = []
            for stream in phase.streams:
                rows = id(stream.rows)
                begins.append(visited.get(rows, 0) + a_step.get(rows, 0))
                a_step[rows] = a_step.get(rows, 0) + stream.batch_size
            self.cursors.append([(b, a_step[id(s.rows)]) for b, s in zip(begins, phase.streams, strict=True)])
            for rows, count in a_step.items():
                visited[rows] = visited.get(rows, 0) + (phase.steps or 0) * count

    def at(self, step: int, stream: int = 0) -> tuple[Phase, int]:
        """A stream of a step (counted from 0), and how many of its rows the run visited before those of that step."""
        number = bisect_right(self.begins, step) - 1
        begin, a_step = self.cursors[number][stream]
        return self.phases[number].streams[stream], begin + (step - self.begins[number]) * a_step

    @property
    def fixed_length(self) -> bool:
        """Whether the rows of every phase have a fixed length."""
        return all(phase.tokens_per_row for phase in self.phases)

    def _tokens_per_step(self, phase: Phase, same_rows: bool) -> int:
        """Those of rows of fixed length; of the phase's own rows alone, if so asked. Rows, where those have none."""
        if not phase.tokens_per_row:
            return phase.batch_size
        streams = [s for s in phase.streams if s.tokens_per_row and (s.rows is phase.rows or not same_rows)]
        return sum(stream.batch_size * (stream.tokens_per_row or 0) for stream in streams)

    def num_steps(self, *, tokens: float | None = None, epochs: float | None = None) -> int:
        """Steps that a budget in tokens of rows, or in passes over the last phase's rows, lasts; at least 1."""
        last, steps, in_epochs = self.phases[-1], 0, tokens is None
        if tokens is None:
            assert epochs is not None, "a budget is in tokens or in epochs"
            tokens = epochs * len(last.rows) * (last.tokens_per_row or 1)
        left = tokens
        for phase in self.phases:
            a_step = self._tokens_per_step(phase, in_epochs)
            if phase.steps is None or left <= phase.steps * a_step:
                return max(1, steps + math.ceil(left / a_step - 1e-9))
            steps, left = steps + phase.steps, left - phase.steps * a_step
        raise AssertionError("the last phase has no end")


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total` in the proportion of `shares`, each positive share at least one.

    By largest remainders; a share of 0 gets nothing.

    Raises:
        UserError: there are more positive shares than `total`.
    """
    if total < sum(share > 0 for share in shares):
        raise UserError(f"a global batch of {total} sequences is too small for {len(shares)} parts; give a larger one")
    exact = [total * share / sum(shares) for share in shares]
    counts = [max(int(each), int(each > 0)) for each in exact]
    while sum(counts) != total:
        too_few = sum(counts) < total
        # the one that is furthest from its share, and may still give
        able = [i for i, each in enumerate(exact) if each > 0 and (too_few or counts[i] > 1)]
        at = max(able, key=lambda i: (exact[i] - counts[i]) * (1 if too_few else -1))
        counts[at] += 1 if too_few else -1
    return counts
