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
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from nlp_ssl.core.errors import UserError
from nlp_ssl.core.vocabulary import special_ids

T = TypeVar("T", bound=PreTrainedTokenizerBase)
Text = TypeVar("Text")
Made = TypeVar("Made")

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


def read_each(read: Callable[[Sequence[Text]], Made], texts: Sequence[Text]) -> Made:
    """What a tokenizer makes of a batch of texts; the one at which it breaks down is named.

    A rule of a tokenizer.json, such as a regular expression, may fail on single texts, at which the tokenizers library
    panics: an error that is no `Exception` and that no process can hand to another.

    Args:
        read: calls the tokenizer with texts.
        texts: or whatever it is that `read` takes several of.

    Raises:
        UserError: there is such a text.
    """
    try:
        return read(texts)
    except BaseException as error:
        if not is_panic(error):
            raise
        said = " ".join(str(error).split())[:160]
    for text in texts:
        try:
            read([text])
        except BaseException as error:
            if not is_panic(error):
                raise
            raise UserError(
                f"the tokenizer cannot read this text ({said}), which begins {str(text)[:80]!r}; take the text out, or "
                "take another tokenizer"
            ) from None
    raise UserError(f"the tokenizer broke down ({said}); take another one")


def is_panic(error: BaseException) -> bool:
    """Whether an error is Rust's, which no class names that could be imported."""
    return type(error).__name__ == "PanicException"


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
