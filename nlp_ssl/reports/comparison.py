"""The page of several runs: their curves over each other, in what their options differ, and what came out."""

import functools
import json
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_ssl.core.console import counted
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.invocation import dashed
from nlp_ssl.publishing.tables import is_number
from nlp_ssl.reports.figures import SERIES, Line, draw_lines
from nlp_ssl.reports.label_efficiency import label_efficiency
from nlp_ssl.reports.page import Page, Part, Picture, Section, Table
from nlp_ssl.reports.record import PAGE_FILE, Run

OWN = ("output_dir", "resume.", "hub.", "tracking.")  # in these all runs differ, and nothing follows from it


def write_comparison(found: Sequence[Path], folder: Path) -> Path:
    """Write `report.html` of several runs; returns where it is.

    Args:
        found: folders of the runs, from `find_runs(folder)`.
        folder: that they are in.

    Raises:
        UserError: there are fewer than two, or what one of them wrote is damaged.
    """
    runs = [*map(Run.read, found)]
    mode = functools.reduce(operator.and_, (run.facts.mode for run in runs))
    return comparison_page(runs, folder).write(folder / PAGE_FILE, mode)


def comparison_page(runs: Sequence[Run], folder: Path) -> Page:
    """A page of the runs in a folder.

    Raises:
        UserError: there are fewer than two.
    """
    if len(runs) < 2:
        raise UserError(f"{folder} holds {counted(len(runs), 'run')}, and a comparison needs two")
    names = {id(run): _name(run, folder) for run in runs}
    unfinished = any(run.status.get("status") == "running" for run in runs)
    return Page(
        title=counted(len(runs), "run"),
        subtitle=str(folder),
        sections=[
            Section("Results", list(_results(runs, names))),
            Section("Label efficiency", list(label_efficiency(runs))),
            Section("Learning curves", list(_curves(runs, names))),
            Section("In what they differ", list(_differences(runs, names))),
        ],
        unfinished=unfinished,
    )


def _results(runs: Sequence[Run], names: dict[int, str]) -> Iterator[Part]:
    """A table per program and its metrics: scores of different tasks have no columns in common."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.facts.program, *run.facts.metrics), []).append(run)
    for (program, *metrics), group in groups.items():
        which = f"{dashed(program) or 'Runs'} ({', '.join(metrics)})" if metrics else dashed(program) or "Runs"
        yield _scores(group, names, which.replace("_", " "))


def _scores(runs: Sequence[Run], names: dict[int, str], which: str) -> Table:
    measured = list(dict.fromkeys(name for run in runs for name in run.final_scores))
    rows = []
    for run in runs:
        last, step = run.final_scores, (run.steps or [{}])[-1]
        minutes = round(step["seconds"] / 60, 1) if is_number(step.get("seconds")) else None
        status = run.status.get("status")
        rows.append([names[id(run)], *map(last.get, measured), step.get("step"), step.get("tokens"), minutes, status])
    columns = ["Run", *(name.replace("_", " ") for name in measured), "steps", "tokens", "minutes", "status"]
    return Table(columns, rows, f"{which}: the last evaluation of each, or its final scores where it wrote any")


def _curves(runs: Sequence[Run], names: dict[int, str]) -> Iterator[Part]:
    """A picture a number; of losses that count different things a picture each."""
    objectives: dict[str, list[Run]] = {}
    for run in runs:
        what = run.facts.results.get("held_out_loss") or " of ".join(filter(None, ("Held-out loss", run.facts.what)))
        objectives.setdefault(what, []).append(run)
    for what, group in objectives.items():
        yield from _overlaid(group, names, "held_out_loss", what)
    numbers = dict.fromkeys(name for run in runs for name in run.facts.metrics if name != "held_out_loss")
    for name in numbers:
        having = [run for run in runs if name in run.facts.metrics]
        yield from _overlaid(having, names, name, f"{name.replace('_', ' ').capitalize()} on held-out data")


def _overlaid(runs: Sequence[Run], names: dict[int, str], number: str, caption: str) -> Iterator[Part]:
    for begin in range(0, len(runs), len(SERIES)):  # no two in one colour
        part = runs[begin : begin + len(SERIES)]
        lines = []
        for run in part:
            points = [(row["tokens"], row[number]) for row in run.evaluations if is_number(row.get(number))]
            if points:
                x, y = zip(*points, strict=True)
                lines.append(Line(names[id(run)], x, y, points=True))
        small = len(lines) == 1
        if lines and (drawn := draw_lines(lines, "tokens", small=small)) is not None:
            yield Picture(drawn, caption, half=small)


def _differences(runs: Sequence[Run], names: dict[int, str]) -> Iterator[Part]:
    options = dict.fromkeys(name for run in runs for name in run.facts.settings)
    differing = [
        name
        for name in options
        if not name.startswith(OWN) and len({json.dumps(run.facts.settings.get(name)) for run in runs}) > 1
    ]
    if differing:
        rows = [[name, *(_value(run.facts.settings.get(name)) for run in runs)] for name in differing]
        yield Table(
            ["Option", *(names[id(run)] for run in runs)], rows, "Resolved options that are not the same in all"
        )


def _value(value: Any) -> str:
    return "" if value is None else str(value)


def _name(run: Run, folder: Path) -> str:
    inside = run.folder.resolve().relative_to(folder.resolve())
    return str(inside) if inside.parts else run.name
