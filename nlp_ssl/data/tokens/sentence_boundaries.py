"""Where sentences begin and end among tokens: a rule on the vocabulary, for objectives that cut texts into sentences.

A sentence ends at a full stop, a question or exclamation mark, or their like in other scripts, with the quotes and
brackets that close behind it. The next one begins at the space, or the line, behind; Chinese and Japanese need none.
WordPiece keeps no spaces: there the next token must begin a word, with a letter, and where the vocabulary has capitals
with none that is small. Abbreviations count as ends of sentences, and a mark that byte-level BPE cuts into bytes does
not.
"""

import json
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.vocabulary import num_ids, special_ids
from nlp_ssl.data.tokens.word_boundaries import is_unspaced

MARKS = ".!?\u2026\u061f\u06d4\u0964\u0965\u1362"  # ... ؟ (Arabic) ۔ (Urdu) । ॥ (Devanagari) ። (Ethiopic)
MARKS_WITHOUT_SPACE = "\u3002\uff01\uff1f\uff0e\uff61"  # 。！？．｡
CLOSING = "\"')]}\u201d\u2019\u00bb\u203a\u300d\u300f\u300b\u3009\u3011\uff09"  # and ” ’ » › 」 』 》 〉 】 ）


class SentenceTables(NamedTuple):
    """Of every token id, shape (highest id + 1,); bool, and `first` int64.

    Attributes:
        ends: it ends in one of `MARKS`, and what closes behind it.
        ends_without_space: it ends in one of `MARKS_WITHOUT_SPACE` in the same way.
        closes: it is nothing but what closes.
        blank: it is nothing but white space.
        begins: a sentence may begin with it, behind a mark that a space follows.
        first: the entry of the same word behind a space, as which a sentence begins wherever it stood; -1 for none.
    """

    ends: np.ndarray
    ends_without_space: np.ndarray
    closes: np.ndarray
    blank: np.ndarray
    begins: np.ndarray
    first: np.ndarray


class Sentences(NamedTuple):
    """Of every token, bool, (B, S).

    Attributes:
        begins: a sentence begins with it behind another one, and has an entry behind a space.
        ends: a sentence ends with it.
    """

    begins: np.ndarray
    ends: np.ndarray


def sentence_tables(tokenizer: PreTrainedTokenizerFast) -> SentenceTables:
    """What `sentences` must know of a vocabulary."""
    backend = tokenizer.backend_tokenizer
    described = json.loads(backend.to_str())
    byte_level = "ByteLevel" in json.dumps([described["pre_tokenizer"], described["decoder"]])
    keeps_spaces = byte_level or described["model"]["type"] in ("Unigram", "BPE")
    prefix = described["model"].get("continuing_subword_prefix") or ""
    vocabulary = tokenizer.get_vocab()
    has_capitals = any(token in vocabulary for token in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    space = "\u0120" if byte_level else "\u2581"  # as tokens write it
    size = num_ids(tokenizer)
    ends, ends_without_space, closes, blank, begins = (np.zeros(size, dtype=bool) for _ in range(5))
    tables = SentenceTables(ends, ends_without_space, closes, blank, begins, np.arange(size))
    special = set(special_ids(tokenizer))
    for token, i in vocabulary.items():
        text = backend.decoder.decode([token]) if byte_level else token.replace(space, " ")
        if i in special or not text:
            continue
        end = text.rstrip(CLOSING)
        tables.ends[i] = end.endswith(tuple(MARKS))
        tables.ends_without_space[i] = end.endswith(tuple(MARKS_WITHOUT_SPACE))
        tables.closes[i] = not text.strip(CLOSING)
        tables.blank[i] = text.isspace()
        if not keeps_spaces:
            goes_on = prefix and token.startswith(prefix)
            tables.begins[i] = not goes_on and text[0].isalpha() and not (has_capitals and text[0].islower())
        elif not tables.blank[i]:
            word = token.removeprefix(space)
            tables.begins[i] = text[0].isspace() or is_unspaced(text[0])  # NFKC makes ASCII marks of Chinese ones
            initial = text.lstrip()[0]
            spaced = vocabulary.get(space + word, -1 if initial.isalnum() else i)
            tables.first[i] = vocabulary.get(word, -1) if is_unspaced(initial) else spaced
    return tables


def sentences(input_ids: np.ndarray, tables: SentenceTables) -> Sentences:
    """Where sentences begin and end.

    Args:
        input_ids: int64, (B, S); special tokens end and begin none.
        tables: of the vocabulary.
    """
    closes, blank = tables.closes[input_ids], tables.blank[input_ids]
    marks, marks_without_space = (table[input_ids] for table in tables[:2])
    ends, ends_without_space = marks, marks_without_space
    for _ in range(2):  # two closing tokens behind the mark at most
        ends = ends | (closes & _before(ends))
        ends_without_space = ends_without_space | (closes & _before(ends_without_space))
    ended = _before(ends)
    ended_without_space = _before(ends_without_space) & ~closes & ~marks & ~marks_without_space
    begins = (ended & tables.begins[input_ids]) | ended_without_space
    ended = ends | ends_without_space
    for _ in range(2):  # two blank tokens, such as ends of lines, between sentences at most
        ended = blank & _before(ended)
        begins |= _before(ended) & ~closes
    return Sentences(begins & ~blank & (tables.first[input_ids] >= 0), ends | ends_without_space)


def _before(values: np.ndarray) -> np.ndarray:
    """What stands one place to the left of each; bool, (B, S)."""
    return np.pad(values, ((0, 0), (1, 0)))[:, :-1]
