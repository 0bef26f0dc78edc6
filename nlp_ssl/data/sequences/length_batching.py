"""Rows of different lengths: which of them share a micro-batch, so that little of it is padding."""

from dataclasses import dataclass

import numpy as np

PAD_TO_MULTIPLE_OF = 8  # tensor cores like it, and there are fewer shapes to compile


@dataclass(frozen=True)
class LengthBatching:
    """How a global batch of rows of different lengths is cut into micro-batches.

    The batch is what it is; sorted by length it is only cut, so what a step learns does not change.

    Attributes:
        lengths: tokens of every row of the data set, int64.
        capacity: tokens of a micro-batch with its padding, at most; a longer row has one of its own.
        overhead: what a forward and backward pass costs besides its tokens, counted in tokens.
        width: of a model that computes on padding in its attention alone; `None` where it does everywhere.
    """

    lengths: np.ndarray
    capacity: int
    overhead: int
    width: int | None = None

    def __call__(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The cheapest cut of some rows.

        Args:
            numbers: of the rows, int64 (N,), in any order; at least one.

        Returns:
            Positions in `numbers`, an array a micro-batch, longest rows first; each position is in one of them.
        """
        order = np.argsort(-self.lengths[numbers], kind="stable")
        lengths = padded(self.lengths[numbers[order]])
        return [order[part] for part in cheapest_cut(lengths, self.capacity, self.overhead, self.width)]


def padded(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded up to what a batch is padded to."""
    return -(-lengths // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


def cheapest_cut(lengths: np.ndarray, capacity: int, overhead: int, width: int | None = None) -> list[slice]:
    """Cut rows, longest first, into stretches of the least total cost.

    A stretch holds `capacity` tokens at most, unless it is one row, and costs `overhead` and its tokens, those that pad
    its rows to the longest included. With a `width` it costs `overhead`, the tokens of its rows, and in proportion the
    attention over the padded ones: 4 S d operations per token, beside the 24 d^2 of a layer's matrices. The best cut of
    the first n rows ends in some stretch, with the best cut of the rows before it (dynamic programming, O(N^2)).

    Args:
        lengths: int64 (N,), descending.
        capacity: tokens.
        overhead: tokens.
        width: see `LengthBatching`.
    """
    sums = np.concatenate([[0], np.cumsum(lengths)])
    count = len(lengths)
    cost, begin = np.zeros(count + 1), np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        tokens = (end - np.arange(end)) * lengths[:end]  # of the stretch from each row to this one
        work = tokens if width is None else sums[end] - sums[:end] + tokens * lengths[:end] / (6 * width)
        total = cost[:end] + work + overhead
        total[:-1][tokens[:-1] > capacity] = np.inf
        begin[end] = total.argmin()
        cost[end] = total[begin[end]]
    cuts, end = [], count
    while end:
        cuts.append(slice(int(begin[end]), end))
        end = int(begin[end])
    return cuts[::-1]
