"""A look at a pretrained model: masks filled, texts continued, by plain transformers from the folder on disk."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor, pipeline

from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.attention import ISOLATED
from nlp_ssl.models.loading import find_config, model_class
from nlp_ssl.models.packed import PackedModel

WORDS = 10  # of a paragraph that is worth looking at
CHOICE = re.compile(r"(?<= )[^\W\d_]{4,}(?=[ ,.])")  # a word inside running text, where its mask has a space before it


def held_out_paragraphs(tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    """First paragraphs of held-out documents that read like prose, as they stand there, spread evenly."""
    found = []
    for document in range(min(tokens.num_documents, 100 * count)):
        text = tokenizer.decode(tokens.document(document)[:64], skip_special_tokens=True).split("\n\n")[0].strip()
        words = text.split()
        if len(words) >= WORDS and sum(word.strip(".,").isalpha() for word in words) > 0.8 * len(words):
            found.append(text)
    return found[:: max(1, len(found) // count)][:count]


def fill_masks(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 3, top: int = 3
) -> Iterator[str]:
    """Mask a word in held-out sentences and let `pipeline("fill-mask", folder)` guess it; one line each."""
    fill = pipeline("fill-mask", str(folder), top_k=top, device="cpu", trust_remote_code=False)
    for masked, word in masked_words(tokens, tokenizer, count):
        guesses = [(guess["token_str"], guess["score"]) for guess in fill(masked)]
        yield filled(masked, word, guesses)


def masked_words(tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int) -> Iterator[tuple[str, str]]:
    """Held-out paragraphs with a word masked, and that word."""
    for text in held_out_paragraphs(tokens, tokenizer, count):
        if tokenizer.mask_token in text:  # which spells it, and the pipeline would fill that too
            continue
        words = [match for match in CHOICE.finditer(text) if _is_one_token(tokenizer, match[0])]
        if not words:
            continue
        word = words[len(words) // 2]
        yield text[: word.start()] + tokenizer.mask_token + text[word.end() :], word[0]


def filled(masked: str, word: str, guesses: Iterable[tuple[str, float]]) -> str:
    """A line: a masked text, the guesses with their probabilities, and what it was."""
    listed = ", ".join(f"{_shown(token)} {score:.0%}" for token, score in guesses)
    return f"{' '.join(masked.split())}  ->  {listed}  (it was: {word})"


@torch.no_grad()
def fill_masks_before(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 3, top: int = 3
) -> Iterator[str]:
    """Like `fill_masks`, by a model whose guess at a masked token stands at the token before it."""
    model = AutoModelForMaskedLM.from_pretrained(str(folder), trust_remote_code=False).eval()
    for masked, word in masked_words(tokens, tokenizer, count):
        inputs = tokenizer(masked, return_tensors="pt")
        mask = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0])
        scores, guesses = model(**inputs).logits[0, mask - 1].softmax(-1).topk(top)
        yield filled(masked, word, zip(map(tokenizer.decode, guesses), scores.tolist(), strict=True))


def _is_one_token(tokenizer: PreTrainedTokenizerFast, word: str) -> bool:
    return len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def _shown(token: str) -> str:
    """A token in quotes, without its leading space."""
    return repr(token.strip() or token)


def continue_texts(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 2, new_tokens: int = 32
) -> Iterator[str]:
    """Let `pipeline("text-generation", folder)` continue the first words of held-out documents; one line each."""
    generate = pipeline("text-generation", str(folder), device="cpu", trust_remote_code=False)
    for text in held_out_paragraphs(tokens, tokenizer, count):
        start = " ".join(text.split()[:8])
        output = generate(
            start, max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.3, return_full_text=False
        )
        yield f"{start} | {' '.join(output[0]['generated_text'].split())}"


@torch.no_grad()
def continue_causally(
    folder: Path,
    tokens: TokenCorpus,
    tokenizer: PreTrainedTokenizerFast,
    prefix: tuple[int, ...],
    suffix: tuple[int, ...],
    count: int = 2,
    new_tokens: int = 32,
) -> Iterator[str]:
    """Let an encoder that was also trained causally continue the first words of held-out documents; one line each.

    `pipeline` and `generate` are for decoders, so the likeliest next token is taken here, one after the other, as
    `continue_texts` has them taken.

    Args:
        folder: of the model.
        tokens: held-out text.
        tokenizer: of the model.
        prefix: what stands before a text.
        suffix: what ends it.
        count: texts.
        new_tokens: tokens to add, at most.
    """
    kind = model_class(find_config(str(folder)), AutoModelForMaskedLM)
    attention = {"attn_implementation": ISOLATED} if kind._supports_attention_backend else {}
    loaded = AutoModelForMaskedLM.from_pretrained(str(folder), trust_remote_code=False, **attention)
    model, penalty = PackedModel(loaded, isolated=True).eval(), RepetitionPenaltyLogitsProcessor(1.3)
    for text in held_out_paragraphs(tokens, tokenizer, count):
        start = " ".join(text.split()[:8])
        begun = [*prefix, *tokenizer.encode(start, add_special_tokens=False)]
        ids = torch.tensor([begun])
        while ids.shape[1] < min(len(begun) + new_tokens, tokenizer.model_max_length):
            where = {"document_ids": torch.ones_like(ids), "position_ids": torch.arange(ids.shape[1])[None]}
            following = penalty(ids, model(ids, **where, causal=True)[:, -1]).argmax(-1, keepdim=True)
            if suffix and following.item() == suffix[0]:
                break
            ids = torch.cat([ids, following], dim=1)
        yield f"{start} | {' '.join(tokenizer.decode(ids[0, len(begun) :]).split())}"
