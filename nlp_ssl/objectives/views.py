"""Two views of a document, drawn by a hash of it: crops, deletion, replacement, repetition, the next segment.

Crops with deletion: Izacard et al. 2022 (Contriever). Deletion and the same text twice: Gao et al. 2021 (SimCSE).
Repetition: Wu et al. 2022 (ESimCSE). All work on the tokens between a document's special tokens, and no view is longer
than its document.
"""

from dataclasses import dataclass

import numpy as np

from nlp_ssl.config.contrastive import ContrastiveSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.order import hash64, uniform

SHORTEST = 4  # tokens of a crop or segment: fewer say too little to be known again by
NOISE = {"crops": 0.1, "deletion": 0.1, "replacement": 0.1, "repetition": 0.32}
_LENGTH, _BEGIN, _DELETE, _REPLACE, _WITH, _REPEAT, _WHICH, _CUT = range(8)  # what a hash decides


@dataclass(frozen=True)
class Documents:
    """Documents, or views of them, one behind the other.

    Attributes:
        tokens: of all of them, int64; without special ones.
        lengths: of each, int64 (N,).
        keys: what decides their views, uint64 (N,).
    """

    tokens: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray

    @property
    def owners(self) -> np.ndarray:
        """For every token the number of its document."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def begins(self) -> np.ndarray:
        """The first token of each."""
        return np.cumsum(self.lengths) - self.lengths

    def stretch(self, start: np.ndarray, length: np.ndarray) -> "Documents":
        """Of every document the tokens from `start`, `length` of them, both (N,)."""
        at = np.repeat(self.begins + start - (np.cumsum(length) - length), length) + np.arange(length.sum())
        return Documents(self.tokens[at], length, self.keys)

    def hashes(self, *what: int) -> np.ndarray:
        """One uint64 for every token, by its place in its document."""
        places = np.arange(len(self.tokens)) - np.repeat(self.begins, self.lengths)
        return hash64(*what, np.repeat(self.keys, self.lengths), places)


class Views:
    """Makes the two views of documents.

    Args:
        config: which views.
        ordinary: tokens that replace others, int64; all alike likely.

    Raises:
        UserError: shares that are none, or that leave both views the same.
    """

    def __init__(self, config: ContrastiveSection, ordinary: np.ndarray) -> None:
        self.config, self.ordinary = config, ordinary
        self.kind, self.noise = config.view, noise_of(config)
        cut = self.kind in ("crops", "next")
        self.needed = 2 * SHORTEST if cut else 1 if self.kind == "dropout" else 2  # tokens of a document

    def __call__(self, documents: Documents) -> tuple[Documents, Documents]:
        """Both views of documents of at least `needed` tokens, in their order."""
        if self.kind == "next":
            return self._next(documents)
        if self.kind == "repetition":
            return self._repetition(documents)
        first, second = (self._view(documents, number) for number in range(2))
        return first, second

    def _view(self, documents: Documents, number: int) -> Documents:
        if self.kind == "crops":
            documents = self._crop(documents, number)
        if self.kind in ("crops", "deletion"):
            return self._delete(documents, number)
        return self._replace(documents, number) if self.kind == "replacement" else documents

    def _crop(self, documents: Documents, number: int) -> Documents:
        low, high = self.config.shortest_crop, self.config.longest_crop
        shares = low + (high - low) * uniform(hash64(_LENGTH, number, documents.keys))
        lengths = np.clip((shares * documents.lengths).astype(np.int64), SHORTEST, documents.lengths)
        room = (documents.lengths - lengths + 1).astype(np.uint64)
        return documents.stretch((hash64(_BEGIN, number, documents.keys) % room).astype(np.int64), lengths)

    def _delete(self, documents: Documents, number: int) -> Documents:
        if not self.noise:
            return documents
        hashes = documents.hashes(_DELETE, number)
        largest = np.maximum.reduceat(hashes, documents.begins) if len(hashes) else hashes
        kept = (uniform(hashes) >= self.noise) | (hashes == np.repeat(largest, documents.lengths))  # one at least
        lengths = np.bincount(documents.owners[kept], minlength=len(documents.lengths))
        return Documents(documents.tokens[kept], lengths, documents.keys)

    def _replace(self, documents: Documents, number: int) -> Documents:
        hashes = documents.hashes(_REPLACE, number)
        others = self.ordinary[hash64(_WITH, hashes) % np.uint64(len(self.ordinary))]
        tokens = np.where(uniform(hashes) < self.noise, others, documents.tokens)
        return Documents(tokens, documents.lengths, documents.keys)

    def _repetition(self, documents: Documents) -> tuple[Documents, Documents]:
        """The beginning of every document, and the same with some of its tokens twice: as long as the document."""
        most = np.maximum(1, (documents.lengths * self.noise / (1 + self.noise)).astype(np.int64))
        more = (hash64(_REPEAT, documents.keys) % (most + 1).astype(np.uint64)).astype(np.int64)
        first = documents.stretch(np.zeros_like(more), documents.lengths - more)
        ranked = np.lexsort((first.hashes(_WHICH), first.owners))  # the tokens of each by their hashes
        twice = np.zeros(len(first.tokens), dtype=bool)
        twice[ranked] = np.arange(len(ranked)) - np.repeat(first.begins, first.lengths) < np.repeat(more, first.lengths)
        return first, Documents(np.repeat(first.tokens, 1 + twice), documents.lengths, documents.keys)

    def _next(self, documents: Documents) -> tuple[Documents, Documents]:
        places = (documents.lengths - 2 * SHORTEST + 1).astype(np.uint64)
        cut = SHORTEST + (hash64(_CUT, documents.keys) % places).astype(np.int64)
        return documents.stretch(np.zeros_like(cut), cut), documents.stretch(cut, documents.lengths - cut)


def noise_of(config: ContrastiveSection) -> float:
    """The share of tokens that a view changes.

    Raises:
        UserError: it is no share, or the view changes nothing, or it and the crops leave both views the same.
    """
    view, low, high = config.view, config.shortest_crop, config.longest_crop
    noise = NOISE.get(view, 0.0) if config.noise is None else config.noise
    if not 0 <= noise < 1:
        raise UserError(f"--contrastive.noise is {noise:g}; it must be at least 0 and below 1")
    if config.noise and view not in NOISE:
        raise UserError(f"--contrastive.noise changes tokens, and contrastive.view {view} leaves them as they are")
    if not 0 < low <= high <= 1:
        raise UserError(
            f"--contrastive.shortest_crop and longest_crop are {low:g} and {high:g}; they must be shares of a "
            "document, above 0 and up to 1, the shortest first"
        )
    if not noise and (view in ("deletion", "replacement", "repetition") or (view == "crops" and low == 1)):
        raise UserError(f"both views would be the same text: --contrastive.view {view} needs contrastive.noise above 0")
    return noise
