"""Measure a training step, or a part of the way to it, beside what one would otherwise use.

    python recipes/benchmark.py --model.name bert-mini --tokenizer.vocab_size 30522

trains the model on its corpus (the built-in one, or `--data.sources`) with this project and with a `Trainer` of
transformers, as its example script sets it and with better flags, in turns of a few steps, and prints real tokens a
second, where a step's time goes, model FLOP utilisation against the peak that matrix products reach on this machine,
memory, and how many times slower the others are. Everything measured is also in runs/benchmark.json. Parts
by themselves:

    python recipes/benchmark.py --stage tokenise        # also pack, batches, masking, resume, save
    python recipes/benchmark.py --stage loss --target 5.5 --against '[script]'
"""

import json
import tempfile
from pathlib import Path

from nlp_ssl.benchmarks.settings import BenchmarkConfig, check
from nlp_ssl.config.command_line import parse
from nlp_ssl.core import console, program
from nlp_ssl.core.files import make_folder
from nlp_ssl.core.libraries import importing


def main(config: BenchmarkConfig) -> None:
    """Measure, print a table, leave the numbers."""
    check(config)
    with importing():
        from nlp_ssl.benchmarks.contest import compare_steps
        from nlp_ssl.benchmarks.learning import compare_losses
        from nlp_ssl.benchmarks.stages import STAGES
        from nlp_ssl.publishing.tables import format_table

    measure = {"step": compare_steps, "loss": compare_losses} | STAGES
    with tempfile.TemporaryDirectory(prefix="nlp_ssl-benchmark-") as folder:
        config.output_dir = f"{folder}/run"
        measured = measure[config.stage](config)

    console.say(format_table(measured["rows"]))
    for note in measured["notes"]:
        console.say(note)
    path = Path(config.results)
    make_folder(path.parent)
    path.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    console.say(f"all of it: {path}")


if __name__ == "__main__":
    program.run(main, lambda: parse(BenchmarkConfig, __doc__))
