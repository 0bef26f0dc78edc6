"""Which tokens of a text belong to which of its words, and which of them `pipeline("token-classification")` reads.

Tokenizers differ in how they mark a word: `Ġword`, `▁word`, a blank as a token of its own (`▁`, `Ġ`) before it, `##` on
all but its first token, bytes of one character as several tokens with the same place in the text. So everything here
goes by places in the text as it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from nlp_ssl.data.labelled.detokenize import Span, as_written
from nlp_ssl.data.tokens.text_only import text_only

Reading = Literal["first", "simple"]

_BLANK_MARKS = "▁Ġ "
_UNREAD = 0.05  # a larger share of words that "first" does not read, and the model is read with "simple"
_LOOKED_AT = 1_000  # sentences


@dataclass(frozen=True)
class WordTokens:
    """The tokens of one sentence.

    Attributes:
        ids: without those that a template puts around a text.
        words: the word that each token belongs to. A token that is a blank belongs to the word behind it, and a token
            that runs from one word into the next to the one where it begins.
        is_blank: whether a token has no character of a word.
        first: each word's first token with a character of it; `None` for a word without a token, and for one whose
            first token is already that of the word before.
        has_token: whether a word has a token at all.
        begins: whether `aggregation_strategy="first"` takes a token for the beginning of a word.
        run_on: the text of each token that runs from one word into the next.
    """

    ids: list[int]
    words: list[int]
    is_blank: list[bool]
    first: list[int | None]
    has_token: list[bool]
    begins: list[bool]
    run_on: list[str]


def word_tokens(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[str]],
    reader: PreTrainedTokenizerBase | None = None,
) -> list[WordTokens]:
    """Tokenise sentences, given as words, as they are written; a word that spells a special token is text.

    Args:
        tokenizer: a fast one.
        sentences: the words of each; at least one.
        reader: `text_only(tokenizer)`, from callers that have it already.
    """
    texts = [as_written(words) for words in sentences]
    encoded = (text_only(tokenizer) if reader is None else reader)(
        [text for text, _ in texts],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [
        _align(tokenizer, text, spans, ids, [(int(start), int(end)) for start, end in offsets])
        for (text, spans), ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def choose_reading(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]]) -> Reading:
    """How `pipeline` is to read a tagger of such sentences.

    `"first"` reads the first token of a word, where words are what blanks, or a WordPiece tokenizer, set apart. Where
    text is written without blanks most tokenizers leave it nothing to go by, and it reads one token of a sentence; then
    it is `"simple"`, which reads every token.

    Args:
        tokenizer: a fast one.
        sentences: the words of each; some, spread evenly, are looked at.
    """
    sample = [words for words in sentences[:: max(1, len(sentences) // _LOOKED_AT)] if words]
    if not sample:
        return "first"
    read = [found.begins[at] for found in word_tokens(tokenizer, sample) for at in found.first if at is not None]
    return "simple" if read and read.count(False) > _UNREAD * len(read) else "first"


def _align(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: list[Span], ids: list[int], offsets: list[Span]
) -> WordTokens:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    first: list[int | None] = [None] * len(spans)
    has_token = [False] * len(spans)
    owners: list[int | None] = []
    is_blank, run_on, word = [], [], 0
    for at, (token, (start, end)) in enumerate(zip(tokens, offsets, strict=True)):
        surface = text[start:end]
        is_blank.append(_is_blank(token, surface))
        if is_blank[-1]:
            owners.append(None)
            continue
        start += len(surface) - len(surface.lstrip())
        while word < len(spans) - 1 and spans[word][1] <= start:
            word += 1
        owners.append(word)
        is_free, num_words = True, 0
        for i in range(word, len(spans)):
            if spans[i][0] >= end:
                break
            if spans[i][0] == spans[i][1]:
                continue
            num_words += 1
            if not has_token[i]:
                has_token[i] = True
                if is_free:
                    first[i], is_free = at, False
        if num_words > 1:
            run_on.append(surface.strip())
    words, behind = [0] * len(owners), len(spans) - 1
    for at in reversed(range(len(owners))):
        owner = owners[at]
        words[at] = behind = behind if owner is None else owner
    begins = _begins(tokenizer, text, ids, tokens, offsets)
    return WordTokens(ids, words, is_blank, first, has_token, begins, run_on)


def _is_blank(token: str, surface: str) -> bool:
    """Whether a token stands for a blank alone, though its place may be that of the character behind (XLM-R's `▁`)."""
    shown = surface.strip()
    return not shown or (not token.strip(_BLANK_MARKS) and shown not in token)


def _begins(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], tokens: list[str], offsets: list[Span]
) -> list[bool]:
    """The rule of `TokenClassificationPipeline.gather_pre_entities` of transformers 5, for a fast tokenizer."""
    knows_words = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    found: list[bool] = []
    for token_id, token, (start, end) in zip(ids, tokens, offsets, strict=True):
        if token_id == tokenizer.unk_token_id or not found:
            found.append(True)
        elif knows_words:
            found.append(len(token) == len(text[start:end]))
        else:
            found.append(start == 0 or " " in text[start - 1 : start + 1])
    return found
