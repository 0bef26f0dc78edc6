"""A look at a pretrained model: masks filled, texts continued, by plain transformers from the folder on disk."""

import re
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast, pipeline

from nlp_ssl.data.tokens.token_corpus import TokenCorpus

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
    for text in held_out_paragraphs(tokens, tokenizer, count):
        if tokenizer.mask_token in text:  # which spells it, and the pipeline would fill that too
            continue
        words = [match for match in CHOICE.finditer(text) if _is_one_token(tokenizer, match[0])]
        if not words:
            continue
        word = words[len(words) // 2]
        masked = text[: word.start()] + tokenizer.mask_token + text[word.end() :]
        listed = ", ".join(f"{_shown(guess['token_str'])} {guess['score']:.0%}" for guess in fill(masked))
        yield f"{' '.join(masked.split())}  ->  {listed}  (it was: {word[0]})"


def _is_one_token(tokenizer: PreTrainedTokenizerFast, word: str) -> bool:
    return len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def _shown(token: str) -> str:
    """A token for the eye: without its leading space; white space alone as Python writes it."""
    return token.strip() or repr(token)


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
