"""Documents into rows of fixed length: nothing padded that can be filled, nothing dropped, nothing mixed up.

A row holds whole documents where they fit; a document is cut where it is longer than a row, and otherwise only to keep
the corpus at least 99 % full. The plan is made on the histogram of lengths (best fit, longest first), so it takes the
same time for ten thousand documents as for a billion; the index it gives lies on disk and is read by memory map.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nlp_ssl.core import console, errors
from nlp_ssl.core.files import making, sha256
from nlp_ssl.data.sequences.packing_index import PIECE, IndexBuilder, PackingStats
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.data.tokens.token_corpus import TokenCorpus


class PackedRows:
    """Rows of a packed corpus, read by memory map: `rows[i]` is a dictionary of arrays.

    `input_ids` (int64, `prefix + piece + suffix` for every piece, padded), `document_ids` (int64, 1, 2, ... for the
    pieces of the row, 0 for padding), `position_ids` (int64, from 0 in every piece), `cut_ends` (bool, True at a suffix
    token that does not end its document, so that nothing learns to predict an end there), `cut_begins` (bool, True at
    the first token of a piece that does not begin its document). All have shape (sequence_length,) when packed; with
    one document a row they have the document's own length.
    """

    def __init__(
        self,
        tokens: TokenCorpus,
        folder: Path,
        sequence_length: int,
        prefix: tuple[int, ...],
        suffix: tuple[int, ...],
        pad: int,
        fixed_length: bool = True,
    ) -> None:
        self.tokens, self.folder, self.sequence_length = tokens, folder, sequence_length
        self.prefix, self.suffix, self.pad = prefix, suffix, pad
        self.fixed_length = fixed_length
        noted = json.loads((folder / "packing.json").read_text(encoding="utf-8"))
        self._digests = noted.pop("sha256", {})
        self.stats = PackingStats(**noted)
        self.pieces = np.memmap(folder / "pieces.bin", dtype=PIECE, mode="r")
        self.row_starts = np.memmap(folder / "row_starts.bin", dtype="<i8", mode="r")

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    @property
    def fingerprint(self) -> str:
        """Changes whenever a row may hold something else."""
        return f"{self.tokens.manifest['fingerprint']}/{self.folder.name}"

    @property
    def digests(self) -> dict[Path, str]:
        """The sha256 of every file that the rows are read from, as far as it was noted when the file was made."""
        return self.tokens.digests | {self.folder / name: digest for name, digest in self._digests.items()}

    def row_pieces(self, row: int) -> np.ndarray:
        """The pieces of a row: structured array of (document, start, length)."""
        return self.pieces[self.row_starts[row] : self.row_starts[row + 1]]

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {key: values[0] for key, values in self.stack(np.array([row])).items()}

    def stack(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of several rows, each of shape (rows, longest row).

        Args:
            rows: their numbers, int64.
        """
        first, behind = self.row_starts[rows], self.row_starts[rows + 1]
        counts = behind - first  # pieces of each row
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a piece in its row
        pieces = self.pieces[np.repeat(first, counts) + number]
        document, start = pieces["document"], pieces["start"].astype(np.int64)
        size = pieces["length"] + np.int64(len(self.prefix) + len(self.suffix))
        used = np.add.reduceat(size, np.cumsum(counts) - counts)
        width = self.sequence_length if self.fixed_length else int(used.max())

        # stretches of equal document: every row's pieces, and behind them what stays empty
        row_ends = np.cumsum(counts)
        document_of = np.insert(number + 1, row_ends, 0)
        length_of = np.insert(size, row_ends, width - used)
        begin_of = np.cumsum(length_of) - length_of
        document_ids = np.repeat(document_of, length_of)
        position_ids = np.arange(len(rows) * width) - np.repeat(begin_of, length_of)
        position_ids[document_ids == 0] = 0

        input_ids = np.full(len(rows) * width, self.pad, dtype=np.int64)
        cut_ends = np.zeros(len(rows) * width, dtype=bool)
        at = begin_of[document_of > 0]
        source, body = self.tokens.offsets[document] + start, at + len(self.prefix)
        self.tokens.copy(source, pieces["length"], input_ids, body)
        for i, token in enumerate(self.prefix):
            input_ids[at + i] = token
        is_cut = source + pieces["length"] < self.tokens.offsets[document + 1]
        for i, token in enumerate(self.suffix):
            input_ids[body + pieces["length"] + i] = token
            cut_ends[body + pieces["length"] + i] = is_cut
        cut_begins = np.zeros(len(rows) * width, dtype=bool)
        cut_begins[at] = start > 0
        flat = {
            "input_ids": input_ids,
            "document_ids": document_ids,
            "position_ids": position_ids,
            "cut_ends": cut_ends,
            "cut_begins": cut_begins,
        }
        return {key: values.reshape(len(rows), width) for key, values in flat.items()}

    def num_bytes(self, rows: np.ndarray) -> float:
        """UTF-8 bytes of text in these rows; a cut document's bytes count by its pieces' share of its tokens."""
        pieces = np.concatenate([self.row_pieces(int(row)) for row in rows])
        documents = pieces["document"]
        lengths = self.tokens.offsets[documents + 1] - self.tokens.offsets[documents]
        return float((self.tokens.document_bytes[documents] * (pieces["length"] / lengths)).sum())


def stack_rows(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, np.ndarray]:
    """The fields of `PackedRows` for several rows, of shape (rows, longest), and their `row` and `epoch`, (rows,).

    Args:
        rows: a `Selection` of packed rows, which is read at once, or any rows with their `row` and `epoch`.
        pad: token for positions that stay empty.
    """
    if isinstance(rows, Selection) and isinstance(rows.rows, PackedRows):
        return rows.rows.stack(rows.numbers) | {"row": rows.numbers, "epoch": rows.epochs}
    rows = list(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": pad, "document_ids": 0, "position_ids": 0, "cut_ends": False, "cut_begins": False}
    fill = {key: value for key, value in fill.items() if key in rows[0]}
    stacked = {
        key: np.stack([np.pad(row[key], (0, longest - len(row[key])), constant_values=value) for row in rows])
        for key, value in fill.items()
    }
    return stacked | {key: np.array([row[key] for row in rows], dtype=np.int64) for key in ("row", "epoch")}


def cumulative_lengths(document_ids: np.ndarray) -> np.ndarray:
    """Where documents begin when rows are laid end to end, as attention kernels want it.

    Args:
        document_ids: int64, (rows, length); a row's padding counts as a document.

    Returns:
        int32: the first token of each document, and behind these the number of tokens, once or more: up to a power of
        two and one, so that batches have few shapes and a compiled model is compiled few times.
    """
    is_first = np.ones(document_ids.shape, dtype=bool)
    np.not_equal(document_ids[:, 1:], document_ids[:, :-1], out=is_first[:, 1:])
    begins = np.flatnonzero(is_first)
    cu_seqlens = np.full((1 << (len(begins) - 1).bit_length()) + 1, document_ids.size, dtype=np.int32)
    cu_seqlens[: len(begins)] = begins
    return cu_seqlens


def pack(
    tokens: TokenCorpus,
    sequence_length: int,
    prefix: tuple[int, ...],
    suffix: tuple[int, ...],
    pad: int,
    *,
    one_document: bool = False,
    root: Path | None = None,
) -> PackedRows:
    """Pack a tokenised corpus, or find it packed already.

    Args:
        tokens: the corpus.
        sequence_length: positions in a row.
        prefix: special tokens before every document or piece, such as `[CLS]`.
        suffix: special tokens after it, such as `[SEP]`.
        pad: token for positions that stay empty.
        one_document: put one document or piece in a row (for architectures that cannot isolate documents).
        root: folder for the index; `tokens.folder` when `None`.

    Raises:
        UserError: the rows are too short for the special tokens, or no document has a token.
    """
    special = len(prefix) + len(suffix)
    if sequence_length < special + 2:
        raise errors.UserError(f"a row length of {sequence_length} leaves no room beside {special} special tokens")
    folder = (root or tokens.folder) / f"rows-{sequence_length}-{special}{'-one' if one_document else ''}"
    if folder.exists() and not _is_whole(folder):
        console.warn(f"the packed index {folder} is damaged; packing again")
        shutil.rmtree(folder)
    if not folder.exists():
        with making(folder) as temporary:
            temporary.mkdir()
            stats = IndexBuilder(np.asarray(tokens.offsets), sequence_length, special, one_document, temporary).run()
            digests = {name: sha256(temporary / name) for name in ("pieces.bin", "row_starts.bin")}
            (temporary / "packing.json").write_text(json.dumps({**asdict(stats), "sha256": digests}), encoding="utf-8")
    return PackedRows(tokens, folder, sequence_length, prefix, suffix, pad, fixed_length=not one_document)


def _is_whole(folder: Path) -> bool:
    """Whether an index has all its files, of the sizes that they should have."""
    try:
        noted = json.loads((folder / "packing.json").read_text(encoding="utf-8"))
        pieces, row_starts = ((folder / name).stat().st_size for name in ("pieces.bin", "row_starts.bin"))
        return pieces == noted["pieces"] * PIECE.itemsize and row_starts == (noted["rows"] + 1) * 8
    except (FileNotFoundError, ValueError, KeyError):
        return False
