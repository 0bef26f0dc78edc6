"""Distil a trained language model into a smaller one (DistilBERT): masked or causal, whichever the teacher is.

    accelerate launch recipes/distill.py --distillation.teacher runs/mlm

trains a student of half the layers, which begins with layers of the teacher and reads the teacher's tokens, for five
minutes on the built-in corpus; give the text that the teacher was trained on, or text of the student's domain:

    accelerate launch recipes/distill.py \\
        --distillation.teacher answerdotai/ModernBERT-base --data.sources 'corpus/*.jsonl.gz' --train.tokens 1e9

A student of another shape, which begins with new weights: `--model.name modernbert-mini --distillation.cosine_weight 0`
(hidden states of different width have no cosine); relations between tokens such a student can learn, too:
`--distillation.relation_weight 1`. A student that is trained already: `--model.name runs/student`.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.distillation import DistillationConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: DistillationConfig) -> None:
    """Teacher, corpus, packed sequences, student, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.distillation import Distillation
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> the teacher's tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, Distillation)

    # the teacher, the student, and how it learns
    run = pretraining.start(config, Distillation, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(DistillationConfig, __doc__))
