"""The page of one run: how it learns, what from, what it says, how good it is, and how to make it again."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nlp_ssl.core.console import counted
from nlp_ssl.publishing.card import DATA_FACTS, MODEL_FACTS, PROCEDURE_FACTS, RESULT_FACTS, command_again
from nlp_ssl.publishing.tables import is_number
from nlp_ssl.reports.figures import Line, draw_histogram, draw_lines
from nlp_ssl.reports.page import Matrix, Page, Part, Picture, Section, Table, Text
from nlp_ssl.reports.record import ERRORS_FILE, PAGE_FILE, PREDICTIONS_FILE, Run

MANY_CLASSES = 40  # that a matrix of confusions shows
LONG_TEXT = 400  # characters of a row's text


def run_page(run: Run) -> Page:
    """The page of a run, wherever it is."""
    return Page(
        title=run.name,
        subtitle=_subtitle(run),
        numbers=list(_numbers(run)),
        sections=[
            Section("Results", list(_results(run))),
            Section("Learning curves", list(_curves(run))),
            Section("What the model says", list(_samples(run))),
            Section("Predictions", list(_predictions(run))),
            Section("Data", list(_data(run))),
            Section("Model and training", list(_model(run))),
            Section("Configuration", list(_configuration(run))),
            Section("How to make it again", list(_again(run))),
        ],
        unfinished=run.status.get("status") == "running",
    )


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, from what lies there.

    Raises:
        UserError: the folder holds no log, or one that is damaged.
    """
    run = Run.read(folder)
    return run_page(run).write(folder / PAGE_FILE, run.facts.mode)


def _subtitle(run: Run) -> str:
    status, step = run.status.get("status"), run.status.get("step", 0)
    if status == "running" and run.log:
        step = run.log[-1].get("step", step)
    total = f" of {run.facts.total:,}" if run.facts.total else ""
    said = {"running": f"running, at step {step:,}{total}", "finished": f"finished after {counted(step, 'step')}"}
    why = run.status.get("reason") or run.status.get("error") or ""
    sentence = said.get(str(status), f"{status or 'of unknown outcome'} at step {step:,}{total}{why and f': {why}'}")
    what = f"{run.facts.what[:1].upper()}{run.facts.what[1:]}. " if run.facts.what else ""
    return f"{what}{sentence[:1].upper()}{sentence[1:]}."


def _numbers(run: Run) -> Iterator[tuple[str, Any, str]]:
    if run.facts.scores:
        for row in run.facts.scores:
            for name in run.facts.metrics:
                if is_number(row.get(name)):
                    yield _words(name), row[name], f"{row.get('set', 'labelled')} set"
    elif run.evaluations:
        for name in run.facts.metrics or ["held_out_loss"]:
            if is_number(value := run.final_scores.get(name)):
                first = run.evaluations[0].get(name)
                since = f"{first:.4g} at step {run.evaluations[0]['step']:,}" if is_number(first) else ""
                yield _words(name), value, since
    if run.steps:
        last = run.steps[-1]
        yield "Tokens seen", last.get("tokens"), ""
        rates = sorted(row["tokens_per_second"] for row in run.steps if is_number(row.get("tokens_per_second")))
        if rates:
            yield "Tokens per second", round(rates[len(rates) // 2]), "median"
        if is_number(last.get("seconds")):
            yield "Minutes of training", round(last["seconds"] / 60, 1), ""
        yield "Skipped steps", len(run.events("incident")), ""


def _results(run: Run) -> Iterator[Part]:
    if run.facts.scores:
        columns = list(dict.fromkeys(name for row in run.facts.scores for name in row))
        rows = [[row.get(name) for name in columns] for row in run.facts.scores]
        yield Table(list(map(_words, columns)), rows, "Final scores of the labelled sets, 95 % intervals over rows")
    if shown := run.shown_evaluation:
        which = "The last evaluation" if shown is run.evaluations[-1] else "The evaluation of the model that was kept"
        what = run.facts.results
        rows = [[what.get(name, _words(name)), value] for name, value in _measured(shown).items()]
        rows += [[f"For comparison: {name}", value] for name, value in run.facts.reference.items()]
        yield Table(["Held out", "Value"], rows, f"{which}, at step {shown['step']:,}")


def _curves(run: Run) -> Iterator[Part]:
    steps, evaluations = run.steps, run.evaluations
    seen = [row["tokens"] for row in steps]
    lines = [Line("training", seen, _column(steps, "loss"), noisy=True)] if steps else []
    if evaluations:
        at = [row["tokens"] for row in evaluations]
        lines.append(Line("held out", at, _column(evaluations, "held_out_loss"), points=True))
    yield from _picture(lines, "Loss in training and on held-out data, nats per target", run.facts.reference)
    terms = [name for name in (steps[-1] if steps else {}) if name.endswith("_loss")]
    several = [Line(_words(name.removesuffix("_loss")), seen, _column(steps, name), noisy=True) for name in terms]
    yield from _picture(several, "Each loss term in training, nats per target of its own")
    for name in _measured(evaluations[-1]) if evaluations else ():
        if name != "held_out_loss" and len(evaluations) > 1:
            line = Line(_words(name), at, _column(evaluations, name), points=True)
            yield from _picture([line], f"{_words(name)} on held-out data")
    for name, caption in (
        ("lr", "Learning rate"),
        ("grad_norm", "Gradient norm before clipping"),
        ("tokens_per_second", "Tokens per second"),
    ):
        yield from _picture([Line(caption, seen, _column(steps, name))], caption)
    if incidents := run.events("incident"):
        columns = [name for name in incidents[0] if name not in ("event", "rows")]
        rows = [[row.get(name) for name in columns] for row in incidents]
        yield Table(list(map(_words, columns)), rows, "Skipped steps")
    if evaluations:
        columns = ["step", "tokens", *_measured(evaluations[-1]), "seconds"]
        rows = [[row.get(name) for name in columns] for row in evaluations]
        yield Table(list(map(_words, columns)), rows, "All evaluations as numbers", folded=True)


def _picture(lines: list[Line], caption: str, levels: Mapping[str, float] | None = None) -> Iterator[Part]:
    lines = [line for line in lines if line.x]
    small = len(lines) == 1
    drawn = draw_lines(lines, "tokens", levels, small=small)
    if drawn is not None:
        yield Picture(drawn, caption, half=small)


def _samples(run: Run) -> Iterator[Part]:
    moments = run.facts.samples
    for number in range(max((len(moment["lines"]) for moment in moments), default=0)):
        rows = [[moment["step"], moment["lines"][number]] for moment in moments if number < len(moment["lines"])]
        yield Table(["After step", "Held-out text, read by plain transformers"], rows, f"Text {number + 1}")


def _predictions(run: Run) -> Iterator[Part]:
    rows = [row for row in run.lines(PREDICTIONS_FILE) if row.get("set") == "validation"]
    pairs = Counter((row["label"], row["predicted"]) for row in rows if isinstance(row.get("label"), str))
    classes = sorted({name for pair in pairs for name in pair}, key=str)
    if pairs and len(classes) <= MANY_CLASSES:
        counts = [[pairs[true, predicted] for predicted in classes] for true in classes]
        yield Matrix(classes, counts, "Rows of the validation set: true classes down, predicted classes across")
    if errors := run.lines(ERRORS_FILE):
        columns = list(errors[0])
        cells = [[_short(row.get(name)) for name in columns] for row in errors]
        yield Table(list(map(_words, columns)), cells, "What the model is most wrong about")


def _data(run: Run) -> Iterator[Part]:
    yield from _facts(DATA_FACTS, run.facts.facts)
    if lengths := run.facts.lengths:
        drawn = draw_histogram(lengths["edges"], lengths["counts"], "tokens", "documents")
        if drawn is not None:
            yield Picture(drawn, "Lengths of the documents in tokens")
    if audit := run.facts.tokenizer:
        yield Table(["Tokenizer", "On held-out text"], [[_words(name), value] for name, value in audit.items()])


def _model(run: Run) -> Iterator[Part]:
    yield from _facts(MODEL_FACTS, run.facts.facts)
    known = {*DATA_FACTS, *MODEL_FACTS, *PROCEDURE_FACTS, *RESULT_FACTS, *run.facts.results}
    others = {name: _words(name) for name in run.facts.facts if name not in known}
    yield from _facts({**PROCEDURE_FACTS, **others}, run.facts.facts)


def _facts(labels: Mapping[str, str], facts: Mapping[str, Any]) -> Iterator[Part]:
    rows = [[label, facts[name]] for name, label in labels.items() if facts.get(name) is not None]
    if rows:
        yield Table(["", ""], rows)


def _configuration(run: Run) -> Iterator[Part]:
    if run.facts.changed:
        caption = "Options that are not at their defaults: given by you, or derived by the run"
        yield Table(["Option", "Value", "Default", "From"], run.facts.changed, caption)
    if run.facts.settings:
        yield Table(["Option", "Value"], [*map(list, run.facts.settings.items())], "All options, resolved", folded=True)


def _again(run: Run) -> Iterator[Part]:
    if run.facts.program:
        what = "The file holds the options as resolved; paths of data in it are relative to where the run was started."
        yield Text([f"{what} On the same data it gives the same rows and masks:"])
        settings = run.facts.settings
        trained = bool(run.facts.facts.get("preset")) and settings.get("tokenizer.path") is None
        steps = None if settings.get("train.minutes") is None else run.facts.total
        command = command_again(run.facts.program, run.folder, steps=steps, tokenizer=trained)
        yield Text([f"{command} --output_dir again"], verbatim=True)
    digests = [row for row in run.steps if "digest" in row]
    if digests:
        last = digests[-1]
        yield Text([f"Two runs with equal digests learnt from the same: {last['digest']} at step {last['step']:,}."])


def _measured(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation, without what every line of a log has."""
    return {
        name: value
        for name, value in evaluation.items()
        if is_number(value) and name not in ("step", "tokens", "seconds")
    }


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [float(row[name]) if is_number(row.get(name)) else float("nan") for row in rows]


def _words(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}".replace("_", " ")


def _short(value: Any) -> Any:
    return f"{value[:LONG_TEXT]} …" if isinstance(value, str) and len(value) > LONG_TEXT else value
