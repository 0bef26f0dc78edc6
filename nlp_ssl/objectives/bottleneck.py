"""What lies between an encoder and a decoder that knows a document by one vector: the vector, a draw, or a sparse code.

Known against the two that are not plain. Variational (Bowman et al. 2016): a decoder that sees the previous words
learns to do without the draw, and the divergence falls to 0 (posterior collapse). Annealing and free bits delay that
(Li et al. 2019; Optimus: Li et al. 2020); no comparison is known to us in which it is better pretraining than masked
language modelling at equal cost. Sparse: an L1 penalty shrinks what it keeps, and under too high a weight all of the
code is 0. So an evaluation says how many entries are in use, and whether the decoder uses them at all.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVE = 0.01  # variance of an entry's mean over documents from which on it is in use (Burda et al. 2016)
_MIXING = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, None))  # SplitMix64's, as signed integers
_GOLDEN = -0x61C8864680B583EB


class Plain(nn.Module):
    """The vector itself.

    Args:
        width: of the vectors.
    """

    penalty: str | None = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = width

    def forward(self, vectors: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the decoder gets, what it costs, and what an evaluation looks at.

        Args:
            vectors: (B, K, width), of K documents in each row.
            keys: int64, (B, K); decide what is drawn.

        Returns:
            (B, K, size); nats or entries of each document, (B, K), or `None`; (B, K, size).
        """
        return vectors, None, vectors


class Variational(Plain):
    """A draw z = mean + exp(log variance / 2) * noise; costs KL(q(z | document) || N(0, 1)), in nats.

    In training each entry costs at least `free_bits` nats, so that none is pushed below them.

    Args:
        width: of the vectors.
        size: of z.
        free_bits: nats per entry.
    """

    penalty = "kl"

    def __init__(self, width: int, size: int, free_bits: float) -> None:
        super().__init__(width)
        self.size, self.free_bits = size, free_bits
        self.mean, self.log_variance = nn.Linear(width, size), nn.Linear(width, size)
        for layer in (self.mean, self.log_variance):
            nn.init.normal_(layer.weight, std=width**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """See `Plain`; an evaluation looks at the means."""
        mean, log_variance = self.mean(vectors), self.log_variance(vectors)
        mean, log_variance = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (mean, log_variance))
        z = mean + (log_variance / 2).exp() * normals(keys, self.size).to(mean.dtype)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        if self.training:
            divergence = divergence.clamp_min(self.free_bits)
        return z.to(vectors.dtype), divergence.sum(-1), mean


class Sparse(Plain):
    """A code ReLU(W vector + b); costs the sum of its entries (L1).

    Args:
        width: of the vectors.
        size: of the code.
    """

    penalty = "l1"

    def __init__(self, width: int, size: int) -> None:
        super().__init__(width)
        self.size = size
        self.code = nn.Linear(width, size)
        nn.init.normal_(self.code.weight, std=width**-0.5)
        nn.init.zeros_(self.code.bias)

    def forward(self, vectors: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """See `Plain`; an evaluation looks at the code."""
        code = F.relu(self.code(vectors))
        return code, code.to(torch.promote_types(code.dtype, torch.float32)).sum(-1), code


def normals(keys: Tensor, size: int) -> Tensor:
    """Normal numbers that are functions of keys: the same on every device, whatever else is in the batch.

    SplitMix64's finaliser on a counter, and the transform of Box and Muller.

    Args:
        keys: int64, any shape.
        size: numbers for each.

    Returns:
        float64, (*keys.shape, size).
    """
    counters = torch.arange(2 * size, device=keys.device)
    z = keys[..., None] + (counters + 1) * _GOLDEN
    for shift, factor in _MIXING:
        z = z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))  # of a signed integer the sign would be shifted in
        if factor is not None:
            z = z * factor
    uniform = (((z >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
    radius, angle = uniform[..., :size], uniform[..., size:]
    return (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
