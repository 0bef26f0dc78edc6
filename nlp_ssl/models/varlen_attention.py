"""Attention by the kernel for documents laid end to end, which does not compute what a mask would hide (CUDA alone)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

HALF = (torch.float16, torch.bfloat16)  # what the kernel multiplies


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    causal: bool | Tensor,
    window: int | None,
) -> Tensor:
    """Scaled dot-product attention inside documents, without dropout.

    Args:
        query: half precision, (batch, heads, length, head_dim).
        key: the same shape.
        value: the same shape.
        cu_seqlens: int32, where each document begins among the batch * length tokens, and behind it that count,
            repeated: empty documents, so that the shape stays the same.
        scale: factor on the scores.
        causal: a token sees only itself and its past; or bool, (batch,), for each row: then attention is computed
            both ways, as the kernel has one direction for all.
        window: a token sees others less than this far away.

    Returns:
        (batch, length, heads, head_dim).
    """
    if isinstance(causal, Tensor):
        past, both = (varlen_attention(query, key, value, cu_seqlens, scale, c, window) for c in (True, False))
        return torch.where(causal[:, None, None, None], past, both)
    batch, _, length, _ = query.shape
    query, key, value = (each.transpose(1, 2).flatten(0, 1).contiguous() for each in (query, key, value))
    left = -1 if window is None else window - 1
    output: Any = varlen_attn(  # a tensor, unless more is asked for
        query, key, value, cu_seqlens, cu_seqlens, length, length,
        scale=scale, window_size=(left, 0 if causal else left),
    )  # fmt: skip
    return output.unflatten(0, (batch, length))
