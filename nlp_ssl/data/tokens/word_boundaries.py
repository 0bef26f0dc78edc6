"""Which tokens begin a word, for masks of whole words."""

import json
import unicodedata

import numpy as np
from transformers import PreTrainedTokenizerFast


def word_tables(tokenizer: PreTrainedTokenizerFast) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens begin a word, and which a following token can join.

    A word begins at a token with a leading space, at one that is not a letter or digit, at a Chinese, Japanese kana or
    full-width character, and after any token that does not end in a letter or digit. WordPiece says it by itself: what
    has no `##` begins a word.

    Returns:
        `(begins, joins)`, bool, shape (vocabulary,): token t at position i begins a word if `begins[t]` or if the token
        before it has no `joins`.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    size = max(len(tokens), max(special) + 1)
    begins, joins = np.ones(size, dtype=bool), np.zeros(size, dtype=bool)
    prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
    byte_of = _byte_level_alphabet()
    byte_level = "ByteLevel" in tokenizer.backend_tokenizer.to_str()
    added = set(tokenizer.added_tokens_decoder)  # stand in the vocabulary as plain text, such as runs of spaces
    for i, token in enumerate(tokens):
        if i in special or not token:
            continue
        if prefix:
            begins[i], joins[i] = not token.startswith(prefix), True
            continue
        if byte_level and i not in added:
            raw = bytes(byte_of[c] for c in token if c in byte_of)
            text = raw.decode("utf-8", errors="replace")
            if 0x80 <= raw[0] < 0xC0:  # the middle of a character
                begins[i], joins[i] = False, True
                continue
        else:
            text = token.replace("▁", " ")
        begins[i] = not _in_word(text[0])
        joins[i] = _in_word(text[-1]) or text[-1] == "\ufffd" or text == " "  # a lone space opens the word it precedes
    return begins, joins


def _in_word(character: str) -> bool:
    """Whether a character joins its neighbours into a word: letters, marks and digits, but no Han or kana."""
    if not (character.isalnum() or unicodedata.category(character).startswith("M")):
        return False
    name = unicodedata.name(character, "")
    return not name.startswith(("CJK", "HIRAGANA", "KATAKANA", "FULLWIDTH"))


def _byte_level_alphabet() -> dict[str, int]:
    """Character -> byte in byte-level BPE (Radford et al. 2019): printable bytes stay, the rest follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return alphabet | {chr(256 + n): b for n, b in enumerate(others)}
