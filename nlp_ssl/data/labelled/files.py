"""Labelled rows from local files: .csv, .tsv, .json, .jsonl, .parquet, .conll, each plain, .gz or .zst."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.conll import read_conll
from nlp_ssl.data.labelled.rows import Rows, from_dataset, from_lists, joined
from nlp_ssl.data.text.readers import COMPRESSIONS, find_files

EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".conll")


def files_of(sources: str | list[str]) -> list[Path]:
    """The files that one or several names or globs stand for.

    Raises:
        UserError: there is no such file, or no name.
    """
    names = [sources] if isinstance(sources, str) else sources
    if not names:
        raise UserError("an empty list of labelled files; name one, or leave the option out")
    return [path for name in names for path in find_files(name) or [Path(name)]]


def read_files(sources: str | list[str], tagged: bool) -> Rows:
    """The rows of one or several files or globs, in the order of the sources, those of a glob sorted.

    Raises:
        UserError: a file is not there or cannot be read, or has other columns than the first.
    """
    paths = files_of(sources)
    parts = [read_file(path, tagged) for path in paths]
    first = parts[0]
    for rows in parts[1:]:
        if set(rows.names) != set(first.names):
            raise UserError(
                f"{rows.where} has the columns {', '.join(rows.names)}, but {first.where} has {', '.join(first.names)}"
            )
        for name in rows.names:
            if rows.class_names(name) != first.class_names(name):
                raise UserError(f"{rows.where} numbers the classes of {name!r} otherwise than {first.where}")
    return joined(parts)


def extension_of(name: str) -> str:
    """`"a.jsonl.gz"` -> `".jsonl"`."""
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return Path(name).suffix.lower()


def read_file(path: Path, tagged: bool) -> Rows:
    """Read a .csv, .tsv, .json, .jsonl, .parquet or .conll file, plain, .gz or .zst."""
    extension = extension_of(path.name)
    if extension not in EXTENSIONS:
        raise UserError(
            f"{path}: files of this kind cannot be read; give a {', '.join(EXTENSIONS)} file, or .gz or .zst of one"
        )
    if extension == ".conll" and not tagged:
        raise UserError(
            f"{path} holds one tag per word, not one label per text; fine-tune a tagger on it (finetune_ner.py)"
        )
    if extension == ".parquet":
        try:
            rows = from_dataset(str(path), Dataset(pq.read_table(io.BytesIO(_read_bytes(path)))))
        except pa.ArrowInvalid:
            raise UserError(f"{path} is not a parquet file") from None
    else:
        rows = _parse(str(path), extension, read_text(path))
    if not rows.num_rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if path.name.endswith(".zst"):
            return pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
        return gzip.decompress(content) if path.name.endswith(".gz") else content
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {path}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path} is not a whole gzip file; pack or download it again") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); download or pack it again") from None


def read_text(path: Path) -> str:
    """A text file, plain or .gz, without a byte order mark.

    Raises:
        UserError: it is not there, not whole, or not UTF-8.
    """
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _parse(where: str, extension: str, text: str) -> Rows:
    if extension == ".conll":
        return read_conll(text, where)
    if extension in (".csv", ".tsv"):
        (_, header), *records = list(_csv_records(where, text) if extension == ".csv" else tsv_records(text)) or [
            (0, [])
        ]
        for line, values in records:
            if len(values) != len(header):
                raise UserError(f"{where}, line {line}: {len(values)} fields, but the first line names {len(header)}")
        columns = {name: [values[i] for _, values in records] for i, name in enumerate(header)}
        return from_lists(where, columns, [line for line, _ in records], "line")
    if extension == ".json" and text.lstrip().startswith("["):
        try:
            objects = list(enumerate(json.loads(text), start=1))
        except json.JSONDecodeError as error:
            raise UserError(f"{where}, line {error.lineno}: this is not JSON ({error.msg})") from None
        unit = "row"
    else:
        objects, unit = [], "line"
        for line, content in enumerate(text.split("\n"), start=1):
            if content.strip():
                try:
                    objects.append((line, json.loads(content)))
                except json.JSONDecodeError as error:
                    raise UserError(f"{where}, line {line}: this is not JSON ({error.msg})") from None
    for place, row in objects:
        if not isinstance(row, dict):
            raise UserError(f"{where}, {unit} {place}: a row must be an object such as {{'text': ..., 'label': ...}}")
    names = dict.fromkeys(name for _, row in objects for name in row)
    columns = {name: [row.get(name) for _, row in objects] for name in names}
    return from_lists(where, columns, [place for place, _ in objects], unit)


def _csv_records(where: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every row, by RFC 4180: quoted fields may hold commas, quotes and line ends."""
    csv.field_size_limit(2**31 - 1)  # the default stops at texts of 128 kB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        line = 1
        for values in reader:
            if values:
                yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{where}, line {line}: {error}; quote fields as in RFC 4180") from None


def tsv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every line, as IANA defines text/tab-separated-values, and GLUE uses it: without quoting."""
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip("\r"):
            yield line, content.rstrip("\r").split("\t")
