"""Train an encoder whose vectors say how alike texts are: contrastive pretraining, best continued from a masked model.

    accelerate launch recipes/pretrain_contrastive.py --model.name runs/mlm

draws the vectors of two crops of each document together and away from those of the other documents of the step. The
numbers of step 0 are those of the model that it continues from. Without a name that is a small encoder from scratch, on
the built-in corpus, for a few minutes on a CPU. sentence-transformers loads the finished folder as it is.

Negatives of past steps, from a momentum encoder, or none at all:

    accelerate launch recipes/pretrain_contrastive.py --model.name runs/mlm --contrastive.loss moco
    accelerate launch recipes/pretrain_contrastive.py --model.name runs/mlm --contrastive.loss byol

Crops of long texts teach topics. For vectors of sentences give short sequences, --tokens.sequence_length 128, or read
the same text twice, under other dropout (SimCSE), one sentence a line:

    accelerate launch recipes/pretrain_contrastive.py --model.name bert-base-uncased --model.dropout 0.1 \\
        --data.sources sentences.txt --data.txt_documents line --contrastive.view dropout \\
        --contrastive.pooling cls --contrastive.head mlp --optimizer.lr 3e-5
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.contrastive import ContrastiveConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: ContrastiveConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.contrastive import Contrastive
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, Contrastive)

    # the encoder, and how it learns
    run = pretraining.start(config, Contrastive, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # which texts does it hold for alike?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(ContrastiveConfig, __doc__))
