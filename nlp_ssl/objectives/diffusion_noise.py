"""The forward process of masked diffusion: how many tokens of each document are masked, and which.

Documents of a packed row do not see each other, so each is a sequence with a timestep t of its own. In training its
tokens are masked independently with probability p(t) = eps + (1 - eps) t, as in the code of Nie et al. 2025. In
evaluation exactly k = 1 + floor(L t) of its L tokens are: k is uniform on 1 ... L, and (L / k) times the summed
cross-entropy is then the same bound (Ou et al. 2024) with less variance and without an eps.

Timesteps are spread evenly instead of drawn independently, which leaves each uniform and makes their mean, and so the
number of masks of a batch, vary less. Kingma et al. 2021 spread them within a batch, which would depend on how a step
is split. Here document number d of the row that is visited as number n of an epoch has
t = frac(u + n (sqrt(5) - 1) / 2 + d (sqrt(2) - 1)) with u a hash of (seed, source, epoch): any stretch of visits is
covered evenly, whether it is a micro-batch, a process's share or a step.
"""

import numpy as np

from nlp_ssl.data.sequences.order import hash64, uniform

_TIME = 4  # tells the hash that timesteps begin with from those of rows
_OF_ROW, _OF_DOCUMENT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x6A09E667F3BCC908)  # in units of 2**-64
RATE_BITS = 24  # of a mask probability: float32 holds it exactly, so that the weight is that of the masks


def timesteps(seed: int, source: int, epochs: np.ndarray, places: np.ndarray, document_ids: np.ndarray) -> np.ndarray:
    """The timestep of every token's document.

    Args:
        seed: decides where they begin.
        source: tells apart data sets under one seed.
        epochs: of the rows, int64 (B,).
        places: when each row is visited in its epoch, int64 (B,), from 0.
        document_ids: int64 (B, S), 1, 2, ... for the documents of a row, 0 for padding.

    Returns:
        uint64, (B, S), uniform, in units of 2**-64.
    """
    first = hash64(_TIME, seed, source, epochs) + places.astype(np.uint64) * _OF_ROW
    return first[:, None] + (document_ids.astype(np.uint64) - np.uint64(1)) * _OF_DOCUMENT


def independent_masks(
    times: np.ndarray, hashes: np.ndarray, maskable: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mask every token by itself with the probability p(t) of its document.

    Args:
        times: uint64, (B, S), of `timesteps`.
        hashes: uint64, (B, S), one per token.
        maskable: bool, (B, S).
        eps: lowest probability.

    Returns:
        `(masked, rates)`: bool (B, S), and the probabilities, float32 (B, S), in (0, 1).
    """
    whole = 2**RATE_BITS
    t = (times >> np.uint64(64 - RATE_BITS)) / whole
    parts = np.clip(np.ceil((eps + (1 - eps) * t) * whole), 1, whole - 1).astype(np.uint64)
    masked = (hashes < parts << np.uint64(64 - RATE_BITS)) & maskable
    return masked, (parts / whole).astype(np.float32)


def counted_masks(
    times: np.ndarray, hashes: np.ndarray, maskable: np.ndarray, document_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mask exactly 1 + floor(L t) of the L maskable tokens of every document, those of the lowest hashes.

    Args:
        times: uint64, (B, S), of `timesteps`.
        hashes: uint64, (B, S), one per token.
        maskable: bool, (B, S).
        document_ids: int64, (B, S).

    Returns:
        `(masked, rates)`: bool (B, S), and the shares of the tokens that are masked, float32 (B, S), in (0, 1].
    """
    rows = np.arange(len(document_ids))[:, None]
    documents = (rows * (document_ids.max() + 1) + document_ids).ravel()
    places = np.flatnonzero(maskable)
    sizes = np.bincount(documents[places], minlength=documents.max() + 1)[documents]
    counts = 1 + np.floor(sizes * uniform(times.ravel())).astype(np.int64)
    places = places[np.lexsort((hashes.ravel()[places], documents[places]))]
    grouped = documents[places]
    ranks = np.arange(len(places)) - np.searchsorted(grouped, grouped)
    masked = np.zeros(maskable.size, dtype=bool)
    masked[places] = ranks < counts[places]
    rates = np.minimum(counts / np.maximum(sizes, 1), 1.0).astype(np.float32)
    return masked.reshape(maskable.shape), rates.reshape(maskable.shape)
