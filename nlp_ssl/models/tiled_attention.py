"""Attention on a CPU over long packed rows, without computing what no token sees.

The fused kernel of CPUs takes a mask and computes everything under it, slowly in bfloat16. Here every row is cut into
tiles: some queries, and the stretch of keys that one of them sees, in their documents, windows and past. Long documents
become several tiles, short ones share one. What a tile computes depends on where documents begin and end, never on what
stands in other documents.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

QUERIES = 256  # in a tile, at most


@dataclass(frozen=True)
class Tile:
    """Queries of a row, and the keys that they see.

    Attributes:
        row: which row of the batch.
        queries: positions in the row.
        keys: positions in the row.
        hidden: bool, (queries, keys), True where the query does not see the key; `None` where all see all.
    """

    row: int
    queries: slice
    keys: slice
    hidden: Tensor | None


def tiles_of(document_ids: Tensor, is_causal: bool | Tensor, sliding_window: int | None) -> list[Tile]:
    """The tiles of a batch.

    Args:
        document_ids: int64, (batch, length), on the host; every document in one stretch; 0 is padding, which sees
            nothing.
        is_causal: whether a token sees only itself and its past; bool, (batch,), where rows differ in that.
        sliding_window: a token sees others less than this far away.
    """
    tiles = []
    causal_rows = np.broadcast_to(np.asarray(is_causal), len(document_ids))
    for row, (ids, causal) in enumerate(zip(document_ids.numpy(), causal_rows, strict=True)):
        edges = np.flatnonzero(np.diff(ids)) + 1
        documents = [(int(b), int(e)) for b, e in zip([0, *edges], [*edges, len(ids)], strict=True) if ids[b] > 0]
        for begin, end, first, last in _stretches(documents):
            keys_begin, keys_end = first, end if causal else last
            if sliding_window is not None:
                keys_begin = max(keys_begin, begin - sliding_window + 1)
                keys_end = min(keys_end, end - 1 + sliding_window)
            query, key = np.arange(begin, end)[:, None], np.arange(keys_begin, keys_end)[None]
            seen = ids[query] == ids[key]
            if causal:
                seen &= key <= query
            if sliding_window is not None:
                seen &= np.abs(query - key) < sliding_window
            hidden = None if seen.all() else torch.from_numpy(~seen)
            tiles.append(Tile(row, slice(begin, end), slice(keys_begin, keys_end), hidden))
    return tiles


def _stretches(documents: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Queries `begin:end` of a tile, and the stretch `first:last` of the documents that they are in."""
    found: list[tuple[int, int, int, int]] = []
    for first, last in documents:
        if found and last - found[-1][0] <= QUERIES and found[-1][1] == found[-1][3] == first:
            begin, _, earliest, _ = found.pop()  # short documents share a tile
            found.append((begin, last, earliest, last))
        else:
            found += [(at, min(at + QUERIES, last), first, last) for at in range(first, last, QUERIES)]
    return found


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, tiles: list[Tile]) -> Tensor:
    """Attention in tiles; weights are rounded to the precision of the queries, as in transformers' eager attention.

    Args:
        query: (batch, heads, length, head_dim).
        key: of the same shape.
        value: of the same shape.
        scale: factor on the scores.
        tiles: from `tiles_of`.

    Returns:
        (batch, length, heads, head_dim), contiguous; 0 where no tile has a query.
    """
    return _TiledAttention.apply(*(each.contiguous() for each in (query * scale, key, value)), tiles)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: list[Tile]) -> Tensor:
        output = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
        kept = []
        for tile in tiles:
            scores = torch.bmm(query[tile.row, :, tile.queries], key[tile.row, :, tile.keys].mT)
            if tile.hidden is not None:
                scores.masked_fill_(tile.hidden, -math.inf)
            weights = torch.softmax(scores, -1)
            output[tile.row, tile.queries] = torch.bmm(weights, value[tile.row, :, tile.keys]).transpose(0, 1)
            kept.append(weights)
        ctx.tiles = tiles
        ctx.save_for_backward(query, key, value, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        to_query = torch.zeros_like(query)
        to_key, to_value = (torch.zeros(key.shape, dtype=torch.float32) for _ in range(2))  # several tiles add up
        for tile, weights in zip(ctx.tiles, kept, strict=True):
            row, queries, keys = tile.row, tile.queries, tile.keys
            above = gradient[row, queries].transpose(0, 1).contiguous()
            to_value[row, :, keys] += torch.bmm(weights.mT, above)
            to_weights = torch.bmm(above, value[row, :, keys].mT)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_query[row, :, queries] = torch.bmm(to_scores, key[row, :, keys])
            to_key[row, :, keys] += torch.bmm(to_scores.mT, query[row, :, queries])
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None
