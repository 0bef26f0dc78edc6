"""Pretrain an encoder as a denoising autoencoder (TSDAE): documents are written anew from one vector.

    accelerate launch recipes/pretrain_autoencoder.py

takes the built-in corpus and a tiny model, and is done in minutes on a CPU. It is meant for an encoder that has learnt
its language already, and text of a domain without labels:

    accelerate launch recipes/pretrain_autoencoder.py \\
        --model.name runs/mlm --data.sources 'domain/*.txt' --train.epochs 3 --output_dir runs/domain-vectors

The finished folder gives vectors (`recipes/explore_embeddings.py --model.name runs/autoencoder`), in transformers and
in sentence-transformers. The vector may be a draw (`--autoencoder.bottleneck variational`) or a sparse code (`sparse`).
"""

from nlp_ssl.config.autoencoder import AutoencoderConfig
from nlp_ssl.config.command_line import parse
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: AutoencoderConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.autoencoder import DenoisingAutoencoder
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, DenoisingAutoencoder)

    # the encoder, what its vectors go through, and how they learn
    run = pretraining.start(config, DenoisingAutoencoder, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(AutoencoderConfig, __doc__))
