"""Pretrain an encoder-decoder by span corruption (T5), from scratch, or continue from one.

    accelerate launch recipes/pretrain_seq2seq.py

trains a tokenizer with T5's blanks and a small T5 on the documentation of the installed Python packages, in five
minutes on a CPU: the encoder reads a text without 15 % of its tokens, the decoder writes them. With text of your own,
on a GPU:

    accelerate launch recipes/pretrain_seq2seq.py \\
        --data.sources 'corpus/*.jsonl.gz' --model.name t5-base --train.tokens 1e9 --output_dir runs/mine

`--noise.kind infilling --model.name bart-base` reads and writes as BART does, and `--noise.permute_sentences true`
shuffles the sentences that are read. `--model.name google/t5-v1_1-small` continues from a model of the Hub.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.span_corruption import SpanCorruptionConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: SpanCorruptionConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.span_corruption import SpanCorruption
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, SpanCorruption)

    # the model, and how it learns
    run = pretraining.start(config, SpanCorruption, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(SpanCorruptionConfig, __doc__))
