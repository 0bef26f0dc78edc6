"""Labels as people write them: classes, several a row, scores, tags; read, and a mistake told with its place."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from nlp_ssl.core.console import warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.rows import Rows
from nlp_ssl.data.labelled.tag_schemes import find_scheme

TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
TEXT_NAMES = ("text", "sentence", "content", "review", "document")


def find_column(rows: Rows, wanted: str | None, usual: Sequence[str], option: str) -> str:
    """The column that the user named, or the first usual one; says which columns there are when there is none."""
    for name in [wanted] if wanted else usual:
        if name in rows.names:
            return name
    missing = f"no column {wanted!r}" if wanted else f"none of the columns {', '.join(usual)}"
    raise UserError(f"{rows.where} has {missing}, only {', '.join(rows.names)}; name the right one by --data.{option}")


def find_text_columns(rows: Rows, label: str) -> list[str]:
    """The two columns of a pair that usually go together, or the one that usually holds the text."""
    for pair in TEXT_PAIRS:
        if set(pair) <= set(rows.names):
            return list(pair)
    others = [name for name in rows.names if name != label]
    usual = [name for name in TEXT_NAMES if name in others] or (others if len(others) == 1 else [])
    return [usual[0] if usual else find_column(rows, None, TEXT_NAMES, "text_columns")]


def are_scores(values: list) -> bool:
    """Whether a label column holds scores: floats, or text that is mostly numbers, of which some have fractions."""
    if any(isinstance(value, float) and not math.isnan(value) for value in values):
        return True
    text = [value for value in values if isinstance(value, str) and value.strip()]
    num_numbers = sum(as_number(value) is not None for value in text)
    return 2 * num_numbers > len(text) and any(as_number(v) is not None and not v.strip("+- ").isdigit() for v in text)


def as_number(value: Any) -> float | None:
    """A finite number, or a text that spells one; else `None`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def read_score(rows: Rows, row: int, value: Any) -> float:
    """A row's score."""
    check_labelled(rows, row, value)
    number = None if isinstance(value, bool) else as_number(value)
    if number is None:
        raise UserError(f"{rows.at(row)}: the score {value!r} is no finite number, but other labels of the column are")
    return number


def read_class(rows: Rows, row: int, value: Any, names: list[str] | None, column: str) -> str | None:
    """The name of a row's class; `None` where a `ClassLabel` is -1, which is how `datasets` writes "no label"."""
    if names is not None and value in (None, -1):
        return None
    check_labelled(rows, row, value)
    if isinstance(value, list | dict):
        raise UserError(f"{rows.at(row)}: column {column!r} holds a {type(value).__name__}, not one label")
    return str(value) if names is None else names[value]


def read_classes(rows: Rows, row: int, value: Any, names: list[str] | None) -> list[str] | None:
    """The names of a row's classes, of which there may be none; `None` where the row has no label."""
    if value is None and names is not None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise UserError(
            f"{rows.at(row)}: the label {value!r} is no list of classes, but other rows have lists; write [] for none"
        )
    return sorted({str(item) if names is None else names[item] for item in value})


def check_labelled(rows: Rows, row: int, value: Any) -> None:
    """Refuse a row without a label."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{rows.at(row)} has no label; give it one or remove the row")


def label_order(label: str) -> tuple[int, int, str]:
    """Sorts whole numbers by value, before names."""
    return (0, int(label), "") if re.fullmatch(r"[+-]?\d+", label) else (1, 0, label)


def has_text(rows: Rows, row: int, table: dict[str, list], text_columns: list[str]) -> bool:
    """Whether there is something to read in every text column of a row."""
    for column in text_columns:
        value = table[column][row]
        if value is not None and not isinstance(value, str):
            raise UserError(f"{rows.at(row)}: column {column!r} holds a {type(value).__name__}, not text")
        if not (value and value.strip()):
            return False
    return True


def read_words(rows: Rows, row: int, value: Any, column: str) -> list:
    """A row's words or tags; one string is taken as separated by blanks (a .csv cell cannot hold a list)."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise UserError(f"{rows.at(row)}: column {column!r} must hold a list of words or tags, one tag a word")
    return value


def name_tags(rows: Rows, tags: list[list], column: str) -> list[list[str]]:
    """Tags by name, where a data set numbers them."""
    names = rows.class_names(column)
    for i, row in enumerate(tags):
        if names is None and any(isinstance(tag, int) for tag in row):
            raise UserError(f"{rows.at(i)}: the tags are numbers without names; give names such as B-PER and O")
    return tags if names is None else [[names[tag] for tag in row] for row in tags]


def scheme_of(rows: Rows, tags: list[list[str]]) -> str:
    """The scheme of a file's tags; tags that break it are told."""
    try:
        scheme, misfits = find_scheme(tags)
    except ValueError as error:
        message, (row, word) = error.args
        raise UserError(f"{rows.at(row, word)}: the tag {message}") from None
    if misfits:
        row, word, what = misfits[0]
        warn(
            f"{rows.at(row, word)}: {what}, which {scheme} does not allow ({len(misfits)} such tags in all); "
            "read as the CoNLL evaluation script does"
        )
    return scheme


def check_known(rows: Rows, labels: Iterable[tuple[int, str]], known: set[str], train: str) -> None:
    """Refuse a label that training never shows."""
    for row, label in labels:
        if label not in known:
            raise UserError(f"{rows.at(row)}: the label {label!r} never occurs in {train}; training cannot learn it")
