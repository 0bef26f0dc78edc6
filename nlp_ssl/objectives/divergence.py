"""How far a student's distributions are from a teacher's, summed over rows, without a vocabulary-sized float32 tensor.

As `cross_entropy.py`: a block of rows at a time goes through float32, and only the gradient is kept.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = {"cpu": 2**19, "cuda": 2**26}  # logits in a block: 2 MB of float32 stay in a core's cache


def summed_divergence(logits: Tensor, taught: Tensor, counted: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)) in nats, summed over rows (Hinton et al. 2015, section 2).

    The factor T^2 keeps the size of its gradient, which falls with 1 / T^2, beside that of a cross-entropy.

    Args:
        logits: the student's, (N, vocabulary), of any floating precision.
        taught: the teacher's, the same; gets no gradient.
        counted: bool, (N,); other rows count nothing.
        temperature: T.

    Returns:
        0-d, float32, or float64 for float64 logits.
    """
    if torch.compiler.is_compiling():
        precision = torch.promote_types(logits.dtype, torch.float32)
        log_q = torch.log_softmax(logits.to(precision) / temperature, -1)
        log_p = torch.log_softmax(taught.to(precision) / temperature, -1)
        rows = (log_p.exp() * (log_p - log_q)).sum(-1)
        return temperature**2 * torch.where(counted, rows, 0.0).sum()
    return _SummedDivergence.apply(logits, taught, counted, temperature)


class _SummedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, taught: Tensor, counted: Tensor, temperature: float) -> Tensor:
        precision = torch.promote_types(logits.dtype, torch.float32)
        gradient = torch.empty_like(logits) if logits.requires_grad else None
        total = torch.zeros((), dtype=precision, device=logits.device)
        block = max(1, BLOCK.get(logits.device.type, 2**24) // logits.shape[-1])
        for begin in range(0, len(logits), block):
            part = slice(begin, begin + block)
            ignored = ~counted[part, None]
            log_q = torch.log_softmax(logits[part].to(precision) / temperature, -1)
            log_p = torch.log_softmax(taught[part].to(precision) / temperature, -1)
            p = log_p.exp()
            total += (p * (log_p - log_q)).masked_fill_(ignored, 0).sum()
            if gradient is not None:
                gradient[part] = log_q.exp_().sub_(p).mul_(temperature).masked_fill_(ignored, 0)
        ctx.save_for_backward(gradient)
        return temperature**2 * total

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * factor.to(gradient.dtype), None, None, None
