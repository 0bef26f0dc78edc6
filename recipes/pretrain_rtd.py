"""Pretrain an encoder by replaced-token detection (ELECTRA), from scratch, or continue from one.

    accelerate launch recipes/pretrain_rtd.py

trains a small generator that fills masks, and a discriminator that finds what it filled in: every token is a target,
not only those behind masks. It needs a budget of many tokens: ten minutes on two cores are too few (README has the
numbers). The discriminator lies in runs/rtd, to be fine-tuned; the generator, a masked language model, in
runs/rtd/generator. With text of your own, and the embeddings of DeBERTaV3:

    accelerate launch recipes/pretrain_rtd.py \\
        --data.sources 'corpus/*.jsonl.gz' --model.name deberta-v2-base --rtd.embeddings disentangled \\
        --train.tokens 1e9 --output_dir runs/mine

`--model.name electra-small` gives a folder that `ElectraForPreTraining` loads with its head.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.rtd import ReplacedTokensConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: ReplacedTokensConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.rtd import ReplacedTokenDetection
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, ReplacedTokenDetection)

    # the generator and the discriminator, and how they learn
    run = pretraining.start(config, ReplacedTokenDetection, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what have they learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(ReplacedTokensConfig, __doc__))
