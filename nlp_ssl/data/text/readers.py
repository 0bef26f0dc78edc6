"""The documents of local files: .txt, .jsonl, .csv, .tsv and .parquet, each plain, .gz or .zst.

A reader has no policy: what cannot be used comes out as a `BadText` that says what and where, and the caller decides
whether to stop or to continue. Text passes through unchanged, but for a byte order mark at the start of a file and
Windows line ends in .txt.
"""

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nlp_ssl.config.pretraining import CorpusConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.files.finding import check_unchanged, state_of
from nlp_ssl.data.files.forms import form_of, looks_like_json, not_utf8, unpacked
from nlp_ssl.data.files.tables import records

FORMATS = ("txt", "jsonl", "csv", "tsv", "parquet")
LONGEST = 2**28  # bytes of a document: far from what fills the memory, or a batch of Arrow

# What str.strip() takes for space, and the characters of no width, which str.isspace() does not know.
_INVISIBLE = (
    "".join(chr(code) for code in range(0x3001) if chr(code).isspace()) + "\u00ad\u200b\u200c\u200d\u2060\ufeff"
)


class BadText(str):
    """Stands where a document cannot be used; the string says what is wrong and where."""


class OtherFormat(BadText):
    """Stands where a whole file is likely to be of another format than it is called."""


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
        path: of the file.
        config: how it is read, which column holds its text, and what ends a document of a text file.

    Raises:
        UserError: an unsupported format; while iterating: a damaged file, a missing column, a file that changes.
    """

    def __init__(self, path: Path, config: CorpusConfig | None = None):
        config = config or CorpusConfig()
        self.path, self.text_column, self.txt_documents = path, config.text_column, config.txt_documents
        self.form = form_of(path, config, FORMATS)
        self.state = state_of(path)
        """Of the file when it was opened; see `check_unchanged`."""
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
                packed = self.form.compression
                stream = pa.CompressedInputStream(raw, packed) if packed else raw
                yield from self._parquet(raw, stream) if self.form.format == "parquet" else self._text(raw, stream)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{self.path} cannot be read, it is damaged or cut off ({reason})") from None
        check_unchanged(self.path, self.state)
        self.bytes_read = self.size

    # -----------------------------------------------------------------------------------------------------------------
    # formats made of lines

    def _text(self, raw: BinaryIO, stream: Any) -> Iterator[str]:
        buffered = io.BufferedReader(stream, 1 << 20)
        self.sample = buffered.peek(1 << 16)[: 1 << 16]
        if self.form.encoding != "utf-8":
            lines = self._recoded(raw, buffered)
        elif self.sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{self.path} is UTF-16; give --data.encoding utf-16")
        else:
            start = len(buffered.read(3)) if self.sample.startswith(codecs.BOM_UTF8) else 0
            lines = self._lines(raw, buffered, start)
        yield from {"txt": self._txt, "jsonl": self._jsonl, "csv": self._table, "tsv": self._table}[self.form.format](
            lines
        )

    def _lines(self, raw: BinaryIO, stream: io.BufferedReader, start: int) -> Iterator[tuple[int, bytes]]:
        """(byte offset in the unpacked file, line with its end); lines end at LF only, U+2028 stays inside."""
        number = 0
        while line := stream.readline(LONGEST + 1):
            if number % 256 == 0:
                self.bytes_read = raw.tell()
            number += 1
            if len(line) > LONGEST:
                raise UserError(
                    f"{self.path}, line {number}: longer than a document may be, {LONGEST >> 20} MiB; is it text?"
                )
            yield start, line
            start += len(line)

    def _recoded(self, raw: BinaryIO, stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
        """`_lines` of a text in another encoding, in UTF-8."""
        start = 0
        text = io.TextIOWrapper(stream, self.form.encoding, newline="\n")
        try:
            for number, line in enumerate(text):
                if number % 256 == 0:
                    self.bytes_read = raw.tell()
                data = line.removeprefix("\ufeff").encode("utf-8", "surrogatepass")
                yield start, data
                start += len(data)
        except UnicodeError as error:  # of UTF-16, the base of what others raise
            raise UserError(f"{self.path} is not {self.form.encoding} ({error}); see --data.encoding") from None

    def _decode(self, data: bytes, start: int | None, place: str = "") -> str:
        """`data`, which begins at byte `start` of the file, as text or as a `BadText`."""
        where = f"{self.path}{place}"
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            where += "" if start is None else f", byte {start + error.start}"
            return BadText(not_utf8(where, data[error.start], self.sample + data[: 1 << 16]))
        if "\0" in text:
            where += "" if start is None else f", byte {start + data.index(0)}"
            return BadText(f"{where}: a NUL character")
        return text

    def _txt(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[str]:
        document: list[bytes] = []
        document_start = length = 0
        for start, line in lines:
            ends = self.txt_documents == "line" or (self.txt_documents == "blank_line" and not line.strip())
            if self.txt_documents == "line" or not ends:
                document_start = document_start if document else start
                document.append(line)
                length += len(line)
            if length > LONGEST:
                raise UserError(
                    f"{self.path}: the document at byte {document_start} is longer than one may be, "
                    f"{LONGEST >> 20} MiB; --data.txt_documents says what ends one"
                )
            if ends and document:
                yield self._txt_document(b"".join(document), document_start)
                document, length = [], 0
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
            if number == 1 and not looks_like_json(text):
                yield OtherFormat(f"{place}: not JSON, it looks like plain text: --data.format txt reads it as such")
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

    def _table(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[str]:
        # what is not UTF-8 is found below, when the row's place is known
        rows = records((line.decode("utf-8", "surrogateescape") for _, line in lines), self.form)
        header = None if self.form.column_names is None else list(self.form.column_names)
        if header is not None and self.text_column not in header:
            raise UserError(missing_column(self.text_column, str(self.path), header))
        for row in rows:
            place = f", line {row.line}"
            if header is None and not row.error:
                header = [str(self._decoded(name, place)) for name in row.fields]
                if self.text_column not in header:
                    advice = "; if that line is a row already, give --data.column_names"
                    raise UserError(missing_column(self.text_column, str(self.path), header) + advice)
            elif row.error:
                yield BadText(f"{self.path}{place}: not a row of a {self.form.format} file ({row.error})")
            elif header is not None and len(row.fields) != len(header):
                yield BadText(f"{self.path}{place}: {len(row.fields)} fields where the header has {len(header)}")
            elif header is not None:
                yield self._decoded(row.fields[header.index(self.text_column)], place)

    def _decoded(self, field: str, place: str) -> str:
        """A field whose bytes were kept, checked."""
        return self._decode(field.encode("utf-8", "surrogateescape"), None, place)

    # -----------------------------------------------------------------------------------------------------------------
    # parquet

    def _parquet(self, raw: BinaryIO, stream: Any) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(pa.BufferReader(unpacked(stream, self.path)) if self.form.compression else raw)
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
