"""Numbers as a table for the terminal, and as JSON that everybody reads."""

import json
import math
import unicodedata
from typing import Any

NARROWEST = 12  # a text is not cut to less


def format_table(rows: list[dict[str, Any]], width: int | None = None) -> str:
    """A plain-text table with aligned columns: one per key, in the order in which keys first appear.

    Numbers stand to the right, floats with four significant digits; a missing or `None` value is a dash.

    Args:
        rows: of the table.
        width: columns of a terminal that a row may take; the longest texts are cut until it does.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return ""
    texts = {name: [_cell(row.get(name)) for row in rows] for name in names}
    if width is not None:
        _fit(texts, width)
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        cells = [str(name), *texts[name]]
        widest = max(map(_width, cells))
        numeric = all(value is None or is_number(value) for value in values)
        pads = [" " * (widest - _width(cell)) for cell in cells]
        aligned = [pad + cell if numeric else cell + pad for cell, pad in zip(cells, pads, strict=True)]
        columns.append([aligned[0], "-" * widest, *aligned[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _fit(texts: dict[str, list[str]], width: int) -> None:
    """Cut the texts of the widest columns, in place, until a row takes no more than `width`, or each is short."""
    widths = {name: max(_width(name), *map(_width, cells)) for name, cells in texts.items()}
    while sum(widths.values()) + 2 * (len(widths) - 1) > width:
        widest = max(widths, key=widths.__getitem__)
        if widths[widest] <= max(NARROWEST, _width(widest)):
            return
        widths[widest] -= 1
        texts[widest][:] = [_cut(text, widths[widest]) for text in texts[widest]]


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) >= width:
        text = text.removesuffix("…")[:-1]
    return f"{text}…"


def to_json(value: Any) -> str:
    """JSON of nested lists and dictionaries; what is no number is null, which every reader knows."""
    return json.dumps(_strict(value), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_number(value: Any) -> bool:
    """Whether a value is a number that is not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return " ".join(str(value).split())


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
