"""Train a tokenizer on a corpus, save it, and audit it on held-out text.

    python recipes/train_tokenizer.py
    python recipes/train_tokenizer.py --config recipes/configs/tokenizer_bpe_32k.yaml --data.sources "text/*.jsonl.gz"
    python recipes/train_tokenizer.py --tokenizer.kind wordpiece --tokenizer.vocab_size 30522 --tokenizer.lowercase
    python recipes/train_tokenizer.py --compare '[openai-community/gpt2]'      # and audit another one beside it

It runs on the CPU, in one process. With no options it trains byte-level BPE on the built-in corpus, which takes no
network. The folder that it writes is what `--tokenizer.path` and `AutoTokenizer.from_pretrained` take.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import Groups
from nlp_ssl.config.pretraining import CorpusConfig, TokenizerConfig
from nlp_ssl.core import program
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.libraries import importing

AUDIT_BYTES = 4e6  # more held-out text would not move the numbers


@dataclass
class TokenizerRunConfig:
    """Training one tokenizer."""

    EVERYDAY: ClassVar[Groups] = {
        "The tokenizer": (
            *("output_dir", "tokenizer.kind", "tokenizer.vocab_size", "tokenizer.lowercase"),
            *("tokenizer.special_tokens", "tokenizer.sample_mb", "tokenizer.model_max_length", "compare"),
        ),
        "Text": (
            *("data.sources", "data.text_column", "data.txt_documents", "data.on_bad_text"),
            *("data.max_documents", "data.held_out", "data.held_out_fraction"),
        ),
    }
    output_dir: str = "runs/tokenizer"
    """Folder of the finished tokenizer. One that is there already is replaced, anything else refused."""
    data: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    compare: list[str] = field(default_factory=list)
    """Other tokenizers, Hub ids or folders, to audit on the same held-out text."""


def main(config: TokenizerRunConfig) -> None:
    """Train, save, audit."""
    with importing():
        from nlp_ssl.data.text.corpus import open_corpus
        from nlp_ssl.data.tokens import tokenizer as tokenizers
        from nlp_ssl.data.tokens.tokenizer_audit import audit, format_audit, pieces

    wanted = config.tokenizer
    if wanted.path:
        raise UserError("this recipe trains a new tokenizer: to audit an existing one, name it with --compare")
    tokenizers.check_tokenizer_folder(config.output_dir)
    others = {path: tokenizers.load_tokenizer(path) for path in config.compare}

    corpus = open_corpus(config.data)
    say(corpus.description)
    vocab_size = wanted.vocab_size
    if vocab_size is None:
        vocab_size = tokenizers.derive_vocab_size(tokenizers.num_text_bytes(corpus.train))
        say(f"vocabulary: {vocab_size:,} entries, derived from the size of the corpus")

    tokenizer = tokenizers.train_tokenizer(
        texts(corpus.train),
        wanted.kind or "bpe",
        vocab_size,
        lowercase=wanted.lowercase,
        special_tokens=wanted.special_tokens,
        model_max_length=wanted.model_max_length,
        sample_bytes=wanted.sample_mb * 1e6,
        exact=wanted.vocab_size is not None,
    )
    tokenizers.save_tokenizer(tokenizer, config.output_dir)
    say(f"saved in {config.output_dir}")

    held_out = list(at_most(AUDIT_BYTES, texts(corpus.held_out)))
    audits = {config.output_dir: audit(tokenizer, held_out)}
    audits |= {path: audit(other, held_out, baseline=tokenizer) for path, other in others.items()}
    say("\non held-out text:\n" + format_audit(audits))
    if held_out:
        sentence = " ".join(held_out[0].split())[:120]
        say(f"\n{sentence}\n-> {' | '.join(pieces(tokenizer, sentence))}")


def texts(documents: Iterable[dict[str, str]]) -> Iterator[str]:
    """The texts of a data set."""
    return (document["text"] for document in documents)


def at_most(num_bytes: float, stream: Iterator[str]) -> Iterator[str]:
    """The first texts of a stream, until there are `num_bytes` of them."""
    for text in stream:
        yield text
        num_bytes -= len(text.encode())
        if num_bytes <= 0:
            return


if __name__ == "__main__":
    program.run(main, lambda: parse(TokenizerRunConfig, __doc__))
