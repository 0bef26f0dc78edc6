"""Labelled data for fine-tuning: built-in tasks, local files, Hub data sets; checked, and brought to one form.

Classification and regression: the text columns as they are called, and `label` (a `ClassLabel`, or a float). Tagging:
`tokens` and `tags` (`List(ClassLabel)`), always IOB2.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datasets import ClassLabel, Dataset, Features, List, Value

from nlp_ssl.config import LabelledConfig
from nlp_ssl.console import UserError, say, warn
from nlp_ssl.data.labelled_sources import Rows, Task, read_splits
from nlp_ssl.data.tags import OUTSIDE, entities, find_scheme, tag_set, to_bio2

HELD_OUT_FRACTION = 0.1
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
TEXT_NAMES = ("text", "sentence", "content", "review", "document")
LABEL_NAMES = ("label", "labels", "score")
TOKEN_NAMES = ("tokens", "words")
TAG_NAMES = ("ner_tags", "tags", "ner", "labels", "label")


@dataclass
class LabelledData:
    """A labelled task, ready for an objective."""

    train: Dataset
    """Training rows."""
    validation: Dataset
    """Validation rows; held out of the training rows by a hash of their text where the source has none."""
    test: Dataset | None
    """Test rows with labels, if there are any."""
    kind: Literal["classification", "regression", "tagging"]
    """What the labels are: classes, scores, or one tag a word."""
    text_columns: list[str]
    """Classification and regression: one column, or the two of a pair. Tagging: `["tokens"]`."""
    labels: list[str] | None
    """Names of the classes or tags in the order of their ids; `None` for regression."""
    name: str
    """Short name of the task."""
    metrics: list[str]
    """Names of the task's metrics, keys of `nlp_ssl.evaluation.metrics.METRICS`, the main one first."""
    description: str
    """One line: how many rows and classes, and what guessing the most frequent class scores."""


def open_classification(config: LabelledConfig) -> LabelledData:
    """Open texts, or pairs of texts, with a class or a score each.

    The labels are scores (regression) when they are floats. Classes keep the order of a `ClassLabel` feature; others
    are sorted, whole numbers by value.

    Raises:
        UserError: nothing there, a column that is missing, no network for a Hub name, labels that are missing, unknown
            in training, or all the same.
    """
    splits, task = read_splits(config, "classification")
    train = splits["train"]
    label = _find_column(train, config.label_column or task.label_column, LABEL_NAMES, "label_column")
    text_columns = config.text_columns or task.text_columns or _find_text_columns(train, label)
    if len(text_columns) > 2:
        raise UserError(
            f"--data.text_columns names {len(text_columns)} columns, but a row is one text or a pair of two"
        )
    class_names = train.class_names(label)
    regression = class_names is None and _are_scores(train.column(label))
    tables: dict[str, tuple[Rows, dict[str, list]]] = {}
    for split, rows in splits.items():
        for column in (*text_columns, label):
            _find_column(rows, column, (), "text_columns")
        values = rows.column(label)
        if split == "test" and all(value in (None, "", -1) for value in values):
            say(f"{rows.where} hides its labels and is left out")
            continue
        values = [
            _score(rows, i, v) if regression else _class(rows, i, v, class_names, label) for i, v in enumerate(values)
        ]
        table = {column: rows.column(column) for column in text_columns} | {"label": values}
        tables[split] = _drop(rows, table, [_has_text(rows, i, table, text_columns) for i in range(len(values))])
    labels = None
    if not regression:
        labels = class_names or sorted(set(tables["train"][1]["label"]), key=_label_order)
        if len(set(tables["train"][1]["label"])) < 2:
            only = tables["train"][1]["label"][0]
            raise UserError(f"every row of {train.where} has the label {only!r}; a classifier needs two classes")
        for rows, table in tables.values():
            _check_known(rows, enumerate(table["label"]), set(tables["train"][1]["label"]), train.where)
    feature = Value("float32") if regression else ClassLabel(names=labels)
    features = Features({column: Value("string") for column in text_columns} | {"label": feature})
    metrics = task.metrics or (["pearson_spearman"] if regression else ["accuracy", "f1_macro"])
    data = _finish(config, task, tables, features, "regression" if regression else "classification", labels, metrics)
    if not regression:
        most = Counter(data.validation["label"]).most_common(1)[0][1] / len(data.validation)
        data.description += f", {len(labels)} classes; always guessing the commonest is {most:.1%} right"
    return data


def open_tagging(config: LabelledConfig) -> LabelledData:
    """Open sentences with one tag a word; entity tags in IOB1, IOB2, BIOES or BILOU are rewritten as IOB2.

    Tags without prefixes, such as parts of speech, stay as they are and are measured by word, not by entity.

    Raises:
        UserError: as for `open_classification`, and tags that do not match their words, or belong to no scheme.
    """
    splits, task = read_splits(config, "tagging")
    train = splits["train"]
    tokens_column = _find_column(train, config.tokens_column, TOKEN_NAMES, "tokens_column")
    tags_column = _find_column(train, config.label_column or task.label_column, TAG_NAMES, "label_column")
    tables: dict[str, tuple[Rows, dict[str, list]]] = {}
    plain = False
    for split, rows in splits.items():
        for column in (tokens_column, tags_column):
            _find_column(rows, column, (), "tokens_column")
        tokens = [_words(rows, i, value, tokens_column) for i, value in enumerate(rows.column(tokens_column))]
        tags = [_words(rows, i, value, tags_column) for i, value in enumerate(rows.column(tags_column))]
        for i, (words, row) in enumerate(zip(tokens, tags, strict=True)):
            if len(words) != len(row):
                raise UserError(f"{rows.at(i)}: {len(words)} words but {len(row)} tags; every word needs one tag")
        tags = _tag_names(rows, tags, tags_column)
        rows, table = _drop(rows, {"tokens": tokens, "tags": tags}, [len(words) > 0 for words in tokens])
        scheme = _scheme(rows, table["tags"])
        plain = scheme == "plain" if split == "train" else plain
        if (scheme == "plain") != plain and any(tag != OUTSIDE for row in table["tags"] for tag in row):
            raise UserError(f"{rows.where} and {train.where} write their tags differently: with and without B-, I-")
        if not plain:
            if scheme != "IOB2":
                say(f"{rows.where}: {scheme} tags are rewritten as IOB2")
            table["tags"] = [to_bio2(row) for row in table["tags"]]
        tables[split] = rows, table
    train_tags = tables["train"][1]["tags"]
    present = {tag for row in train_tags for tag in row}
    if len(present) < 2:
        raise UserError(f"every word of {train.where} has the tag {next(iter(present))!r}; a tagger needs two tags")
    tags = sorted(present) if plain else tag_set(entity.type for row in train_tags for entity in entities(row))
    names = train.class_names(tags_column)
    if names and (plain or set(tags) <= set(names)):
        tags = names  # a data set that numbers its tags keeps its numbers
    known = present if plain else set(tags)
    for rows, table in tables.values():
        _check_known(rows, ((i, tag) for i, row in enumerate(table["tags"]) for tag in row), known, train.where)
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=tags))})
    metrics = task.metrics or (["tag_accuracy"] if plain else ["entity_f1"])
    data = _finish(config, task, tables, features, "tagging", tags, metrics)
    data.description += f", {len(tags)} tags" if plain else f", {(len(tags) - 1) // 2} types of entities"
    return data


# ---------------------------------------------------------------------------------------------------------------------
# checks of columns and values


def _find_column(rows: Rows, wanted: str | None, usual: Sequence[str], option: str) -> str:
    """The column that the user named, or the first usual one; says which columns there are when there is none."""
    for name in [wanted] if wanted else usual:
        if name in rows.names:
            return name
    missing = f"no column {wanted!r}" if wanted else f"none of the columns {', '.join(usual)}"
    raise UserError(f"{rows.where} has {missing}, only {', '.join(rows.names)}; name the right one by --data.{option}")


def _find_text_columns(rows: Rows, label: str) -> list[str]:
    for pair in TEXT_PAIRS:
        if set(pair) <= set(rows.names):
            return list(pair)
    others = [name for name in rows.names if name != label]
    usual = [name for name in TEXT_NAMES if name in others] or (others if len(others) == 1 else [])
    return [usual[0] if usual else _find_column(rows, None, TEXT_NAMES, "text_columns")]


def _are_scores(values: list) -> bool:
    """Whether a label column holds scores: floats, or text that is mostly numbers, of which some have fractions."""
    if any(isinstance(value, float) and not math.isnan(value) for value in values):
        return True
    text = [value for value in values if isinstance(value, str) and value.strip()]
    num_numbers = sum(_number(value) is not None for value in text)
    return 2 * num_numbers > len(text) and any(_number(v) is not None and not v.strip("+- ").isdigit() for v in text)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _score(rows: Rows, row: int, value: Any) -> float:
    _check_labelled(rows, row, value)
    number = None if isinstance(value, bool) else _number(value)
    if number is None:
        raise UserError(f"{rows.at(row)}: the score {value!r} is no finite number, but other labels of the column are")
    return number


def _class(rows: Rows, row: int, value: Any, names: list[str] | None, column: str) -> str | None:
    """The name of a row's class; `None` where a `ClassLabel` is -1, which is how `datasets` writes "no label"."""
    if names is not None and value in (None, -1):
        return None
    _check_labelled(rows, row, value)
    if isinstance(value, list | dict):
        raise UserError(f"{rows.at(row)}: column {column!r} holds a {type(value).__name__}, not one label")
    return str(value) if names is None else names[value]


def _check_labelled(rows: Rows, row: int, value: Any) -> None:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{rows.at(row)} has no label; give it one or remove the row")


def _label_order(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if re.fullmatch(r"[+-]?\d+", label) else (1, 0, label)


def _has_text(rows: Rows, row: int, table: dict[str, list], text_columns: list[str]) -> bool:
    for column in text_columns:
        value = table[column][row]
        if value is not None and not isinstance(value, str):
            raise UserError(f"{rows.at(row)}: column {column!r} holds a {type(value).__name__}, not text")
        if not (value and value.strip()):
            return False
    return True


def _words(rows: Rows, row: int, value: Any, column: str) -> list:
    """A row's words or tags; one string is taken as separated by blanks (a .csv cell cannot hold a list)."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise UserError(f"{rows.at(row)}: column {column!r} must hold a list of words or tags, one tag a word")
    return value


def _tag_names(rows: Rows, tags: list[list], column: str) -> list[list[str]]:
    names = rows.class_names(column)
    for i, row in enumerate(tags):
        if names is None and any(isinstance(tag, int) for tag in row):
            raise UserError(f"{rows.at(i)}: the tags are numbers without names; give names such as B-PER and O")
    return tags if names is None else [[names[tag] for tag in row] for row in tags]


def _scheme(rows: Rows, tags: list[list[str]]) -> str:
    try:
        scheme, misfits = find_scheme(tags)
    except ValueError as error:
        message, (row, word) = error.args
        raise UserError(f"{rows.at(row, word)}: the tag {message}") from None
    if misfits:
        row, word, what = misfits[0]
        warn(
            f"{rows.at(row, word)}: {what}, which {scheme} does not allow ({len(misfits)} such tags in all); "
            "read as the CoNLL evaluation script does"
        )
    return scheme


def _check_known(rows: Rows, labels: Iterable[tuple[int, str]], known: set[str], train: str) -> None:
    for row, label in labels:
        if label not in known:
            raise UserError(f"{rows.at(row)}: the label {label!r} never occurs in {train}; training cannot learn it")


# ---------------------------------------------------------------------------------------------------------------------
# from rows to a task


def _drop(rows: Rows, table: dict[str, list], keep: list[bool]) -> tuple[Rows, dict[str, list]]:
    """Leave out rows without text or without a label, and say how many."""
    kept = [i for i, k in enumerate(keep) if k and table.get("label", keep)[i] is not None]
    num_empty = keep.count(False)
    if num_empty:
        say(f"{rows.where}: {num_empty:,} rows without text are left out")
    if len(keep) - num_empty > len(kept):
        say(f"{rows.where}: {len(keep) - num_empty - len(kept):,} rows without a label are left out")
    if not kept:
        raise UserError(f"no row of {rows.where} has both text and a label")
    places = [rows.places[i] for i in kept]
    return replace(rows, places=places), {column: [values[i] for i in kept] for column, values in table.items()}


def _finish(
    config: LabelledConfig,
    task: Task,
    tables: dict[str, tuple[Rows, dict[str, list]]],
    features: Features,
    kind: Literal["classification", "regression", "tagging"],
    labels: list[str] | None,
    metrics: list[str],
) -> LabelledData:
    """Make data sets, hold out a validation set where there is none, and cut to the numbers asked for."""
    splits = {split: Dataset.from_dict(table, features=features) for split, (_, table) in tables.items()}
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(splits["train"])
        say(f"{task.path}: {len(splits['validation']):,} of {tables['train'][0].num_rows:,} rows are held out")
    splits["train"] = _at_most(splits["train"], config.max_train)
    splits["validation"] = _at_most(splits["validation"], config.max_validation)
    sizes = [f"{len(splits[split]):,} {split}" for split in ("train", "validation", "test") if split in splits]
    return LabelledData(
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        kind=kind,
        text_columns=[column for column in features if column not in ("label", "tags")],
        labels=labels,
        name=task.path,
        metrics=metrics,
        description=f"{task.path}: {', '.join(sizes)} rows",
    )


def _hashes(dataset: Dataset) -> list[int]:
    """64 bits of a hash of every row's text: a draw that depends on neither order nor seed."""
    columns = [dataset[column][:] for column in dataset.column_names if column not in ("label", "tags")]
    texts = ("\n".join(map(str, row)).encode("utf-8", "surrogatepass") for row in zip(*columns, strict=True))
    return [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") for text in texts]


def _hold_out(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """A tenth of the rows by their hash, so that equal texts stay together; training keeps a row of every class."""
    hashes = _hashes(dataset)
    limit = max(HELD_OUT_FRACTION * 2**64, min(hashes))
    held_out = {i for i, value in enumerate(hashes) if value <= limit}
    labels = dataset["label" if "label" in dataset.column_names else "tags"][:]
    kinds = [set(label) if isinstance(label, list) else {label} for label in labels]
    if not isinstance(labels[0], float):
        trained = set().union(*(kinds[i] for i in range(len(kinds)) if i not in held_out))
        held_out -= {i for i in held_out if not kinds[i] <= trained}
    if not held_out or len(held_out) == len(dataset):
        raise UserError(f"{len(dataset)} rows are too few to hold some out; give --data.validation_file")
    rest = [i for i in range(len(dataset)) if i not in held_out]
    return dataset.select(rest), dataset.select(sorted(held_out))


def _at_most(dataset: Dataset, number: int | None) -> Dataset:
    """So many rows, drawn by their hash and left in order (the first ones of a sorted file would be of one class)."""
    if number is None or number >= len(dataset):
        return dataset
    if number < 1:
        raise UserError("--data.max_train and --data.max_validation must be at least 1")
    hashes = _hashes(dataset)
    return dataset.select(sorted(sorted(range(len(dataset)), key=hashes.__getitem__)[:number]))
