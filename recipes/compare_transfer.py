"""What is pretraining worth? The same task from a pretrained model and from scratch, with few labels and with many.

    python recipes/compare_transfer.py --model.name runs/mlm

fine-tunes on 1 %, 10 % and all of the built-in task's labels (which library a text documents), three seeds each, and
leaves a table, transfer.png and report.html. Rows of your own, and a test set out of the domain:

    python recipes/compare_transfer.py --data.train_file reviews.csv --data.validation_file dev.csv \\
        --data.test_file tweets.csv

Words to tag instead: --kind ner. All options of the fine-tuning recipes apply to every run; --resume continues.
"""

import copy
import math
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import Groups
from nlp_ssl.config.finetuning import ClassificationConfig, FinetuneConfig, NERConfig
from nlp_ssl.core import console, program
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace
from nlp_ssl.core.libraries import importing

if TYPE_CHECKING:
    from nlp_ssl.data.labelled.labelled_data import LabelledData

Way = Literal["pretrained", "from scratch", "frozen"]


@dataclass
class TransferComparisonConfig(ClassificationConfig):
    """One comparison: the options of a fine-tuning run, and what is compared."""

    EVERYDAY: ClassVar[Groups] = {
        "The comparison": ("output_dir", "resume.enabled", "kind", "fractions", "ways", "seeds"),
        "Labelled data and model": (
            *("data.task", "data.train_file", "data.validation_file", "data.test_file"),
            *("data.text_columns", "data.label_column", "model.name", "max_length"),
        ),
        "Training": (
            *("train.epochs", "train.steps", "train.global_batch_size", "train.mixed_precision", "optimizer.lr"),
        ),
    }
    output_dir: str = "runs/transfer"
    """Folder of the comparison: one folder per run, `results.json`, `transfer.png` and `report.html`."""
    kind: Literal["classification", "ner"] = "classification"
    """What the labels belong to: texts, or words."""
    fractions: list[float] = field(default_factory=lambda: [0.01, 0.1, 1.0])
    """Shares of the training labels to learn from."""
    ways: list[Way] = field(default_factory=lambda: ["pretrained", "from scratch"])
    """What is compared; `frozen` trains nothing but a new head on the pretrained body."""
    seeds: list[int] | None = field(default_factory=lambda: [0, 1, 2])
    """Random seeds to run each with."""


def main(config: TransferComparisonConfig) -> None:
    """Every way at every number of labels; a table, a picture."""
    if not config.fractions or min(config.fractions) <= 0 or max(config.fractions) > 1:
        raise UserError(f"--fractions {config.fractions}: give shares above 0 and up to 1, such as [0.01, 0.1, 1]")
    with importing():
        from nlp_ssl.objectives.classification import Classification
        from nlp_ssl.objectives.tagging import Tagging
        from nlp_ssl.publishing.plots import plot_transfer
        from nlp_ssl.publishing.tables import format_table, to_json
        from nlp_ssl.reports.comparison import write_comparison
        from nlp_ssl.reports.record import find_runs
        from nlp_ssl.runs.multi_seed import finetune
        from nlp_ssl.training.distributed import rank_zero_first

    objective = Classification if config.kind == "classification" else Tagging
    data: LabelledData = rank_zero_first(lambda: objective.read(config.data))
    rows: list[dict[str, Any]] = []
    for fraction in sorted(config.fractions):
        count = max(2, math.ceil(fraction * len(data.train)))
        for way in config.ways:
            console.say(f"{way}, {console.counted(count, 'label')}")
            run = run_config(config)
            run.data.max_train = count
            run.model.from_scratch = way == "from scratch"
            run.transfer.unfreeze = "never" if way == "frozen" else config.transfer.unfreeze
            run.output_dir = str(Path(config.output_dir, f"{way.replace(' ', '-')}-{count}"))
            found = finetune(run, objective, last=False)
            rows += [{"labels": count, "way": way, **row} for row in found]
    main_metric = rows[0]["metric"]
    rows = [row for row in rows if row["metric"] == main_metric]
    levels = commonest(data)

    if console.rank() == 0:
        shown = [{k: v for k, v in row.items() if k not in ("runs", "metric")} for row in rows]
        console.say(
            format_table(
                [{"labels": 0, "way": "commonest class", "set": s, "mean": v} for s, v in levels.items()] + shown
            )
        )
        folder = Path(config.output_dir)
        replace(folder / "results.json", to_json({"metric": main_metric, "commonest": levels, "rows": rows}))
        picture = plot_transfer(rows, levels, main_metric, folder / "transfer.png")
        console.say(f"all numbers: {folder / 'results.json'}" + (f"; picture: {picture}" if picture else ""))
        with console.optional("the report"):
            console.say(f"report: {write_comparison(find_runs(folder), folder)}")


def run_config(config: TransferComparisonConfig) -> FinetuneConfig:
    """The options of one fine-tuning run, as its own recipe takes them."""
    kind = ClassificationConfig if config.kind == "classification" else NERConfig
    return kind(**{f.name: copy.deepcopy(getattr(config, f.name)) for f in fields(kind)})


def commonest(data: "LabelledData") -> dict[str, float]:
    """What always guessing the commonest class of the training rows scores on each set; none but for classes."""
    if not data.kind.exclusive or data.metrics[0] != "accuracy":
        return {}
    guess = Counter(data.train["label"]).most_common(1)[0][0]
    sets = {"validation": data.validation, "test": data.test}
    return {name: part["label"][:].count(guess) / len(part) for name, part in sets.items() if part is not None}


if __name__ == "__main__":
    program.run(main, lambda: parse(TransferComparisonConfig, __doc__))
