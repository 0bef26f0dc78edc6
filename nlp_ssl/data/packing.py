"""Documents into rows of fixed length: nothing padded that can be filled, nothing dropped, nothing mixed up.

A row holds whole documents where they fit; a document is cut where it is longer than a row, and otherwise only to keep
the corpus at least 99 % full. The plan is made on the histogram of lengths (best fit, longest first), so it takes the
same time for ten thousand documents as for a billion; the index it gives lies on disk and is read by memory map.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nlp_ssl import console
from nlp_ssl.data.packing_index import PIECE, IndexBuilder, PackingStats
from nlp_ssl.data.tokens import TokenCorpus
from nlp_ssl.files import making, sha256


class PackedRows:
    """Rows of a packed corpus, read by memory map: `rows[i]` is a dictionary of arrays.

    `input_ids` (int64, `prefix + piece + suffix` for every piece, padded), `document_ids` (int64, 1, 2, ... for the
    pieces of the row, 0 for padding), `position_ids` (int64, from 0 in every piece), `cut_ends` (bool, True at a suffix
    token that does not end its document, so that nothing learns to predict an end there). All have shape (row_length,)
    when packed; with one document a row they have the document's own length.
    """

    def __init__(
        self,
        tokens: TokenCorpus,
        folder: Path,
        row_length: int,
        prefix: tuple[int, ...],
        suffix: tuple[int, ...],
        pad: int,
        fixed_length: bool = True,
    ) -> None:
        self.tokens, self.folder, self.row_length = tokens, folder, row_length
        self.prefix, self.suffix, self.pad = prefix, suffix, pad
        self.fixed_length = fixed_length
        noted = json.loads((folder / "packing.json").read_text())
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
        pieces = self.row_pieces(row)
        special = len(self.prefix) + len(self.suffix)
        used = int(pieces["length"].sum()) + special * len(pieces)
        size = self.row_length if self.fixed_length else used
        input_ids = np.full(size, self.pad, dtype=np.int64)
        document_ids = np.zeros(size, dtype=np.int64)
        position_ids = np.zeros(size, dtype=np.int64)
        cut_ends = np.zeros(size, dtype=bool)
        at = 0
        for number, (document, start, length) in enumerate(pieces.tolist(), start=1):
            begin, end = int(self.tokens.offsets[document]), int(self.tokens.offsets[document + 1])
            body, stop = at + len(self.prefix), at + length + special
            input_ids[at:body] = self.prefix
            input_ids[body : body + length] = self.tokens.slice(begin + start, length)
            input_ids[body + length : stop] = self.suffix
            document_ids[at:stop] = number
            position_ids[at:stop] = np.arange(stop - at)
            cut_ends[body + length : stop] = start + length < end - begin
            at = stop
        return {
            "input_ids": input_ids,
            "document_ids": document_ids,
            "position_ids": position_ids,
            "cut_ends": cut_ends,
        }

    def num_bytes(self, rows: np.ndarray) -> float:
        """UTF-8 bytes of text in these rows; a cut document's bytes count by its pieces' share of its tokens."""
        pieces = np.concatenate([self.row_pieces(int(row)) for row in rows])
        documents = pieces["document"]
        lengths = self.tokens.offsets[documents + 1] - self.tokens.offsets[documents]
        return float((self.tokens.document_bytes[documents] * (pieces["length"] / lengths)).sum())


def stack_rows(rows: list[dict[str, np.ndarray]], pad: int) -> dict[str, np.ndarray]:
    """Rows of `PackedRows` as arrays of shape (rows, longest), padded where they differ in length."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": pad, "document_ids": 0, "position_ids": 0, "cut_ends": False}
    if all(len(row["input_ids"]) == longest for row in rows):
        return {key: np.stack([row[key] for row in rows]) for key in fill}
    return {
        key: np.stack([np.pad(row[key], (0, longest - len(row[key])), constant_values=value) for row in rows])
        for key, value in fill.items()
    }


def pack(
    tokens: TokenCorpus,
    row_length: int,
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
        row_length: positions in a row.
        prefix: special tokens before every document or piece, such as `[CLS]`.
        suffix: special tokens after it, such as `[SEP]`.
        pad: token for positions that stay empty.
        one_document: put one document or piece in a row (for architectures that cannot isolate documents).
        root: folder for the index; `tokens.folder` when `None`.

    Raises:
        UserError: the rows are too short for the special tokens, or no document has a token.
    """
    special = len(prefix) + len(suffix)
    if row_length < special + 2:
        raise console.UserError(f"a row length of {row_length} leaves no room beside {special} special tokens")
    folder = (root or tokens.folder) / f"rows-{row_length}-{special}{'-one' if one_document else ''}"
    if folder.exists() and not _is_whole(folder):
        console.warn(f"the packed index {folder} is damaged; packing again")
        shutil.rmtree(folder)
    if not folder.exists():
        with making(folder) as temporary:
            temporary.mkdir()
            stats = IndexBuilder(np.asarray(tokens.offsets), row_length, special, one_document, temporary).run()
            digests = {name: sha256(temporary / name) for name in ("pieces.bin", "row_starts.bin")}
            (temporary / "packing.json").write_text(json.dumps({**asdict(stats), "sha256": digests}))
    return PackedRows(tokens, folder, row_length, prefix, suffix, pad, fixed_length=not one_document)


def _is_whole(folder: Path) -> bool:
    """Whether an index has all its files, of the sizes that they should have."""
    try:
        noted = json.loads((folder / "packing.json").read_text())
        pieces, row_starts = ((folder / name).stat().st_size for name in ("pieces.bin", "row_starts.bin"))
        return pieces == noted["pieces"] * PIECE.itemsize and row_starts == (noted["rows"] + 1) * 8
    except (FileNotFoundError, ValueError, KeyError):
        return False
