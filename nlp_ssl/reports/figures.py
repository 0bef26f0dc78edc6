"""Pictures for a page: SVG that stands inside it, takes its colours and its letters, and needs no script."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from nlp_ssl.core.console import printable
from nlp_ssl.publishing.curves import count_of, smooth
from nlp_ssl.publishing.plots import new_figure

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
INK, QUIET, GRID = "#111111", "#777777", "#dddddd"
SERIES = ("#1b3a57", "#d1495b", "#6a994e", "#b8860b", "#7b2d8b", "#00798c", "#8d5524", "#3d5a80")
VARIABLES = {INK: "ink", QUIET: "quiet", GRID: "grid"} | {color: f"series-{i}" for i, color in enumerate(SERIES)}
_DRAWN_WITH: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: they can be read aloud, searched and copied
    "text.parse_math": False,  # a label may hold dollars
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "font.size": 9,
}


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: in the legend.
        x: increasing.
        y: as long; values that are not finite are gaps.
        points: show the single values, each with its numbers under the pointer.
        noisy: draw the running mean, and the values themselves faintly behind it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False
    noisy: bool = False


def draw_lines(
    lines: Sequence[Line],
    x_label: str,
    levels: Mapping[str, float] | None = None,
    *,
    small: bool = False,
    log: bool = False,
) -> str | None:
    """Curves over a common axis.

    Args:
        lines: at most as many as can be told apart have colours of their own (`SERIES`); further ones begin again.
        x_label: of what is counted there.
        levels: dotted lines to compare with, by name.
        small: one of two beside each other.
        log: the horizontal axis is logarithmic.

    Returns:
        An `<svg>` element, or `None` when there is nothing to draw or no matplotlib (said once).
    """
    lines = [line for line in lines if any(map(math.isfinite, line.y))]
    if not lines:
        return None

    def draw(axes: Any, tips: dict[str, str]) -> None:
        for number, line in enumerate(lines):
            color = SERIES[number % len(SERIES)]
            y = list(line.y)
            if line.noisy and (half := len(y) // 60):
                axes.plot(line.x, y, color=color, linewidth=0.7, alpha=0.35)
                y = smooth(y, half)
            axes.plot(line.x, y, color=color, linewidth=1.7, label=line.name)
            for at, value in zip(line.x, line.y, strict=True) if line.points else ():
                name = f"tip-{number}-{len(tips)}"
                axes.plot([at], [value], "o", color=color, markersize=4.5, gid=name)
                tips[name] = f"{line.name}: {value:,.4g} at {count_of(at)} {x_label}"
        for name, level in (levels or {}).items():
            axes.axhline(level, color=QUIET, linestyle=":", linewidth=1.2)
            to_the_right = axes.get_yaxis_transform()
            axes.text(0.995, level, f"{name} {level:.2f}", transform=to_the_right, ha="right", va="bottom", color=QUIET)
        if len(lines) > 1:
            axes.legend(frameon=False, loc="best")
        if log:
            axes.set_xscale("log")
            axes.set_xticks(sorted({at for line in lines for at in line.x}))
            axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_formatter(count_of)
        if all(abs(value) >= 1e4 for line in lines for value in line.y if math.isfinite(value)):
            axes.yaxis.set_major_formatter(count_of)

    return _svg((4.6, 2.2) if small else (6.2, 3.1), draw)


def draw_histogram(edges: Sequence[float], counts: Sequence[float], x_label: str, y_label: str) -> str | None:
    """Bars over a logarithmic axis.

    Args:
        edges: of the bars, increasing and positive; one more than `counts`.
        counts: heights.
        x_label: of the edges.
        y_label: of the heights.
    """

    def draw(axes: Any, tips: dict[str, str]) -> None:
        for number, (low, high, count) in enumerate(zip(edges[:-1], edges[1:], counts, strict=True)):
            name = f"tip-{number}"
            axes.bar(low, count, high - low, align="edge", color=SERIES[0], edgecolor="none", gid=name)
            axes.patches[-1].set_gid(name)
            tips[name] = f"{count:,.0f} of {low:,.0f} to {high:,.0f} {x_label}"
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(count_of)
        axes.yaxis.set_major_formatter(count_of)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return _svg((6.2, 2.2), draw) if sum(counts) else None


def draw_points(points: np.ndarray, classes: Sequence[str], tips: Sequence[str]) -> str | None:
    """A map of texts, a colour per class (of more than there are colours, the commonest), a text under every point.

    Args:
        points: (N, 2).
        classes: N names.
        tips: N texts.
    """
    common = sorted(set(classes), key=lambda name: (-list(classes).count(name), name))[: len(SERIES)]

    def draw(axes: Any, shown: dict[str, str]) -> None:
        colors = dict(zip(common, SERIES, strict=False))
        for number, ((x, y), name, tip) in enumerate(zip(points, classes, tips, strict=True)):
            mark = f"tip-{number}"
            axes.plot([x], [y], "o", color=colors.get(name, GRID), markersize=4, markeredgewidth=0, gid=mark)
            shown[mark] = f"{name}: {tip}"
        for name, color in colors.items():
            axes.plot([], [], "o", color=color, markersize=6, label=printable(name)[:24].removeprefix("_"))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.grid(False)

    return _svg((6.2, 4.6), draw)


def _svg(size: tuple[float, float], draw: Callable[[Any, dict[str, str]], None]) -> str | None:
    """What `draw` draws into axes, as an element of a page; the texts that it notes stand under the pointer."""
    if (figure := new_figure(size)) is None:
        return None
    import matplotlib

    tips: dict[str, str] = {}
    file = io.StringIO()
    with matplotlib.rc_context({**_DRAWN_WITH, "svg.hashsalt": "nlp_ssl"}):
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes, tips)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_a_page(file.getvalue(), tips)


def _for_a_page(svg: str, tips: Mapping[str, str]) -> str:
    """Without its own size, fonts and colours; with the texts of its points."""
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    referred_to = set(re.findall(r"#([\w.-]+)", svg))
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("aria-hidden", "true")  # the page says what it shows
    for element in list(root.iter()):
        for metadata in element.findall(f"{{{SVG}}}metadata"):
            element.remove(metadata)
        name = element.get("id", "")
        if name in tips:
            title = ElementTree.Element("title")
            title.text = printable(tips[name])
            element.insert(0, title)
        if name and name not in referred_to:  # a page has several pictures
            del element.attrib["id"]
        if "font-family" in element.get("style", ""):
            element.set("style", re.sub(r"font-family: [^;]*", "font-family: inherit", element.attrib["style"]))
    found = ElementTree.tostring(root, encoding="unicode")
    for color, variable in VARIABLES.items():
        found = found.replace(color, f"var(--{variable})")
    return found
