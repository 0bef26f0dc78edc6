"""Prove the promises on your own set-up: your model, your tokenizer, your corpus, in a few minutes on a CPU.

    python -m nlp_ssl.doctor --config my.yaml
    python -m nlp_ssl.doctor --model.name modernbert-mini --data.sources 'corpus/*.txt'

takes the options of the pretraining recipes and prints what was measured: whether a packed document sees another;
whether a step depends on how its batch is split over micro-batches and processes; whether a run that is stopped and
resumed is the run that was never stopped. It trains for a few steps, on batches of its own of about 2,048 tokens, in a
temporary folder; the tokens are found again by the training. It ends with exit code 1 if something does not hold.
"""

import os
import sys
import time

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core import console, program
from nlp_ssl.core.libraries import importing


def main(config: MLMConfig) -> None:
    """Examine, print the table, and say whether all holds."""
    with importing():
        from nlp_ssl.doctor import examination
        from nlp_ssl.publishing.tables import format_table

    if os.environ.get(examination.RUN):
        examination.own_run(config)
        return
    begun = time.monotonic()
    findings = examination.examine(config)
    rows = [{"": "holds" if f.holds else "DOES NOT HOLD", "what": f.question, "measured": f.measured} for f in findings]
    console.say("\n" + format_table(rows))
    broken = [f.question for f in findings if not f.holds]
    console.say(f"\n{'all holds' if not broken else 'NOT all holds'} on this set-up ({time.monotonic() - begun:.0f} s)")
    if broken:
        sys.exit(1)


if __name__ == "__main__":
    program.run(main, lambda: parse(MLMConfig, __doc__))
