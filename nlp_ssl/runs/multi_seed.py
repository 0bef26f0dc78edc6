"""Fine-tuning as a recipe runs it: once, or once per seed, with what the seeds say together."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace as replace_file
from nlp_ssl.evaluation.intervals import bootstrap, scorer
from nlp_ssl.evaluation.metrics import MAIN
from nlp_ssl.evaluation.predictions import read_predictions
from nlp_ssl.objectives.labelled import LabelledObjective
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.publishing.tables import format_table, to_json
from nlp_ssl.reports.record import PREDICTIONS_FILE
from nlp_ssl.runs import resolve
from nlp_ssl.runs.checks import check_run
from nlp_ssl.runs.ending import card_of, write_card
from nlp_ssl.runs.finetuning import Prepared, prepare, show, start
from nlp_ssl.runs.folder import CHECKPOINTS, check_links, say_where_it_begins
from nlp_ssl.runs.status import note_interrupts_in, read_status
from nlp_ssl.training.checkpoints import newest_name
from nlp_ssl.training.distributed import rank_zero_first

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Finished:
    """The model of one seed.

    Attributes:
        folder: where it is.
        card: arguments of its `model_card`.
        publisher: pushed it, where it is published.
    """

    folder: Path
    card: dict[str, Any]
    publisher: HubPublisher | None

    def tell(self, rows: list[dict[str, Any]]) -> None:
        """Write into its card what all seeds say together; `rows` are those of `summarize`."""
        together = {(row["set"], row["metric"]): row for row in rows}
        metrics = []
        for metric in self.card.get("metrics", []):
            if (row := together.get((metric.split, metric.name))) is not None:
                metric = replace(metric, seeds=len(row["runs"]), mean=row["mean"], std=row["std"])
            metrics.append(metric)
        write_card(self.folder, self.card and self.card | {"metrics": metrics})
        if self.publisher is not None:
            self.publisher.push(self.folder, message="Scores over several seeds")
            self.publisher.finish()


def finetune(config: FinetuneConfig, objective: type[LabelledObjective], *, last: bool = True) -> list[dict[str, Any]]:
    """Fine-tune a model on a labelled task, once per seed, and print the final numbers.

    A seed whose run is finished already is not run again, with `--resume`.

    Args:
        config: of all runs.
        objective: reads the rows, and trains the model.
        last: whether nothing else is trained in this process.

    Returns:
        A row per set and metric: its mean over the seeds, standard deviation, a 95 % interval over seeds and rows,
        and `runs`, the number of each; none without `seeds`.

    Raises:
        UserError: see `prepare` and `start`.
    """
    if config.seeds is not None and len(set(config.seeds)) < max(1, len(config.seeds)):
        raise UserError(f"--seeds {config.seeds} names a seed twice, or none")
    check_links(Path(config.output_dir))
    configs = _configs(resolve.implied(config))
    for each in configs:
        check_run(each)
    say_where_it_begins(config, [Path(each.output_dir) for each in configs])
    note_interrupts_in(Path(configs[0].output_dir))
    prepared = prepare(config, objective)
    finished: list[Finished] = []
    for number, each in enumerate(configs, start=1):
        if config.seeds is not None:
            console.say(f"seed {each.seed} ({number} of {len(configs)})")
        finished.append(_one(each, prepared, last=last and number == len(configs)))
    if config.seeds is None:  # the run itself has said all
        return []
    folders = [Path(each.output_dir) for each in configs]
    rows = rank_zero_first(lambda: summarize(prepared, folders, Path(config.output_dir)))
    if console.rank() == 0:
        for one in finished:
            one.tell(rows)
    return rows


def _one(config: FinetuneConfig, prepared: Prepared, *, last: bool) -> Finished:
    """Fine-tune with one seed, unless that is done already."""
    check_run(config)
    note_interrupts_in(Path(config.output_dir))
    finished_at = _finished_at(config)
    run = start(config, prepared)
    run.train()  # of a run that is finished: checks that the options are what they were
    if finished_at is None or finished_at != _newest(config):
        show(run, prepared, last=last)
        return Finished(run.folder, card_of(run), run.publisher)
    console.say(f"  {config.output_dir} is finished")
    run.seen["scores"] = run.about.scores
    card = card_of(run)
    if run.accelerator.is_main_process:
        write_card(run.folder, card)
    run.close(last=last)
    return Finished(run.folder, card, run.publisher)


def _configs(config: FinetuneConfig) -> list[FinetuneConfig]:
    """A run's configuration for each seed; what a run derives for itself is not shared."""
    if config.seeds is None:
        return [config]
    folder = Path(config.output_dir)
    parts = [
        replace(copy.deepcopy(config), seed=seed, output_dir=str(folder / f"seed-{seed}")) for seed in config.seeds
    ]
    for part in parts:
        part.seeds = None
        part.hub.repo_id = part.hub.repo_id and f"{part.hub.repo_id}-seed-{part.seed}"
    return parts


def _finished_at(config: FinetuneConfig) -> str | None:
    """The last checkpoint of a run that needs nothing more; `None` where something is to be done."""
    folder = Path(config.output_dir)
    finished = read_status(folder).get("status") == "finished" and (folder / PREDICTIONS_FILE).exists()
    return _newest(config) if finished and config.resume.enabled else None


def _newest(config: FinetuneConfig) -> str:
    """The name of a run's last checkpoint; empty where they were removed, and the run begins anew."""
    return newest_name(Path(config.output_dir, CHECKPOINTS))


def summarize(task: Prepared, folders: list[Path], out: Path) -> list[dict[str, Any]]:
    """What some runs on the same task say together, from their predictions; printed and written.

    Args:
        task: what they learnt.
        folders: the runs' folders.
        out: where `results.json` goes.
    """
    rows: list[dict[str, Any]] = []
    for part in [part for part in ("validation", "test") if part in task.rows]:
        found = [read_predictions(folder / PREDICTIONS_FILE, part) for folder in folders]
        for metric in task.data.metrics:
            scorers = []
            for predicted, references in found:
                numbered = [list(map(task.data.numbered, labels)) for labels in (predicted, references)]
                scorers.append(scorer(metric, *numbered))
            count = len(found[0][1])
            scores = [score(np.arange(count)) for score in scorers]
            low, high = bootstrap(scorers, count)
            rows.append(
                {
                    "set": part,
                    "metric": MAIN.get(metric, metric),
                    "mean": float(np.mean(scores)),
                    "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
                    "95 % from": low,
                    "to": high,
                    "runs": scores,
                }
            )
    if console.rank() == 0:
        console.say(format_table([row | {"runs": ", ".join(f"{s:.4f}" for s in row["runs"])} for row in rows]))
        replace_file(out / RESULTS_FILE, to_json(rows))
        console.say(f"over {console.counted(len(folders), 'seed')}: {out / RESULTS_FILE}")
    return rows
