"""Where sentences begin among tokens: a rule on the vocabulary, for objectives that cut texts into sentences.

A sentence begins behind a full stop, a question or exclamation mark, or their like in other scripts, and the quotes and
brackets that close behind it, where a space follows; Chinese and Japanese marks need none. WordPiece keeps no spaces:
there the next token must begin a word, with a letter, and where the vocabulary has capitals with none that is small.
Abbreviations count as ends of sentences, and a mark that byte-level BPE cuts into bytes does not.
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
    """Of every token id, bool, shape (highest id + 1,).

    Attributes:
        ends: it ends in one of `MARKS`, and what closes behind it.
        ends_without_space: it ends in one of `MARKS_WITHOUT_SPACE` in the same way.
        closes: it is nothing but what closes.
        begins: a sentence may begin with it, after a mark that a space follows.
    """

    ends: np.ndarray
    ends_without_space: np.ndarray
    closes: np.ndarray
    begins: np.ndarray


def sentence_tables(tokenizer: PreTrainedTokenizerFast) -> SentenceTables:
    """What `sentence_begins` must know of a vocabulary."""
    backend = tokenizer.backend_tokenizer
    described = json.loads(backend.to_str())
    byte_level = "ByteLevel" in json.dumps([described["pre_tokenizer"], described["decoder"]])
    keeps_spaces = byte_level or described["model"]["type"] in ("Unigram", "BPE")
    prefix = described["model"].get("continuing_subword_prefix") or ""
    vocabulary = tokenizer.get_vocab()
    has_capitals = any(token in vocabulary for token in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    tables = SentenceTables(*(np.zeros(num_ids(tokenizer), dtype=bool) for _ in range(4)))
    special = set(special_ids(tokenizer))
    for token, i in vocabulary.items():
        text = backend.decoder.decode([token]) if byte_level else token.replace("\u2581", " ")
        if i in special or not text:
            continue
        end = text.rstrip().rstrip(CLOSING)
        tables.ends[i] = end.endswith(tuple(MARKS))
        tables.ends_without_space[i] = end.endswith(tuple(MARKS_WITHOUT_SPACE))
        tables.closes[i] = not text.strip(CLOSING)
        if keeps_spaces:
            tables.begins[i] = text[0].isspace() or is_unspaced(text[0])  # NFKC makes ASCII marks of Chinese ones
        else:
            goes_on = prefix and token.startswith(prefix)
            tables.begins[i] = not goes_on and text[0].isalpha() and not (has_capitals and text[0].islower())
    return tables


def sentence_begins(input_ids: np.ndarray, tables: SentenceTables) -> np.ndarray:
    """Where a sentence begins behind another one.

    Args:
        input_ids: int64, (B, S); special tokens end and begin none.
        tables: of the vocabulary.

    Returns:
        bool, (B, S).
    """
    closes = tables.closes[input_ids]
    ended, ended_without_space = (table[input_ids] for table in tables[:2])
    for _ in range(2):  # two closing tokens behind the mark at most
        ended = ended | (closes & _before(ended))
        ended_without_space = ended_without_space | (closes & _before(ended_without_space))
    is_mark = tables.ends[input_ids] | tables.ends_without_space[input_ids]
    return (_before(ended) & tables.begins[input_ids]) | (_before(ended_without_space) & ~closes & ~is_mark)


def _before(values: np.ndarray) -> np.ndarray:
    """What stands one place to the left of each; bool, (B, S)."""
    return np.pad(values, ((0, 0), (1, 0)))[:, :-1]
