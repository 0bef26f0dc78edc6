"""Prove the promises on your own set-up: your model, your tokenizer, your corpus, in a few minutes on a CPU.

    python -m nlp_ssl.doctor --config my.yaml
    python -m nlp_ssl.doctor --model.name modernbert-mini --data.sources 'corpus/*.txt'
    python -m nlp_ssl.doctor --objective rtd

takes the options of the pretraining recipes (of another objective than the model's usual one with its name) and prints
what was measured: whether a packed document sees another; whether a step depends on how its batch is split over micro-
batches and processes; whether steps of a thousand processes learn from the same rows and masks; whether a run that is
stopped and resumed is the run that was never stopped. It trains for a few steps, on batches of its own of about 2,048
tokens, in a temporary folder; the tokens are found again by the training. It ends with exit code 1 if something does
not hold.
"""

import os
import sys
import time

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.pretraining import MLMConfig, PretrainConfig
from nlp_ssl.core import console, program
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.libraries import importing


def main(config: PretrainConfig, name: str | None = None) -> None:
    """Examine, print the table, and say whether all holds; `name` is that of an objective, by default the model's."""
    with importing():
        from nlp_ssl.doctor import examination
        from nlp_ssl.publishing.tables import format_table

    if os.environ.get(examination.RUN):
        examination.own_run(config, name)
        return
    begun = time.monotonic()
    findings = examination.examine(config, name)
    rows = [{"": "holds" if f.holds else "DOES NOT HOLD", "what": f.question, "measured": f.measured} for f in findings]
    console.say("\n" + format_table(rows))
    broken = [f.question for f in findings if not f.holds]
    console.say(f"\n{'all holds' if not broken else 'NOT all holds'} on this set-up ({time.monotonic() - begun:.0f} s)")
    if broken:
        sys.exit(1)


def objective_named(argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--objective`, and the other arguments."""
    argv = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--objective=") else [arg])]
    if "--objective" not in argv:
        return None, argv
    at = argv.index("--objective")
    if at + 1 == len(argv):
        raise UserError("--objective needs a name, such as mlm")
    return argv[at + 1], argv[:at] + argv[at + 2 :]


def options() -> PretrainConfig:
    """Read the options, which are those of the objective that is named."""
    name, argv = objective_named(sys.argv[1:])
    if name is None:
        return parse(MLMConfig, __doc__, argv)
    from nlp_ssl.objectives.objective import find_objective  # it needs torch

    return parse(find_objective(name).Config, __doc__, argv)


if __name__ == "__main__":
    program.run(lambda config: main(config, objective_named(sys.argv[1:])[0]), options)
