"""A sentence that a file gives as words, put together as its language is written, and where its words then stand.

Most languages write blanks between words; Chinese, Japanese, Thai, Lao, Khmer, Burmese and others do not. A tagger must
learn from the text that people will give it, so which of both a sentence is gets decided by its characters.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

Span = tuple[int, int]

# How the Unicode names of the letters begin whose scripts put no blank between words.
_SCRIPTS: tuple[str, ...]
_SCRIPTS = ("CJK ", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "YI SYLLABLE", "THAI ")
_SCRIPTS += ("LAO ", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI ", "NEW TAI LUE", "TANGUT", "NUSHU")

_CLOSING, _OPENING = frozenset(".,;:!?)]}%»”…"), frozenset("([{«“$£€")


def as_written(words: Sequence[str]) -> tuple[str, list[Span]]:
    """The text of a sentence, and the half-open range of characters of every word.

    Words have a blank between them, except in a sentence most of whose words are of a script without blanks. There
    a blank stands only between two words of letters or digits one of which is of a script with blanks (`Apple` before
    `公司`), and between two numbers, which would become one. A sentence given character by character has none at all.

    Args:
        words: the words; one that is empty gets an empty range.
    """
    kinds = {_kind(character) for word in words for character in word}
    is_by_character = max(map(len, words), default=0) == 1
    if is_by_character and ("without" in kinds or any(word.isspace() for word in words)):
        return _join(words, lambda *_: False)
    if not _is_without_blanks(words):
        return _join(words, lambda *_: True)
    return _join(words, lambda left, right: (_edge(left[::-1]), _edge(right)) in _APART)


def as_typed(words: Sequence[str]) -> tuple[str, list[Span]]:
    """As `as_written`, but closing punctuation touches the word before it and opening punctuation the one behind it.

    A guess at what a person would type; a file of words does not tell.
    """

    def touches(left: str, right: str) -> bool:
        closes = _CLOSING.issuperset(right) or right.startswith(("'", "’")) or right == "n't"
        return closes or _OPENING.issuperset(left)

    if _is_without_blanks(words):
        return as_written(words)
    return _join(words, lambda left, right: not (left and right and touches(left, right)))


def _join(words: Sequence[str], is_blank: Callable[[str, str], bool]) -> tuple[str, list[Span]]:
    parts: list[str] = []
    spans: list[Span] = []
    at = 0
    for i, word in enumerate(words):
        if i and is_blank(words[i - 1], word):
            parts.append(" ")
            at += 1
        parts.append(word)
        spans.append((at, at + len(word)))
        at += len(word)
    return "".join(parts), spans


def _is_without_blanks(words: Sequence[str]) -> bool:
    """Whether at least half of the words with letters are of a script without blanks."""
    kinds = [{_kind(character) for character in word} for word in words]
    without = sum("without" in kind for kind in kinds)
    return without > 0 and without >= sum("with" in kind and "without" not in kind for kind in kinds)


# What stands apart in a sentence without blanks, by the characters that would touch.
_APART = {("with", "with"), ("with", "number"), ("number", "with"), ("with", "without"), ("without", "with")}
_APART |= {("number", "number")}


def _edge(word: str) -> str:
    """The kind of a word's first character; marks, which stand on another one, are passed over."""
    return next((_kind(c) for c in word if unicodedata.category(c)[0] not in "MC"), "other")


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """`"without"` or `"with"`: a letter of a script without or with blanks; `"number"`; or `"other"`."""
    category = unicodedata.category(character)[0]
    if category == "N" and not unicodedata.name(character, "").startswith("IDEOGRAPHIC"):
        return "number"
    if category not in "LN":
        return "other"
    return "without" if unicodedata.name(character, "").startswith(_SCRIPTS) else "with"
