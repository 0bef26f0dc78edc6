"""Attention in tiles against torch's own under a mask, and what a tile computes against what is seen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nlp_ssl.models import tiled_attention as tiles
from nlp_ssl.models.attention import document_mask
from nlp_ssl.models.tiled_attention import tiled_attention, tiles_of


def ids_of(*rows, length=40):
    ids = np.zeros((len(rows), length), dtype=np.int64)
    for row, documents in zip(ids, rows, strict=True):
        row[: sum(documents)] = np.repeat(np.arange(1, len(documents) + 1), documents)
    return torch.from_numpy(ids)


DIRECTIONS = [False, True, torch.tensor([True, False, True, False])]
IDS = ids_of([40], [3, 1, 17, 12], [1] * 30, [25, 2, 2, 11])


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "QUERIES", 8)


@pytest.mark.parametrize("window", [None, 1, 4, 9])
@pytest.mark.parametrize(
    "causal", [False, True, torch.tensor([True, False, True, False])], ids=["both", "past", "by row"]
)
def test_values_and_gradients_are_those_under_a_mask(causal, window):
    generator = torch.Generator().manual_seed(0)
    query, key, value, above = (torch.randn(4, 3, 40, 6, generator=generator, dtype=torch.float64) for _ in range(4))
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    found = tiled_attention(query, key, value, 0.4, tiles_of(IDS, causal, window))
    mask = document_mask(IDS, causal, window)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.4).transpose(1, 2)
    real = (IDS > 0)[..., None, None]
    torch.testing.assert_close(found * real, expected * real)
    assert (found[~real[..., 0, 0]] == 0).all()  # padding sees nothing
    above = above.transpose(1, 2) * real
    ours = torch.autograd.grad((found * above).sum(), inputs)
    theirs = torch.autograd.grad((expected * above).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6)  # sums of keys are kept in float32


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(
    "causal", [False, True, torch.tensor([True, False, True, False])], ids=["both", "past", "by row"]
)
def test_every_pair_that_is_seen_is_in_one_tile(causal, window):
    count = torch.zeros(4, 40, 40, dtype=torch.int64)
    area = 0
    for tile in tiles_of(IDS, causal, window):
        seen = 1 if tile.hidden is None else (~tile.hidden).long()
        count[tile.row, tile.queries, tile.keys] += seen
        area += (tile.queries.stop - tile.queries.start) * (tile.keys.stop - tile.keys.start)
        assert tile.queries.stop - tile.queries.start <= 8
    expected = document_mask(IDS, causal, window)[:, 0] & (IDS > 0)[:, :, None] & (IDS > 0)[:, None, :]
    assert torch.equal(count, expected.long())
    assert area < 0.6 * 4 * 40 * 40  # of what a mask over whole rows computes


def test_another_document_of_the_same_length_changes_no_bit():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(4, 3, 40, 6, generator=generator).bfloat16() for _ in range(3))
    changed = [tensor.clone() for tensor in (query, key, value)]
    for tensor in changed:
        tensor[1, :, 4:21] = torch.randn(
            3, 17, 6, generator=generator
        ).bfloat16()  # the third document of the second row
    cut = tiles_of(IDS, False, None)
    before, after = tiled_attention(query, key, value, 1.0, cut), tiled_attention(*changed, 1.0, cut)
    others = torch.ones(4, 40, dtype=torch.bool)
    others[1, 4:21] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1, 4:21], after[1, 4:21])
