"""Randomness without state: a hash, and a permutation that is computed instead of stored.

Everything random about the data is a pure function of a few integers, so a run can be stopped and resumed anywhere, on
any number of processes, at no cost: nothing is drawn, so nothing has to be drawn again.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8


def hash64(*keys: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of integers, element by element.

    SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) applied once
    for every key.

    Args:
        keys: integers or integer arrays that broadcast against each other; negative ones wrap around.

    Returns:
        uint64 array of the broadcast shape, uniform over all 64 bits.
    """
    state = np.uint64(0x243F6A8885A308D3)
    with np.errstate(over="ignore"):
        for key in keys:
            key = np.asarray(key).astype(np.uint64) if not isinstance(key, int) else np.uint64(key & (2**64 - 1))
            z = (state ^ key) + _GOLDEN
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = z ^ (z >> np.uint64(31))
    return state


def permute(index: np.ndarray, size: int, *keys: int) -> np.ndarray:
    """Where a pseudorandom permutation of `range(size)`, chosen by `keys`, sends each index.

    A Feistel network over the smallest power of two that holds `size`, walked until it lands inside `range(size)`
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): under two steps an index on average, no memory.

    Args:
        index: integer array, each in `[0, size)`.
        size: number of elements.
        keys: integers that choose the permutation, such as a seed and an epoch.

    Returns:
        int64 array of the same shape: a bijection of `range(size)`.
    """
    index = np.asarray(index, dtype=np.uint64)
    bits = max(2, int(size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    round_keys = [int(hash64(*keys, r)) for r in range(_ROUNDS)]

    def network(x: np.ndarray) -> np.ndarray:
        high, low = x >> low_bits, x & low_mask
        for r, key in enumerate(round_keys):
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
    epoch = cursor // num_rows
    row = np.empty_like(cursor)
    for e in np.unique(epoch):  # a global batch touches two epochs at most
        here = epoch == e
        row[here] = permute(cursor[here] % num_rows, num_rows, seed, int(e))
    return row, epoch
