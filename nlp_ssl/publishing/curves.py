"""A run's log, and its curves as a picture."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nlp_ssl.core.errors import UserError
from nlp_ssl.publishing.plots import ACCENT, FAINT, INK, decoration, new_figure, save_figure


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


@decoration
def plot_curves(log_path: Path, out_png: Path, reference: Mapping[str, float] | None = None) -> Path | None:
    """Draw training and held-out loss against tokens, and the learning rate below.

    Args:
        log_path: a run's `log.jsonl`.
        out_png: where the picture goes; written apart and renamed.
        reference: losses to draw as dotted lines, by name, such as `{"unigram entropy": 6.0}`.

    Returns:
        `out_png`, or `None` when there is nothing to draw yet or matplotlib is not installed (said once).
    """
    rows = without_rewound(read_log(log_path))
    steps = [row for row in rows if row.get("event") == "step" and _finite(row.get("loss"))]
    if not steps:
        return None
    if (figure := new_figure((8, 5.4))) is None:
        return None
    tokens = {row["step"]: row["tokens"] for row in steps}
    evaluations = [
        (row.get("tokens", interpolate(tokens, row["step"])), row["held_out_loss"])
        for row in rows
        if row.get("event") == "evaluation" and _finite(row.get("held_out_loss"))
    ]
    x, losses = list(tokens.values()), [row["loss"] for row in steps]
    rates = [(row["tokens"], row["lr"]) for row in steps if _finite(row.get("lr"))]

    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    half = len(losses) // 60
    smoothed = smooth(losses, half)
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
    several = sum(name.endswith("_loss") for name in steps[-1]) > 1
    per_target = "loss per target (nats)" if reference else "loss per target"
    top.set_ylabel("weighted sum of the loss terms" if several else per_target)
    top.legend(loc="upper right", facecolor="white", edgecolor="none", framealpha=1)
    if rates:
        bottom.plot(*zip(*rates, strict=True), color=INK, linewidth=1.2)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("tokens seen")
    bottom.xaxis.set_major_formatter(count_of)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)

    return save_figure(figure, out_png)


def without_rewound(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the steps that a resumed run took again: the log keeps both, the model only the later ones."""
    kept: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        if row.get("event") in ("step", "evaluation") and "step" in row:
            while kept and next(reversed(kept))[0] > row["step"]:
                kept.popitem()
            kept[row["step"], row["event"]] = row
    return list(kept.values())


def interpolate(tokens: Mapping[int, float], step: int) -> float:
    """Tokens seen at a step, from the steps that were logged (and none at step 0)."""
    known = {0: 0, **tokens}
    return float(np.interp(step, list(known), list(known.values())))


def smooth(values: list[float], half: int) -> list[float]:
    """Centred running mean over `2 * half + 1` values, narrower towards both ends: it does not lag behind a descent."""
    totals = [0.0, *itertools.accumulate(values)]
    smoothed = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        smoothed.append((totals[i + reach + 1] - totals[i - reach]) / (2 * reach + 1))
    return smoothed


def count_of(value: float, _position: int | None = None) -> str:
    """`1500000` -> `"1.5M"`; a billion is a B, as the field counts tokens."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
