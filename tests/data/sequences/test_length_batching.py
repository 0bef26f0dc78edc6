"""Micro-batches of rows of different lengths: all rows, within the memory, and no cheaper cut exists."""

import itertools

import numpy as np
import pytest
import torch

from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.length_batching import LengthBatching, cheapest_cut, padded
from nlp_ssl.data.sequences.phases import Phase, Phases


def work(lengths, width):
    """In tokens: all that are padded; or those of the rows, and the share of attention over the padded ones."""
    laid_out = len(lengths) * lengths[0]
    return laid_out if width is None else sum(lengths) + 4 * laid_out * lengths[0] * width / (24 * width**2)


def cost(lengths, cuts, overhead, width):
    return sum(work(lengths[part], width) + overhead for part in cuts)


def every_cut(count):
    """All ways to cut this many rows into stretches."""
    for borders in itertools.product((False, True), repeat=count - 1):
        ends = [i + 1 for i, border in enumerate(borders) if border] + [count]
        yield [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("width", [None, 4])
@pytest.mark.parametrize("seed", range(8))
def test_no_cut_is_cheaper(seed, width):
    rng = np.random.default_rng(seed)
    lengths = -np.sort(-rng.integers(1, 40, size=9))
    overhead, capacity = int(rng.integers(0, 60)), int(rng.integers(30, 200))
    cuts = cheapest_cut(lengths, capacity, overhead, width)
    fits = lambda part: len(lengths[part]) == 1 or len(lengths[part]) * lengths[part][0] <= capacity  # noqa: E731
    allowed = [cuts for cuts in every_cut(9) if all(map(fits, cuts))]
    assert cuts in allowed
    cheapest = min(cost(lengths, each, overhead, width) for each in allowed)
    assert cost(lengths, cuts, overhead, width) == pytest.approx(cheapest)


def test_padding_of_real_lengths_is_small():
    lengths = np.minimum(np.random.default_rng(0).lognormal(3, 0.7, 5000).astype(int) + 2, 128)
    cut, wasted, tokens = LengthBatching(lengths, capacity=32 * 128, overhead=128), 0, 0
    for at in range(0, 4992, 32):
        numbers = np.arange(at, at + 32)
        parts = cut(numbers)
        assert sorted(np.concatenate(parts).tolist()) == list(range(32))
        size = sum(len(part) * padded(lengths[numbers[part]]).max() for part in parts)
        tokens += lengths[numbers].sum()
        wasted += size - lengths[numbers].sum()
    assert wasted / (wasted + tokens) < 0.3
    assert len(lengths) * 128 / lengths.sum() > 4  # padded to the length of the model, it would be most of it


class AsTheyAre:
    """Batches that are their rows."""

    def __call__(self, rows):
        return {"rows": list(rows), "input_ids": torch.zeros(1), "digest": torch.tensor(0)}

    def counts(self, batch):
        return {"loss": len(batch["rows"])}


class Rows:
    lengths = np.random.default_rng(1).integers(1, 50, size=53)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, row):
        return {"length": int(self.lengths[row])}


@pytest.mark.parametrize(("world_size", "capacity", "workers"), [(1, 200, 0), (1, 56, 2), (2, 200, 0), (3, 100, 0)])
def test_a_step_learns_from_the_same_rows_however_it_is_cut(world_size, capacity, workers):
    whole = TrainBatches(Phases([Phase(Rows(), 16, 16)]), AsTheyAre(), seed=3)
    cut = LengthBatching(Rows.lengths, capacity, overhead=8)
    shares = [
        TrainBatches(
            Phases([Phase(Rows(), 16, 16, cut=cut)]),
            AsTheyAre(),
            seed=3,
            rank=rank,
            world_size=world_size,
            workers=workers,
        )
        for rank in range(world_size)
    ]
    steps = zip(whole.steps(4), *(share.steps(4) for share in shares), strict=True)
    for (batch,), *parts in itertools.islice(steps, 5):
        batch, micro_batches = batch.inputs["rows"], [micro.inputs["rows"] for part in parts for micro in part]
        assert all(parts)  # no process stands by
        key = lambda row: (row["epoch"], row["row"])  # noqa: E731
        assert sorted(itertools.chain(*micro_batches), key=key) == sorted(batch, key=key)
        for micro in micro_batches:
            longest = max(row["length"] for row in micro)
            assert len(micro) == 1 or len(micro) * -(-longest // 8) * 8 <= capacity
