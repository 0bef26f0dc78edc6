"""Randomness without state: a hash, and a permutation that is computed instead of stored.

Everything random about the data is a pure function of a few integers, so a run can be stopped and resumed anywhere, on
any number of processes, at no cost: nothing is drawn, so nothing has to be drawn again.
"""

from functools import lru_cache

import numpy as np

_ALL = 2**64 - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXING = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    (np.uint64(31), None),
)
_ROUNDS = 8
_BLOCK = 16_384  # cursors whose rows are computed at once, and remembered for the next batches


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of integers, element by element.

    SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) applied once
    for every key.

    Args:
        keys: integers or integer arrays that broadcast against each other; negative ones wrap around.

    Returns:
        uint64 array of the broadcast shape, uniform over all 64 bits.
    """
    ints = next((i for i, key in enumerate(keys) if not isinstance(key, int)), len(keys))
    state = _absorb_ints(keys[:ints])
    for key in keys[ints:]:
        part = np.uint64(key & _ALL) if isinstance(key, int) else np.asarray(key).astype(np.uint64, copy=False)
        state = _mix(np.asarray(state ^ part))
    return state


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Hashes, uint64, as float64 numbers in [0, 1): their upper 53 bits, as many as such a number holds."""
    return (hashes >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=1024)
def _absorb_ints(keys: tuple[int, ...]) -> np.ndarray:
    """The state behind leading integers, which seldom change."""
    state = np.array(0x243F6A8885A308D3, dtype=np.uint64)
    for key in keys:
        state = _mix(np.asarray(state ^ np.uint64(key & _ALL)))
    return state


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's step and finaliser, in place."""
    shifted = np.empty_like(z)
    np.add(z, _GOLDEN, out=z)
    for shift, factor in _MIXING:
        np.right_shift(z, shift, out=shifted)
        np.bitwise_xor(z, shifted, out=z)
        if factor is not None:
            np.multiply(z, factor, out=z)
    return z


def permute(index: np.ndarray, size: int, *keys: int, inverse: bool = False) -> np.ndarray:
    """Where a pseudorandom permutation of `range(size)`, chosen by `keys`, sends each index.

    A Feistel network over the smallest power of two that holds `size`, walked until it lands inside `range(size)`
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): under two steps an index on average, no memory.

    Args:
        index: integer array, each in `[0, size)`.
        size: number of elements.
        keys: integers that choose the permutation, such as a seed and an epoch.
        inverse: say what is sent to each index instead.

    Returns:
        int64 array of the same shape: a bijection of `range(size)`.
    """
    index = np.asarray(index, dtype=np.uint64)
    bits = max(2, int(size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    rounds = [(r, int(hash64(*keys, r))) for r in range(_ROUNDS)]
    if inverse:  # every round undoes itself
        rounds.reverse()

    def network(x: np.ndarray) -> np.ndarray:
        high, low = x >> low_bits, x & low_mask
        for r, key in rounds:
            if r % 2:
                low = low ^ (hash64(key, high) & low_mask)
            else:
                high = high ^ (hash64(key, low) & high_mask)
        return (high << low_bits) | low

    out = network(index)
    while (outside := out >= size).any():
        out = np.where(outside, network(out), out)
    return out.astype(np.int64)


def rows_at(cursor: np.ndarray, num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a run visits: `row = order(seed, epoch, cursor)`.

    Args:
        cursor: how many rows the run visited before; an integer array.
        num_rows: rows in an epoch.
        seed: the run's seed.

    Returns:
        `(row, epoch)`, int64 arrays of the cursor's shape. Every epoch visits every row once, in an order of its own.
    """
    cursor = np.asarray(cursor, dtype=np.int64)
    epoch, place = np.divmod(cursor, num_rows)
    block, within = np.divmod(place, _BLOCK)
    row = np.empty_like(cursor)
    for e, b in set(zip(epoch.tolist(), block.tolist(), strict=True)):  # a batch touches one or two
        here = (epoch == e) & (block == b)
        row[here] = _rows_of_block(num_rows, seed, e, b)[within[here]]
    return row, epoch


def places_of(rows: np.ndarray, epochs: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    """When a run comes to rows: how many it visits before each in its epoch; what `rows_at` turns round.

    Args:
        rows: numbers of rows, int64 (B,).
        epochs: which visit of each is meant, int64 (B,).
        num_rows: rows in an epoch.
        seed: the run's seed.

    Returns:
        int64, (B,), each in `[0, num_rows)`.
    """
    places = np.empty_like(rows)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        places[here] = permute(rows[here], num_rows, seed, int(epoch), inverse=True)
    return places


@lru_cache(maxsize=8)
def _rows_of_block(num_rows: int, seed: int, epoch: int, block: int) -> np.ndarray:
    begin = block * _BLOCK
    return permute(np.arange(begin, min(begin + _BLOCK, num_rows)), num_rows, seed, epoch)
