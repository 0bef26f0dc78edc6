"""Rows of different lengths: which of them share a micro-batch, so that little of it is padding."""

from dataclasses import dataclass

import numpy as np

PAD_TO_MULTIPLE_OF = 8  # tensor cores like it, and there are fewer shapes to compile


@dataclass(frozen=True)
class LengthCut:
    """How a global batch of rows of different lengths is cut into micro-batches.

    The batch is what it is; sorted by length it is only cut, so what a step learns does not change.

    Attributes:
        lengths: tokens of every row of the data set, int64.
        capacity: tokens of a micro-batch with its padding, at most; a longer row has one of its own.
        overhead: what a forward and backward pass costs besides its tokens, counted in tokens.
    """

    lengths: np.ndarray
    capacity: int
    overhead: int

    def __call__(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The cheapest cut of some rows.

        Args:
            numbers: of the rows, int64 (N,), in any order; at least one.

        Returns:
            Positions in `numbers`, an array a micro-batch, longest rows first; each position is in one of them.
        """
        order = np.argsort(-self.lengths[numbers], kind="stable")
        return [
            order[part] for part in cheapest_cut(padded(self.lengths[numbers[order]]), self.capacity, self.overhead)
        ]


def padded(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded up to what a batch is padded to."""
    return -(-lengths // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


def cheapest_cut(lengths: np.ndarray, capacity: int, overhead: int) -> list[slice]:
    """Cut rows, longest first, into stretches of the least total cost.

    A stretch costs its number of rows times its longest row, plus `overhead`, and holds `capacity` tokens at most
    unless it is one row. The best cut of the first n rows ends in some stretch, with the best cut of the rows before it
    (dynamic programming, O(N^2)).

    Args:
        lengths: int64 (N,), descending.
        capacity: tokens.
        overhead: tokens.
    """
    count = len(lengths)
    cost, begin = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        tokens = (end - np.arange(end)) * lengths[:end]  # of the stretch from each row to this one
        total = np.where(tokens <= capacity, cost[:end] + tokens + overhead, np.iinfo(np.int64).max)
        total[end - 1] = cost[end - 1] + tokens[end - 1] + overhead
        begin[end] = total.argmin()
        cost[end] = total[begin[end]]
    cuts, end = [], count
    while end:
        cuts.append(slice(int(begin[end]), end))
        end = int(begin[end])
    return cuts[::-1]
