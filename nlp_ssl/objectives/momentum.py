"""A momentum encoder, and the queue of what it made of past documents (He et al. 2020, MoCo)."""

import copy

import torch
from torch import Tensor, nn


class Momentum(nn.Module):
    """A copy of modules that follows them: its weights are a moving average of theirs.

    `copy = momentum * copy + (1 - momentum) * followed`, once an optimizer step. It is never trained, and always in
    evaluation mode, without dropout.

    Args:
        modules: what it follows; not part of it.
        momentum: how much of it a step leaves as it is.
    """

    def __init__(self, modules: nn.ModuleList, momentum: float) -> None:
        super().__init__()
        self.followed = (modules,)  # in a tuple, so that they are not this module's
        self.encoder = copy.deepcopy(modules).requires_grad_(False).eval()
        self.momentum = momentum

    def train(self, mode: bool = True) -> "Momentum":
        """It stays as it is."""
        return super().train(False)

    @torch.no_grad()
    def move(self) -> None:
        """Follow one step."""
        for own, theirs in zip(self.encoder.parameters(), self.followed[0].parameters(), strict=True):
            own.lerp_(theirs.to(own.dtype), 1 - self.momentum)


class Queue(nn.Module):
    """The last vectors of a stream, in a ring.

    They are parameters without gradient and no buffers, which DDP would send around at every forward pass.

    Args:
        size: vectors that it holds.
        width: of a vector.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(size, width), requires_grad=False)
        self.seen = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)  # of the stream

    def filled(self) -> Tensor:
        """Which places hold one: bool (size,)."""
        return torch.arange(len(self.vectors), device=self.seen.device) < self.seen

    @torch.no_grad()
    def put(self, vectors: Tensor) -> None:
        """Append vectors (N, width), in place of the oldest ones; of more than it holds the last ones."""
        size = len(self.vectors)
        kept = vectors[-size:]
        places = torch.arange(len(vectors) - len(kept), len(vectors), device=kept.device) + self.seen
        self.vectors[places % size] = kept.to(self.vectors.dtype)
        self.seen.add_(len(vectors))
