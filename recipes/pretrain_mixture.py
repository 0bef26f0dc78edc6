"""Pretrain with several objectives over one model at once, from scratch, or continue with a model.

    accelerate launch recipes/pretrain_mixture.py

learns to fill masks from half of every step's sequences and to predict next tokens from the other half. With other
members, weights and text of their own, and labelled rows among them:

    accelerate launch recipes/pretrain_mixture.py --data.sources 'corpus/*.jsonl.gz' --train.tokens 1e9 --members '[
        {objective: mlm, share: 3, options: {masking.probability: 0.3}},
        {objective: rtd, share: 1},
        {objective: mlm, name: web, share: 1, options: {data.sources: web.txt}},
        {objective: supervised, weight: 0.1, options: {supervised.data.train_file: reviews.csv}}]'

The first member decides the head of the model in runs/mixture; each member is measured by its own numbers.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.mixture import MixtureConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: MixtureConfig) -> None:
    """Corpora, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.mixture import Mixture
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, Mixture)

    # the model, its members, and how they learn
    run = pretraining.start(config, Mixture, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(MixtureConfig, __doc__))
