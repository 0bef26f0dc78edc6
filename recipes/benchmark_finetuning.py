"""Measure fine-tuning beside a Trainer of transformers, in one run, in turns of a few steps.

    python recipes/benchmark_finetuning.py --model.name runs/mlm --data.train_file train.csv

prints rows per second and how many times slower the others are: a Trainer as `run_glue.py` sets it, and one with its
best flags. Everything measured is also in runs/benchmark_finetuning.json.
"""

import tempfile
from pathlib import Path

from nlp_ssl.benchmarks.settings import FinetuneBenchmarkConfig
from nlp_ssl.config.command_line import parse
from nlp_ssl.core import console, program
from nlp_ssl.core.files import make_folder
from nlp_ssl.core.libraries import importing


def main(config: FinetuneBenchmarkConfig) -> None:
    """Measure, print a table, leave the numbers."""
    with importing():
        from nlp_ssl.benchmarks.finetuning import compare_finetuning
        from nlp_ssl.publishing.tables import format_table, to_json

    with tempfile.TemporaryDirectory(prefix="nlp_ssl-benchmark-") as folder:
        config.output_dir = f"{folder}/run"
        measured = compare_finetuning(config)
    console.say(format_table(measured["rows"]))
    for note in measured["notes"]:
        console.say(note)
    path = Path(config.results)
    make_folder(path.parent)
    path.write_text(to_json(measured), encoding="utf-8")
    console.say(f"all of it: {path}")


if __name__ == "__main__":
    program.run(main, lambda: parse(FinetuneBenchmarkConfig, __doc__))
