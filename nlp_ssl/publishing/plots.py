"""Pictures of results: confusion, what pretraining is worth, maps of vectors."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from nlp_ssl.core.console import optional, say
from nlp_ssl.core.files import replacing

Arguments = ParamSpec("Arguments")
INK, FAINT, ACCENT = "#1b3a57", "#9db8cf", "#d1495b"


def decoration(draw: Callable[Arguments, Path | None]) -> Callable[Arguments, Path | None]:
    """Let no picture that fails, for whatever reason, end what it illustrates: that is said, and `None` returned."""

    @functools.wraps(draw)
    def attempt(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Path | None:
        picture = None
        with optional(f"the picture of {draw.__name__.removeprefix('plot_')}"):
            picture = draw(*args, **kwargs)
        return picture

    return attempt


@decoration
def plot_confusion(pairs: list[tuple[int, int]], labels: list[str], out_png: Path) -> Path | None:
    """Draw which classes are taken for which: a square a pair, dark by the share of the true class's rows.

    Args:
        pairs: true and predicted class ids.
        labels: names of the classes, in the order of their ids.
        out_png: where the picture goes; written apart and renamed.

    Returns:
        `out_png`, or `None` when matplotlib is not installed (said once).
    """
    if (figure := new_figure((3 + 0.5 * min(len(labels), 40), 2.6 + 0.5 * min(len(labels), 40)))) is None:
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
    return save_figure(figure, out_png)


@decoration
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
    if (figure := new_figure((5.5 * len(sets), 4.4))) is None:
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
    return save_figure(figure, out_png)


@decoration
def plot_study(rows: list[dict[str, Any]], out_png: Path) -> Path | None:
    """Draw the scores of a study: a panel per judge, a line per variant, its mean, 95 % interval and single runs.

    Args:
        rows: with `judge`, `metric`, `variant`, `mean`, `95 % from`, `to` and `runs`.
        out_png: where the picture goes; written apart and renamed.

    Returns:
        `out_png`, or `None` when matplotlib is not installed (said once).
    """
    judges, variants = (list(dict.fromkeys(row[key] for row in rows)) for key in ("judge", "variant"))
    columns = min(3, len(judges))
    lines = -(-len(judges) // columns)
    if (figure := new_figure((1.6 + 3.6 * columns, lines * (1.3 + 0.34 * len(variants))))) is None:
        return None
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axes, judge in zip(panels, judges, strict=False):
        for place, row in enumerate(row for row in rows if row["judge"] == judge):
            color = INK if place else ACCENT
            axes.plot([row["95 % from"], row["to"]], [place, place], color=color, linewidth=2.2, alpha=0.55)
            axes.plot(row["runs"], [place] * len(row["runs"]), "|", color=color, markersize=9)
            axes.plot(row["mean"], place, "o", color=color, markersize=6)
            axes.annotate(f"{row['mean']:.3f}", (row["mean"], place), xytext=(0, 6), textcoords="offset points",
                          ha="center", fontsize=8, color=color)  # fmt: skip
            if not place:
                axes.axvline(row["mean"], color=ACCENT, linestyle=":", linewidth=1)
        metric = next(row["metric"] for row in rows if row["judge"] == judge)
        axes.set_title(judge[:40], fontsize=10)
        axes.set_xlabel(metric.replace("_", " "), fontsize=9)
        axes.set_yticks(range(len(variants)), [name[:32] for name in variants])
        axes.set_ylim(len(variants) - 0.5, -0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    for axes in panels[len(judges) :]:
        axes.remove()
    return save_figure(figure, out_png)


@decoration
def plot_maps(pictures: dict[str, np.ndarray], labels: np.ndarray, names: list[str], out_png: Path) -> Path | None:
    """Draw the maps side by side, a colour per class (of many, the ten commonest); `None` without matplotlib."""
    if (figure := new_figure((6 * len(pictures), 5.4))) is None:
        return None
    common = np.argsort(-np.bincount(labels, minlength=len(names)), kind="stable")[:10]
    for axes, (title, points) in zip(
        figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        rest = ~np.isin(labels, common)
        axes.scatter(*points[rest].T, s=4, color="#cccccc")
        for number, label in enumerate(common):
            mine = labels == label
            axes.scatter(*points[mine].T, s=5, color=f"C{number}", alpha=0.7, label=str(number))
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2.5)
    for text, label in zip(legend.get_texts(), common, strict=True):
        text.set_text(names[label][:24])  # as a label of the points matplotlib would leave out what begins with "_"
    return save_figure(figure, out_png)


def new_figure(size: tuple[float, float]) -> Any:
    """An empty picture; `None` without matplotlib (said once)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _say_once("no pictures are drawn without matplotlib; install it with `pip install matplotlib`")
        return None
    # without pyplot: no global state and no window, also from a thread
    return Figure(figsize=size, dpi=150, layout="constrained")


def save_figure(figure: Any, out_png: Path) -> Path:
    """Write a figure apart, and rename it to its place; returns that."""
    import matplotlib
    from matplotlib.text import Text

    out_png = Path(out_png)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a label may hold dollars
    with replacing(out_png) as file, matplotlib.rc_context({"text.parse_math": False}):  # texts made while drawing too
        figure.savefig(file, format="png")
    return out_png


@functools.cache
def _say_once(text: str) -> None:
    say(text)
