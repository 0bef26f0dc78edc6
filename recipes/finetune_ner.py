"""Fine-tune a model to tag words: names in news, parameters in documentation.

    accelerate launch recipes/finetune_ner.py

takes the model in runs/mlm and teaches it which words of a piece of documentation are parameters, types and exceptions.
With sentences of your own (CoNLL columns in IOB1, IOB2 or BIOES, or json rows with `tokens` and `ner_tags`):

    accelerate launch recipes/finetune_ner.py --data.train_file train.conll --data.validation_file dev.conll

or from the Hub:

    accelerate launch recipes/finetune_ner.py --data.task conll2003 --model.name answerdotai/ModernBERT-base

and without pretraining, for comparison: add --model.from_scratch. A number to trust: add --seeds '[0, 1, 2]'.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.finetuning import NERConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: NERConfig) -> None:
    """Labelled sentences, a head on the model, training, entity F1."""
    with importing():
        from nlp_ssl.objectives.tagging import Tagging
        from nlp_ssl.runs.multi_seed import finetune

    finetune(config, Tagging)


if __name__ == "__main__":
    program.run(main, lambda: parse(NERConfig, __doc__))
