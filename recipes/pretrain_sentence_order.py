"""Pretrain a masked language model that also tells whether two parts of a text stand in order (ALBERT).

    accelerate launch recipes/pretrain_sentence_order.py

trains a small encoder on the documentation of the installed Python packages and leaves it in runs/sentence_order. Texts
need sentences: documents of one are masked alone, and counted. With text of your own, and BERT's shape, which has
segments:

    accelerate launch recipes/pretrain_sentence_order.py \\
        --data.sources 'corpus/*.jsonl.gz' --model.name bert-base --train.tokens 3e9 --output_dir runs/mine

on from a trained model `--model.name runs/mlm`. `--sentence_order.task nsp` asks whether both parts are of one text, as
BERT was asked.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.sentence_order import SentenceOrderConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: SentenceOrderConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.sentence_order import SentenceOrder
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences with room for pairs, on disk, once
    data = pretraining_data.prepare(config, SentenceOrder)

    # the model with a head for the order, and how they learn
    run = pretraining.start(config, SentenceOrder, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(SentenceOrderConfig, __doc__))
