"""A look at a pretrained model: masks filled, texts continued, by plain transformers from the folder on disk."""

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast, pipeline

from nlp_ssl.data.tokens import TokenCorpus

WORDS, LETTERS = 24, 4


def held_out_texts(tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    """Beginnings of `count` held-out documents of enough words, spread evenly over them."""
    texts = []
    for document in range(tokens.num_documents):
        text = tokenizer.decode(tokens.document(document)[: 3 * WORDS], skip_special_tokens=True)
        words = text.split()
        if len(words) >= WORDS and sum(w.isalpha() for w in words[:WORDS]) > WORDS // 2:
            texts.append(" ".join(words[:WORDS]))
        if len(texts) >= 40 * count:
            break
    return texts[:: max(1, len(texts) // count)][:count]


def fill_masks(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 3, top: int = 3
) -> Iterator[str]:
    """Mask a word in held-out sentences and let `pipeline("fill-mask", folder)` guess it; one line each."""
    fill = pipeline("fill-mask", str(folder), top_k=top, device="cpu")
    for text in held_out_texts(tokens, tokenizer, count):
        words = text.split()
        middle = sorted(range(3, len(words)), key=lambda i: abs(i - len(words) // 2))
        choices = [
            i for i in middle if words[i].isalpha() and len(words[i]) >= LETTERS and _is_one_token(tokenizer, words[i])
        ]
        if not choices:
            continue
        at = choices[0]
        truth, words[at] = words[at], tokenizer.mask_token
        guesses = fill(" ".join(words))
        listed = ", ".join(f"{_shown(guess['token_str'])} {guess['score']:.0%}" for guess in guesses)
        yield f"{' '.join(words[max(0, at - 8) : at + 8])}  ->  {listed}  (it was: {truth})"


def _is_one_token(tokenizer: PreTrainedTokenizerFast, word: str) -> bool:
    return len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def _shown(token: str) -> str:
    """A token for the eye: without its leading space; white space alone as Python writes it."""
    return token.strip() or repr(token)


def continue_texts(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 2, new_tokens: int = 32
) -> Iterator[str]:
    """Let `pipeline("text-generation", folder)` continue the first words of held-out documents; one line each."""
    generate = pipeline("text-generation", str(folder), device="cpu")
    for text in held_out_texts(tokens, tokenizer, count):
        start = " ".join(text.split()[:8])
        output = generate(
            start, max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.3, return_full_text=False
        )
        yield f"{start} | {' '.join(output[0]['generated_text'].split())}"
