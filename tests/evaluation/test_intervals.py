"""Intervals: the fast scores are those of the metrics, and the bootstrap is scipy's."""

import numpy as np
import pytest
from scipy import stats

from nlp_ssl.evaluation.intervals import bootstrap, scorer
from nlp_ssl.evaluation.metrics import MAIN, METRICS

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def draw(metric, rng, count):
    """Random predictions and references of a metric's kind."""
    if metric in ("entity_f1", "tag_accuracy"):
        sizes = rng.integers(1, 9, size=count)
        return [[[TAGS[i] for i in rng.integers(len(TAGS), size=n)] for n in sizes] for _ in range(2)]
    if metric in ("pearson_spearman", "pearsonr", "spearmanr"):
        return rng.normal(size=(2, count)).round(1).tolist()
    if "multilabel" in metric:
        return rng.integers(2, size=(2, count, 4)).tolist()
    return rng.integers(2 if metric == "f1" else 5, size=(2, count)).tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_a_score_of_resampled_rows_is_the_metrics(metric, seed):
    rng = np.random.default_rng(seed)
    predictions, references = draw(metric, rng, 30)
    score = scorer(metric, predictions, references)
    for rows in (np.arange(30), rng.integers(30, size=30), rng.integers(30, size=4)):
        both = {"predictions": [predictions[i] for i in rows], "references": [references[i] for i in rows]}
        results = METRICS[metric]().compute(**both)
        expected = results.get(MAIN.get(metric, metric), results.get("overall_f1"))
        assert score(rows) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in ("entity_f1", "tag_accuracy")])
def test_constant_predictions_and_references(metric):
    several = "multilabel" in metric
    for p, r in ((0, 0), (0, 1), (1, 1), (1, 0)):
        predictions, references = ([[x] * 3 if several else x] * 6 for x in (p, r))
        results = METRICS[metric]().compute(predictions=predictions, references=references)
        expected = results[MAIN.get(metric, metric)]
        assert scorer(metric, predictions, references)(np.arange(6)) == pytest.approx(expected, nan_ok=True)


def test_the_interval_of_one_run_is_scipys():
    rng = np.random.default_rng(0)
    references = rng.integers(2, size=400)
    predictions = np.where(rng.random(400) < 0.8, references, 1 - references)
    found = bootstrap([scorer("accuracy", predictions, references)], 400)
    right = (predictions == references).astype(float)
    expected = stats.bootstrap((right,), np.mean, n_resamples=5000, method="percentile").confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.006)


def test_seeds_that_disagree_widen_it():
    rng = np.random.default_rng(0)
    references = rng.integers(2, size=2000)
    runs = [np.where(rng.random(2000) < share, references, 1 - references) for share in (0.6, 0.8)]
    scorers = [scorer("accuracy", run, references) for run in runs]
    low, high = bootstrap(scorers, 2000)
    assert low < 0.63 < 0.77 < high
    assert np.diff(bootstrap(scorers[:1], 2000))[0] < 0.05
