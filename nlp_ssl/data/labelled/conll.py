"""CoNLL columns: one word a line, a blank line after every sentence; which column is the word, and which the tag."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.rows import Rows
from nlp_ssl.data.labelled.tag_schemes import are_entities

TOKENS, TAGS = "tokens", "tags"
LONGEST_ALONE = 250  # words of a file that is one sentence; one with more is a file whose blank lines are lost
_DOCUMENT = "-DOCSTART-"
_NOTHING = "_"  # in a cell of CoNLL-U
_SPANNED = re.compile(r"\d+(-|\.)\d+")  # CoNLL-U: "1-2" stands above words 1 and 2, "3.1" is a word that nobody wrote
_COMMENT = re.compile(r"#\s*\w+\s*=|#(begin|end) document")  # of CoNLL-U, of CoNLL-2012


def read_conll(text: str, name: str) -> Rows:
    """Read CoNLL columns.

    Columns are separated by tabs where the line has any, by blanks otherwise. `-DOCSTART-` lines are skipped, comments
    before a sentence (`# ...`) too, and beside a running number CoNLL-U's lines of several words (`1-2`) and of none
    (`3.1`).

    Args:
        text: the content of the file.
        name: the file's name, for messages.

    Returns:
        A row per sentence. Its columns are lists of cells, called `"1"`, `"2"`, ..., and again, where it can be told
        which they are, `"tokens"` (the first column that is no running number) and `"tags"` (the last one).

    Raises:
        UserError: a line without a tag, or with another number of columns than the first; no blank lines at all.
    """
    sentences = _sentences(text, name)
    width = len(sentences[0][0][1]) if sentences else 0
    first = [[(line, cells[0]) for line, cells in sentence] for sentence in sentences]
    if width > 2 and all(_SPANNED.fullmatch(cell) or _is_number(cell) for cells in first for _, cell in cells):
        sentences = [[(n, cells) for n, cells in s if not _SPANNED.fullmatch(cells[0])] for s in sentences]
    columns = {str(i + 1): [[cells[i] for _, cells in s] for s in sentences] for i in range(width)}
    lines = [[line for line, _ in sentence] for sentence in sentences]
    called = {key: f"column {key} of {width}" for key in columns}
    for alias, found in ((TOKENS, _word_column(columns)), (TAGS, _tag_column(columns))):
        if found:
            columns[alias], called[alias] = columns[found], called[found]
    columns = {TOKENS: columns.pop(TOKENS)} | columns if TOKENS in columns else columns
    return Rows(
        name, list(columns), columns.__getitem__, [n[0] for n in lines], "line", word_places=lines, called=called
    )


def _sentences(text: str, name: str) -> list[list[tuple[int, list[str]]]]:
    """Sentences of (line, cells)."""
    lines = [line.rstrip(" \t\r") for line in text.split("\n")]
    is_comment = _comments(lines, name)
    sentences: list[list[tuple[int, list[str]]]] = []
    width, inside = 0, False
    for number, line in enumerate(lines, start=1):
        cells = _cells(line)
        if (
            not line.strip()
            or line.startswith(_DOCUMENT)
            or cells[1:2] == [_DOCUMENT]
            or (not inside and is_comment(number, line))
        ):
            inside = False
            continue
        width = width or len(cells)
        if len(cells) < 2:
            raise UserError(f"{name}, line {number}: the word {cells[0]!r} has no tag; write one behind it")
        if len(cells) != width:
            hint = "write comments before a sentence" if line.startswith("#") else "give every word the same columns"
            raise UserError(f"{name}, line {number}: {len(cells)} columns, but the first word has {width}; {hint}")
        if not inside:
            sentences.append([])
        inside = True
        sentences[-1].append((number, cells))
    if len(sentences) == 1 and len(sentences[0]) > LONGEST_ALONE:
        raise UserError(
            f"{name} has no blank line between its words, so its {len(sentences[0]):,} words would be one sentence; "
            "write a blank line behind every sentence"
        )
    return sentences


def _cells(line: str) -> list[str]:
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line.strip(" "))


def _comments(lines: Sequence[str], name: str) -> Callable[[int, str], bool]:
    """Tells comments from words that begin with `#`, by the columns and the tags of all other lines."""
    others = [_cells(line) for line in lines if line and not line.startswith(("#", _DOCUMENT))]
    width, tags = len(others[0]) if others else 0, {cells[-1] for cells in others}

    def is_comment(number: int, line: str) -> bool:
        cells = _cells(line)
        if not line.startswith("#") or (len(cells) == width and cells[-1] in tags and not _COMMENT.match(line)):
            return False
        if len(cells) == width and not _COMMENT.match(line):
            raise UserError(
                f"{name}, line {number}: {cells[0]!r} may be a word or a comment, as no other line has the tag "
                f"{cells[-1]!r}; write a comment as '# key = value'"
            )
        return True

    return is_comment


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", cell) is not None


def _word_column(columns: dict[str, list[list[str]]]) -> str | None:
    """The first column that is no running number; `None` where it is all numbers that do not count up, or the last."""
    for key, sentences in list(columns.items())[:-1]:
        if not all(_is_number(cell) for cells in sentences for cell in cells):
            return key
        counts_up = all(int(b) == int(a) + 1 for cells in sentences for a, b in pairwise(cells))
        if not counts_up:
            return None
    return None


def _tag_column(columns: dict[str, list[list[str]]]) -> str | None:
    """The last column, unless it has cells of nothing, or not it but another one looks like tags of entities."""
    used = {key: {cell for cells in sentences for cell in cells} for key, sentences in columns.items()}
    *others, last = used or [""]
    if not last or _NOTHING in used[last]:
        return None
    return last if are_entities(used[last]) or not any(are_entities(used[key]) for key in others) else None
