"""Labelled rows from local files: .csv, .tsv, .json, .jsonl, .parquet, .conll, each plain, .gz or .zst."""

import codecs
import gzip
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from nlp_ssl.config.common import FilesConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.invocation import command_of
from nlp_ssl.data.files.finding import find_files, not_there
from nlp_ssl.data.files.forms import FileForm, form_of, looks_like_json, no_labels, not_utf8, unpacked
from nlp_ssl.data.files.tables import records
from nlp_ssl.data.labelled.conll import read_conll
from nlp_ssl.data.labelled.rows import Rows, from_dataset, from_lists, joined

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "conll")
SPLITS = {"train": "train_file", "validation": "validation_file", "valid": "validation_file", "dev": "validation_file"}
SPLITS |= {"test": "test_file"}


def files_of(sources: str | list[str], option: str, config: FilesConfig) -> list[Path]:
    """The files that one or several names, globs or folders stand for.

    Args:
        sources: the names.
        option: which gives them, such as `"data.train_file"`.
        config: how the files are read.

    Raises:
        UserError: there is no such file, no name, or a folder of several splits.
    """
    names = [sources] if isinstance(sources, str) else sources
    if not names:
        raise UserError(f"--{option} is an empty list; name a file, or leave the option out")
    found = []
    for name in names:
        files = find_files(name, FORMATS, option, anything=config.format is not None)
        if not files:
            raise UserError(not_there(name, option))
        options = {SPLITS[word]: path for path in files for word in SPLITS if path.name.lower().startswith(word)}
        if len(options) > 1 and Path(name).is_dir():
            named = " ".join(f"--data.{option} {path}" for option, path in sorted(options.items(), reverse=True))
            raise UserError(f"{name} holds several splits; name each: {named}")
        found += files
    return found


def read_files(paths: list[Path], config: FilesConfig, tagged: bool) -> Rows:
    """The rows of one or several files, one after the other.

    Args:
        paths: from `files_of`.
        config: how they are read.
        tagged: whether there is one label a word.

    Raises:
        UserError: a file is not there or cannot be read, or has other columns than the first.
    """
    parts = [read_file(path, config, tagged) for path in paths]
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


def read_file(path: Path, config: FilesConfig, tagged: bool) -> Rows:
    """Read a .csv, .tsv, .json, .jsonl, .parquet or .conll file, plain, .gz or .zst."""
    form = form_of(path, config, FORMATS)
    if form.said:
        say(form.said)
    if form.format == "conll" and not tagged:
        raise UserError(
            f"{path} holds one tag per word, not one label per text; fine-tune a tagger on it "
            f"(`{command_of('finetune_ner')}`)"
        )
    if form.format == "parquet":
        try:
            rows = from_dataset(str(path), Dataset(pq.read_table(io.BytesIO(_read_bytes(path, form)))))
        except pa.ArrowInvalid:
            raise UserError(f"{path} is not a parquet file") from None
    else:
        rows = _parse(str(path), form, read_text(path, form))
    if not rows.num_rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _read_bytes(path: Path, form: FileForm) -> bytes:
    try:
        with open(path, "rb") as file:
            if form.compression == "gzip":
                with gzip.open(file) as stream:
                    return unpacked(stream, path)
            return unpacked(pa.CompressedInputStream(file, "zstd") if form.compression else file, path)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path} is not a whole gzip file; pack or download it again") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); download or pack it again") from None


def read_text(path: Path, form: FileForm) -> str:
    """A text file, plain or packed, without a byte order mark.

    Raises:
        UserError: it is not there, not whole, or not in its encoding.
    """
    data = _read_bytes(path, form)
    if form.encoding == "utf-8" and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16; give --data.encoding utf-16")
    try:
        return data.decode(form.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if form.encoding != "utf-8":
            reason = f"byte 0x{data[error.start]:02x} is not {form.encoding} here"
            raise UserError(f"{path}, line {line}: {reason}; see --data.encoding") from None
        sample = data[: 1 << 16] + data[error.start : error.start + (1 << 16)]
        raise UserError(not_utf8(f"{path}, line {line}", data[error.start], sample)) from None


def _parse(where: str, form: FileForm, text: str) -> Rows:
    if form.format == "conll":
        return read_conll(text, where)
    if form.format in ("csv", "tsv"):
        return _table(where, form, text)
    unit = "line"
    if form.format == "json" and text.lstrip().startswith("["):
        objects, unit = list(enumerate(_json(text, where), start=1)), "row"
    else:
        objects = [(n, _json(line, where, n)) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for place, row in objects:
        if not isinstance(row, dict):
            raise UserError(f"{where}, {unit} {place}: a row must be an object such as {{'text': ..., 'label': ...}}")
    names = dict.fromkeys(name for _, row in objects for name in row)
    columns = {name: [row.get(name) for _, row in objects] for name in names}
    return from_lists(where, columns, [place for place, _ in objects], unit)


def _table(where: str, form: FileForm, text: str) -> Rows:
    rows = list(records(io.StringIO(text, newline="\n"), form))
    for row in rows:
        if row.error:
            raise UserError(f"{where}, line {row.line}: {row.error}; quote fields as in RFC 4180")
    header = list(form.column_names or (rows.pop(0).fields if rows else ()))
    for row in rows:
        if len(row.fields) != len(header):
            named = "--data.column_names has" if form.column_names else "the first line names"
            raise UserError(f"{where}, line {row.line}: {len(row.fields)} fields, but {named} {len(header)}")
    names = [
        f"{name}.{n}" if (n := header[:i].count(name)) else name for i, name in enumerate(header)
    ]  # as pandas does
    columns = {name: [row.fields[i] for row in rows] for i, name in enumerate(names)}
    rows_read = from_lists(where, columns, [row.line for row in rows], "line")
    return replace(rows_read, has_header=form.column_names is None)


def _json(text: str, where: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        plain = "" if looks_like_json(text) else f"; it looks like plain text: {no_labels(FORMATS)}"
        raise UserError(f"{where}, line {line or error.lineno}: this is not JSON ({error.msg}){plain}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; very deep nesting
        place = f"{where}, line {line}" if line else where
        raise UserError(f"{place}: JSON that Python cannot read ({error})") from None
