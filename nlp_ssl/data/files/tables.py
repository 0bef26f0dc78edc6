"""Rows of csv and tsv with the lines on which they stand; a quote that never ends costs one row, not the rest."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nlp_ssl.data.files.forms import FileForm

LONGEST = 2**28  # characters of a row, so that an open quote does not fill the memory


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        line: on which it begins, from 1.
        fields: of it; none where it is no row.
        error: why it is none.
    """

    line: int
    fields: list[str]
    error: str = ""


def records(lines: Iterable[str], form: FileForm) -> Iterator[Record]:
    """The rows of csv (RFC 4180: a quoted field may hold delimiters, quotes and line ends) or tsv (without quoting).

    Where a row cannot be one, such as for a quote that is never closed, the next is looked for on the line behind its
    first.

    Args:
        lines: with their ends.
        form: of the file.
    """
    if not form.quotes:
        for number, line in enumerate(lines, 1):
            if content := line.rstrip("\r\n"):
                yield Record(number, content.split(form.delimiter))
        return
    csv.field_size_limit(2**31 - 1)  # for the whole process; the default refuses a field over 128 kB
    source = iter(lines)
    waiting: deque[str] = deque()  # behind a row that was none
    taken: list[str] = []  # of the row that is read

    def feed() -> Iterator[str]:
        length = 0
        while length < LONGEST:
            line = waiting.popleft() if waiting else next(source, None)
            if line is None:
                return
            length = length + len(line) if taken else len(line)
            taken.append(line)
            yield line

    number = 1
    reader = csv.reader(feed(), delimiter=form.delimiter, strict=True)
    while True:
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = "unexpected end" in str(error)
            yield Record(number, [], "a quote that is never closed" if unclosed else str(error))
            waiting.extendleft(reversed(taken[1:]))
            number += 1
            reader = csv.reader(feed(), delimiter=form.delimiter, strict=True)
            continue
        if fields:
            yield Record(number, fields)
        number += len(taken)
