"""Pretrain a masked diffusion language model (MDLM, LLaDA), from scratch, or continue from a masked language model.

    accelerate launch recipes/pretrain_diffusion.py

trains a small encoder to predict masked tokens at every mask rate, so that it makes text by filling masks in any order,
and leaves it in runs/diffusion. On from a masked language model, which it takes a short time to make one of these:

    accelerate launch recipes/pretrain_diffusion.py --model.name runs/mlm --train.steps 1000

With text of your own, on a GPU:

    accelerate launch recipes/pretrain_diffusion.py \\
        --data.sources 'corpus/*.jsonl.gz' --model.name modernbert-base --train.tokens 10e9 --output_dir runs/mine
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.diffusion import DiffusionConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: DiffusionConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.diffusion import MaskedDiffusion
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, MaskedDiffusion)

    # the model, and how it learns
    run = pretraining.start(config, MaskedDiffusion, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # gaps that it fills, and a text of its own
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(DiffusionConfig, __doc__))
