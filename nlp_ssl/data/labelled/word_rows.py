"""Tables with one word a row, as spreadsheets hold tagged sentences: joined to sentences by a column."""

import re
from dataclasses import replace
from typing import Any

from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.label_values import is_missing
from nlp_ssl.data.labelled.rows import Rows
from nlp_ssl.data.labelled.written_lists import parse_list

_SENTENCE = re.compile(r"(s|sent|sentence)(id|idx|index|no|nr|num|number)?|id")
ADVICE = "number the sentences in a column sentence_id, the same for every word of one, or give a list of words per row"


def join_words(rows: Rows, tokens_column: str, tags_column: str) -> Rows:
    """The rows of a table as sentences: as they are, or joined where every row holds one word and its tag.

    The column that tells sentences apart is called `Sentence #`, `sentence_id` or the like; it has the same value in
    every row of a sentence, or one in the first row of each.

    Raises:
        UserError: rows of one sentence are not together, or the first row belongs to none.
    """
    words, tags = rows.column(tokens_column), rows.column(tags_column)
    if rows.word_places is not None or rows.num_rows < 2 or not all(map(_is_one, tags)):
        return rows
    names = [name for name in rows.names if _SENTENCE.fullmatch(re.sub(r"[^a-z]", "", name.lower()))]
    names = sorted(set(names) - {tokens_column, tags_column}, key=lambda name: name.lower() == "id")
    if not names or any(isinstance(word, list) for word in words):
        return rows
    column, starts = names[0], _starts(rows, names[0])
    ends = [*starts[1:], rows.num_rows]
    spans = [range(start, end) for start, end in zip(starts, ends, strict=True)]
    sentences = {
        tokens_column: [[words[i] for i in span] for span in spans],
        tags_column: [[tags[i] for i in span] for span in spans],
    }
    say(
        f"{rows.where}: {rows.num_rows:,} rows of one word are joined by column {column!r} to {len(starts):,} sentences"
    )
    return replace(
        rows.kept(starts),
        names=list(sentences),
        column=sentences.__getitem__,
        word_places=[[rows.places[i] for i in span] for span in spans],
    )


def _is_one(tag: Any) -> bool:
    return len(tag.split()) < 2 and parse_list(tag) is None if isinstance(tag, str) else not isinstance(tag, list)


def _starts(rows: Rows, column: str) -> list[int]:
    """The first row of every sentence."""
    starts: list[int] = []
    seen: set[tuple[str, str]] = set()
    last = None
    for row, value in enumerate(rows.column(column)):
        where = rows.where if rows.wheres is None else rows.wheres[row]
        value = last[1] if last and is_missing(value) and last[0] == where else value
        if is_missing(value):
            raise UserError(f"{rows.at(row)}: column {column!r} does not say which sentence the word belongs to")
        this = where, str(value).strip()
        if this == last:
            continue
        if this in seen:
            raise UserError(
                f"{rows.at(row)}: the rows of sentence {this[1]!r} (column {column!r}) are not together; sort the file "
                "or number its sentences anew"
            )
        seen.add(this)
        starts.append(row)
        last = this
    return starts
