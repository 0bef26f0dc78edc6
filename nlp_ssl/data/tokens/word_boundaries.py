"""Which tokens begin a word, for masks of whole words."""

import json
import unicodedata
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.vocabulary import num_ids, special_ids

# How the Unicode names of their characters begin.
_UNSPACED: tuple[str, ...]
_UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "FULLWIDTH", "HALFWIDTH KATAKANA", "BOPOMOFO", "YI ")
_UNSPACED += ("THAI", "LAO", "KHMER", "MYANMAR", "TAI ", "NEW TAI", "JAVANESE", "BALINESE")


class WordTables(NamedTuple):
    """Of every token id, bool, shape (highest id + 1,).

    A token begins a word if it `begins` one wherever it stands, or if the token before it does not `joins` and it is no
    mark of its own, which `attaches` to whatever is before it.
    """

    begins: np.ndarray
    joins: np.ndarray
    attaches: np.ndarray


def word_tables(tokenizer: PreTrainedTokenizerFast) -> WordTables:
    """Which tokens begin a word, and which a following token can join.

    A word begins at a token with a leading space, at one that is not a letter or digit, and after any token that does
    not end in a letter or digit. WordPiece says it by itself: what has no `##` begins a word.

    Scripts that set no space between words (`_UNSPACED`: Chinese, Japanese, Thai, Lao, Khmer, Burmese and a few more)
    would make a word of a whole sentence: there every token is a word of its own, but for one that begins with a
    combining mark (a vowel sign, a tone), which belongs to the letter before it; bytes of a mark that byte-level BPE
    cuts do not.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tables = WordTables(*(np.full(num_ids(tokenizer), value) for value in (True, False, False)))
    if model["type"] == "WordLevel":  # whose entries are words
        return tables
    prefix = (model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None) or ""
    byte_of = byte_level_alphabet()
    byte_level = "ByteLevel" in tokenizer.backend_tokenizer.to_str()
    added = set(tokenizer.added_tokens_decoder)  # stand in the vocabulary as plain text, such as runs of spaces
    special = set(special_ids(tokenizer))
    for token, i in tokenizer.get_vocab().items():
        if i in special or not token:
            continue
        text = token.replace("▁", " ")
        if prefix:
            text = token.removeprefix(prefix) or token
        elif byte_level and i not in added:
            raw = bytes(byte_of[c] for c in token if c in byte_of)
            text = raw.decode("utf-8", errors="replace") or token
            if raw and 0x80 <= raw[0] < 0xC0:  # the middle of a character
                tables.begins[i], tables.joins[i] = False, True
                continue
        tables.attaches[i] = _is_mark(text[0])
        if prefix:
            goes_on = token.startswith(prefix) and not is_unspaced(text[0])
            tables.begins[i], tables.joins[i] = not goes_on, True
        else:
            tables.begins[i] = not (_in_word(text[0]) or tables.attaches[i])
            # a lone space opens the word it precedes
            tables.joins[i] = _in_word(text[-1]) or text[-1] == "\ufffd" or text == " "
    return tables


def _in_word(character: str) -> bool:
    """Whether a character joins its neighbours into a word: letters, marks and digits of scripts with spaces."""
    return (character.isalnum() or _is_mark(character)) and not is_unspaced(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def is_unspaced(character: str) -> bool:
    """Whether a character is a letter or digit of a script that sets no space between words."""
    is_letter = character.isalnum() and not _is_mark(character)
    return is_letter and unicodedata.name(character, "").startswith(_UNSPACED)


def byte_level_alphabet() -> dict[str, int]:
    """Character -> byte in byte-level BPE (Radford et al. 2019): printable bytes stay, the rest follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return alphabet | {chr(256 + n): b for n, b in enumerate(others)}
