"""What the labels of a task are: a class, several classes, a score, or one tag per word; everything that depends on it.

A label has three forms. *Written*, as people write it: the class's name, a list of names, the score, a list of tags.
*Stored*, as a `Dataset` of the task has it: the class's id, a list of ids, the score. *Predicted*, as a model says it:
stored, but several classes as 0 or 1 for each, and tags written.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from datasets import ClassLabel, Dataset, List, Value

from nlp_ssl.data.labelled.tag_schemes import OUTSIDE, is_tag


class Kind(ABC):
    """A kind of labels.

    Attributes:
        name: as cards have it.
        column: of a task's data sets.
        metrics: keys of `nlp_ssl.evaluation.metrics.METRICS`, the main one first.
        several: whether a row may have several classes, or none.
        exclusive: whether a row has one class of several, so that classes can be confused.
    """

    name: ClassVar[str]
    column: ClassVar[str] = "label"
    metrics: ClassVar[list[str]]
    several: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False

    @abstractmethod
    def classes_in(self, written: Any) -> list[str]:
        """The names of a written label."""

    @abstractmethod
    def feature(self, names: list[str] | None) -> Any:
        """Of the column in a `Dataset`, with these classes."""

    def written(self, stored: Any, names: list[str] | None) -> Any:
        """A stored label."""
        return stored

    def named(self, predicted: Any, names: list[str] | None) -> Any:
        """A predicted label, written."""
        return predicted

    def numbered(self, written: Any, names: list[str] | None, order: list[str] | None) -> Any:
        """A written label as metrics take it, of a head with these names and data with its own order of classes."""
        return written

    def summary(self, train: Dataset, validation: Dataset, names: list[str] | None) -> str:
        """What a task's description says of its labels."""
        return ""

    @abstractmethod
    def wrongness(self, predicted: Any, truth: Any, probabilities: Sequence[float] | None) -> float:
        """How wrong a prediction is, to order errors by."""

    def shown(self, written: Any, row: dict[str, Any]) -> Any:
        """A written label in a table of errors."""
        return written

    def dispensable(self, names: list[str], used: set[str]) -> set[str]:
        """Classes that a head may lack, as no row uses them."""
        return set()


class OneClass(Kind):
    """One class per row."""

    name = "classification"
    metrics: ClassVar[list[str]] = ["accuracy", "f1_macro"]
    exclusive = True

    def classes_in(self, written: str) -> list[str]:
        """That class."""
        return [written]

    def feature(self, names: list[str] | None) -> Any:
        """A `ClassLabel`."""
        return ClassLabel(names=names)

    def written(self, stored: int, names: list[str] | None) -> str:
        """The class's name."""
        assert names is not None
        return names[stored]

    def named(self, predicted: int, names: list[str] | None) -> str:
        """The class's name."""
        return self.written(predicted, names)

    def numbered(self, written: str, names: list[str] | None, order: list[str] | None) -> int:
        """Its place in the data's order; behind these, of a class that the head has and the data have not."""
        assert names is not None
        order = order or names
        return order.index(written) if written in order else len(order) + names.index(written)

    def summary(self, train: Dataset, validation: Dataset, names: list[str] | None) -> str:
        """How many, and what guessing is worth."""
        most = Counter(validation["label"]).most_common(1)[0][1] / len(validation)
        baseline = f"majority baseline (always the most frequent class): {most:.1%} accuracy"
        return f", {len(names or ())} classes; {baseline}"

    def wrongness(self, predicted: int, truth: int, probabilities: Sequence[float] | None) -> float:
        """The probability that was given to other classes."""
        assert probabilities is not None
        return 1 - probabilities[truth]


class Names(Kind):
    """A list of names a row; it is wrong by how many of them are."""

    def classes_in(self, written: list[str]) -> list[str]:
        """Those names."""
        return written

    def feature(self, names: list[str] | None) -> Any:
        """A list of a `ClassLabel`."""
        return List(ClassLabel(names=names))

    def written(self, stored: list[int], names: list[str] | None) -> list[str]:
        """The names of these ids."""
        assert names is not None
        return [names[i] for i in stored]

    def wrongness(self, predicted: list[Any], truth: list[Any], probabilities: Sequence[float] | None) -> float:
        """How many are wrong."""
        return sum(p != t for p, t in zip(predicted, truth, strict=True))


class SeveralClasses(Names):
    """Several classes a row, or none."""

    name = "multilabel"
    metrics: ClassVar[list[str]] = ["f1_micro_multilabel", "f1_macro_multilabel"]
    several = True

    def named(self, predicted: list[int], names: list[str] | None) -> list[str]:
        """The names that hold."""
        assert names is not None
        return [name for name, holds in zip(names, predicted, strict=True) if holds]

    def numbered(self, written: list[str], names: list[str] | None, order: list[str] | None) -> list[int]:
        """0 or 1 for each class of the data; others are left out."""
        return [int(name in written) for name in order or names or ()]

    def summary(self, train: Dataset, validation: Dataset, names: list[str] | None) -> str:
        """How many, and how many a row."""
        mean = sum(map(len, train["label"])) / len(train)
        return f", {len(names or ())} classes, {mean:.2f} of them a row"


class Score(Kind):
    """A number per row, without classes."""

    name = "regression"
    metrics: ClassVar[list[str]] = ["pearson_spearman"]

    def classes_in(self, written: float) -> list[str]:
        """None."""
        return []

    def feature(self, names: list[str] | None) -> Any:
        """A float."""
        return Value("float32")

    def wrongness(self, predicted: float, truth: float, probabilities: Sequence[float] | None) -> float:
        """How far it is off."""
        return abs(predicted - truth)


class Tags(Names):
    """One tag a word, such as parts of speech, measured by word."""

    name = "tagging"
    column = "tags"
    metrics: ClassVar[list[str]] = ["tag_accuracy"]

    def summary(self, train: Dataset, validation: Dataset, names: list[str] | None) -> str:
        """How many."""
        return f", {len(names or ())} tags"

    def shown(self, written: list[str], row: dict[str, Any]) -> str:
        """Such as `"Paris LOC, Smith PER"`."""
        marked = (f"{word} {tag}" for word, tag in zip(row["tokens"], written, strict=True) if tag != OUTSIDE)
        return ", ".join(marked)[:80] or "none"


class EntityTags(Tags):
    """One tag a word, in IOB2; measured by entity."""

    metrics: ClassVar[list[str]] = ["entity_f1"]

    def numbered(self, written: list[str], names: list[str] | None, order: list[str] | None) -> list[str]:
        """A tag of no scheme, as some heads have for special tokens, is outside of every entity."""
        return [tag if is_tag(tag) else OUTSIDE for tag in written]

    def summary(self, train: Dataset, validation: Dataset, names: list[str] | None) -> str:
        """How many types."""
        return f", {(len(names or ()) - 1) // 2} types of entities"

    def dispensable(self, names: list[str], used: set[str]) -> set[str]:
        """`I-` tags of types whose entities are all of one word."""
        return {name for name in names if name.startswith("I-") and name not in used}


ONE_CLASS, SEVERAL_CLASSES, SCORE, TAGS, ENTITY_TAGS = OneClass(), SeveralClasses(), Score(), Tags(), EntityTags()
