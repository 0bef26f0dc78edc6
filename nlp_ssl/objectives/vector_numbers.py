"""What pairs of vectors say of an encoder: whether views find each other, and whether the space is used.

Alignment and uniformity: Wang and Isola 2020.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 256  # among which a view is to find the other one of its document
COLLAPSED = 0.1  # a spread below this
ROUNDING = 1e-5  # cosines of equal texts differ by less


def measure_pairs(pairs: Tensor) -> dict[str, float]:
    """Numbers of the two views of some documents, in groups of up to `CANDIDATES` documents.

    Args:
        pairs: (N, 2, D), unit vectors, N at least 2; in an order that does not depend on how they were computed.

    Returns:
        `recall_at_1`, the share of first views whose cosine with their own second view is above that with any other
        document's by more than rounding; `chance`, what it is by guessing; `candidates`, documents in a group;
        `alignment`, the mean squared distance of two views of a document, low is good; `uniformity`, the log of the
        mean of exp(-2 d^2) over the first views of two documents, low is spread out; `mean_cosine` of these; `spread`,
        the standard deviation of a dimension times the root of their number: 1 is spread over the sphere, 0 is one
        point.
    """
    hits, squared = [], []
    for first, second in groups(pairs):
        scores = first @ second.T
        others = scores - torch.diag(torch.full_like(scores.diagonal(), torch.inf))
        hits.append(scores.diagonal() - others.amax(1) > ROUNDING)  # of two equal texts neither is found
        above = torch.triu(torch.ones_like(scores, dtype=torch.bool), 1)
        squared.append((2 - 2 * first @ first.T)[above])
    distances = torch.cat(squared)
    first, second = pairs.unbind(1)
    size = group_size(len(pairs))
    return {
        "recall_at_1": float(torch.cat(hits).double().mean()),
        "chance": 1 / size,
        "candidates": size,
        "alignment": float((first - second).square().sum(-1).mean()),
        "uniformity": float((-2 * distances).exp().mean().log()),
        "mean_cosine": float(1 - distances.mean() / 2),
        "spread": float(first.std(0, correction=0).mean() * math.sqrt(first.shape[1])),
    }


def group_size(count: int) -> int:
    """Documents in a group."""
    return min(CANDIDATES, count)


def groups(pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """First and second views of as many whole groups as there are, each (documents in a group, D)."""
    size = group_size(len(pairs))
    for begin in range(0, len(pairs) // size * size, size):
        first, second = pairs[begin : begin + size].unbind(1)
        yield first, second


def info_nce(pairs: Tensor, temperature: float) -> Tensor:
    """Nats to name, for every first view, the second view of its document among those of all documents; summed.

    `-log(exp(cos(a_i, b_i) / t) / sum_j exp(cos(a_i, b_j) / t))` (van den Oord et al. 2018; Gao et al. 2021).

    Args:
        pairs: (N, 2, D), unit vectors; those of zeros are spare, and neither views nor candidates.
        temperature: divides the cosines.

    Returns:
        0-d, of the type of the vectors.
    """
    first, second = pairs.unbind(1)
    real = second.detach().any(1)
    scores = (first @ second.T / temperature).masked_fill(~real, torch.finfo(pairs.dtype).min)
    return torch.where(real, scores.logsumexp(1) - scores.diagonal(), 0.0).sum()


def unit(vectors: Tensor, real: Tensor) -> Tensor:
    """Vectors (N, D) of length 1, where they are `real`, bool (N,); zeros elsewhere."""
    return F.normalize(torch.where(real[:, None], vectors, 1.0), dim=-1) * real[:, None]
