"""What a person looks at: the run's log read back, its curves as a picture, and plain-text tables."""

import functools
import itertools
import json
import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replacing

INK, FAINT, ACCENT = "#1b3a57", "#9db8cf", "#d1495b"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`, oldest first.

    A last line that is cut off (the run was killed, or is writing) is left out.

    Raises:
        UserError: there is no such file, or a line before the last is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        raise UserError(f"there is no log {path}; give the log.jsonl of a run") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):  # a complete file ends in a newline, so the last element is what was cut off
            raise UserError(f"{path}, line {number}, is not a JSON object; remove the line to read the rest")
    return rows


def plot_curves(log_path: Path, out_png: Path, reference: Mapping[str, float] | None = None) -> Path | None:
    """Draw training and held-out loss against tokens, and the learning rate below.

    Args:
        log_path: a run's `log.jsonl`.
        out_png: where the picture goes; written apart and renamed.
        reference: losses to draw as dotted lines, by name, such as `{"unigram entropy": 6.0}`.

    Returns:
        `out_png`, or `None` when there is nothing to draw yet or matplotlib is not installed (said once).
    """
    rows = _without_rewound(read_log(log_path))
    steps = [row for row in rows if row.get("event") == "step" and _finite(row.get("loss"))]
    if not steps:
        return None
    if (figure := _figure((8, 5.4))) is None:
        return None
    tokens = {row["step"]: row["tokens"] for row in steps}
    evaluations = [
        (row.get("tokens", _interpolate(tokens, row["step"])), row["held_out_loss"])
        for row in rows
        if row.get("event") == "evaluation" and _finite(row.get("held_out_loss"))
    ]
    x, losses = list(tokens.values()), [row["loss"] for row in steps]
    rates = [(row["tokens"], row["lr"]) for row in steps if _finite(row.get("lr"))]

    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    half = len(losses) // 60
    smoothed = _smooth(losses, half)
    if half:
        top.plot(x, losses, color=FAINT, linewidth=0.8, label="training, as logged")
    top.plot(x, smoothed, color=INK, linewidth=1.6, label="training")
    if evaluations:
        top.plot(
            *zip(*evaluations, strict=True), color=ACCENT, marker="o", markersize=4, linewidth=1.6, label="held out"
        )
        style = {"xytext": (7, -3), "textcoords": "offset points", "color": ACCENT, "weight": "bold"}
        top.annotate(f"{evaluations[-1][1]:.2f}", evaluations[-1], **style)
    for name, value in (reference or {}).items():
        top.axhline(value, color="#666666", linestyle=":", linewidth=1.2)
        right = top.get_yaxis_transform()
        top.text(0.995, value, f"{name} {value:.2f}", transform=right, ha="right", va="bottom", color="#666666")
    top.set_ylabel("loss per target (nats)" if reference else "loss per target")
    top.legend(loc="upper right", facecolor="white", edgecolor="none", framealpha=1)
    if rates:
        bottom.plot(*zip(*rates, strict=True), color=INK, linewidth=1.2)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("tokens seen")
    bottom.xaxis.set_major_formatter(_count)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)

    return _save(figure, out_png)


def plot_confusion(pairs: list[tuple[int, int]], labels: list[str], out_png: Path) -> Path | None:
    """Draw which classes are taken for which: a square a pair, dark by the share of the true class's rows.

    Args:
        pairs: true and predicted class ids.
        labels: names of the classes, in the order of their ids.
        out_png: where the picture goes; written apart and renamed.

    Returns:
        `out_png`, or `None` when matplotlib is not installed (said once).
    """
    if (figure := _figure((3 + 0.5 * min(len(labels), 40), 2.6 + 0.5 * min(len(labels), 40)))) is None:
        return None
    counts = np.zeros((len(labels), len(labels)))
    for true, predicted in pairs:
        counts[true, predicted] += 1
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, [label[:32] for label in labels], rotation=90 if len(labels) > 3 else 0)
    axes.set_yticks(ticks, [label[:32] for label in labels])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= 20:
        for true, predicted in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[true, predicted] > 0.5 else INK
            text = f"{counts[true, predicted]:.0f}"
            axes.text(predicted, true, text, ha="center", va="center", color=color, fontsize=8)
    return _save(figure, out_png)


def plot_transfer(rows: list[dict[str, Any]], levels: Mapping[str, float], metric: str, out_png: Path) -> Path | None:
    """Draw a score against the number of labels that were learnt from, a line a way, its 95 % interval as a band.

    Args:
        rows: with `labels`, `way`, `set`, `mean`, `95 % from` and `to`.
        levels: by set, what needs no labels at all.
        metric: the score's name.
        out_png: where the picture goes; written apart and renamed.

    Returns:
        `out_png`, or `None` when matplotlib is not installed (said once).
    """
    sets, ways = (list(dict.fromkeys(row[key] for row in rows)) for key in ("set", "way"))
    if (figure := _figure((5.5 * len(sets), 4.4))) is None:
        return None
    for axes, part in zip(figure.subplots(1, len(sets), squeeze=False, sharey=True)[0], sets, strict=True):
        for way, color in zip(ways, (INK, ACCENT, "#6a994e"), strict=False):
            points = sorted(
                (row["labels"], row["mean"], row["95 % from"], row["to"])
                for row in rows
                if (row["set"], row["way"]) == (part, way)
            )
            x, mean, low, high = zip(*points, strict=True)
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(x, mean, color=color, marker="o", markersize=5, linewidth=1.8, label=way)
            axes.annotate(f"{mean[-1]:.3f}", (x[-1], mean[-1]), xytext=(6, -3), textcoords="offset points", color=color)
        if part in levels:
            axes.axhline(levels[part], color="#666666", linestyle=":", linewidth=1.2, label="commonest class")
        axes.set_xscale("log")
        ticks = sorted({row["labels"] for row in rows})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.margins(x=0.16)
        axes.set_xlabel("labels to learn from")
        axes.set_title(part)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel(metric.replace("_", " "))
    figure.axes[0].legend(frameon=False)
    return _save(figure, out_png)


def plot_maps(pictures: dict[str, np.ndarray], labels: np.ndarray, names: list[str], out_png: Path) -> Path | None:
    """Draw the maps side by side, a colour a class (of more than ten, the ten commonest); `None` without matplotlib."""
    if (figure := _figure((6 * len(pictures), 5.4))) is None:
        return None
    common = np.argsort(-np.bincount(labels, minlength=len(names)), kind="stable")[:10]
    for axes, (title, points) in zip(
        figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        rest = ~np.isin(labels, common)
        axes.scatter(*points[rest].T, s=4, color="#cccccc")
        for number, label in enumerate(common):
            mine = labels == label
            axes.scatter(*points[mine].T, s=5, color=f"C{number}", alpha=0.7, label=names[label][:24])
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2.5)
    return _save(figure, out_png)


def format_table(rows: list[dict[str, Any]]) -> str:
    """A plain-text table with aligned columns: one per key, in the order in which keys first appear.

    Numbers stand to the right, floats with four significant digits; a missing or `None` value is a dash.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return ""
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        cells = [str(name), *map(_cell, values)]
        width = max(map(_width, cells))
        numeric = all(value is None or _is_number(value) for value in values)
        pads = [" " * (width - _width(cell)) for cell in cells]
        aligned = [pad + cell if numeric else cell + pad for cell, pad in zip(cells, pads, strict=True)]
        columns.append([aligned[0], "-" * width, *aligned[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _figure(size: tuple[float, float]) -> Any:
    """An empty picture; `None` without matplotlib (said once)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _say_once("no pictures are drawn without matplotlib; install it with `pip install matplotlib`")
        return None
    # without pyplot: no global state and no window, also from a thread
    return Figure(figsize=size, dpi=150, layout="constrained")


def _save(figure: Any, out_png: Path) -> Path:
    out_png = Path(out_png)
    with replacing(out_png) as file:
        figure.savefig(file, format="png")
    return out_png


def to_json(value: Any) -> str:
    """JSON of nested lists and dictionaries; what is no number is null, which every reader knows."""
    return json.dumps(_strict(value), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_rewound(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the steps that a resumed run took again: the log keeps both, the model only the later ones."""
    kept: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        if row.get("event") in ("step", "evaluation") and "step" in row:
            while kept and next(reversed(kept))[0] > row["step"]:
                kept.popitem()
            kept[row["step"], row["event"]] = row
    return list(kept.values())


def _interpolate(tokens: Mapping[int, float], step: int) -> float:
    """Tokens seen at a step, from the steps that were logged (and none at step 0)."""
    known = {0: 0, **tokens}
    return float(np.interp(step, list(known), list(known.values())))


def _smooth(values: list[float], half: int) -> list[float]:
    """Centred running mean over `2 * half + 1` values, narrower towards both ends: it does not lag behind a descent."""
    totals = [0.0, *itertools.accumulate(values)]
    smoothed = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        smoothed.append((totals[i + reach + 1] - totals[i - reach]) / (2 * reach + 1))
    return smoothed


def _count(value: float, _position: int | None = None) -> str:
    """`1500000` -> `"1.5M"`; a billion is a B, as the field counts tokens."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return " ".join(str(value).split())


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@functools.cache
def _say_once(text: str) -> None:
    say(text)
