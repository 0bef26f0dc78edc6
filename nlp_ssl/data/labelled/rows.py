"""Labelled rows as they were read, each with its place, and what is known about their task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from datasets import ClassLabel, Dataset, Features

from nlp_ssl.core.errors import UserError


@dataclass
class Task:
    """A name of ours for a Hub data set, and what is known about it."""

    path: str
    subset: str | None = None
    revision: str | None = None
    text_columns: list[str] | None = None
    label_column: str | None = None
    metrics: list[str] | None = None
    classes: tuple[str, ...] = ()  # the names that the Hub gives to the numbers of the classes
    validation: str = "validation"
    test: str = "test"
    hidden: tuple[str, ...] = ()


@dataclass
class Rows:
    """One split as it was read: columns on demand, and where every row stands in its source."""

    where: str
    names: list[str]
    column: Callable[[str], list]
    places: Sequence[int]
    unit: str = "row"
    features: Features = field(default_factory=Features)
    has_header: bool = False  # the names are the first line of a table
    word_places: Sequence[Sequence[int]] | None = None  # of every word, where each stands on a line or row of its own
    wheres: Sequence[str] | None = None  # of each row, where they come from several sources
    called: dict[str, str] = field(default_factory=dict)  # what a source without names of columns has in their place

    def at(self, row: int, word: int | None = None) -> str:
        """`"train.csv, line 7"`, in front of a message about a row, or about a word of it."""
        where = self.where if self.wheres is None else self.wheres[row]
        if word is not None and self.word_places is not None:
            return f"{where}, {self.unit} {self.word_places[row][word]}"
        place = f"{where}, {self.unit} {self.places[row]}"
        return place if word is None else f"{place}, word {word + 1}"

    def kept(self, rows: Sequence[int]) -> "Rows":
        """The places of some of the rows, for messages about a table that has only these."""
        return replace(
            self,
            places=[self.places[i] for i in rows],
            word_places=None if self.word_places is None else [self.word_places[i] for i in rows],
            wheres=None if self.wheres is None else [self.wheres[i] for i in rows],
        )

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.places)

    def class_names(self, column: str) -> list[str] | None:
        """Names of the classes of a `ClassLabel` column, or of a list of them; `None` for any other."""
        feature = self.features.get(column)
        feature = getattr(feature, "feature", feature)
        return feature.names if isinstance(feature, ClassLabel) else None


def with_names(rows: Rows, names: dict[str, str]) -> Rows:
    """The same rows, some of their columns under other names."""
    columns = {names.get(name, name): rows.column(name) for name in rows.names}
    return replace(rows, names=list(columns), column=columns.__getitem__)


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several sources below each other, with the columns that all have."""
    if len(parts) == 1:
        return parts[0]
    names = [name for name in parts[0].names if all(name in rows.names for rows in parts)]
    columns = {name: [value for rows in parts for value in rows.column(name)] for name in names}
    others = f" and {len(parts) - 1} more" if len(parts) > 2 else f" and {parts[1].where}"
    return replace(
        parts[0],
        where=parts[0].where + others,
        names=names,
        column=columns.__getitem__,
        places=[place for rows in parts for place in rows.places],
        word_places=None if parts[0].word_places is None else [p for rows in parts for p in rows.word_places or ()],
        wheres=[where for rows in parts for where in rows.wheres or [rows.where] * rows.num_rows],
    )


def from_dataset(where: str, dataset: Dataset) -> Rows:
    """The rows of a `datasets.Dataset`, which `where` names; text in it that is not UTF-8 is a `UserError`."""

    def column(name: str) -> list:
        try:
            return dataset[name][:]
        except UnicodeDecodeError:  # other programs write such strings into parquet, and nothing checks them
            bad = next(row for row in range(len(dataset)) if not _is_unicode(dataset, name, row))
            raise UserError(f"{where}, row {bad + 1}: column {name!r} holds bytes that are not UTF-8") from None

    places = range(1, len(dataset) + 1)
    return Rows(where, dataset.column_names, column, places, features=dataset.features)


def _is_unicode(dataset: Dataset, name: str, row: int) -> bool:
    try:
        dataset[name][row]
    except UnicodeDecodeError:
        return False
    return True


def from_lists(where: str, columns: dict[str, list], places: Sequence[int] | None = None, unit: str = "row") -> Rows:
    """Rows from columns; they stand at `places`, counted in `unit`, by default 1, 2, ..."""
    places = places or range(1, len(next(iter(columns.values()), [])) + 1)
    return Rows(where, list(columns), columns.__getitem__, places, unit)
