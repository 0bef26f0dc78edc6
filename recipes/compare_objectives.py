"""Which objective is worth it on your text? Pretrain with each for as long, fine-tune, compare.

    python recipes/compare_objectives.py

pretrains five ways (masked; causal, then masked; hybrid; replaced tokens; diffusion) on the built-in corpus, 10 minutes
and three seeds each, and fine-tunes every model on the two built-in tasks: some three hours on two cores. A first look:

    python recipes/compare_objectives.py --train.minutes 1 --seeds '[0]'

With text and labels of your own, an hour each:

    python recipes/compare_objectives.py --data.sources 'corpus/*.jsonl.gz' --train.minutes 60 \\
        --judges '[{name: reviews, options: {data.train_file: reviews.csv}}]'

leaves a table, `study.png` and a sentence that says which one to take and how sure that is. `--variants` names others:
any objectives, with any options, so that it also compares mask rates, bodies or learning rates. --resume continues.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.study import StudyConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: StudyConfig) -> None:
    """Every variant with every seed, every judge, a table, a picture."""
    with importing():
        from nlp_ssl.benchmarks.study import compare

    compare(config)


if __name__ == "__main__":
    program.run(main, lambda: parse(StudyConfig, __doc__))
