"""Tokenise and pack a corpus, once, before training: on many cores, or in shards on many machines.

    python recipes/prepare_tokens.py --data.sources 'corpus/*.jsonl.gz' --model.name modernbert-base

The training recipe, given the same options, finds the result in the cache. On four machines that share a folder, the
same command with `--tokens.folder tokens --tokenizer.path my-tokenizer --tokens.num_shards 4 --tokens.shard 0` (then 1,
2, 3); whoever is last finishes, and training is given the first two of these.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core import console, program
from nlp_ssl.core.libraries import importing


def main(config: MLMConfig) -> None:
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
    program.run(main, lambda: parse(MLMConfig, __doc__))
