"""Batches: a step's rows depend on the step alone, not on processes, micro-batches, workers or where the run began."""

from itertools import islice

import numpy as np
import pytest
import torch

from nlp_ssl.data.sequences.batches import TrainBatches, held_out_batches, held_out_rows, num_real_tokens
from nlp_ssl.data.sequences.phases import Phase, Phases

NUM_ROWS, BATCH = 53, 16


class Rows:
    def __len__(self):
        return NUM_ROWS

    def __getitem__(self, row):
        return {"value": row * 10}


class Numbers:
    """Batches of the rows' numbers, each of them a target."""

    def __call__(self, rows):
        assert all(row["value"] == row["row"] * 10 for row in rows)
        numbers = torch.tensor([row["row"] for row in rows])
        epochs = torch.tensor([row["epoch"] for row in rows])
        return {"row": numbers, "epoch": epochs, "input_ids": numbers[:, None], "digest": numbers.sum()}

    def counts(self, batch):
        return {"loss": len(batch["row"])}


def addresses(batch):
    return list(zip(batch.inputs["epoch"].tolist(), batch.inputs["row"].tolist(), strict=True))


def one_phase(batch_size, micro_batch):
    return Phases([Phase(Rows(), batch_size, micro_batch)])


def visits(start, count, micro_batch=BATCH, world_size=1, workers=0):
    """For each step the (epoch, row) pairs over all ranks and micro-batches, in order."""
    steps = [[] for _ in range(count)]
    for rank in range(world_size):
        batches = TrainBatches(
            one_phase(BATCH, micro_batch), Numbers(), seed=3, rank=rank, world_size=world_size, workers=workers
        )
        for step, micro in zip(steps, islice(batches.steps(start), count), strict=True):
            assert all(len(m.inputs["row"]) <= micro_batch for m in micro)
            step += [pair for m in micro for pair in addresses(m)]
    return steps


@pytest.fixture(scope="module")
def reference():
    return visits(0, 12)


@pytest.mark.parametrize(
    ("micro_batch", "world_size", "workers"), [(4, 1, 0), (3, 1, 0), (4, 2, 0), (3, 3, 0), (16, 16, 0), (4, 1, 2)]
)
def test_the_split_changes_nothing(reference, micro_batch, world_size, workers):
    assert visits(0, 12, micro_batch, world_size, workers) == reference


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (5, 2), (11, 0)])
def test_starting_anywhere_is_skipping(reference, start, workers):
    assert visits(start, 12 - start, 4, 1, workers) == reference[start:]


def test_every_row_once_an_epoch(reference):
    flat = [pair for step in reference for pair in step]
    for epoch in range(3):
        assert sorted(row for e, row in flat if e == epoch) == list(range(NUM_ROWS))
    assert [r for e, r in flat if e == 0] != [r for e, r in flat if e == 1]


def test_step_rows_says_what_the_step_holds(reference):
    batches = TrainBatches(one_phase(BATCH, 4), Numbers(), seed=3, rank=1, world_size=2)
    _, rows, epochs = batches.step_rows(7)
    assert list(zip(epochs.tolist(), rows.tolist(), strict=True)) == reference[7]


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_generator_of_dropout_alone(workers):
    batches = TrainBatches(one_phase(4, 4), Numbers(), seed=0, workers=workers)
    before = torch.get_rng_state()
    next(batches.steps(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_far_away_begins_at_once():
    batches = TrainBatches(one_phase(4, 4), Numbers(), seed=0)
    assert len(next(batches.steps(10**7))[0].inputs["row"]) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_host_knows_of_a_micro_batch_comes_with_it(workers):
    (one, other) = next(TrainBatches(one_phase(6, 4), Numbers(), seed=0, workers=workers).steps(0))
    for batch, size in ((one, 4), (other, 2)):
        assert (batch.counts, batch.num_tokens) == ({"loss": size}, size)
        assert batch.digest == int(batch.inputs["row"].sum())
        assert "digest" not in batch.inputs  # nothing of it goes to a device


def test_tokens_are_counted_without_padding():
    ids = torch.ones(2, 5, dtype=torch.int32)
    assert num_real_tokens({"input_ids": ids}) == 10
    assert num_real_tokens({"input_ids": ids, "document_ids": torch.tensor([[1, 1, 2, 0, 0], [1, 2, 3, 3, 0]])}) == 7
    assert num_real_tokens({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])}) == 4


def test_held_out_rows_are_spread_evenly_and_each_is_scored_once():
    assert held_out_rows(10, None).tolist() == list(range(10))
    assert held_out_rows(10, 100).tolist() == list(range(10))
    some = held_out_rows(1000, 30)
    assert len(set(some.tolist())) == 30
    assert set(np.diff(some).tolist()) <= {33, 34}
    for world_size in (1, 2, 3):
        seen = [
            pair
            for rank in range(world_size)
            for batch in held_out_batches(
                Rows(), Numbers(), batch_size=4, max_rows=20, rank=rank, world_size=world_size
            )
            for pair in addresses(batch)
        ]
        assert sorted(seen) == [(0, int(row)) for row in held_out_rows(NUM_ROWS, 20)]


def test_fewer_rows_than_processes_is_refused():
    with pytest.raises(ValueError, match="cannot be split"):
        TrainBatches(one_phase(2, 1), Numbers(), seed=0, world_size=3)
