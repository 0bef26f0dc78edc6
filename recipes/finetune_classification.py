"""Fine-tune a model to classify texts or pairs of texts, or to score them.

    accelerate launch recipes/finetune_classification.py

takes the model in runs/mlm and teaches it which library a piece of documentation is about, on a laptop's CPU too. With
rows of your own (csv, json, parquet; the label per word, a number of a class, or a score):

    accelerate launch recipes/finetune_classification.py --data.train_file train.csv --data.validation_file dev.csv

or from the Hub:

    accelerate launch recipes/finetune_classification.py --data.task glue/sst2 --model.name answerdotai/ModernBERT-base

and without pretraining, for comparison: add --model.from_scratch. A number to trust: add --seeds '[0, 1, 2]'.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.finetuning import ClassificationConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: ClassificationConfig) -> None:
    """Labelled rows, a head on the model, training, the numbers."""
    with importing():
        from nlp_ssl.objectives.classification import Classification
        from nlp_ssl.runs.multi_seed import finetune

    finetune(config, Classification)


if __name__ == "__main__":
    program.run(main, lambda: parse(ClassificationConfig, __doc__))
