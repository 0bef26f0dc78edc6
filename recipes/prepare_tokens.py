"""Tokenise and pack a corpus, once, before training: on many cores, or in shards on many machines.

    python recipes/prepare_tokens.py --data.sources 'corpus/*.jsonl.gz' --model.name modernbert-base

The training recipe, given the same options, finds the result in the cache. On four machines that share a folder, the
same command with `--tokens.folder tokens --tokenizer.path my-tokenizer --tokens.num_shards 4 --tokens.shard 0` (then 1,
2, 3); whoever is last finishes, and training is given the first two of these.
"""

from typing import ClassVar

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import Groups, options
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core import console, program
from nlp_ssl.core.libraries import importing


@options
class TokensRunConfig(MLMConfig):
    """Tokenising and packing one corpus: the options of the pretraining run that it is for."""

    EVERYDAY: ClassVar[Groups] = {
        "Text": (
            *("data.sources", "data.text_column", "data.txt_documents", "data.on_bad_text"),
            *("data.max_documents", "data.held_out", "data.held_out_fraction"),
        ),
        "Tokenizer and model": ("model.name", "tokenizer.path", "tokenizer.kind", "tokenizer.vocab_size"),
        "Tokens": (
            *("tokens.folder", "tokens.sequence_length", "tokens.packing", "tokens.num_proc"),
            *("tokens.shard", "tokens.num_shards"),
        ),
    }


def main(config: TokensRunConfig) -> None:
    """The first part of a pretraining run, and no more."""
    with importing():
        from nlp_ssl.runs import pretraining_data

    if pretraining_data.prepare_shard(config):
        console.say("done: the training recipe finds these tokens when it is given the same options")
    else:
        console.say(
            f"shard {config.tokens.shard} is done; other shards of {config.tokens.num_shards} are still missing"
        )


if __name__ == "__main__":
    program.run(main, lambda: parse(TokensRunConfig, __doc__))
