"""Labelled data for fine-tuning: built-in tasks, local files, Hub data sets; checked, and brought to one form.

Classification and regression: the text columns as they are called, and `label` (a `ClassLabel`, a list of them, or a
float). Tagging: `tokens` and `tags` (`List(ClassLabel)`), always IOB2.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, Features, List, Value

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.builtin_tasks import library_task, signature_task
from nlp_ssl.data.labelled.kinds import (
    ENTITY_TAGS,
    SCORE,
    TAGS,
    Kind,
)
from nlp_ssl.data.labelled.label_form import find_form
from nlp_ssl.data.labelled.label_values import (
    check_known,
    check_text_columns,
    find_column,
    find_text_columns,
    has_text,
    name_tags,
    read_hidden,
    read_words,
    scheme_of,
)
from nlp_ssl.data.labelled.reading import say_classes, say_tags
from nlp_ssl.data.labelled.rows import Rows, Task
from nlp_ssl.data.labelled.sources import TASKS, read_splits
from nlp_ssl.data.labelled.tag_schemes import (
    ONLY_TYPE,
    OUTSIDE,
    entities,
    tag_set,
    to_bio2,
    with_type,
    without_types,
)
from nlp_ssl.data.labelled.word_rows import ADVICE, join_words

HELD_OUT_FRACTION = 0.1
LABEL_NAMES = ("label", "labels", "score")
TOKEN_NAMES = ("tokens", "words", "token", "word")
TAG_NAMES = ("ner_tags", "tags", "ner", "labels", "label", "tag")


@dataclass
class LabelledData:
    """A labelled task, ready for an objective."""

    train: Dataset
    """Training rows."""
    validation: Dataset
    """Validation rows; held out of the training rows by a hash of their text where the source has none."""
    test: Dataset | None
    """Test rows with labels, if there are any."""
    kind: Kind
    """What the labels are: a class, several classes, a score per row, or one tag per word."""
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
    hidden: Dataset | None = None
    """Test rows whose labels nobody knows, in their order, to be predicted."""
    other_names: list[str] | None = None
    """What the source calls the `labels` besides: their numbers in a Hub data set, the names of numbers in GLUE's
    files."""
    order: list[str] | None = None
    """After `arrange`: the data's own classes in its own order, by which they are measured."""

    @property
    def names(self) -> list[str]:
        """`labels` of a task that has them: of any but regression."""
        assert self.labels is not None
        return self.labels

    def named(self, label: Any) -> Any:
        """A label as people write it: the class's name, the list of names, the score, the tags; `None` stays."""
        return None if label is None else self.kind.named(label, self.labels)

    def numbered(self, label: Any) -> Any:
        """What metrics take for a label that `named` gave: classes by their place in the data's own order.

        So it does not matter how a head orders them, though the F1 of two classes is that of the second. Of several
        classes a row those that the data has not are left out; one class that it has not is a number after all of
        its own; a tag of no scheme, as some heads have for special tokens, is outside of every entity.
        """
        return None if label is None else self.kind.numbered(label, self.labels, self.order)


def open_classification(config: LabelledConfig) -> LabelledData:
    """Open texts, or pairs of texts, with a class, several classes or a score each.

    The labels are several classes a row where the column holds lists, and scores (regression) where it holds numbers
    with fractions, unless `config.kind` says otherwise. Classes keep the order of a `ClassLabel` feature; others are
    sorted, whole numbers by value.

    Raises:
        UserError: nothing there, a column that is missing, no network for a Hub name, labels that are missing, unknown
            in training, or all the same.
    """
    splits, task = read_splits(config, library_task)
    train = splits["train"]
    label = find_column(train, config.label_column or task.label_column, LABEL_NAMES, "label_column")
    text_columns = config.text_columns or task.text_columns or find_text_columns(train, label)
    check_text_columns(text_columns, label)
    scores = "pearson_spearman" in (task.metrics or ())
    form = find_form(train, label, config.kind or ("regression" if scores else None))
    tables: dict[str, tuple[Rows, dict[str, list]]] = {}
    hidden = None
    for split, rows in splits.items():
        for column in text_columns:
            find_column(rows, column, (), "text_columns")
        if split == "hidden" or (split == "test" and form.hides(rows)):
            say(f"{rows.where} hides its labels: its rows are predicted, not scored")
            hidden = Dataset.from_dict({column: read_hidden(rows, column) for column in text_columns})
            continue
        find_column(rows, label, (), "label_column")
        table = {column: rows.column(column) for column in text_columns} | {"label": form.read(rows)}
        tables[split] = _drop(rows, table, [has_text(rows, i, table, text_columns) for i in range(rows.num_rows)])
    classes = None
    if form.kind is not SCORE:
        trained = {name for row in tables["train"][1]["label"] for name in form.kind.classes_in(row)}
        classes = form.classes(trained)
        if len(trained) < 2:
            only = "no label" if not trained else f"the label {next(iter(trained))!r}"
            raise UserError(f"every row of {train.where} has {only}; a classifier needs two classes")
        if form.kind.exclusive and "validation" not in splits and len(trained) == len(tables["train"][1]["label"]):
            raise UserError(
                f"every row of {train.where} has a label of its own in column {label!r}, so none can be held out; is "
                "it the label column (--data.label_column)? If it is, give --data.validation_file"
            )
        for rows, table in tables.values():
            labels = ((i, n) for i, row in enumerate(table["label"]) for n in form.kind.classes_in(row))
            check_known(rows, labels, trained, train.where)
    if _is_unknown(config):
        say_classes(tables["train"][0], tables["train"][1], form, classes)
    features = Features({column: Value("string") for column in text_columns})
    data = _finish(config, task, tables, features, form.kind, classes)
    data.hidden = hidden
    if form.names:
        data.other_names = list(map(str, range(len(form.names))))
    elif classes and set(classes) == set(task.classes):
        data.other_names = [str(task.classes.index(name)) for name in classes]
    elif classes == list(map(str, range(len(task.classes)))):
        data.other_names = list(task.classes)
    return data


def _is_unknown(config: LabelledConfig) -> bool:
    """Whether how to read the data is found out, not known."""
    return config.train_file is not None or config.task not in {"builtin", *TASKS}


def open_tagging(config: LabelledConfig) -> LabelledData:
    """Open sentences with one tag per word; entity tags in IOB1, IOB2, BIOES, BILOU or BMES are rewritten as IOB2.

    Tags without prefixes, such as parts of speech, stay as they are and are measured by word, not by entity. The rows
    of a table with one word each are joined to sentences.

    Raises:
        UserError: as for `open_classification`, and tags that do not match their words, or belong to no scheme.
    """
    if config.kind is not None:
        raise UserError("--data.kind is about labels of texts; a tagger reads one tag per word, leave it out")
    splits, task = read_splits(config, signature_task, tagged=True)
    train = splits["train"]
    tokens_column = find_column(train, config.tokens_column, TOKEN_NAMES, "tokens_column")
    tags_column = find_column(train, config.label_column or task.label_column, TAG_NAMES, "label_column")
    tables: dict[str, tuple[Rows, dict[str, list]]] = {}
    plain = False
    for split, rows in splits.items():
        find_column(rows, tokens_column, (), "tokens_column")
        find_column(rows, tags_column, (), "label_column")
        rows, table = _read_sentences(rows, tokens_column, tags_column, is_train=split == "train")
        scheme = scheme_of(rows, table["tags"])
        plain = scheme == "plain" if split == "train" else plain
        if (scheme == "plain") != plain and any(tag != OUTSIDE for row in table["tags"] for tag in row):
            raise UserError(f"{rows.where} and {train.where} write their tags differently: with and without B-, I-")
        if not plain:
            if scheme != "IOB2":
                say(f"{rows.where}: {scheme} tags are rewritten as IOB2")
            table["tags"] = [to_bio2(row) for row in table["tags"]]
        tables[split] = rows, table
    train_tags = tables["train"][1]["tags"]
    present: set[str] = {tag for row in train_tags for tag in row}
    if len(present) < 2:
        raise UserError(f"every word of {train.where} has the tag {next(iter(present))!r}; a tagger needs two tags")
    labels = sorted(present) if plain else tag_set(entity.type for row in train_tags for entity in entities(row))
    names = train.class_names(tags_column)
    if names and (plain or set(labels) <= set(names)):
        labels = names  # a data set that numbers its tags keeps its numbers
    known = present if plain else set(labels)
    for rows, table in tables.values():
        check_known(rows, ((i, tag) for i, row in enumerate(table["tags"]) for tag in row), known, train.where)
    if _is_unknown(config):
        say_tags(*tables["train"], tokens_column, tags_column)
    features = Features({"tokens": List(Value("string"))})
    data = _finish(config, task, tables, features, TAGS if plain else ENTITY_TAGS, labels)
    if labels is names:
        data.other_names = list(map(str, range(len(names))))
    return data


def _read_sentences(
    rows: Rows, tokens_column: str, tags_column: str, is_train: bool
) -> tuple[Rows, dict[str, list[list[str]]]]:
    """The words and tags of a split, checked."""
    rows = join_words(rows, tokens_column, tags_column)
    tokens, tags = read_words(rows, tokens_column), read_words(rows, tags_column)
    for i, (words, row) in enumerate(zip(tokens, tags, strict=True)):
        if len(words) != len(row):
            raise UserError(f"{rows.at(i)}: {len(words)} words but {len(row)} tags; every word needs one tag")
    if is_train and rows.num_rows > 1 and all(len(words) < 2 for words in tokens):
        raise UserError(f"every sentence of {rows.where} has one word; {ADVICE}")
    tags = name_tags(rows, tags, tags_column)
    if without_types(tag for row in tags for tag in row):
        say(f"{rows.where}: tags without a type, such as B, are read as B-{ONLY_TYPE}")
        tags = [list(map(with_type, row)) for row in tags]
    words = [list(map(str, row)) for row in tokens]
    return _drop(rows, {"tokens": words, "tags": tags}, [len(row) > 0 for row in words])


def arrange(data: LabelledData, labels: list[str]) -> LabelledData:
    """The same task with its classes in another order, that of a trained head, and with further ones that no row has.

    Args:
        data: the task; returned as it is where nothing changes.
        labels: the names in the order of their new ids; of the data's own only those that no row has may be missing.
    """
    if labels == data.labels:
        return data
    column, feature = data.kind.column, data.kind.feature(labels)
    ids = [labels.index(name) if name in labels else None for name in data.names]

    def arranged(rows: Dataset | None) -> Dataset | None:
        if rows is None:
            return None
        new = [[ids[i] for i in label] if isinstance(label, list) else ids[label] for label in rows[column]]
        features = Features(dict(rows.features) | {column: feature})
        return Dataset.from_dict({name: rows[name][:] for name in features} | {column: new}, features=features)

    sets: dict[str, Any] = {split: arranged(getattr(data, split)) for split in ("train", "validation", "test")}
    own = [name for name in data.names if name in labels]
    return replace(data, **sets, labels=labels, other_names=None, order=own)


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
    return rows.kept(kept), {column: [values[i] for i in kept] for column, values in table.items()}


def _finish(
    config: LabelledConfig,
    task: Task,
    tables: dict[str, tuple[Rows, dict[str, list]]],
    features: Features,
    kind: Kind,
    labels: list[str] | None,
) -> LabelledData:
    """Make data sets, hold out a validation set where there is none, and cut to the numbers asked for."""
    text_columns = list(features)
    features = Features(dict(features) | {kind.column: kind.feature(labels)})
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
        text_columns=text_columns,
        labels=labels,
        name=task.path,
        metrics=task.metrics or kind.metrics,
        description=f"{task.path}: {', '.join(sizes)} rows"
        + kind.summary(splits["train"], splits["validation"], labels),
    )


def _hashes(dataset: Dataset) -> list[int]:
    """64 bits of a hash of every row's text: a draw that depends on neither order nor seed."""
    columns = [dataset[column][:] for column in dataset.column_names[:-1]]  # the last is the label
    texts = ("\n".join(map(str, row)).encode("utf-8", "surrogatepass") for row in zip(*columns, strict=True))
    return [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") for text in texts]


def _hold_out(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """A tenth of the rows by their hash, so that equal texts stay together; training keeps a row of every class."""
    hashes = _hashes(dataset)
    limit = max(HELD_OUT_FRACTION * 2**64, min(hashes))
    held_out = {i for i, value in enumerate(hashes) if value <= limit}
    labels = dataset[dataset.column_names[-1]][:]
    kinds = [set(label) if isinstance(label, list) else {label} for label in labels]
    if not isinstance(labels[0], float):
        trained = set().union(*(kinds[i] for i in range(len(kinds)) if i not in held_out))
        held_out -= {i for i in held_out if not kinds[i] <= trained}
    if not held_out or len(held_out) == len(dataset):
        raise UserError(
            f"none of {len(dataset):,} rows can be held out, as training must keep some, and one of every label; give "
            "--data.validation_file"
        )
    rest = [i for i in range(len(dataset)) if i not in held_out]
    return dataset.select(rest), dataset.select(sorted(held_out))


def _at_most(dataset: Dataset, number: int | None) -> Dataset:
    """So many rows, drawn by their hash and left in order (the first ones of a sorted file would be of one class)."""
    if number is None or number >= len(dataset):
        return dataset
    hashes = _hashes(dataset)
    return dataset.select(sorted(sorted(range(len(dataset)), key=hashes.__getitem__)[:number]))
