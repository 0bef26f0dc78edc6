"""Metrics as `evaluate.Metric` classes that need no network: make one and call it, `Accuracy().compute(...)`.

They work wherever a loaded metric does: `add_batch` and `compute`, `evaluate.combine`, the `compute_metrics` of a
`transformers.Trainer`. Unlike a loaded one, they keep their data in memory and touch no folder unless several processes
share one measurement (`num_process > 1`).
"""

import math
import os
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

from nlp_ssl.data.labelled.tag_schemes import entities
from nlp_ssl.objectives.cross_entropy import bits_per_byte


class _OfflineMetric(evaluate.Metric):
    """An `evaluate.Metric` in memory, with an experiment id of its own, that makes no folder in the user's home."""

    summary = ""
    element = "int64"

    def __init__(
        self,
        config_name: str | None = None,
        keep_in_memory: bool | None = None,
        num_process: int = 1,
        experiment_id: str | None = None,
        **kwargs: Any,
    ):
        # several processes meet in files named after the id, so there the caller names it; alone it must be unique
        super().__init__(
            config_name,
            keep_in_memory=num_process == 1 if keep_in_memory is None else keep_in_memory,
            num_process=num_process,
            experiment_id=experiment_id or (uuid.uuid4().hex if num_process == 1 else None),
            **kwargs,
        )

    def _build_data_dir(self) -> str:
        if self.keep_in_memory:
            return os.path.join(self._data_dir_root, self.name, self.config_name)
        return super()._build_data_dir()

    def _feature(self) -> Any:
        return List(Value(self.element)) if self.config_name.endswith("multilabel") else Value(self.element)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description=f"\n{type(self).__doc__}",
            features=Features(predictions=self._feature(), references=self._feature()),
        )


class Accuracy(_OfflineMetric):
    """Share of predictions that equal their reference; `Accuracy("multilabel")` asks for whole equal rows.

    `compute` takes class ids, (N,) or (N, labels), and returns `{"accuracy": float}`; nan when there is nothing.
    """

    summary = "Share of right predictions."

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        right = sum(p == r for p, r in zip(predictions, references, strict=True))
        return {"accuracy": ratio(right, len(references))}


class F1(_OfflineMetric):
    """F1, the harmonic mean of precision and recall; 0 where a class is neither predicted nor there.

    `F1()` or `F1("binary")` measures the class `pos_label` and returns `{"f1": float}`; `F1("macro")` is the plain mean
    over the classes that occur in predictions or references (`{"f1_macro": float}`), `F1("micro")` pools their counts
    (`{"f1_micro": float}`), `F1("macro_multilabel")` and `F1("micro_multilabel")` do so for the columns of 0/1 rows.
    `compute` takes class ids (N,), or (N, labels), and raises `ValueError` for `F1("binary")` when the references are
    of more than two classes; a prediction may be of a third, which is wrong.
    """

    summary = "Harmonic mean of precision and recall."

    def _compute(self, predictions: list, references: list, pos_label: int = 1) -> dict[str, float]:
        average = "binary" if self.config_name == "default" else self.config_name
        average, several = average.removesuffix("_multilabel"), average.endswith("_multilabel")
        if average not in ("binary", "macro", "micro"):
            raise ValueError(f"F1 is binary, macro or micro, or the last two of '_multilabel', not {average!r}")
        p, r = np.asarray(predictions), np.asarray(references)
        if several:
            classes = [(p[:, i] == 1, r[:, i] == 1) for i in range(r.shape[1])]
        else:
            ids = np.union1d(p, r)
            if average == "binary" and len(np.union1d(r, [pos_label])) > 2:
                raise ValueError(
                    f"the classes are {np.unique(r).tolist()}: for more than two take F1('macro') or F1('micro')"
                )
            classes = [(p == i, r == i) for i in ([pos_label] if average == "binary" else ids)]
        # one row per class: hits, predicted, there
        counts = np.array([[(a & b).sum(), a.sum(), b.sum()] for a, b in classes], dtype=float).reshape(-1, 3)
        if average == "micro":
            counts = counts.sum(axis=0, keepdims=True)
        return {"f1" if average == "binary" else f"f1_{average}": f1_of(counts.T)}


class MatthewsCorrelation(_OfflineMetric):
    """Matthews' correlation of two or more classes, R_K of Gorodkin (2004), equation 8; 0 when either side is constant.

    `compute` takes class ids (N,) and returns `{"matthews_correlation": float}`.
    """

    summary = "Correlation of predicted and true classes."

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        classes, ids = np.unique(np.array([predictions, references]), return_inverse=True)
        (p, r), size = ids.reshape(2, -1), len(classes)
        confusion = np.bincount(r * size + p, minlength=size * size).reshape(size, size).astype(float)
        return {"matthews_correlation": matthews_of(confusion)}


class PearsonSpearman(_OfflineMetric):
    """Pearson's and Spearman's correlation, and the mean of both, which STS-B reports; nan when a side is constant.

    Spearman's is Pearson's of the ranks, equal values sharing their mean rank. `compute` takes scores (N,) and returns
    `{"pearson_spearman": float, "pearsonr": float, "spearmanr": float}`.
    """

    summary = "Linear and rank correlation of scores."
    element = "float64"

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        p, r = np.asarray(predictions), np.asarray(references)
        linear, ranks = pearson(p, r), spearman(p, r)
        return {"pearson_spearman": (linear + ranks) / 2, "pearsonr": linear, "spearmanr": ranks}


class EntityF1(_OfflineMetric):
    """Entity precision, recall and F1 of the CoNLL-2003 evaluation: right means the exact span and the type.

    `compute` takes one list of tags per sentence, such as `["B-PER", "I-PER", "O"]`, in IOB1, IOB2, BIOES or BILOU, and
    returns the layout that `evaluate.load("seqeval")` has: `{"PER": {"precision", "recall", "f1", "number"}, ...,
    "overall_precision", "overall_recall", "overall_f1", "overall_accuracy"}`, the overall ones pooled over all entities
    and accuracy over words. What has no entity scores 0. Raises `ValueError` when a prediction and its reference differ
    in length, or a tag belongs to no scheme.

    Tag sequences that break their scheme, as a model may predict, are read as that evaluation does: an `I-` that
    continues nothing begins an entity. `EntityF1("strict")` reads IOB2 to the letter: there it is no entity.
    """

    summary = "Precision, recall and F1 of whole entities."
    element = "string"

    def _feature(self) -> Any:
        return List(Value("string"))

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        there: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        hits: Counter[str] = Counter()
        if self.config_name not in ("default", "strict"):
            raise ValueError(f"EntityF1 reads tags as 'default' or 'strict', not {self.config_name!r}")
        strict = self.config_name == "strict"
        for sentence, (p, r) in enumerate(zip(predictions, references, strict=True)):
            if len(p) != len(r):
                raise ValueError(f"sentence {sentence}: {len(p)} predicted tags for {len(r)} words")
            found, true = set(entities(p, strict)), set(entities(r, strict))
            there.update(entity.type for entity in true)
            predicted.update(entity.type for entity in found)
            hits.update(entity.type for entity in found & true)
        results: dict[str, Any] = {
            kind: _scores(hits[kind], predicted[kind], there[kind]) | {"number": there[kind]}
            for kind in sorted(there | predicted)
        }
        overall = _scores(hits.total(), predicted.total(), there.total())
        results |= {f"overall_{name}": value for name, value in overall.items()}
        return results | {"overall_accuracy": _tag_accuracy(predictions, references)}


class TagAccuracy(_OfflineMetric):
    """Share of words with the right tag, for tags that mark no entities, such as parts of speech.

    `compute` takes one list of tags per sentence and returns `{"tag_accuracy": float}`.
    """

    summary = "Share of right tags."
    element = "string"

    def _feature(self) -> Any:
        return List(Value("string"))

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        return {"tag_accuracy": _tag_accuracy(predictions, references)}


class Perplexity(_OfflineMetric):
    """`exp` of the mean negative log-likelihood per token: of how many equally likely ones it is as hard to guess.

    `compute` takes as predictions the summed negative log-likelihood of each text in nats, as references the number of
    tokens that were predicted in it, both (N,), and returns `{"perplexity": float}`; nan when there are no tokens. It
    depends on the tokenizer; `BitsPerByte` does not.
    """

    summary = "Exponential of the mean loss per token."
    element = "float64"

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        count = math.fsum(references)
        if not count:
            return {"perplexity": float("nan")}
        mean = math.fsum(predictions) / count
        return {"perplexity": float("inf") if mean >= 700 else math.exp(mean)}


class BitsPerByte(_OfflineMetric):
    """Bits to encode a byte of text; comparable between models of different vocabularies.

    `compute` takes as predictions the summed negative log-likelihood of each text in nats, as references the bytes in
    UTF-8 of what was predicted of it, both (N,), and returns `{"bits_per_byte": float}`; nan when there are no bytes.
    """

    summary = "Bits to encode a byte of text."
    element = "float64"

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        count = math.fsum(references)
        return {"bits_per_byte": bits_per_byte(math.fsum(predictions), count) if count else float("nan")}


# the number that stands for a metric, where it is called otherwise
MAIN = {"f1_macro_multilabel": "f1_macro", "f1_micro_multilabel": "f1_micro", "entity_f1": "f1"}
METRICS = {
    "accuracy": Accuracy,
    "f1": F1,
    "f1_macro": lambda: F1("macro"),
    "f1_micro": lambda: F1("micro"),
    "f1_macro_multilabel": lambda: F1("macro_multilabel"),
    "f1_micro_multilabel": lambda: F1("micro_multilabel"),
    "matthews_correlation": MatthewsCorrelation,
    "pearson_spearman": PearsonSpearman,
    "pearsonr": PearsonSpearman,
    "spearmanr": PearsonSpearman,
    "entity_f1": EntityF1,
    "tag_accuracy": TagAccuracy,
}


def f1_of(counts: np.ndarray) -> float:
    """Mean over classes of F1, from hits, predicted and there, (3, classes); nan without classes."""
    hits, both = counts[0], counts[1] + counts[2]
    scores = np.divide(2.0 * hits, both, out=np.zeros(len(both)), where=both > 0)
    return float(scores.mean()) if len(scores) else float("nan")


def matthews_of(confusion: np.ndarray) -> float:
    """R_K of Gorodkin (2004) from a confusion matrix; 0 when either side is constant."""
    total, there, predicted = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    covariance = np.trace(confusion) * total - there @ predicted
    spread = np.sqrt((total**2 - there @ there) * (total**2 - predicted @ predicted))
    return float(covariance / spread) if spread > 0 else 0.0


def ratio(part: float, whole: float) -> float:
    """A share; nan of nothing."""
    return float(part / whole) if whole else float("nan")


def combine(names: Iterable[str]) -> evaluate.CombinedEvaluations:
    """The named metrics (keys of `METRICS`) as one `evaluate.combine`, with `add_batch` and `compute`."""
    return evaluate.combine({name: METRICS[name]() for name in names})


def _scores(hits: int, predicted: int, there: int) -> dict[str, float]:
    return {
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / there if there else 0.0,
        "f1": f1_of(np.array([[hits], [predicted], [there]], dtype=float)),
    }


def _tag_accuracy(predictions: list[list[str]], references: list[list[str]]) -> float:
    pairs = [pair for p, r in zip(predictions, references, strict=True) for pair in zip(p, r, strict=True)]
    return ratio(sum(p == r for p, r in pairs), len(pairs))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation of two arrays, (N,); nan when either is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two arrays, (N,), equal values sharing their mean rank; nan when either is constant."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: np.ndarray) -> np.ndarray:
    _, ids, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # the 1-based rank of the last of each value
    return (last - (counts - 1) / 2)[ids]
