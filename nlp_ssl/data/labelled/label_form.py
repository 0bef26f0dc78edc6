"""What a column of labels holds, classes, lists of them or scores: found from training rows, read in every split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nlp_ssl.core.console import counted, say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.kinds import ONE_CLASS, SCORE, SEVERAL_CLASSES, OneClass, Score, SeveralClasses
from nlp_ssl.data.labelled.label_values import (
    as_number,
    check_decimal_points,
    is_missing,
    label_order,
    name_number,
    number_kind,
    read_class,
    read_classes,
    read_score,
)
from nlp_ssl.data.labelled.rows import Rows
from nlp_ssl.data.labelled.written_lists import read_written_lists

LabelKind = Literal["classification", "multilabel", "regression"]


@dataclass(frozen=True)
class LabelForm:
    """How the labels of a column are read."""

    column: str
    kind: OneClass | SeveralClasses | Score
    """What they become."""
    names: list[str] | None = None
    """Of the classes, where the column numbers them and knows their names."""
    ones: int = 0
    """How many 0 and 1 every row has, one for each class; 0 where rows list their classes."""
    whole: bool = False
    """Classes are whole numbers, some written with a fraction: `1.0` is the class `1`."""
    as_written: bool = False
    """Any text is the name of a class, be it `None` or a list."""

    def values(self, rows: Rows) -> list[Any]:
        """The labels as they stand in the rows; lists written as text as lists."""
        values = rows.column(self.column)
        return values if self.as_written or self.names else read_written_lists(rows, self.column, values)

    def hides(self, rows: Rows) -> bool:
        """Whether no row has a label; -1 is how benchmarks hide one."""
        values = rows.column(self.column) if self.column in rows.names else []
        return all(is_missing(value) or value in (-1, "-1", "-1.0") for value in values)

    def read(self, rows: Rows) -> list[Any]:
        """The label of every row, written; `None` where a column with named classes has none.

        Raises:
            UserError: a label that is missing, or none of this form.
        """
        values = self.values(rows)
        found = [self._read(rows, row, value) for row, value in enumerate(values)]
        texts = (item for value in values for item in (value if isinstance(value, list) else [value]))
        num_padded = sum(isinstance(text, str) and text != text.strip() for text in texts)
        if num_padded and self.kind is not SCORE:
            say(f"{rows.where}: whitespace around {counted(num_padded, 'label')} of column {self.column!r} is stripped")
        return found

    def classes(self, used: set[str]) -> list[str]:
        """The names of all classes in their order, given those that training rows have."""
        if self.ones:
            return list(map(str, range(self.ones)))
        return self.names or sorted(used, key=label_order)

    def summary(self, labels: list[Any], classes: list[str] | None) -> str:
        """Such as `"3 classes (0, 1, 2)"`."""
        if classes is None:
            return f"scores from {min(labels):g} to {max(labels):g} (regression)"
        shown = some(classes)
        if self.ones:
            return f"a 0 or 1 for each of {self.ones} classes ({shown})"
        return f"{counted(len(classes), 'class')} ({shown})" + ", several a row" * self.kind.several

    def otherwise(self, classes: list[str] | None) -> str:
        """The option that has labels read as another kind, where they could be."""
        if classes is None:
            return ", --data.kind classification reads them as classes"
        numbers = self.kind is ONE_CLASS and all(as_number(name) is not None for name in classes)
        return ", --data.kind regression reads them as scores" if numbers else ""

    def _read(self, rows: Rows, row: int, value: Any) -> Any:
        if self.names is not None:
            return self._read_named(rows, row, value, self.names)
        if self.kind is SCORE:
            return read_score(rows, row, value)
        if self.kind is ONE_CLASS:
            written = self.as_written and isinstance(value, str) and value.strip()
            return read_class(rows, row, value, self.whole, self.column, bool(written))
        if not self.ones:
            return read_classes(rows, row, value)
        if not (isinstance(value, list) and len(value) == self.ones and _are_ones(value)):
            raise UserError(f"{rows.at(row)}: the label {value!r} is no list of {self.ones} 0 and 1, as others are")
        return [str(i) for i, item in enumerate(value) if item in (1, "1")]

    def _read_named(self, rows: Rows, row: int, value: Any, names: list[str]) -> Any:
        if is_missing(value) or (value == -1 and self.kind is ONE_CLASS):  # how `datasets` writes "no label"
            return None
        if self.kind is SEVERAL_CLASSES:
            items = value if isinstance(value, list) else None
            if items is None:
                raise UserError(f"{rows.at(row)}: the label {value!r} is no list of classes")
            return sorted({name_number(rows, row, item, names) for item in items})
        name = name_number(rows, row, value, names)
        return read_score(rows, row, name) if self.kind is SCORE else name


def some(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return ", ".join(repr(name)[1:-1][:40] for name in names[:5]) + ", ..." * (len(names) > 5)


def find_form(rows: Rows, column: str, asked: LabelKind | None) -> LabelForm:
    """What the labels of the training rows are, or what the user says that they are.

    Lists are several classes a row; equally long and of 0 and 1 alone, they say of each class whether it holds.
    Numbers with fractions are scores; whole ones are classes, also those with a fraction of 0 if they are few.
    """
    if asked == "classification":
        whole = number_kind(rows.column(column)) is not None
        return LabelForm(column, ONE_CLASS, rows.class_names(column), whole=whole, as_written=True)
    names = rows.class_names(column)
    values = LabelForm(column, ONE_CLASS, names).values(rows)
    lists = [value for value in values if isinstance(value, list)]
    if asked == "multilabel" or (lists and asked is None):
        return LabelForm(column, SEVERAL_CLASSES, names, ones=0 if names else _number_of_ones(lists))
    check_decimal_points(rows, values)
    numbers = None if names else number_kind([value for value in values if not is_missing(value)])
    if asked == "regression" or numbers == "scores":
        return LabelForm(column, SCORE, names)
    return LabelForm(column, ONE_CLASS, names, whole=numbers == "whole")


def _number_of_ones(lists: Sequence[list]) -> int:
    """How long lists of 0 and 1 are; 0 where they are anything else."""
    lengths = {len(value) for value in lists}
    # as lists of classes, two different numbers in every row would give all rows the same classes
    return max(lengths) if len(lengths) == 1 and max(lengths) > 1 and all(map(_are_ones, lists)) else 0


def _are_ones(value: list) -> bool:
    return all(item in (0, 1, "0", "1") for item in value)
