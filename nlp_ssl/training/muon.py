"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal before it is a step.

`torch.optim.Muon` takes one matrix after the other, and a fused projection (queries, keys and values in one weight) for
one matrix, so that the largest of the three decides for all. Here fused projections are taken apart, matrices of one
shape go through the iteration together, and a `Conv1D` weight, which lies transposed, is turned round.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration; steepest at zero (Jordan et al. 2024)
ITERATIONS = 5
# projections that hold several side by side, by the names that transformers gives them
FUSED = {"Wqkv": 3, "qkv": 3, "qkv_proj": 3, "query_key_value": 3, "c_attn": 3, "Wi": 2, "gate_up_proj": 2}


class Muon(torch.optim.Optimizer):
    """Steps of equal length in every direction of a weight matrix; for the matrices inside the layers.

    With momentum b and gradient g: b <- m b + (1 - m) g, u = (1 - m) g + m b (Nesterov), and
    w <- (1 - lr decay) w - lr sqrt(max(1, rows / columns)) orthogonal(u).

    Args:
        params: matrices.
        lr: learning rate.
        weight_decay: decoupled.
        momentum: m.
        module: knows which of them are fused or transposed.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        module: nn.Module | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.layout = {} if module is None else layout_of(module)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # it calls no closure
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            for p in weights:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum_buffer"] for p in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p, update in zip(weights, updates, strict=True):
                for pair in zip(self._matrices(p, p), self._matrices(p, update), strict=True):
                    alike.setdefault(pair[0].shape, []).append(pair)
            for (rows, columns), pairs in alike.items():
                directions = orthogonal(torch.stack([update for _, update in pairs]))
                step = -group["lr"] * math.sqrt(max(1, rows / columns))
                for (weight, _), direction in zip(pairs, directions, strict=True):
                    weight.add_(direction, alpha=step)

    def _matrices(self, p: nn.Parameter, tensor: Tensor) -> tuple[Tensor, ...]:
        """Views of the matrices in a weight, or in a tensor of its shape: (outputs, inputs) each."""
        parts, transposed = self.layout.get(id(p), (1, False))
        return (tensor.t() if transposed else tensor).chunk(parts)


def layout_of(module: nn.Module) -> dict[int, tuple[int, bool]]:
    """By the id of a weight: how many projections it holds side by side, and whether it lies (inputs, outputs)."""
    found = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | Conv1D):
            continue
        transposed = isinstance(layer, Conv1D)
        outputs, inputs = layer.weight.shape[::-1] if transposed else layer.weight.shape
        parts = FUSED.get(name.rpartition(".")[2], 1)
        if outputs % parts or (parts == 3 and outputs != 3 * inputs):  # fewer keys and values than queries
            parts = 1
        found[id(layer.weight)] = parts, transposed
    return found


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearly the nearest orthogonal matrices: U V^T of U S V^T, but for singular values between about 0.7 and 1.2.

    Newton-Schulz: X <- a X + (b A + c A^2) X with A = X X^T, which sends a singular value s to a s + b s^3 + c s^5.

    Args:
        matrices: (number, rows, columns).
        dtype: of the products; half precision is enough.

    Returns:
        Of the same shape, in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
