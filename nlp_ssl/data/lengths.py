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
        padding: whether rows are padded to the longest of their micro-batch, or laid end to end.
    """

    lengths: np.ndarray
    capacity: int
    overhead: int
    padding: bool = True

    def __call__(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The cheapest cut of some rows.

        Args:
            numbers: of the rows, int64 (N,), in any order; at least one.

        Returns:
            Positions in `numbers`, an array a micro-batch, longest rows first; each position is in one of them.
        """
        order = np.argsort(-self.lengths[numbers], kind="stable")
        lengths = self.lengths[numbers[order]]
        if self.padding:
            lengths = padded(lengths)
        return [order[part] for part in cheapest_cut(lengths, self.capacity, self.overhead, self.padding)]


def padded(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded up to what a batch is padded to."""
    return -(-lengths // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


def cheapest_cut(lengths: np.ndarray, capacity: int, overhead: int, padding: bool = True) -> list[slice]:
    """Cut rows, longest first, into stretches of the least total cost.

    A stretch costs its tokens, those that pad its rows to the longest included, plus `overhead`, and holds `capacity`
    tokens at most unless it is one row. The best cut of the first n rows ends in some stretch, with the best cut of the
    rows before it (dynamic programming, O(N^2)).

    Args:
        lengths: int64 (N,), descending.
        capacity: tokens.
        overhead: tokens.
        padding: whether the rows of a stretch are padded.
    """
    sums = np.concatenate([[0], np.cumsum(lengths)])
    count = len(lengths)
    cost, begin = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        # of the stretch from each row to this one
        tokens = (end - np.arange(end)) * lengths[:end] if padding else sums[end] - sums[:end]
        total = np.where(tokens <= capacity, cost[:end] + tokens + overhead, np.iinfo(np.int64).max)
        total[end - 1] = cost[end - 1] + tokens[end - 1] + overhead
        begin[end] = total.argmin()
        cost[end] = total[begin[end]]
    cuts, end = [], count
    while end:
        cuts.append(slice(int(begin[end]), end))
        end = int(begin[end])
    return cuts[::-1]
