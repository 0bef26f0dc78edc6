"""Which ids a tokenizer has, and which of them are not text."""

import re

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # the text of such an entry is its byte, whatever a tokenizer.json says of it


def num_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest id and one: as many entries as an array needs that an id is the index of.

    `len(tokenizer)` is less where a vocabulary has holes.
    """
    return max(*tokenizer.get_vocab().values(), *tokenizer.all_special_ids, len(tokenizer) - 1) + 1


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of special tokens, sorted: those with a role, and all that the tokenizer was told are special."""
    added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {i for i, token in added.items() if not _BYTE.fullmatch(token.content)}
    return sorted(named | set(tokenizer.all_special_ids))
