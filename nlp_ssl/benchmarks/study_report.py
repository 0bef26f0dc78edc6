"""What a study found: scores with intervals, paired differences, and how sure it is which variant is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlp_ssl.core import console
from nlp_ssl.core.files import replace
from nlp_ssl.evaluation.intervals import LEVEL, SAMPLES, Scorer
from nlp_ssl.publishing.plots import plot_study
from nlp_ssl.publishing.tables import format_table, to_json


@dataclass(frozen=True)
class Judged:
    """What one judge says of all runs.

    Attributes:
        name: of the judge.
        metric: what is measured.
        part: of which rows.
        num_rows: how many these are.
        scorers: for each variant one per seed, in the order of the seeds.
    """

    name: str
    metric: str
    part: str
    num_rows: int
    scorers: dict[str, list[Scorer]]

    def scores(self) -> np.ndarray:
        """(variants, seeds), over all rows."""
        everything = np.arange(self.num_rows)
        return np.array([[score(everything) for score in scorers] for scorers in self.scorers.values()])

    def sampled(self, seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mean scores of the variants over drawn seeds and rows, the same for all of them; (variants,)."""
        rows = rng.integers(self.num_rows, size=self.num_rows)
        return np.array([np.mean([scorers[i](rows) for i in seeds]) for scorers in self.scorers.values()])


def report(
    judged: Sequence[Judged], costs: Mapping[str, Mapping[str, float]], seeds: Sequence[int], folder: Path
) -> dict[str, Any]:
    """Print, draw and write it.

    Intervals are those of a bootstrap (Efron and Tibshirani 1993) that draws seeds and rows with replacement, for all
    variants the same ones: so differences are of pairs.

    Args:
        judged: by each judge.
        costs: of each variant; the first one is what the others are compared with.
        seeds: of the runs.
        folder: gets `results.json` and `study.png`.
    """
    variants = list(costs)
    scores = np.array([judge.scores() for judge in judged])  # (judges, variants, seeds)
    samples = _samples(judged, len(seeds))  # (samples, judges, variants)
    names = [*(judge.name for judge in judged), *(["all, on average"] if len(judged) > 1 else [])]
    if len(judged) > 1:
        scores = np.concatenate([scores, scores.mean(0, keepdims=True)])
        samples = np.concatenate([samples, samples.mean(1, keepdims=True)], axis=1)
    metrics = [*(judge.metric for judge in judged), "mean"]
    rows = [
        {"judge": name, "metric": metrics[number], "variant": variant}
        | _compared(scores[number], samples[:, number], i)
        | {"runs": [float(score) for score in scores[number, i]]}
        for number, name in enumerate(names)
        for i, variant in enumerate(variants)
    ]
    verdict = _verdict(variants, samples[:, -1], len(judged), len(seeds))
    parts = [{"name": j.name, "metric": j.metric, "set": j.part, "rows": j.num_rows} for j in judged]
    result = {"verdict": verdict, "seeds": list(seeds), "judges": parts, "costs": dict(costs), "rows": rows}
    console.say("\n" + format_table([{"variant": name, **cost} for name, cost in costs.items()]))
    console.say("\n" + format_table([{k: v for k, v in row.items() if k != "runs"} for row in rows]))
    console.say(f"\n{verdict}")
    replace(folder / "results.json", to_json(result))
    picture = plot_study(rows, folder / "study.png")
    console.say(f"all numbers: {folder / 'results.json'}" + (f"; picture: {picture}" if picture else ""))
    return result


def _compared(scores: np.ndarray, samples: np.ndarray, variant: int) -> dict[str, Any]:
    """A variant's mean and interval; its difference to the first variant and the interval of that.

    Args:
        scores: (variants, seeds).
        samples: (samples, variants).
        variant: which.
    """
    low, high = _interval(samples[:, variant])
    found: dict[str, Any] = {"mean": float(scores[variant].mean()), "95 % from": low, "to": high}
    if variant == 0:
        return found
    low, high = _interval(samples[:, variant] - samples[:, 0])
    return found | {
        "difference": float((scores[variant] - scores[0]).mean()),
        "95 % of it": f"{low:+.4f} to {high:+.4f}",
    }


def _samples(judged: Sequence[Judged], num_seeds: int) -> np.ndarray:
    """Bootstrap samples of the mean scores, (samples, judges, variants)."""
    rng = np.random.default_rng(0)
    found = []
    for _ in console.progress(range(SAMPLES), desc="bootstrap", unit="sample", leave=False):
        seeds = rng.integers(num_seeds, size=num_seeds)
        found.append([judge.sampled(seeds, rng) for judge in judged])
    return np.array(found)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _verdict(variants: Sequence[str], samples: np.ndarray, num_judges: int, num_seeds: int) -> str:
    """Which one to take, and how sure that is; `samples` are (samples, variants)."""
    if len(variants) == 1:
        return f"{variants[0]} is all that was measured"
    order = np.argsort(-samples.mean(0))
    best, second = variants[order[0]], variants[order[1]]
    ahead = samples[:, order[0]] - samples[:, order[1]]
    low, high = _interval(ahead)
    share = float((samples.argmax(1) == order[0]).mean())
    over = f"{num_judges} judges" if num_judges > 1 else "the judge"
    few = "" if num_seeds > 2 else f"; {num_seeds} seed{'s say' if num_seeds > 1 else ' says'} little about others"
    how = f"ahead of {second} by {ahead.mean():.4f} (95 % from {low:.4f} to {high:.4f})"
    if low > 0:
        return f"take '{best}': over {over} it is {how}, and the best in {share:.0%} of the samples{few}"
    return (
        f"no variant is surely the best: over {over} '{best}' is {how}, and the best in {share:.0%} of the samples, so "
        f"more seeds or more rows could turn the order{few}"
    )
