"""Measure a model on GLUE, under a named protocol: its hyperparameters, its metrics, its average.

    python recipes/evaluate_glue.py --model.name runs/mlm --protocol cramming

takes the tasks from the Hub; with the files of the benchmark in a folder (CoLA/train.tsv, ...), those that are there:

    python recipes/evaluate_glue.py --glue_dir glue_data --tasks '[cola, rte]'

and without pretraining, for comparison: add --model.from_scratch. The protocols' rates are for models of about 768; a
smaller model needs more: --lr '[1e-3]'. Tasks run in parallel where there are several GPUs; --resume continues.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.finetuning import GlueConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: GlueConfig) -> None:
    """Every task fine-tuned and scored, the entries, the average if none is missing."""
    with importing():
        from nlp_ssl.runs.glue import evaluate_glue

    evaluate_glue(config)


if __name__ == "__main__":
    program.run(main, lambda: parse(GlueConfig, __doc__))
