"""A model measured on GLUE under a named protocol: its tasks, in turn or one a GPU, and what they come to."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlp_ssl.config.common import (
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from nlp_ssl.config.finetuning import ClassificationConfig, GlueConfig, LabelledConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import make_folder
from nlp_ssl.core.files import replace as replace_file
from nlp_ssl.core.invocation import same_program
from nlp_ssl.core.subprograms import Program, run_beside
from nlp_ssl.data.labelled.glue import GLUE_FILES, submission
from nlp_ssl.data.labelled.sources import TASKS as HUB_TASKS
from nlp_ssl.evaluation.glue_protocols import PROTOCOLS, TASKS, Protocol, TaskSettings
from nlp_ssl.evaluation.predictions import read_predictions
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.publishing.tables import format_table, to_json
from nlp_ssl.reports.record import PREDICTIONS_FILE
from nlp_ssl.runs.multi_seed import RESULTS_FILE, finetune

Numbers = dict[tuple[str, str, str], list[float]]  # (task, set, metric) -> one number per seed


def evaluate_glue(config: GlueConfig) -> dict[str, Any]:
    """Fine-tune and score a model on the tasks of GLUE; tasks that are finished are not run again, with `--resume`.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: an unknown protocol or task, no task at all, or what a fine-tuning run refuses.
    """
    protocol = _check(config)
    tasks, missing = _tasks(config, protocol)
    console.say(f"protocol {protocol.name}: {protocol.source}" + (f" ({protocol.caveat})" if protocol.caveat else ""))
    for why in missing.values():
        console.warn(why)
    parallel = config.parallel or max(1, torch.cuda.device_count())
    if parallel > 1 and len(tasks) > 1:
        _run_apart(config, protocol, tasks, parallel)
        config = replace(config, resume=replace(config.resume, enabled=True))  # what follows finds each finished
    numbers: Numbers = {}
    for task in tasks:
        numbers |= _run_task(config, protocol, task)
    return _report(config, protocol, numbers, missing)


def _check(config: GlueConfig) -> Protocol:
    if config.protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {config.protocol!r}; there are {', '.join(PROTOCOLS)}")
    short = [task.removeprefix("glue/") for task in TASKS]
    for task in config.tasks or []:
        if task.removeprefix("glue/") not in short:
            raise UserError(f"there is no task {task!r} in GLUE; there are {', '.join(short)}")
    return PROTOCOLS[config.protocol]


def _tasks(config: GlueConfig, protocol: Protocol) -> tuple[list[str], dict[str, str]]:
    """The tasks to run, and why others are not."""
    wanted = [f"glue/{task.removeprefix('glue/')}" for task in config.tasks or TASKS]
    asked = [task for task in TASKS if task in wanted and (task in protocol.tasks or config.tasks)]
    missing = {}
    for task in asked:
        name, train, dev, *_ = GLUE_FILES[task]
        absent = [
            file
            for file in (train, dev)
            if config.glue_dir and not any(Path(config.glue_dir, name).glob(f"{file}.tsv*"))
        ]
        if absent:
            missing[task] = f"{task} is left out: {config.glue_dir} has no {name}/{absent[0]}.tsv"
    tasks = [task for task in asked if task not in missing]
    if not tasks:
        raise UserError(f"there is nothing to run: {'; '.join(missing.values())}")
    return tasks, missing


def _settings(config: GlueConfig, protocol: Protocol, task: str) -> TaskSettings:
    settings = protocol.tasks.get(task) or protocol.tasks["glue/rte"]  # WNLI, where a protocol leaves it out
    if config.seeds is not None:
        settings = replace(settings, seeds=tuple(config.seeds))
    return settings if config.lr is None else replace(settings, lr=tuple(config.lr))


def _run_task(config: GlueConfig, protocol: Protocol, task: str) -> Numbers:
    """Fine-tune on a task, once a rate and seed; the numbers of the rate that is best on the development set."""
    settings, found = _settings(config, protocol, task), []
    for lr in settings.lr:
        run = _run_config(config, protocol, task, settings, lr)
        console.say(f"{task}, {protocol.name}, rate {lr:g}")
        found.append((finetune(run, Classification, last=False), run.output_dir))
    rows, folder = max(found, key=lambda each: np.nan_to_num(each[0][0]["mean"], nan=-1.0))
    if len(found) > 1:
        console.say(f"{task}: the best rate is {Path(folder).name.removeprefix('lr-')}")
    if console.rank() == 0:
        _write_submission(config, task, Path(folder) / f"seed-{settings.seeds[0]}")
    return {(task, row["set"], name): row["runs"] for row in rows for name in [row["metric"]]}


def _run_config(
    config: GlueConfig, protocol: Protocol, task: str, settings: TaskSettings, lr: float
) -> ClassificationConfig:
    short = task.removeprefix("glue/")
    model = replace(config.model)
    if settings.from_mnli:
        start = Path(config.output_dir, "mnli", f"lr-{_settings(config, protocol, 'glue/mnli').lr[0]:g}")
        start = start / f"seed-{_settings(config, protocol, 'glue/mnli').seeds[0]}"
        if (start / "config.json").exists():
            model = replace(model, name=str(start), from_scratch=False)
        else:
            console.warn(
                f"{task} should begin from the model of MNLI, which is not there: it begins from the model itself"
            )
    return ClassificationConfig(
        output_dir=str(Path(config.output_dir, short, f"lr-{lr:g}")),
        resume=replace(config.resume),
        seeds=list(settings.seeds),
        data=LabelledConfig(task=task, glue_dir=config.glue_dir, max_train=config.max_train),
        model=model,
        max_length=protocol.max_length,
        optimizer=OptimizerConfig(
            name="adamw",
            lr=lr,
            betas=protocol.betas,
            eps=protocol.eps,
            weight_decay=settings.weight_decay,
            max_grad_norm=protocol.max_grad_norm,
        ),
        schedule=ScheduleConfig(name=protocol.schedule, warmup=protocol.warmup),
        train=TrainConfig(
            global_batch_size=settings.batch_size, epochs=settings.epochs, mixed_precision=config.mixed_precision
        ),
        evaluation=EvaluationConfig(max_rows=None),
        checkpoint=CheckpointConfig(keep_last=1, every=10**9),
    )


def _run_apart(config: GlueConfig, protocol: Protocol, tasks: list[str], parallel: int) -> None:
    """Run each task in a process of its own, this many at once, each on a GPU of its own where there are some."""
    gpus = torch.cuda.device_count()
    first = [task for task in tasks if task == "glue/mnli" and any(s.from_mnli for s in protocol.tasks.values())]
    folder = Path(config.output_dir)
    make_folder(folder)

    def command(task: str) -> list[str]:
        return [*same_program(), *sys.argv[1:], "--resume", "--parallel", "1", "--tasks", f"[{task}]"]

    for batch in (first, [task for task in tasks if task not in first]):
        programs = []
        for number, task in enumerate(batch):
            more = {"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus else {}
            programs.append(Program(task, command(task), folder / f"{task.removeprefix('glue/')}.txt", more))
        run_beside(programs, parallel)


def _write_submission(config: GlueConfig, task: str, run: Path) -> None:
    predicted, _ = read_predictions(run / PREDICTIONS_FILE, "hidden")
    labels = None if task == "glue/stsb" else _labels(task, run)
    if strange := sorted(set(predicted) - set(labels)) if labels else []:
        console.warn(f"{task}: no file for the server; the head predicts {', '.join(strange)}, which is no class of it")
        return
    folder = Path(config.output_dir, "submission")
    for name, text in submission(task, predicted, labels).items() if predicted else ():
        make_folder(folder)
        replace_file(folder / name, text)


def _labels(task: str, run: Path) -> list[str]:
    """The classes in the order of the benchmark's numbers, as the run calls them; its head may order them otherwise."""
    names, classes = (
        json.loads((run / "config.json").read_text(encoding="utf-8"))["id2label"].values(),
        HUB_TASKS[task].classes,
    )
    return list(classes) if set(classes) <= set(names) else [str(i) for i in range(len(classes))]


def _report(config: GlueConfig, protocol: Protocol, numbers: Numbers, missing: dict[str, str]) -> dict[str, Any]:
    """Print and write what was measured; the average only where no entry is missing."""
    rows = []
    for (task, part, metric), values in numbers.items():
        name = f"{task} ({'mismatched' if task == 'glue/mnli' and part == 'test' else part})"
        std = 100 * float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(
            {
                "": name,
                "metric": metric,
                "mean": 100 * float(np.mean(values)),
                "std": std,
                "runs": len(values),
            }
        )
    means = {key: float(np.mean(values)) for key, values in numbers.items()}
    entries = protocol.entry_scores(means)
    average = protocol.average(entries)
    changed = {key: getattr(config, key) for key in ("seeds", "lr", "max_train") if getattr(config, key) is not None}
    result: dict[str, Any] = {
        "protocol": protocol.name,
        "changed": changed,
        "model": config.model.name,
        "from_scratch": config.model.from_scratch,
        "entries": entries,
        "average": average,
        "missing": sorted(protocol.entries.keys() - entries.keys()),
        "left_out": missing,
        "numbers": rows,
    }
    if console.rank() == 0:
        console.say(format_table(rows))
        console.say(format_table([{"entry": name, protocol.name: score} for name, score in entries.items()]))
        unlike = f", but for {', '.join(changed)}" if changed else ""
        if average is None:
            console.say(f"no average: {', '.join(result['missing'])} were not measured")
        else:
            console.say(
                f"GLUE, protocol {protocol.name}{unlike}: {average:.1f}, the mean of "
                f"{console.counted(len(entries), 'entry')}"
            )
        replace_file(Path(config.output_dir) / RESULTS_FILE, to_json(result))
        console.say(f"all of it: {Path(config.output_dir) / RESULTS_FILE}")
    return result
