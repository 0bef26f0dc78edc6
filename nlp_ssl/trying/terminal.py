"""Answers as a terminal shows them, and as a line of a file holds them."""

import itertools
import shutil

from nlp_ssl.core.console import printable
from nlp_ssl.trying.answers import Answer, Ranking

BAR, WIDEST = 24, 44  # characters of a bar, and of a name beside it
_BOLD, _DIM, _END = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_COLOURS = (33, 36, 32, 35, 34, 31)  # of labels, in the order in which they come


def one_line(answer: Answer) -> str:
    """An answer in one line: `a [marked: LABEL] text  ->  a name 61%, another 20%`; notes where there is no more."""
    text = "".join(
        piece.text if piece.label is None else f"[{piece.text}{': ' if piece.label else ''}{piece.label}]"
        for piece in answer.pieces
    )
    ranked = " | ".join(
        ", ".join(f"{name} {ranking.shown(number)}" for name, number in ranking.entries) for ranking in answer.rankings
    )
    notes = f"({'; '.join(answer.notes)})" if answer.notes else ""
    return printable(" ".join("  ->  ".join(part for part in (text, ranked, notes) if part.strip()).split()))


class Screen:
    """What is printed where a person sits.

    Args:
        coloured: whether the terminal knows colours.
        blocks: whether it has the characters of a bar; `#` otherwise.
    """

    def __init__(self, *, coloured: bool, blocks: bool) -> None:
        self.coloured, self.block = coloured, "█" if blocks else "#"
        self._colours: dict[str, int] = {}
        self._next = itertools.cycle(_COLOURS)

    def show(self, answer: Answer, *, streamed: bool = False) -> str:
        """An answer in lines; without its text, where that was `streamed` already."""
        lines = []
        if answer.pieces and not streamed:
            marked = (self._piece(piece.text, piece.label) for piece in answer.pieces)
            lines.append("  " + "".join(marked))
        for ranking in answer.rankings:
            lines += self._ranking(ranking)
        return "".join(f"{line}\n" for line in [*lines, *(self._dim(f"  ({note})") for note in answer.notes)])

    def _piece(self, text: str, label: str | None) -> str:
        text, label = printable(text), None if label is None else printable(label)
        if label is None:
            return text
        if not self.coloured:
            return f"[{text}{': ' if label else ''}{label}]"
        if label not in self._colours:
            self._colours[label] = next(self._next)
        return f"\x1b[1;{self._colours[label]}m{text}{_END}{self._dim(f' {label}') if label else ''}"

    def _ranking(self, ranking: Ranking) -> list[str]:
        names = [" ".join(printable(name).split()) for name, _ in ranking.entries]
        widest = WIDEST if ranking.unit != "cosine" else max(WIDEST, shutil.get_terminal_size().columns - 12)
        names = [name if len(name) <= widest else f"{name[: widest - 3]}..." for name in names]
        wide = max(map(len, names), default=0)
        lines = [f"  {ranking.title}:"] if ranking.title else []
        for at, (name, (_, number)) in enumerate(zip(names, ranking.entries, strict=True)):
            bar = self.block * round(BAR * number) if ranking.unit == "probability" else ""
            line = f"  {name:{wide}}  {ranking.shown(number):>5}  {bar}".rstrip()
            lines.append(f"{_BOLD}{line}{_END}" if self.coloured and at < ranking.chosen else line)
        return lines

    def _dim(self, text: str) -> str:
        return f"{_DIM}{printable(text)}{_END}" if self.coloured else printable(text)
