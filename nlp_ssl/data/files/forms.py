"""What a file is: packed how, of which format, in which encoding; by its name, by its first bytes, or as was said."""

import codecs
import csv
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_ssl.config.common import FilesConfig
from nlp_ssl.core.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = {
    ".txt": "txt", ".text": "txt",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet",
    ".conll": "conll", ".conllu": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll",
}  # fmt: skip
DELIMITERS = ",;\t|"
MOST = 2**31  # bytes of a file that is read whole, once it is unpacked
_HEAD, _MAGIC = 1 << 16, 4  # bytes that are looked at: to know what a file is, and to know how it is packed
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {b"PK\x03\x04": "a zip archive", b"BZh": "packed by bzip2", b"\xfd7zXZ": "packed by xz", b"%PDF": "a PDF"}
_OTHERS |= {b"ARROW1": "an Arrow file", b"\x7fELF": "a program"}
_WIDE = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class FileForm:
    """How a file is read.

    Attributes:
        format: `txt`, `jsonl`, `json`, `csv`, `tsv`, `parquet` or `conll`.
        compression: `gzip`, `zstd` or `None`.
        encoding: of its text.
        delimiter: between the fields of a row of csv or tsv.
        column_names: of a csv or tsv whose first line is a row already.
        said: what was concluded from its first bytes, for a person; empty where its name tells.
    """

    format: str
    compression: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    column_names: tuple[str, ...] | None = None
    said: str = ""

    @property
    def quotes(self) -> bool:
        """Whether a field may be quoted; text/tab-separated-values has no quoting, and GLUE's files rely on it."""
        return self.format == "csv"


def extensions_of(path: Path) -> tuple[str | None, str | None]:
    """Format and compression by a file's name; `None` where it does not tell."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    rest = suffixes[:-1] if compression else suffixes
    return (FORMATS.get(rest[-1]) if rest else None), compression


def form_of(path: Path, config: FilesConfig, formats: Collection[str]) -> FileForm:
    """How a file is read.

    Args:
        path: of the file.
        config: what was said about it.
        formats: that can be read.

    Raises:
        UserError: it is of another format, or of none that its first bytes tell.
    """
    named, compression = extensions_of(path)
    if config.format == "txt" and "txt" not in formats:
        raise UserError(f"--data.format txt: {no_labels(formats)}")
    if config.format is not None and config.format not in formats:
        raise UserError(f"--data.format {config.format} is none that can be read here: {', '.join(formats)}")
    kind = None if named in ("json", "txt") and named not in formats else named  # names for much
    if named == "jsonl" and config.format not in (None, named) and not _is_json(path, compression):
        kind = None  # and what was said holds
    kind = kind or config.format
    if kind is not None and kind not in formats:
        raise UserError(
            f"{path} is a {kind} file, which cannot be read here; {', '.join(formats)} can, also packed by gzip or zstd"
        )
    said = []
    looked_at = b""
    if kind in (None, "csv"):
        looked_at, compression = _first_bytes(path, compression, _HEAD)
    elif compression is None:  # a corpus may have thousands of files
        _, compression = _first_bytes(path, None, _MAGIC)
    if kind is None:
        kind = _format_of(path, looked_at, formats)
        said.append(f"is read as {kind}, by its first bytes (--data.format decides otherwise)")
    delimiter = "\t" if kind == "tsv" else ","
    if config.delimiter is not None:
        delimiter = config.delimiter.replace("\\t", "\t")
        if len(delimiter) != 1:
            raise UserError(f"--data.delimiter is {config.delimiter!r}; it must be one character, such as ';' or '\\t'")
        kind = "csv" if kind == "tsv" and delimiter != "\t" else kind
    elif kind == "csv" and (delimiter := _delimiter(looked_at.decode(_known(config.encoding), "replace"))) != ",":
        shown = {"\t": "tabs"}.get(delimiter, repr(delimiter))
        said.append(f"has its fields separated by {shown} (--data.delimiter decides otherwise)")
    names = None if config.column_names is None or kind not in ("csv", "tsv") else tuple(config.column_names)
    described = f"{path} {' and '.join(said)}" if said else ""
    return FileForm(kind, compression, _known(config.encoding), delimiter, names, described)


def _known(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"--data.encoding {encoding}: there is no such encoding; latin-1 and cp1252 are two") from None


def _first_bytes(path: Path, compression: str | None, count: int) -> tuple[bytes, str | None]:
    """The first bytes of what is in a file, and how it is packed."""
    import pyarrow as pa

    with open(path, "rb", buffering=0) as file:
        head = file.read(count)
        compression = compression or next((how for magic, how in _PACKED.items() if head.startswith(magic)), None)
        if compression is None:
            return head, None
        file.seek(0)
        try:
            return pa.CompressedInputStream(file, compression).read(count), compression
        except (OSError, pa.ArrowException):  # said, with its place, by who reads it
            return b"", compression


def unpacked(stream: Any, where: Path) -> bytes:
    """Everything in a packed file, for formats that are read whole.

    Raises:
        UserError: it is more than the memory is meant for.
    """
    content = stream.read(MOST + 1)
    if len(content) > MOST:
        raise UserError(f"{where} holds more than {MOST >> 30} GiB when it is unpacked; give it as several files")
    return content


def _format_of(path: Path, head: bytes, formats: Collection[str]) -> str:
    """The format that the first bytes of a file speak for."""
    if head.startswith(b"PAR1"):
        return "parquet"
    other = next((what for magic, what in _OTHERS.items() if head.startswith(magic)), None)
    if other is None and b"\0" in head and not head.startswith(tuple(_WIDE)):
        other = "no text"
    if other is not None:
        raise UserError(f"{path} is {other}; {', '.join(formats)} can be read, also packed by gzip or zstd")
    text = head.decode("utf-8", "replace").lstrip("\ufeff")
    found = {"{": "jsonl", "[": "json"}.get(text.lstrip()[:1], "")
    if found in formats:
        return found
    if "txt" in formats:
        return "txt"
    lines = text.splitlines()[:50]
    if "conll" in formats and "" in lines and all(len(line.split()) > 1 for line in lines[:-1] if line.strip()):
        return "conll"
    if len(lines) > 1 and any(delimiter in lines[0] for delimiter in DELIMITERS):
        return "csv"
    if extensions_of(path)[0] == "txt":
        raise UserError(f"{path}: {no_labels(formats)}; --data.format says which of them it is, where it is one")
    raise UserError(f"{path} does not tell by its name or its first bytes what it is; give --data.format")


def no_labels(formats: Collection[str]) -> str:
    """What to say of plain text where labelled rows are read, and which formats hold them."""
    return f"text without columns has no labels; labelled files are {', '.join(formats)}"


def _is_json(path: Path, compression: str | None) -> bool:
    head, _ = _first_bytes(path, compression, _HEAD)
    return looks_like_json(head.decode("utf-8", "replace"))


def looks_like_json(text: str) -> bool:
    """Whether a text begins as an object or a list of JSON does."""
    return text.lstrip("\ufeff").lstrip().startswith(("{", "["))


def _delimiter(head: str) -> str:
    """What separates the fields of a csv, by its first rows: of all that give every row as many, the first.

    One that a blank follows wherever it stands, as commas in sentences, is taken only where there is no other.
    """
    found: list[tuple[bool, int, str]] = []
    for delimiter in DELIMITERS:
        with io.StringIO(head, newline="") as text:
            try:
                rows = [row for row in csv.reader(text, delimiter=delimiter, strict=True) if row]
            except csv.Error:  # in the middle of a quoted field, most likely
                rows = [next(csv.reader([head.split("\n", 1)[0]], delimiter=delimiter), [])]
        rows = rows[:-1] if len(rows) > 2 else rows  # the last one may be cut
        if rows and len(rows[0]) > 1 and {len(row) for row in rows} == {len(rows[0])}:
            found.append((all(field.startswith(" ") for row in rows for field in row[1:]), len(found), delimiter))
    return min(found)[2] if found else ","


def likely_encoding(data: bytes) -> str | None:
    """The encoding, other than UTF-8, that some bytes of a text are most likely in."""
    if wide := next((name for mark, name in _WIDE.items() if data.startswith(mark)), None):
        return wide
    text = data.decode("utf-8", "replace")
    beyond = sum(character > "\x7f" for character in text)
    if 2 * text.count("\ufffd") < beyond:  # UTF-8 with a few bytes that are damaged
        return None
    if 5 * beyond < 2 * len(text):  # a script of Latin letters, of which few have accents
        return "cp1252" if any(0x80 <= byte < 0xA0 for byte in data) else "latin-1"
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    return None if best is None or best.encoding in ("utf_8", "ascii") else best.encoding


def not_utf8(where: str, byte: int, sample: bytes) -> str:
    """The sentence for a byte that is not UTF-8, with the encoding that the text is likely in.

    Args:
        where: file and place.
        byte: the first that does not fit.
        sample: some of the file, the byte among it.
    """
    likely = likely_encoding(sample)
    hint = f"; the file may be in {likely}: --data.encoding {likely}" if likely else ""
    return f"{where}: 0x{byte:02x} is not UTF-8 here{hint}"
