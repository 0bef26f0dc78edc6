"""Sections of text, tables and pictures as one HTML file, without script or network, for screens, phones and paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from nlp_ssl.core.console import printable
from nlp_ssl.core.files import replace
from nlp_ssl.publishing.tables import is_number


@dataclass(frozen=True)
class Picture:
    """An SVG element.

    Attributes:
        svg: the element.
        caption: what it shows, for who cannot see it too.
        half: two stand beside each other where there is room.
    """

    svg: str
    caption: str
    half: bool = False
    kind: str = "picture"


@dataclass(frozen=True)
class Table:
    """Rows under column names; cells are numbers or texts, `None` is a dash.

    Attributes:
        columns: their names.
        rows: each as long as `columns`.
        caption: what it shows.
        folded: only its caption is seen until somebody opens it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    folded: bool = False
    kind: str = "table"

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether all that is in it are numbers."""
        return [all(row[i] is None or is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]


@dataclass(frozen=True)
class Text:
    """Paragraphs; or lines as a terminal shows them."""

    lines: Sequence[str]
    verbatim: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Matrix:
    """Counts of pairs of names, dark by their share of the row.

    Attributes:
        names: of rows and columns.
        counts: a row each.
        caption: what it shows.
    """

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    caption: str
    kind: str = "matrix"

    @property
    def shares(self) -> list[list[int]]:
        """Each count in percent of its row."""
        return [[round(100 * count / max(1, sum(row))) for count in row] for row in self.counts]


Part: TypeAlias = Picture | Table | Matrix | Text


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """What a link to it names."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: its heading.
        subtitle: a sentence under it.
        numbers: what to see first: a name, a value and a remark each.
        sections: in their order; one without parts is left out.
        unfinished: what it describes is still running, so a browser should read it again every minute.
    """

    title: str
    subtitle: str
    numbers: Sequence[tuple[str, Any, str]] = ()
    sections: Sequence[Section] = field(default=())
    unfinished: bool = False

    def html(self) -> str:
        """The page; whatever texts it holds are texts: none of them becomes a part of the page."""
        sections = [section for section in self.sections if section.parts]
        return _template().render(page=self, sections=sections, style=_style())

    def write(self, path: Path, mode: int = 0o666) -> Path:
        """Write the page apart, and rename it to its place; returns that.

        Args:
            path: of the file.
            mode: permissions of the file, which may hold texts of a corpus.
        """
        replace(path, self.html(), mode)
        return path


def shown(value: Any) -> str:
    """A cell as it is written: four significant digits of a number, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return printable(str(value))


@lru_cache
def _style() -> str:
    return files("nlp_ssl.reports").joinpath("page.css").read_text(encoding="utf-8")


@lru_cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(str(files("nlp_ssl.reports"))),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("page.html.jinja")
