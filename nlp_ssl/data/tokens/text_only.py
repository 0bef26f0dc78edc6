"""Reading text as text: a text that spells a special token (`<s>`, `[SEP]`, `<|endoftext|>`) does not become it.

A tokenizer as it is saved looks for its special tokens in every text, which lets people write prompts. In a corpus, or
in a labelled row, the same characters are HTML, a log or a paper about tokenizers: read as the special token they would
begin documents, hide words, and be free of loss while their bytes count.

Leaving out the search for special tokens (`encode_special_tokens`) is not enough: Unigram finds them again among its
pieces, and BPE and WordPiece where the characters are one word. So a copy of the tokenizer reads, in which they have
names that no text has; the ids stay.
"""

import copy
import json
from typing import Any, TypeVar

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from nlp_ssl.core.vocabulary import special_ids

T = TypeVar("T", bound=PreTrainedTokenizerBase)

_NAME = "\ufdd0{}\ufdd1"  # noncharacters, which Unicode keeps out of texts


def text_only(tokenizer: T) -> T:
    """A copy of a tokenizer to call: it reads every text as text, and its template puts special tokens around as ever.

    Unknown text still becomes the unknown token. The original is left as it is: it is the one to save, to pad with and
    to ask for special ids, which have other names in the copy.
    """
    reader = copy.copy(tokenizer)
    reader.split_special_tokens = True
    if reader.is_fast:
        reader._tokenizer = backend_of(text_rules(tokenizer))
    return reader


def backend_of(rules: str) -> Tokenizer:
    """The tokenizer that rules of `text_rules` describe."""
    backend = Tokenizer.from_str(rules)
    backend.encode_special_tokens = True  # not among the rules
    return backend


def text_rules(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a fast tokenizer does to text, as `tokenizer.json`: special tokens renamed, no padding and no truncation."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    special = [tokenizer.convert_ids_to_tokens(i) for i in special_ids(tokenizer)]
    names = {token: _NAME.format(token) for token in special}
    for added in rules["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    _rename_entries(rules["model"], names)
    return json.dumps(rules, ensure_ascii=False)


def _rename_entries(model: dict[str, Any], names: dict[str, str]) -> None:
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: pieces and their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    else:
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in names]
