"""A study: the same text pretrained on in several ways, for as long, with several seeds, and judged downstream.

Losses of different objectives cannot be compared; what their models can be fine-tuned to can. Every run is a program
of its own in a folder of its own that continues where it was stopped, and so does the study.

Where the budget is in minutes, all variants are timed first, in turns, and each gets as many steps as fit: what the
runs give does not depend on what else the machine does meanwhile.
"""

import itertools
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from dataclasses import replace as replace_fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from nlp_ssl.benchmarks.judges import JUDGES
from nlp_ssl.benchmarks.study_report import Judged, report
from nlp_ssl.config import nested
from nlp_ssl.config.common import BUDGETS, plain, to_dict
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.config.study import JudgeConfig, StudyConfig, VariantConfig
from nlp_ssl.core import console
from nlp_ssl.core.console import counted
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.core.invocation import command_of
from nlp_ssl.core.subprograms import Program, run_beside
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.evaluation.intervals import Scorer, scorer
from nlp_ssl.evaluation.metrics import MAIN
from nlp_ssl.evaluation.predictions import read_predictions
from nlp_ssl.objectives.objective import find_objective
from nlp_ssl.reports.record import PREDICTIONS_FILE
from nlp_ssl.runs.folder import LOG_FILE
from nlp_ssl.runs.status import read_status
from nlp_ssl.training.schedules import budgets_of

MINUTES = 10.0  # of each run, where no budget is given
ROUNDS = 3  # of timing, of all variants in turns
TIMED, WARM_UP = 16, 4  # steps of each phase that are timed, and how many more go before them


@dataclass
class Study:
    """What is compared, and where it lies.

    Attributes:
        config: what the user gave.
        data: the rows of each judge, by its name.
    """

    config: StudyConfig
    data: dict[str, LabelledData]

    @property
    def folder(self) -> Path:
        """Of all of it."""
        return Path(self.config.output_dir)

    @property
    def at_once(self) -> int:
        """How many runs at once."""
        return self.config.parallel or torch.cuda.device_count() or os.cpu_count() or 1

    def run_folder(self, stage: str, variant: VariantConfig, seed: int) -> Path:
        """Where a run of a variant lies: its pretraining, or what a judge made of that."""
        return self.folder / slug(stage) / f"{slug(variant.name)}-seed-{seed}"

    def pretraining(self, variant: VariantConfig, seed: int, steps: Sequence[int] | None) -> dict[str, Any]:
        """The options of a pretraining run, nested.

        Args:
            variant: which.
            seed: of the run.
            steps: of its phases and of the rest of the run, where the budget is in minutes.
        """
        base = plain(to_dict(self.config))
        options = {f.name: base[f.name] for f in fields(PretrainConfig)}
        options |= {"seed": seed, "output_dir": str(self.run_folder("pretraining", variant, seed))}
        nested.set_all(options, variant.options)
        phases = [dict(phase) for phase in options["phases"]]
        if steps is not None:
            for phase, count in zip(phases, steps, strict=False):
                phase.pop("share", None)
                phase["steps"] = count
            options["train"] |= {**dict.fromkeys(BUDGETS), "steps": sum(steps)}
        options["phases"] = phases
        return options | {"train": options["train"] | self._threads(options["train"])}

    def fine_tuning(self, judge: JudgeConfig, variant: VariantConfig, seed: int) -> dict[str, Any]:
        """The options of a fine-tuning run, nested."""
        options: dict[str, Any] = {"train": {}}
        nested.set_all(options, judge.options)
        options["model"] = options.get("model", {}) | {"name": str(self.run_folder("pretraining", variant, seed))}
        options |= {"seed": seed, "output_dir": str(self.run_folder(judge.name, variant, seed))}
        return options | {"train": options["train"] | self._threads(options["train"])}

    def _threads(self, train: dict[str, Any]) -> dict[str, Any]:
        if train.get("cpu_threads") is not None or torch.cuda.is_available():
            return {}
        return {"cpu_threads": max(1, (os.cpu_count() or 1) // self.at_once)}


def compare(config: StudyConfig) -> dict[str, Any]:
    """Pretrain, fine-tune, and say which variant is worth it.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: an option that a run would refuse, or a run failed.
        Interrupted: the study was stopped; it continues with `--resume`.
    """
    study = _check(config)
    console.say(_plan(study))
    study.folder.mkdir(parents=True, exist_ok=True)
    steps = _steps(study)
    runs = [(variant, seed) for seed in config.seeds for variant in config.variants]  # all variants of a seed first
    _run_all(study, "pretraining", [
        (f"{v.name}, seed {s}", "pretrain", v.objective, study.pretraining(v, s, steps.get(v.name))) for v, s in runs
    ])  # fmt: skip
    for judge in config.judges:
        _run_all(study, judge.name, [
            (f"{judge.name}: {v.name}, seed {s}", "judge", judge.kind, study.fine_tuning(judge, v, s))
            for v, s in runs
        ])  # fmt: skip
    judged = [_judged(study, judge) for judge in config.judges]
    costs = {variant.name: _costs(study, variant) for variant in config.variants}
    return report(judged, costs, config.seeds, study.folder)


def _plan(study: Study) -> str:
    """What a study is going to do, and how long, as far as its budget tells."""
    config, at_once = study.config, study.at_once
    models = len(config.variants) * len(config.seeds)
    key, value = next(iter(budgets_of(config.train).items()))
    each = counted(float(value), key.removesuffix("s"))
    if key == "minutes":
        minutes = math.ceil(models / at_once) * value
        total = f"{minutes / 60:.2g} hours" if minutes >= 90 else counted(float(f"{minutes:.3g}"), "minute")
        each += f", about {total} for all, after a short timing of every variant"
    return (
        f"study: {counted(len(config.variants), 'variant')} x {counted(len(config.seeds), 'seed')} = "
        f"{counted(models, 'pretraining run')}, {min(models, at_once)} at a time, of {each}; then "
        f"{counted(len(config.judges), 'judge')} of every model: {counted(models * len(config.judges), 'run')}, which "
        "take as long as their fine-tuning does"
    )


def _check(config: StudyConfig) -> Study:
    """Find out before any run whether all can be made."""
    if "RANK" in os.environ:
        raise UserError("a study starts its runs by itself: start it with python, not with accelerate launch")
    for what, listed in (("variants", config.variants), ("judges", config.judges)):
        names = [slug(each.name) for each in listed]
        if not names or len(set(names)) < len(names) or not all(names):
            raise UserError(f"--{what}: each needs a name of its own; given are {', '.join(names) or 'none'}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"--seeds {config.seeds} names a seed twice, or none")
    if not budgets_of(config.train):
        config = replace_fields(config, train=replace_fields(config.train, minutes=MINUTES))
        console.say(f"{counted(MINUTES, 'minute')} for each run (--train.minutes)")
    if config.hub.repo_id:
        raise UserError(
            f"--hub.repo_id: a study has many models; push the one you choose with `{command_of('push_to_hub')}`"
        )
    folder = Path(config.output_dir)
    if not config.resume.enabled and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something already; continue with --resume, or give another --output_dir")
    study = Study(config, {})
    for variant in config.variants:
        shares = [phase["share"] for phase in study.pretraining(variant, 0, None)["phases"] if "share" in phase]
        if shares and (config.train.minutes is None or not 0 < sum(shares) < 1 or min(shares) <= 0):
            raise UserError(
                f"--variants, {variant.name}: shares of phases need a budget in minutes (--train.minutes) and must be "
                f"positive and below 1 together; they are {shares}"
            )
        trial = study.pretraining(variant, 0, [1] * _phases(study, variant))
        nested.read(find_objective(variant.objective).Config, trial, f"--variants, {variant.name}")
    for judge in config.judges:
        kind = JUDGES[judge.kind]
        given = nested.read(kind.config, study.fine_tuning(judge, config.variants[0], 0), f"--judges, {judge.name}")
        study.data[judge.name] = kind.read(given.data)
        kind.check(study.data[judge.name], judge.name)
        console.say(f"{judge.name}: {study.data[judge.name].description}")
    return study


def _phases(study: Study, variant: VariantConfig) -> int:
    """How many phases a variant has, the last one, which has no entry, counted."""
    return len(study.pretraining(variant, 0, None)["phases"]) + 1


# ---------------------------------------------------------------------------------------------------------------------
# how many steps are as many minutes


def _steps(study: Study) -> dict[str, list[int]]:
    """For each variant the steps of its phases and of the rest; empty where the budget is not in minutes.

    They are kept in the study's folder: a resumed study continues with them.
    """
    if (minutes := study.config.train.minutes) is None:
        return {}
    memory = study.folder / "steps.json"
    found: dict[str, Any] = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
    keys = {
        variant.name: fingerprint(
            variant.objective,
            {k: v for k, v in study.pretraining(variant, 0, None).items() if k not in ("output_dir", "resume")},
        )
        for variant in study.config.variants
    }
    new = [v for v in study.config.variants if found.get(v.name, {}).get("key") != keys[v.name]]
    # in turns, as a machine is not always equally fast
    rounds = [{variant.name: _seconds_a_step(study, variant) for variant in new} for _ in range(ROUNDS)]
    for variant in new:
        seconds = [median(times) for times in zip(*(each[variant.name] for each in rounds), strict=True)]
        counts = _fitting(study.pretraining(variant, 0, None)["phases"], seconds, 60 * minutes)
        found[variant.name] = {"key": keys[variant.name], "steps": counts, "seconds": seconds}
    if new:
        replace(memory, json.dumps(found, indent=1))
    for name in keys:
        shown = (f"{n:,} steps of {s:.3g} s" for n, s in zip(found[name]["steps"], found[name]["seconds"], strict=True))
        console.say(f"{name}: {', then '.join(shown)} are {counted(minutes, 'minute')}")
    return {name: each["steps"] for name, each in found.items()}


def _fitting(phases: Sequence[dict[str, Any]], seconds: Sequence[float], budget: float) -> list[int]:
    """The steps of each phase and of the rest that fit a budget.

    Args:
        phases: each with its `steps`, or its `share` of the budget.
        seconds: a step of each takes, and one of the rest.
        budget: in seconds.
    """
    counts, left = [], budget
    for phase, each in zip(phases, seconds, strict=False):
        counts.append(phase["steps"] if "steps" in phase else max(1, round(phase["share"] * budget / each)))
        left -= counts[-1] * each
    return [*counts, max(1, round(left / seconds[-1]))]


def _seconds_a_step(study: Study, variant: VariantConfig) -> list[float]:
    """The median step of each phase and of the rest, in a short run with nothing beside it."""
    count, each = _phases(study, variant), TIMED + WARM_UP
    options = study.pretraining(variant, 0, [each] * count)
    out = study.folder / "timing" / slug(variant.name)
    shutil.rmtree(out, ignore_errors=True)
    options |= {"output_dir": str(out), "hub": {}, "tracking": {}, "resume": {}, "checkpoint": {"every": 10**9}}
    options["evaluation"] = {"every": 10**9, "max_rows": 16}  # texts enough to be told apart
    options["train"] |= {"log_every": 1}
    _run_all(study, "timing", [(f"{variant.name}: timing", "pretrain", variant.objective, options)])
    lines = [json.loads(line) for line in (out / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    ends = [0.0, *(line["seconds"] for line in lines if line["event"] == "step")]
    lengths = [after - before for before, after in itertools.pairwise(ends)]
    shutil.rmtree(out)
    return [median(lengths[phase * each + WARM_UP : (phase + 1) * each]) for phase in range(count)]


# ---------------------------------------------------------------------------------------------------------------------
# runs


def _run_all(study: Study, stage: str, runs: Sequence[tuple[str, str, str, dict[str, Any]]]) -> None:
    """Run those that are not finished, this many at a time.

    Args:
        study: the study.
        stage: for what is said.
        runs: of each its name, `pretrain` or `judge`, its objective or kind of judge, its options.
    """
    folder, gpus = study.folder / "options", torch.cuda.device_count()
    folder.mkdir(parents=True, exist_ok=True)
    programs = []
    for number, (name, what, objective, options) in enumerate(runs):
        out = Path(options["output_dir"])
        if read_status(out).get("status") == "finished":
            continue
        begun = out.is_dir() and any(out.iterdir())
        file = folder / f"{slug(name)}.yaml"
        replace(file, yaml.safe_dump(options | {"resume": {"enabled": begun}}, sort_keys=False, allow_unicode=True))
        command = [sys.executable, "-m", "nlp_ssl.benchmarks.study_member", what, objective, "--config", str(file)]
        more = {"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus else {}
        programs.append(Program(name, command, folder / f"{slug(name)}.txt", more))
    if programs:
        console.say(f"{stage}: {counted(len(programs), 'run')}, {min(len(programs), study.at_once)} at a time")
        run_beside(programs, study.at_once)


def _costs(study: Study, variant: VariantConfig) -> dict[str, float]:
    """What pretraining a variant took, on average over the seeds: steps, tokens, minutes."""
    found = []
    for seed in study.config.seeds:
        log = (study.run_folder("pretraining", variant, seed) / LOG_FILE).read_text(encoding="utf-8")
        found.append([line for line in map(json.loads, log.splitlines()) if line["event"] == "step"][-1])
    size = len(found)
    return {
        "steps": sum(line["step"] for line in found) / size,
        "tokens": sum(line["tokens"] for line in found) / size,
        "minutes": sum(line["seconds"] for line in found) / size / 60,
    }


def _judged(study: Study, judge: JudgeConfig) -> Judged:
    """A judge's number of every run, as functions of the rows that it is taken over."""
    data = study.data[judge.name]
    part = "validation" if data.test is None else "test"
    metric = JUDGES[judge.kind].metric or data.metrics[0]
    scorers: dict[str, list[Scorer]] = {}
    count = 0
    for variant in study.config.variants:
        for seed in study.config.seeds:
            file = study.run_folder(judge.name, variant, seed) / PREDICTIONS_FILE
            pair = [list(map(data.numbered, labels)) for labels in read_predictions(file, part)]
            count = len(pair[1])
            scorers.setdefault(variant.name, []).append(scorer(metric, *pair))
    return Judged(judge.name, MAIN.get(metric, metric), part, count, scorers)


def slug(name: str) -> str:
    """A name as folders are called."""
    return re.sub(r"\W+", "-", name).strip("-").lower()
