"""From packed rows to packed rows of their documents' views."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_ssl.data.sequences.batches import Batch
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.objectives.objective import digest_of, narrow, to_tensors
from nlp_ssl.objectives.views import Documents, Views

_ORDER = 8  # tells the hash that mixes held-out documents from those that make views
TERM = "contrastive"


class ViewsCollator:
    """Makes two views of every document of some rows, and packs them anew: views are short, and rows may be fewer.

    A batch of N documents has 2R rows, those of the first views before those of the second ones: as int32 `input_ids`,
    `document_ids`, `position_ids` (2R, S), `cu_seqlens`, where documents begin, and `halves` (2, ...), where they begin
    in either half. N is filled up to C slots: `slots`, int32 (2R, S), says which view each token is of, 0 to C - 1 of
    the first and C to 2C - 1 of the second ones, 2C where it is of none; `order`, int64 (C,), is a hash of each
    document, -1 in spare slots; `left_out`, 0-d, counts documents that are too short for two views.

    Args:
        views: makes them.
        frame: special tokens before and after every view.
        pad: token for positions that stay empty.
        seed: decides the views.
        source: tells apart training (0) and held-out (1) text.
        one_document: every view has a row of its own (architectures that cannot keep documents apart).
    """

    def __init__(
        self,
        views: Views,
        frame: tuple[tuple[int, ...], tuple[int, ...]],
        pad: int,
        *,
        seed: int = 0,
        source: int = 0,
        one_document: bool = False,
    ) -> None:
        self.views, self.pad, self.seed, self.source = views, pad, seed, source
        self.prefix, self.suffix = frame
        self.one_document = one_document

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a batch of views."""
        stacked = stack_rows(rows, self.pad)
        found = self._find(stacked)
        kept = found.documents.lengths >= self.views.needed
        documents = found.documents if kept.all() else _some(found.documents, kept)
        row, digests = found.row[kept], []
        framed = [self._framed(view) for view in self.views(documents)]
        width = max([1, *(int(view.lengths.max(initial=0)) for view in framed)])
        for number, view in enumerate(framed):
            at = _places(np.arange(len(view.lengths)) * width, view.lengths)
            seen = np.zeros((len(view.lengths), width), dtype=np.int64)
            seen.ravel()[at] = view.tokens + 1
            digests.append(digest_of(2 * stacked["row"][row] + number, stacked["epoch"][row], seen))
        capacity = few_sizes(len(row))
        order = np.full(capacity, -1, dtype=np.int64)
        order[: len(row)] = (hash64(_ORDER, documents.keys) >> np.uint64(12)).astype(np.int64)  # exact as a float64
        batch = self._laid_out(framed, row, width, stacked["input_ids"].shape, capacity)
        left_out = np.array((~kept).sum())
        return to_tensors(batch | {"order": order, "left_out": left_out}) | {"digest": digests[0] + digests[1]}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Documents of which there are two views."""
        return {TERM: int((batch["order"] >= 0).sum())}

    def _find(self, stacked: dict[str, np.ndarray]) -> "_Found":
        """The documents of some rows, without their special tokens."""
        ids = stacked["document_ids"]
        first = np.ones(ids.shape, dtype=bool)
        np.not_equal(ids[:, 1:], ids[:, :-1], out=first[:, 1:])
        begins = np.flatnonzero(first)
        lengths = np.diff(np.append(begins, ids.size))
        number = ids.ravel()[begins]
        begins, lengths, number = (each[number > 0] for each in (begins, lengths, number))
        row = begins // ids.shape[1]
        lengths = np.maximum(0, lengths - len(self.prefix) - len(self.suffix))
        tokens = stacked["input_ids"].ravel()[_places(begins + len(self.prefix), lengths)]
        keys = hash64(self.seed, self.source, stacked["epoch"][row], stacked["row"][row], number)
        return _Found(Documents(tokens, lengths, keys), row)

    def _framed(self, views: Documents) -> Documents:
        """With the special tokens."""
        lengths = views.lengths + len(self.prefix) + len(self.suffix)
        begins = np.cumsum(lengths) - lengths
        tokens = np.empty(lengths.sum(), dtype=np.int64)
        tokens[_places(begins + len(self.prefix), views.lengths)] = views.tokens
        for i, token in enumerate(self.prefix):
            tokens[begins + i] = token
        for i, token in enumerate(self.suffix):
            tokens[begins + len(self.prefix) + views.lengths + i] = token
        return Documents(tokens, lengths, views.keys)

    def _laid_out(
        self, framed: list[Documents], row: np.ndarray, longest: int, shape: tuple[int, int], capacity: int
    ) -> dict[str, np.ndarray]:
        """Rows of the first views, and as many of the second ones."""
        if self.one_document:
            places = [np.arange(len(row)), np.arange(len(row))]
            shape = (max(1, len(row)), longest)
        else:
            packed = [pack(view.lengths, shape[1]) for view in framed]
            needed = few_sizes(max(1, *(int(each.max(initial=0)) + 1 for each in packed)))
            # views as long as their documents go where these were: there they fit
            places = packed if needed <= shape[0] else [row, row]
            shape = (min(needed, shape[0]), shape[1])
        halves = [self._half(*each, shape, i, capacity) for i, each in enumerate(zip(framed, places, strict=True))]
        whole = {key: np.concatenate([half[key] for half in halves]) for key in halves[0]}
        begins = [cumulative_lengths(half["document_ids"]) for half in halves]
        size = max(map(len, begins))
        return {
            **narrow(whole),
            "slots": whole["slots"].astype(np.int32),
            "cu_seqlens": cumulative_lengths(whole["document_ids"]),
            "halves": np.stack([np.pad(each, (0, size - len(each)), mode="edge") for each in begins]),
        }

    def _half(
        self, views: Documents, row: np.ndarray, shape: tuple[int, int], which: int, capacity: int
    ) -> dict[str, np.ndarray]:
        by_row = np.argsort(row, kind="stable")
        before = np.cumsum(views.lengths[by_row]) - views.lengths[by_row]
        firsts = np.searchsorted(row[by_row], row[by_row])  # the first view of the same row
        number, offset = np.empty_like(row), np.empty_like(row)
        number[by_row] = np.arange(len(row)) - firsts + 1
        offset[by_row] = before - before[firsts]
        at = _places(row * shape[1] + offset, views.lengths)
        half = {key: np.zeros(shape, dtype=np.int64) for key in ("document_ids", "position_ids")}
        half |= {"input_ids": np.full(shape, self.pad), "slots": np.full(shape, 2 * capacity)}
        half["input_ids"].ravel()[at] = views.tokens
        half["document_ids"].ravel()[at] = np.repeat(number, views.lengths)
        half["position_ids"].ravel()[at] = np.arange(len(at)) - np.repeat(views.begins, views.lengths)
        half["slots"].ravel()[at] = views.owners + which * capacity
        if self.one_document and not len(row):  # attention without any token to see is no number
            half["document_ids"][:, 0] = 1
        return half


@dataclass(frozen=True)
class _Found:
    """Documents and the row of each, counted in the batch."""

    documents: Documents
    row: np.ndarray


def _some(documents: Documents, kept: np.ndarray) -> Documents:
    tokens = documents.tokens[np.repeat(kept, documents.lengths)]
    return Documents(tokens, documents.lengths[kept], documents.keys[kept])


def _places(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices of stretches, one behind the other."""
    return np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def pack(lengths: np.ndarray, width: int) -> np.ndarray:
    """A row for each of some lengths: the longest first, each into the emptiest row, or a new one where it is too full.

    Args:
        lengths: int64 (N,), at most `width`.
        width: of a row.

    Returns:
        int64 (N,), numbers from 0.
    """
    fewest = -(-int(lengths.sum()) // width)
    filled = [(0, row) for row in range(fewest)]
    rows = np.zeros(len(lengths), dtype=np.int64)
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        if filled[0][0] + length > width:
            heapq.heappush(filled, (0, len(filled)))
        used, row = filled[0]
        heapq.heapreplace(filled, (used + length, row))
        rows[i] = row
    return rows


def few_sizes(count: int) -> int:
    """A number or a little more, so that batches have few shapes: at most eight between a power of two and the next."""
    step = 1 << max(0, count.bit_length() - 4)
    return max(1, -(-count // step) * step)
