"""Cross-entropy summed over targets, without a vocabulary-sized tensor in float32.

The stock one keeps the logits a second time in float32, and their log-softmax, and fills a third tensor with zeros for
the gradient. Here a block of rows at a time goes through float32, and only the gradient is kept, in the precision of
the logits, from the forward pass on: it is known up to the factor that the backward pass brings.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that is not predicted, as everywhere in transformers
_BLOCK = {"cpu": 2**19, "cuda": 2**26}  # logits in a block: 2 MB of float32 stay in a core's cache


def summed_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, never: int | None = None
) -> Tensor:
    """Nats to name the labels, summed over them.

    Args:
        logits: (N, vocabulary), of any floating precision.
        labels: int64, (N,); -100 asks for nothing.
        weights: of any floating precision, (N,); what the nats of each label are multiplied by.
        never: an id that is no label, and gets no probability.

    Returns:
        0-d, float32, or float64 for float64 logits.
    """
    if not torch.compiler.is_compiling():
        return _SummedCrossEntropy.apply(logits, labels, weights, never)
    # the compiler fuses the stock one by itself
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if never is not None:
        is_never = torch.arange(logits.shape[-1], device=logits.device) == never
        logits = logits.masked_fill(is_never, -math.inf)
    if weights is None:
        return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return (F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none") * weights.to(logits.dtype)).sum()


def bits_per_byte(text_loss_sum: float, num_bytes: float) -> float:
    """Bits to encode a byte of text: summed loss of the text's tokens, in nats, over ln 2 and the bytes they spell.

    It does not depend on the tokenizer, so models with different vocabularies can be compared.
    """
    return text_loss_sum / math.log(2) / num_bytes


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor | None, never: int | None) -> Tensor:
        precision = torch.promote_types(logits.dtype, torch.float32)
        wanted = logits.requires_grad
        gradient = torch.empty_like(logits) if wanted else None
        total = torch.zeros((), dtype=precision, device=logits.device)
        block = max(1, _BLOCK.get(logits.device.type, 2**24) // logits.shape[-1])
        for begin in range(0, len(labels), block):
            rows, part = logits[begin : begin + block], labels[begin : begin + block]
            if never is not None:
                rows = rows.clone()
                rows[:, never] = -math.inf
            ignored = (part == IGNORE)[:, None]
            target = part.clamp_min(0)[:, None]
            factor = None if weights is None else weights[begin : begin + block, None].to(precision)
            log_p = torch.log_softmax(rows, -1, dtype=precision)
            found = log_p.gather(1, target).masked_fill_(ignored, 0)
            total -= (found if factor is None else found * factor).sum()
            if gradient is not None:
                log_p.exp_().scatter_add_(1, target, log_p.new_full((len(part), 1), -1))
                log_p.masked_fill_(ignored, 0)
                gradient[begin : begin + block] = log_p if factor is None else log_p.mul_(factor)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * factor.to(gradient.dtype), None, None, None
