"""The digest: the same for the same rows and masks in any split and padding, another for anything else."""

import numpy as np
import pytest

from nlp_ssl.objectives.objective import digest_of


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    seen = rng.integers(1, 2**40, (12, 30))
    seen[::3, 20:] = 0
    return np.arange(12), np.full(12, 2), seen


def test_neither_the_split_nor_the_order_nor_padding_matters(batch):
    whole = int(digest_of(*batch))
    order = np.random.default_rng(1).permutation(12)
    assert int(digest_of(*(each[order] for each in batch))) == whole
    assert sum(int(digest_of(*(each[i : i + 5] for each in batch))) for i in range(0, 12, 5)) == whole
    row, epoch, seen = batch
    assert int(digest_of(row, epoch, np.pad(seen, ((0, 0), (0, 9))))) == whole


def test_any_change_changes_it(batch):
    whole = int(digest_of(*batch))
    found = {whole}
    for part, at in ((0, 4), (1, 4), (2, (4, 7)), (2, (0, 29)), (2, (11, 0))):
        for by in (1, 2, 2**32):
            changed = [each.copy() for each in batch]
            changed[part][at] += by
            found.add(int(digest_of(*changed)))
    swapped = [each.copy() for each in batch]
    swapped[2][5, [3, 4]] = swapped[2][5, [4, 3]]
    found.add(int(digest_of(*swapped)))
    moved = [each.copy() for each in batch]
    moved[2][[5, 6]] = moved[2][[6, 5]]  # to other rows
    found.add(int(digest_of(*moved)))
    assert len(found) == 1 + 15 + 2
    assert max(found) < 12 * 2**32
