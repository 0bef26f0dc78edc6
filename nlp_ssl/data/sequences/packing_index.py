"""The plan of packing, on the histogram of lengths, and the index on disk that carries it out in bounded memory."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlp_ssl.core import console, errors

FULL_ENOUGH = 0.99
CHUNK = 1 << 20  # documents or rows held in memory at a time
PIECE = np.dtype([("document", "<i8"), ("start", "<i4"), ("length", "<i4")])  # tokens start:start+length of a document
Pattern = tuple[int, ...]  # lengths of the pieces of a row, special tokens included


@dataclass(frozen=True)
class PackingStats:
    """What packing did, for a person to read.

    Attributes:
        rows: rows made.
        documents: documents that have any token.
        pieces: documents and parts of cut documents.
        cut_long: documents cut because they are longer than a row.
        cut_to_fill: other documents cut to fill rows.
        fill: share of the rows' positions that hold a token, special tokens included.
    """

    rows: int
    documents: int
    pieces: int
    cut_long: int
    cut_to_fill: int
    fill: float

    def __str__(self) -> str:
        return (
            f"{console.counted(self.documents, 'document')} in {console.counted(self.rows, 'sequence')}, "
            f"{self.fill:.2%} full; cut: {self.cut_long:,} longer than that, {self.cut_to_fill:,} to fill them"
        )


# ---------------------------------------------------------------------------------------------------------------------
# the plan, on the histogram


def plan(histogram: np.ndarray, sequence_length: int) -> Counter[Pattern]:
    """Best-fit decreasing on a histogram of lengths.

    As in Krell et al. 2021 (arXiv 2107.02027), "Efficient sequence packing without cross-contamination", with best fit
    in place of their shortest-pack-first.

    Args:
        histogram: int64, shape (sequence_length + 1,): `histogram[n]` pieces have length n, special tokens included.
        sequence_length: capacity of a row.

    Returns:
        How many rows of each pattern to make; together they use every piece once.
    """
    open_rows: dict[int, Counter[Pattern]] = {sequence_length: Counter()}  # free space -> patterns
    for length in range(sequence_length, 0, -1):
        left = int(histogram[length])
        for space in sorted(s for s in open_rows if s >= length):
            left = _fill(open_rows, space, length, left)
            if not left:
                break
        if left:  # new rows, each holding as many as fit
            per_row = sequence_length // length
            _add(open_rows, sequence_length - per_row * length, (length,) * per_row, left // per_row)
            _add(
                open_rows,
                sequence_length - (left % per_row) * length,
                (length,) * (left % per_row),
                int(left % per_row > 0),
            )
    plans: Counter[Pattern] = Counter()
    for patterns in open_rows.values():
        plans.update(patterns)
    return plans


def _fill(open_rows: dict[int, Counter[Pattern]], space: int, length: int, left: int) -> int:
    """Put pieces of one length into the rows with this much free space; returns how many pieces are left."""
    per_row = space // length
    patterns = open_rows.pop(space)
    for pattern, count in list(patterns.items()):
        full = min(count, left // per_row)
        rest = left - full * per_row if full < count else 0
        _add(open_rows, space - per_row * length, pattern + (length,) * per_row, full)
        _add(open_rows, space - rest * length, pattern + (length,) * rest, int(rest > 0))
        _add(open_rows, space, pattern, count - full - int(rest > 0))
        left -= full * per_row + rest
    return left


def _add(open_rows: dict[int, Counter[Pattern]], space: int, pattern: Pattern, count: int) -> None:
    if count:
        open_rows.setdefault(space, Counter())[pattern] += count


def take_least_filled_rows(
    plans: Counter[Pattern], sequence_length: int, full_rows: int, special: int
) -> Counter[Pattern]:
    """Take the emptiest rows out of a plan: as few as make the corpus `FULL_ENOUGH` once their documents are cut.

    Where nothing does (a handful of rows), as few as make the fewest rows.

    Args:
        plans: the plan; the rows taken are removed from it.
        sequence_length: capacity of a row.
        full_rows: rows outside the plan that are full already.
        special: special tokens of a piece; a cut adds this many.

    Returns:
        The rows taken.
    """
    num_tokens = sum(count * sum(pattern) for pattern, count in plans.items()) + full_rows * sequence_length
    kept_rows = fewest_rows = plans.total() + full_rows
    step = max(1, kept_rows // 1000)
    takes: list[tuple[Pattern, int]] = []
    best = poor_tokens = 0
    for pattern in sorted(plans, key=lambda p: (sum(p), p)):
        for begin in range(0, plans[pattern], step):
            if num_tokens >= FULL_ENOUGH * sequence_length * fewest_rows:
                break
            count = min(step, plans[pattern] - begin)
            takes.append((pattern, count))
            kept_rows -= count
            poor_tokens += count * sum(pattern)
            rows = kept_rows - (-poor_tokens // (sequence_length - special))
            if rows < fewest_rows:  # a small corpus may never be full enough: cut what saves rows, and no more
                fewest_rows, best = rows, len(takes)
    poor: Counter[Pattern] = Counter()
    for pattern, count in takes[:best]:
        poor[pattern] += count
    plans.subtract(poor)
    return poor


# ---------------------------------------------------------------------------------------------------------------------
# the index, on disk


class IndexBuilder:
    """Carries a plan out: every pass reads the document lengths in chunks and writes by memory map."""

    def __init__(
        self, offsets: np.ndarray, sequence_length: int, special: int, one_document: bool, folder: Path
    ) -> None:
        self.offsets, self.sequence_length, self.special, self.one_document = (
            offsets,
            sequence_length,
            special,
            one_document,
        )
        self.folder = folder
        self.capacity = sequence_length - special
        self.num_pieces = self.num_rows = self.num_tokens = 0

    def run(self) -> PackingStats:
        """Write `pieces.bin` (`PIECE` records) and `row_starts.bin` (int64, first piece of every row, and the end)."""
        histogram, full_rows, num_documents, cut_long = self._measure()
        if not num_documents:
            raise errors.UserError("no document of the corpus has any token to pack")
        if self.one_document:
            plans: Counter[tuple[int, ...]] = Counter({(n,): int(c) for n, c in enumerate(histogram) if c})
            poor: Counter[tuple[int, ...]] = Counter()
        else:
            plans = plan(histogram, self.sequence_length)
            poor = take_least_filled_rows(plans, self.sequence_length, full_rows, self.special)
        self._sort_by_length(histogram)
        total = full_rows + plans.total() + poor.total()
        with (
            open(self.folder / "pieces.bin", "wb") as self.pieces,
            open(self.folder / "row_starts.bin", "wb") as self.starts,
            console.progress(total=total, desc="pack", unit="row") as self.bar,
        ):
            self.starts.write(np.zeros(1, "<i8").tobytes())
            self._write_full_rows()
            for pattern, count in plans.items():
                for begin in range(0, count, CHUNK // len(pattern) + 1):
                    self._write_pattern(pattern, min(CHUNK // len(pattern) + 1, count - begin))
            cut_to_fill = self._write_cut_rows(poor)
        del self.by_length
        os.remove(self.folder / "by_length.bin")
        fill = self.num_tokens / (self.num_rows * self.sequence_length)
        return PackingStats(self.num_rows, num_documents, self.num_pieces, cut_long, cut_to_fill, fill)

    def _chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first document, lengths in tokens), chunk by chunk."""
        for begin in range(0, len(self.offsets) - 1, CHUNK):
            yield begin, np.diff(self.offsets[begin : begin + CHUNK + 1])

    def _rest(self, lengths: np.ndarray) -> np.ndarray:
        """Length, with special tokens, of what a document leaves after its full rows; 0 for nothing."""
        rest = lengths % self.capacity
        return np.where(rest > 0, rest + self.special, 0)

    def _measure(self) -> tuple[np.ndarray, int, int, int]:
        histogram = np.zeros(self.sequence_length + 1, dtype=np.int64)
        full_rows = num_documents = cut_long = 0
        for _, lengths in self._chunks():
            histogram += np.bincount(self._rest(lengths), minlength=self.sequence_length + 1)
            full_rows += int((lengths // self.capacity).sum())
            num_documents += int((lengths > 0).sum())
            cut_long += int((lengths > self.capacity).sum())
        histogram[0] = 0
        return histogram, full_rows, num_documents, cut_long

    def _sort_by_length(self, histogram: np.ndarray) -> None:
        """Counting sort: `by_length[next[n]:]` are the documents whose rest has length n, in the corpus's order."""
        size = max(1, int(histogram.sum()))
        with open(self.folder / "by_length.bin", "wb") as f:
            if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process when it writes to the map
                os.posix_fallocate(f.fileno(), 0, 8 * size)
        self.by_length = np.memmap(self.folder / "by_length.bin", dtype="<i8", mode="r+", shape=(size,))
        self.next = np.concatenate([[0], np.cumsum(histogram)[:-1]])
        cursor = self.next.copy()
        for begin, lengths in self._chunks():
            rest = self._rest(lengths)
            documents = np.flatnonzero(rest)
            documents = documents[np.argsort(rest[documents], kind="stable")]
            keys = rest[documents]
            counts = np.bincount(keys, minlength=self.sequence_length + 1)
            within = np.arange(len(keys)) - (np.cumsum(counts) - counts)[keys]
            self.by_length[cursor[keys] + within] = begin + documents
            cursor += counts

    def _take(self, length: int, count: int) -> np.ndarray:
        """The next `count` documents whose rest has this length."""
        begin = int(self.next[length])
        self.next[length] += count
        return np.asarray(self.by_length[begin : begin + count])

    def _write(self, pieces: np.ndarray, row_sizes: np.ndarray) -> None:
        """Append rows: their pieces, and how many pieces each has."""
        self.pieces.write(pieces.tobytes())
        self.starts.write((self.num_pieces + np.cumsum(row_sizes)).astype("<i8").tobytes())
        self.num_pieces += len(pieces)
        self.num_rows += len(row_sizes)
        self.num_tokens += int(pieces["length"].sum()) + self.special * len(pieces)
        self.bar.update(len(row_sizes))

    def _write_full_rows(self) -> None:
        for begin, lengths in self._chunks():
            counts = lengths // self.capacity
            pieces = np.empty(int(counts.sum()), dtype=PIECE)
            pieces["document"] = begin + np.repeat(np.arange(len(lengths)), counts)
            within = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
            pieces["start"] = within * self.capacity
            pieces["length"] = self.capacity
            self._write(pieces, np.ones(len(pieces), dtype=np.int64))

    def _rests(self, documents: np.ndarray) -> np.ndarray:
        """The piece that each of these documents leaves after its full rows."""
        lengths = self.offsets[documents + 1] - self.offsets[documents]
        pieces = np.empty(len(documents), dtype=PIECE)
        pieces["document"] = documents
        pieces["start"] = lengths // self.capacity * self.capacity
        pieces["length"] = lengths % self.capacity
        return pieces

    def _write_pattern(self, pattern: Pattern, count: int) -> None:
        columns = [self._take(n, k * count).reshape(count, k) for n, k in Counter(pattern).items()]
        documents = np.concatenate(columns, axis=1)
        self._write(self._rests(documents.ravel()), np.full(count, len(pattern)))

    def _write_cut_rows(self, poor: Counter[Pattern]) -> int:
        """Lay the documents of the poor rows end to end and cut them where a row is full."""
        lengths: Counter[int] = Counter()
        for pattern, count in poor.items():
            for length in pattern:
                lengths[length] += count
        row: list[tuple[int, int, int]] = []
        rows: list[list[tuple[int, int, int]]] = []
        free, cut = self.sequence_length, 0
        for pieces in self._poor_pieces(lengths):
            for document, start, left in pieces.tolist():
                whole = True
                while left:
                    room = free - self.special
                    if room < min(left, max(1, self.sequence_length // 64)):  # too little to be worth a piece
                        rows.append(row)
                        row, free = [], self.sequence_length
                        continue
                    here = min(left, room)
                    row.append((document, start, here))
                    start, left, free = start + here, left - here, free - here - self.special
                    if left and whole:
                        cut, whole = cut + 1, False
                if len(rows) >= CHUNK // 64:
                    self._write_rows(rows)
                    rows = []
        self._write_rows([*rows, row] if row else rows)
        return cut

    def _poor_pieces(self, lengths: Counter[int]) -> Iterator[np.ndarray]:
        """The pieces of the poor rows, a bounded number at a time."""
        for length, count in lengths.items():
            for begin in range(0, count, CHUNK):
                yield self._rests(self._take(length, min(CHUNK, count - begin)))

    def _write_rows(self, rows: list[list[tuple[int, int, int]]]) -> None:
        pieces = np.array([piece for row in rows for piece in row], dtype=PIECE)
        self._write(pieces, np.array([len(row) for row in rows], dtype=np.int64))
