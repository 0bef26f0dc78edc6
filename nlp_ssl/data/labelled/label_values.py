"""Labels as people write them: classes, several a row, scores, tags; read, and a mistake told with its place."""

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal

from nlp_ssl.core.console import counted, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.rows import Rows
from nlp_ssl.data.labelled.tag_schemes import find_scheme
from nlp_ssl.data.labelled.written_lists import read_written_lists

TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
TEXT_NAMES = ("text", "sentence", "content", "review", "document")
NO_VALUE = ("nan", "NaN", "None", "<NA>")
"""What pandas and Python write for a missing value into text. `NA` and `null` are not among them: a label may be so
called, and no program writes them unasked."""
MAX_WHOLE_CLASSES = 20  # of whole numbers written with a fraction; more are scores
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def find_column(rows: Rows, wanted: str | None, usual: Sequence[str], option: str) -> str:
    """The column that the user named, or the first usual one; says which columns there are when there is none."""
    for name in [wanted] if wanted else usual:
        if name in rows.names:
            if wanted and rows.has_header and wanted in rows.column(wanted):
                warn(
                    f"{rows.where}: column {wanted!r} holds {wanted!r} itself; if its first line is a row already, it "
                    "is lost: give names to the columns by --data.column_names"
                )
            return name
    in_other_case = [name for u in usual for name in rows.names if name.lower() == u and not wanted]
    if in_other_case:
        return in_other_case[0]
    missing = f"no column {wanted!r}" if wanted else f"none of the columns {', '.join(usual)}"
    advice = " (or --data.column_names, if its first line is a row already)" if rows.has_header else ""
    columns = ", ".join(name[:40] for name in rows.names)
    raise UserError(f"{rows.where} has {missing}, only {columns}; name the right one by --data.{option}{advice}")


def find_text_columns(rows: Rows, label: str) -> list[str]:
    """The two columns of a pair that usually go together, or the one that usually holds the text."""
    for pair in TEXT_PAIRS:
        if set(pair) <= set(rows.names):
            return list(pair)
    others = [name for name in rows.names if name != label]
    usual = [name for name in TEXT_NAMES if name in others] or (others if len(others) == 1 else [])
    return [usual[0] if usual else find_column(rows, None, TEXT_NAMES, "text_columns")]


def check_text_columns(text_columns: list[str], label: str) -> None:
    """Refuse more columns than a pair has, and names that another column of the task's rows has."""
    if len(text_columns) > 2:
        raise UserError(
            f"--data.text_columns names {counted(len(text_columns), 'column')}, but a row is one text or a pair of two"
        )
    if len(set(text_columns)) < len(text_columns) or label in text_columns:
        raise UserError(
            f"column {text_columns[-1]!r} is named twice; texts and label are each in a column of their own"
        )
    for name in text_columns:
        if name.encode(errors="replace").decode() != name:
            raise UserError(f"the name of column {name!r} has a lone surrogate, which UTF-8 cannot hold; rename it")
    if "label" in text_columns:
        raise UserError(f"a column of text cannot be called 'label' where {label!r} is the label; give it another name")


def is_missing(value: Any) -> bool:
    """Whether a value is none: null, not a number, nothing but blanks, or what programs write for these into text."""
    if isinstance(value, str):
        return value.strip() in ("", *NO_VALUE)
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any) -> float | None:
    """A finite number, or a text that spells one; else `None`."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value.strip()) else None
    if value is None or isinstance(value, bool | list | dict) or not isinstance(value, int | float | Decimal):
        return None
    return float(value) if math.isfinite(value) else None


def number_kind(values: list) -> Literal["scores", "whole"] | None:
    """Whether a label column is mostly numbers with fractions in them; `"whole"` if all are 0, and they are few.

    Whole numbers without a fraction are classes (`None`), however many they are. Programs that keep missing values
    in a column write its classes with a fraction: 0.0, 1.0.
    """
    numbers = [(value, number) for value in values if (number := as_number(value)) is not None]
    with_fraction = any(not re.fullmatch(r"\s*[+-]?\d+\s*", str(value)) for value, _ in numbers)
    if not with_fraction or 2 * len(numbers) <= len(values):
        return None
    distinct = {number for _, number in numbers}
    return "whole" if len(distinct) <= MAX_WHOLE_CLASSES and all(map(float.is_integer, distinct)) else "scores"


def check_decimal_points(rows: Rows, values: list) -> None:
    """Refuse a column that is mostly of numbers such as `1,5`: scores of some countries, or lists of classes."""
    commas = [i for i, v in enumerate(values) if isinstance(v, str) and re.fullmatch(r"\s*[+-]?\d+(,\d+)+\s*", v)]
    if 2 * len(commas) > len(values):
        value = values[commas[0]]
        raise UserError(
            f"{rows.at(commas[0])}: the label {value!r} may be a score or a list of classes; write a score with a "
            "point, a list in brackets, or say --data.kind classification if it is the name of a class"
        )


def class_name(value: Any, whole: bool = False) -> str:
    """What the class of a label is called; a whole number is without a fraction, as a text if `whole`."""
    number = as_number(value) if whole or not isinstance(value, str) else None
    plain = isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip())  # 007 stays 007
    return str(int(number)) if number is not None and number.is_integer() and not plain else str(value).strip()


def read_score(rows: Rows, row: int, value: Any) -> float:
    """A row's score."""
    check_labelled(rows, row, value)
    number = as_number(value)
    if number is None:
        raise UserError(
            f"{rows.at(row)}: the score {value!r} is no finite number; write one, or say --data.kind classification"
        )
    return number


def read_class(rows: Rows, row: int, value: Any, whole: bool, column: str, any_text: bool = False) -> str:
    """The name of a row's class; with `any_text` also a text that stands for a missing value elsewhere."""
    if not any_text:
        check_labelled(rows, row, value)
    if isinstance(value, list | dict):
        raise UserError(f"{rows.at(row)}: column {column!r} holds a {type(value).__name__}, not one label")
    name = class_name(value, whole)
    check_characters(rows, row, name)
    return name


def read_classes(rows: Rows, row: int, value: Any) -> list[str]:
    """The names of a row's classes, of which there may be none."""
    check_labelled(rows, row, value)
    simple = isinstance(value, list) and not any(is_missing(item) or isinstance(item, list | dict) for item in value)
    if not simple or any(isinstance(item, float) and not item.is_integer() for item in value):
        raise UserError(
            f"{rows.at(row)}: the label {value!r} is no list of classes; give every row a list, [] for none"
        )
    names = sorted({class_name(item) for item in value})
    if len(names) < len(value) and not any(isinstance(item, str) for item in value):
        raise UserError(
            f"{rows.at(row)}: the label {value!r} has a class twice; lists of 0 and 1 must be as long in every row"
        )
    for name in names:
        check_characters(rows, row, name)
    return names


def name_number(rows: Rows, row: int, value: Any, names: list[str]) -> str:
    """The name of a class that a data set numbers."""
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    raise UserError(f"{rows.at(row)}: {value!r} is no class; the classes are numbered from 0 to {len(names) - 1}")


def check_labelled(rows: Rows, row: int, value: Any) -> None:
    """Refuse a row without a label."""
    if isinstance(value, str) and value.strip() and is_missing(value):
        raise UserError(
            f"{rows.at(row)}: the label {value!r} is what programs write for no label; remove the row, or say "
            "--data.kind classification if it is the name of a class"
        )
    if is_missing(value):
        raise UserError(f"{rows.at(row)} has no label; give it one or remove the row")


def check_characters(rows: Rows, row: int, text: str) -> None:
    """Refuse text that no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone is valid JSON but no character
        raise UserError(
            f"{rows.at(row)}: a lone surrogate, \\u{ord(text[error.start]):04x}, which UTF-8 cannot hold; remove it"
        ) from None


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
        check_characters(rows, row, value)
    return True


def read_hidden(rows: Rows, column: str) -> list[str]:
    """A column of text of rows that are predicted, not scored, in which a row may have none."""
    texts = [value if isinstance(value, str) else "" for value in rows.column(column)]
    for row, text in enumerate(texts):
        check_characters(rows, row, text)
    return texts


def read_words(rows: Rows, column: str) -> list[list]:
    """The words or tags of every row; of a text (a .csv cell cannot hold a list) those that blanks separate."""
    found = []
    for row, value in enumerate(read_written_lists(rows, column, rows.column(column))):
        items = value.split() if isinstance(value, str) else [] if value is None else value
        if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
            raise UserError(f"{rows.at(row)}: column {column!r} must hold a list of words or tags, one tag per word")
        for word, item in enumerate(items):
            if isinstance(item, str) and not item.strip():
                raise UserError(
                    f"{rows.at(row, word)}: column {column!r} has nothing for a word; write one, or remove it"
                )
            check_characters(rows, row, str(item))
        found.append(items)
    return found


def name_tags(rows: Rows, tags: list[list], column: str) -> list[list[str]]:
    """Tags by name, where a data set numbers them."""
    names = rows.class_names(column)
    if names is not None:
        return [[name_number(rows, i, tag, names) for tag in row] for i, row in enumerate(tags)]
    all_numbers = all(re.fullmatch(r"\s*-?\d+\s*", str(tag)) for row in tags for tag in row)
    for i, row in enumerate(tags):
        if any(isinstance(tag, int) or all_numbers for tag in row):
            raise UserError(f"{rows.at(i)}: the tags are numbers without names; give names such as B-PER and O")
    return [[tag.strip() for tag in row] for row in tags]


def scheme_of(rows: Rows, tags: list[list[str]]) -> str:
    """The scheme of a file's tags; tags that break it are reported."""
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
