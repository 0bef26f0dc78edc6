"""Order: a permutation that is computed, checked against what a stored one would have to be."""

import time
from statistics import NormalDist

import numpy as np
import pytest

from nlp_ssl.data.sequences.order import hash64, permute, places_of, rows_at


@pytest.mark.parametrize("size", [*range(1, 40), 64, 65, 127, 1000, 1023, 1024, 1025, 65_537, 100_000])
def test_every_index_once(size):
    assert np.array_equal(np.sort(permute(np.arange(size), size, 3, 0)), np.arange(size))


def test_another_seed_or_epoch_is_another_order():
    orders = [permute(np.arange(1000), 1000, seed, epoch) for seed in range(4) for epoch in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 15  # a random pair agrees in 1 place of 1000


def test_order_is_not_correlated_with_the_corpus():
    for size in (1000, 1024, 10_001):
        for epoch in range(5):
            order = permute(np.arange(size), size, 0, epoch)
            bound = 4.5 / np.sqrt(size)  # a correlation of independent ranks has standard deviation 1 / sqrt(size)
            assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < bound
            assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < bound  # nor are neighbours


def test_first_place_is_uniform_over_seeds():
    size, draws = 10, 5000
    counts = np.bincount([int(permute(np.array([0]), size, seed)[0]) for seed in range(draws)], minlength=size)
    chi_square = ((counts - draws / size) ** 2 / (draws / size)).sum()
    assert chi_square < 33  # 9 degrees of freedom, p = 1e-4


def test_far_positions_cost_nothing():
    begin = time.perf_counter()
    rows, epochs = rows_at(np.arange(10**12, 10**12 + 64), 10**9 + 7, seed=1)
    assert time.perf_counter() - begin < 1
    assert len(set(rows.tolist())) == 64
    assert ((rows >= 0) & (rows < 10**9 + 7)).all()
    assert set(epochs.tolist()) == {10**12 // (10**9 + 7)}


def test_rows_at_visits_every_row_once_an_epoch():
    rows, epochs = rows_at(np.arange(70), 23, seed=5)
    for epoch in range(3):
        assert sorted(rows[epochs == epoch]) == list(range(23))
    again, _ = rows_at(np.arange(17, 53), 23, seed=5)  # asked for in another batch
    assert np.array_equal(again, rows[17:53])


@pytest.mark.parametrize("total", [1, 2, 23, 1000, 1025])
def test_a_row_knows_when_it_is_visited(total):
    rows, epochs = rows_at(np.arange(3 * total), total, seed=5)
    some = np.random.default_rng(0).permutation(3 * total)[:500]  # whatever others are asked for with it
    assert np.array_equal(places_of(rows[some], epochs[some], total, seed=5), some % total)


def test_every_epoch_of_a_run_has_an_order_of_its_own():
    orders = [rows_at(np.arange(n, n + 1000), 1000, seed)[0] for seed in range(3) for n in (0, 1000, 5000)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 15  # a random pair agrees in 1 place of 1000


def test_hash_broadcasts_and_tells_its_keys_apart():
    grid = hash64(7, np.arange(-50, 50)[:, None], np.arange(100)[None, :])
    assert grid.shape == (100, 100)
    assert grid.dtype == np.uint64
    assert len(np.unique(grid)) == 10_000
    assert grid[3, 4] == hash64(7, -47, 4)
    assert hash64(1, 2) != hash64(2, 1)


def test_every_bit_of_the_hash_is_even():
    values = hash64(0, np.arange(20_000))
    ones = (((values[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).astype(np.int64)).sum(axis=0)
    worst = np.abs(ones - 10_000).max() / np.sqrt(20_000 / 4)
    assert worst < NormalDist().inv_cdf(1 - 1e-4 / 128)
