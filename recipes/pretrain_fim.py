"""Pretrain a decoder that also fills in the middle of a text (FIM), from scratch, or continue from such a one.

    accelerate launch recipes/pretrain_fim.py

cuts half of the documents at two places and moves the middle to the end, so that a causal model learns to write it from
what stands before and behind. Five minutes on the built-in corpus; more with `--train.minutes`. With text of your own:

    accelerate launch recipes/pretrain_fim.py \\
        --data.sources 'corpus/*.jsonl.gz' --fim.rate 0.9 --train.tokens 1e9 --output_dir runs/mine

The prompt is `<|fim_prefix|>before<|fim_suffix|>behind<|fim_middle|>`; the model writes the middle and `<|fim_end|>`.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.fill_in_the_middle import InfillingConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: InfillingConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.fill_in_the_middle import FillInTheMiddle
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, FillInTheMiddle)

    # the model, which documents are rearranged for it, and how it learns
    run = pretraining.start(config, FillInTheMiddle, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(InfillingConfig, __doc__))
