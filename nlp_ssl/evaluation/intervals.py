"""How far a score can be trusted: bootstrap intervals over rows and, where there are several runs, over seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlp_ssl.data.labelled.tag_schemes import entities
from nlp_ssl.evaluation.metrics import f1_of, matthews_of, pearson, ratio, spearman

Scorer = Callable[[np.ndarray], float]  # from row numbers, (N,), repeated ones counted again, to a score
SAMPLES, LEVEL = 1000, 0.95
CORRELATIONS = {"pearsonr": [pearson], "spearmanr": [spearman], "pearson_spearman": [pearson, spearman]}


def bootstrap(scorers: Sequence[Scorer], num_rows: int) -> tuple[float, float]:
    """The 95 % percentile interval of the mean score of some runs (Efron and Tibshirani 1993, chapter 13).

    Each of 1,000 samples draws runs with replacement, and rows with replacement, the same ones for all its runs. So it
    holds what other seeds and another test set of this size might have changed; of one run, only the latter.

    Args:
        scorers: one per run, over the same rows.
        num_rows: how many these are.
    """
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(SAMPLES):
        rows = rng.integers(num_rows, size=num_rows)
        runs = rng.integers(len(scorers), size=len(scorers))
        scores.append(np.mean([scorers[run](rows) for run in runs]))
    low, high = np.nanquantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def scorer(metric: str, predictions: Sequence[Any], references: Sequence[Any]) -> Scorer:
    """The main number of a metric, as a fast function of the rows it is taken over.

    Args:
        metric: a key of `METRICS`.
        predictions: class ids, rows of 0 and 1, scores, or lists of tags, one per row.
        references: likewise.
    """
    if metric == "entity_f1":
        return _entity_scorer(predictions, references)
    if metric == "tag_accuracy":
        counts = [
            (sum(p == r for p, r in zip(*row, strict=True)), len(row[0]))
            for row in zip(predictions, references, strict=True)
        ]
        right, words = np.array(counts, dtype=float).reshape(-1, 2).T
        return lambda rows: ratio(right[rows].sum(), words[rows].sum())
    p, r = np.asarray(predictions), np.asarray(references)
    if metric in CORRELATIONS:
        return lambda rows: float(np.mean([of(p[rows], r[rows]) for of in CORRELATIONS[metric]]))
    if metric.endswith("_multilabel"):
        marks = np.stack([p & r, p, r])  # (3, rows, classes)
        if "micro" in metric:
            return lambda rows: f1_of(marks[:, rows].sum(axis=(1, 2))[:, None])
        return lambda rows: f1_of(marks[:, rows].sum(axis=1))
    classes, ids = np.unique(np.stack([p, r]), return_inverse=True)
    (p, r), size = ids.reshape(2, -1), len(classes)
    positive = np.flatnonzero(classes == 1)

    def score(rows: np.ndarray) -> float:
        confusion = np.bincount(r[rows] * size + p[rows], minlength=size * size).reshape(size, size).astype(float)
        if metric == "accuracy":
            return ratio(np.trace(confusion), confusion.sum())
        if metric == "matthews_correlation":
            return matthews_of(confusion)
        counts = np.stack([np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)])
        if metric == "f1":
            return f1_of(counts[:, positive] if len(positive) else np.zeros((3, 1)))
        if metric == "f1_micro":
            return f1_of(counts.sum(axis=1, keepdims=True))
        return f1_of(counts[:, counts[1] + counts[2] > 0])  # macro leaves out what is neither predicted nor there

    return score


def _entity_scorer(predictions: Sequence[list[str]], references: Sequence[list[str]]) -> Scorer:
    found = [(set(entities(p)), set(entities(r))) for p, r in zip(predictions, references, strict=True)]
    counts = np.array([(len(p & r), len(p), len(r)) for p, r in found], dtype=float).reshape(-1, 3).T
    return lambda rows: f1_of(counts[:, rows].sum(axis=1, keepdims=True))
