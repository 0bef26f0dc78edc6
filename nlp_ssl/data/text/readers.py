"""Local files and the documents in them: .txt, .jsonl, .csv, .tsv and .parquet, each plain, .gz or .zst.

A reader has no policy: what cannot be used comes out as a `BadText` that says what and where, and the caller decides
whether to stop or to go on. Text passes through unchanged, but for a byte order mark at the start of a file and
Windows line ends in .txt.
"""

import codecs
import csv
import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from nlp_ssl.core.console import progress
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir, write_atomically

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# What str.strip() takes for space, and the characters of no width, which str.isspace() does not know.
_INVISIBLE = (
    "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + "\u00ad\u200b\u200c\u200d\u2060\ufeff"
)


# What ends like this and is not there is a missing file, not the id of a Hub data set.
_FILE_EXTENSIONS = {*FORMATS, *COMPRESSIONS, ".json", ".zip", ".xz", ".bz2", ".tar", ".xml", ".html", ".md", ".arrow"}


def find_files(source: str) -> list[Path]:
    """The files that a path or glob names, sorted; none when `source` can only be the id of a Hub data set.

    Raises:
        UserError: a folder, a glob without a match, what looks like a file and is not there.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise UserError(f"{source} is a folder; name its files, such as '{source.rstrip('/')}/*.txt'")
    if glob.has_magic(source):
        paths = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if os.path.isfile(match))
        if not paths:
            raise UserError(f"no file matches {source}")
        return paths
    if path.suffix.lower() in _FILE_EXTENSIONS or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise UserError(f"there is no file {source}")
    return []


def content_hashes(paths: list[Path]) -> list[str]:
    """SHA-256 of every file, remembered in the cache for as long as its path, size and time stay the same."""
    memory = cache_dir() / "hashes"
    notes = []
    for path in paths:
        stat = path.stat()
        state = f"{path.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ino}"
        notes.append(memory / hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()[:32])
    new = [(path, note) for path, note in zip(paths, notes, strict=True) if not note.exists()]
    total = sum(path.stat().st_size for path, _ in new)
    with progress(total=total, desc="fingerprint", unit="B") if total > 1e9 else nullcontext() as bar:
        for path, note in new:
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
                    if bar is not None:
                        bar.update(len(block))
            write_atomically(note, digest.hexdigest().encode())
    return [note.read_text(encoding="utf-8") for note in notes]


class BadText(str):
    """Stands where a document cannot be used; the string says what is wrong and where."""


def is_blank(text: str) -> bool:
    """Whether nothing in `text` can be seen."""
    return not text.strip(_INVISIBLE)


def checked(value: Any, column: str, place: str) -> str:
    """A row's text column as a document (a missing value is an empty one), or a `BadText`."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return BadText(f"{place}: column {column!r} holds {type(value).__name__}, not text")
    if "\0" in value:
        return BadText(f"{place}: a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone is valid JSON but no character
        return BadText(f"{place}: a lone surrogate, \\u{ord(value[error.start]):04x}, which UTF-8 cannot hold")
    return value


def missing_column(column: str, place: str, columns: list[str]) -> str:
    """The sentence for a column that is not there."""
    return f"{place} has no column {column!r}; it has {', '.join(map(repr, columns))}: name one with --data.text_column"


class DocumentFile:
    """The documents of one file, in order; can be iterated again and pickled.

    Args:
        path: a file whose extension is in `FORMATS`, with one of `COMPRESSIONS` behind it or not.
        text_column: column that holds the text, in all formats but .txt.
        txt_documents: what ends a document in a .txt file: `"blank_line"`, `"line"` or `"file"`.

    Raises:
        UserError: an unsupported extension; while iterating: a damaged file, a missing column.
    """

    def __init__(self, path: Path, text_column: str = "text", txt_documents: str = "blank_line"):
        self.path, self.text_column, self.txt_documents = path, text_column, txt_documents
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self.compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
        kind = suffixes[:-1][-1:] if self.compression else suffixes[-1:]
        if not kind or kind[0] not in FORMATS:
            known = f"{', '.join(FORMATS)}, each also {' or '.join(COMPRESSIONS)}"
            raise UserError(f"{path} is of no supported format; supported are {known}")
        self.format = kind[0]
        self.size = path.stat().st_size
        """Bytes on disk."""
        self.bytes_read = 0
        """How many of them the iteration has used so far."""

    def __iter__(self) -> Iterator[str]:
        """Every document as a `str`, and a `BadText` for every one that cannot be used."""
        import pyarrow as pa

        self.bytes_read = 0
        try:
            with open(self.path, "rb", buffering=0) as raw:
                stream = pa.CompressedInputStream(raw, self.compression) if self.compression else raw
                yield from self._parquet(raw, stream) if self.format == ".parquet" else self._text(raw, stream)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{self.path} cannot be read, it is damaged or cut off ({reason})") from None
        self.bytes_read = self.size

    # -----------------------------------------------------------------------------------------------------------------
    # formats made of lines

    def _text(self, raw: BinaryIO, stream: Any) -> Iterator[str]:
        buffered = io.BufferedReader(stream, 1 << 20)
        head = buffered.peek(4)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield BadText(f"{self.path} is UTF-16, not UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")
            return
        start = len(buffered.read(3)) if head.startswith(codecs.BOM_UTF8) else 0
        if self.format == ".txt" and self.txt_documents == "file":
            yield self._txt_document(buffered.read(), start)
            return
        lines = self._lines(raw, buffered, start)
        yield from {".txt": self._txt, ".jsonl": self._jsonl, ".csv": self._csv, ".tsv": self._csv}[self.format](lines)

    def _lines(self, raw: BinaryIO, stream: io.BufferedReader, start: int) -> Iterator[tuple[int, bytes]]:
        """(byte offset in the decompressed file, line with its end); lines end at LF only, U+2028 stays inside."""
        for number, line in enumerate(stream):
            if number % 256 == 0:
                self.bytes_read = raw.tell()
            yield start, line
            start += len(line)

    def _decode(self, data: bytes, start: int, place: str = "") -> str:
        """`data`, which begins at byte `start` of the file, as text or as a `BadText`."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{self.path}{place}, byte {start + error.start}"
            return BadText(f"{where}: 0x{data[error.start]:02x} is not UTF-8 here")
        if "\0" in text:
            return BadText(f"{self.path}{place}, byte {start + data.index(0)}: a NUL character")
        return text

    def _txt(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[str]:
        document: list[bytes] = []
        document_start = 0
        for start, line in lines:
            if self.txt_documents == "line":
                yield self._txt_document(line, start)
            elif line.strip():
                document_start = document_start if document else start
                document.append(line)
            elif document:
                yield self._txt_document(b"".join(document), document_start)
                document = []
        if document:
            yield self._txt_document(b"".join(document), document_start)

    def _txt_document(self, data: bytes, start: int) -> str:
        """Decoded, without Windows line ends and without the line end that closes it."""
        text = self._decode(data, start)
        if isinstance(text, BadText):
            return text
        return text.replace("\r\n", "\n").removesuffix("\n").removesuffix("\r")

    def _jsonl(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[str]:
        for number, (start, line) in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{self.path}, line {number}"
            text = self._decode(line, start, f", line {number}")
            if isinstance(text, BadText):
                yield text
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                yield BadText(f"{place}: not JSON ({error.msg} at character {error.pos + 1})")
                continue
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; very deep nesting
                yield BadText(f"{place}: JSON that Python cannot read ({error})")
                continue
            if not isinstance(row, dict):
                yield BadText(f"{place}: a JSON {type(row).__name__}, not an object with a column {self.text_column!r}")
            elif self.text_column not in row:
                yield BadText(missing_column(self.text_column, place, list(row)))
            else:
                yield checked(row[self.text_column], self.text_column, place)

    def _csv(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[str]:
        consumed: list[tuple[int, bytes]] = []  # lines of the current row: a quoted field may span several

        def feed() -> Iterator[str]:
            for start, line in lines:
                consumed.append((start, line))
                yield line.decode("utf-8", "surrogateescape")  # checked below, when the row's place is known

        csv.field_size_limit(2**31 - 1)  # for the whole process; the default refuses a field over 128 kB
        # Tab-separated text has no quoting (IANA text/tab-separated-values; GLUE's files rely on it).
        tabs = self.format == ".tsv"
        reader = csv.reader(feed(), delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(feed())
        header = None
        while True:
            consumed.clear()
            place = f", line {reader.line_num + 1}"
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield BadText(f"{self.path}{place}: not a row of a {self.format} file ({error})")
                continue
            if not row:
                continue
            text = self._decode(b"".join(line for _, line in consumed), consumed[0][0], place)
            if header is None:
                if isinstance(text, BadText):
                    raise UserError(text)
                header = row
                if self.text_column not in header:
                    raise UserError(missing_column(self.text_column, str(self.path), header))
            elif isinstance(text, BadText):
                yield text
            elif len(row) != len(header):
                yield BadText(f"{self.path}{place}: {len(row)} fields where the header has {len(header)}")
            else:
                yield row[header.index(self.text_column)]

    # -----------------------------------------------------------------------------------------------------------------
    # parquet

    def _parquet(self, raw: BinaryIO, stream: Any) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(pa.BufferReader(stream.read()) if self.compression else raw)
        schema = file.schema_arrow
        if self.text_column not in schema.names:
            raise UserError(missing_column(self.text_column, str(self.path), schema.names))
        kind = schema.field(self.text_column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise UserError(f"column {self.text_column!r} of {self.path} holds {kind}, not text")
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[self.text_column]):
            column = batch.column(0)
            column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            # As bytes, because Arrow does not check that a string is UTF-8.
            for value in column.cast(pa.large_string()).cast(pa.large_binary()):
                row += 1
                data = value.as_py()
                place = f", row {row} of column {self.text_column!r}"
                yield "" if data is None else self._decode(data, 0, place)
            self.bytes_read = self.size * row // file.metadata.num_rows
