"""Lists in cells that hold text only: as Python, JSON and numpy write them. Nothing in a cell is ever run."""

import ast
import json
import re
from typing import Any

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.rows import Rows

_VALUE = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"()\[\]{}]+"""
_ITEM = re.compile(rf"np\.\w+\((?P<wrapped>{_VALUE})\)|(?P<value>{_VALUE})", re.DOTALL)  # numpy 2: "np.str_('a')"
_GAP = re.compile(r"\s*,\s*|\s+|$")


def parse_list(text: str) -> list[Any] | None:
    """The list that a text spells, or `None`.

    `["a", "b"]` (JSON), `['a', 'b']`, `('a', 'b')` (Python), `['a' 'b']` and `[0. 1.]` (numpy) are lists of texts,
    numbers, truth values and `None`; lists in lists are none.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) and not (re.match(r"\(.*,.*\)$", text, re.DOTALL)):
        return None
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        found = _parse_items(text[1:-1].strip())
    simple = isinstance(found, list) and all(item is None or isinstance(item, str | int | float) for item in found)
    return found if simple else None


def _parse_items(inner: str) -> list[Any] | None:
    # not by `literal_eval` of the whole, which reads numpy's ['a' 'b'] as ['ab']
    items, with_commas, at = [], set(), 0
    while at < len(inner):
        item = _ITEM.match(inner, at)
        gap = _GAP.match(inner, item.end()) if item else None
        if item is None or gap is None:
            return None
        try:
            items.append(ast.literal_eval(item["wrapped"] or item["value"]))
        except (ValueError, SyntaxError):
            return None
        at = gap.end()
        if at < len(inner):
            with_commas.add("," in gap.group())
    return items if len(with_commas) < 2 else None


def read_written_lists(rows: Rows, column: str, values: list[Any]) -> list[Any]:
    """The values of a column, those that are lists written as text as lists.

    Raises:
        UserError: some cells are such lists, or all look like it, and one cannot be read.
    """
    texts = {i: value.strip() for i, value in enumerate(values) if isinstance(value, str) and value.strip()}
    found = {i: parse_list(text) for i, text in texts.items()}
    bad = [i for i in texts if found[i] is None]
    if not bad:
        return [found.get(i, value) for i, value in enumerate(values)]
    quoted = any(isinstance(item, str) for items in found.values() for item in items or ())
    bracketed = all(text[0] + text[-1] == "[]" and re.search(r"[\s,]", text) for text in texts.values())
    if quoted or bracketed:
        raise UserError(
            f"{rows.at(bad[0])}: column {column!r} holds lists written as text, but {_cut(texts[bad[0]])} is none "
            'that can be read; write it as JSON, such as ["a", "b"]'
        )
    return values


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
