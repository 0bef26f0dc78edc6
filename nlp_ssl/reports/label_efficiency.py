"""How much labelled runs make of how many labels: a curve for each starting point."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from nlp_ssl.publishing.tables import is_number
from nlp_ssl.reports.figures import Line, draw_lines
from nlp_ssl.reports.page import Part, Picture, Table
from nlp_ssl.reports.record import Run


def label_efficiency(runs: Sequence[Run]) -> Iterator[Part]:
    """A picture and a table for each metric and kind of recipe; none of runs that learnt from as many rows each."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if is_number(run.facts.facts.get("train_rows")) and run.facts.metrics:
            groups[run.facts.program, next(iter(run.facts.metrics))].append(run)
    for (_, metric), group in groups.items():
        if len({run.facts.facts["train_rows"] for run in group}) > 1:
            yield from _of_one_metric(group, metric)


def _of_one_metric(runs: Sequence[Run], metric: str) -> Iterator[Part]:
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if (score := run.final_scores.get(metric)) is not None:
            found[_starting_point(run)][run.facts.facts["train_rows"]].append(score)
    lines = [
        Line(name, sorted(by_rows), [mean(by_rows[rows]) for rows in sorted(by_rows)], points=True)
        for name, by_rows in found.items()
    ]
    named = metric.replace("_", " ")
    if (drawn := draw_lines(lines, "labelled rows", log=True)) is not None:
        yield Picture(drawn, f"{named.capitalize()} against the number of labelled rows, mean over seeds")
    rows = [
        [name, count, mean(scores), min(scores), max(scores), len(scores)]
        for name, by_rows in found.items()
        for count, scores in sorted(by_rows.items())
    ]
    yield Table(["Starting point", "labelled rows", named, "lowest seed", "highest seed", "seeds"], rows)


def _starting_point(run: Run) -> str:
    """What a run started from."""
    settings = run.facts.settings
    name = Path(str(settings.get("model.name"))).name
    if settings.get("model.from_scratch"):
        return f"{name}, from scratch"
    return f"{name}, frozen" if settings.get("transfer.unfreeze") == "never" else name
