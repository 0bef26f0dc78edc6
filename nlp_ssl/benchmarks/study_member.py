"""One run of a study, in a process of its own.

    python -m nlp_ssl.benchmarks.study_member pretrain mlm --config options.yaml
    python -m nlp_ssl.benchmarks.study_member judge classification --config options.yaml

takes the options of the recipe for the objective, or the kind of judge, that is named.
"""

import sys
from typing import Any

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(given: tuple[str, Any]) -> None:
    """From the options to a finished folder; `given` is the name of the objective or judge, and its options."""
    name, config = given
    with importing():
        from nlp_ssl.benchmarks.judges import JUDGES
        from nlp_ssl.objectives.objective import find_objective
        from nlp_ssl.runs import pretraining, pretraining_data

    if isinstance(config, FinetuneConfig):
        JUDGES[name].judge(config)
        return
    objective = find_objective(name)
    data = pretraining_data.prepare(config, objective)
    run = pretraining.start(config, objective, data)
    run.train()
    pretraining.show(run, data)


def read() -> tuple[str, Any]:
    """The name of the objective or judge, and its options."""
    stage, name, *argv = sys.argv[1:]
    if stage == "judge":
        from nlp_ssl.benchmarks.judges import JUDGES  # it needs torch, as the next one does

        return name, parse(JUDGES[name].config, __doc__, argv)
    from nlp_ssl.objectives.objective import find_objective

    return name, parse(find_objective(name).Config, __doc__, argv)


if __name__ == "__main__":
    program.run(main, read)
