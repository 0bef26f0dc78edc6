"""Where labelled rows come from: built-in tasks, local files, Hub data sets; unchanged, each with its place."""

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.builtin_tasks import library_texts, signature_tags
from nlp_ssl.data.labelled.tag_schemes import read_conll

EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".conll")


@dataclass
class Task:
    """A name of ours for a Hub data set, and what is known about it."""

    path: str
    subset: str | None = None
    revision: str | None = None
    text_columns: list[str] | None = None
    label_column: str | None = None
    metrics: list[str] | None = None
    classes: tuple[str, ...] = ()  # the names that the Hub gives to the numbers of the classes
    validation: str = "validation"
    test: str = "test"
    hidden: tuple[str, ...] = ()


def _glue(subset: str, columns: str, classes: str, metrics: str = "accuracy", **splits: Any) -> Task:
    names = tuple(classes.split())
    return Task("nyu-mll/glue", subset, None, columns.split(), "label", metrics.split(), names, **splits)


# Hub ids that hold parquet: `datasets` 5 runs no loading scripts
TASKS = {
    "glue/cola": _glue("cola", "sentence", "unacceptable acceptable", "matthews_correlation"),
    "glue/sst2": _glue("sst2", "sentence", "negative positive"),
    "glue/mrpc": _glue("mrpc", "sentence1 sentence2", "not_equivalent equivalent", "accuracy f1"),
    "glue/qqp": _glue("qqp", "question1 question2", "not_duplicate duplicate", "accuracy f1"),
    "glue/stsb": _glue("stsb", "sentence1 sentence2", "", "pearson_spearman pearsonr spearmanr"),
    "glue/mnli": _glue(  # what it calls its test set is here the mismatched one, whose labels are known
        "mnli",
        "premise hypothesis",
        "entailment neutral contradiction",
        validation="validation_matched",
        test="validation_mismatched",
        hidden=("test_matched", "test_mismatched"),
    ),
    "glue/qnli": _glue("qnli", "question sentence", "entailment not_entailment"),
    "glue/rte": _glue("rte", "sentence1 sentence2", "entailment not_entailment"),
    "glue/wnli": _glue("wnli", "sentence1 sentence2", "not_entailment entailment"),
    "imdb": Task("stanfordnlp/imdb", None, None, ["text"], "label", ["accuracy"]),
    "ag_news": Task("fancyzhx/ag_news", None, None, ["text"], "label", ["accuracy"]),
    "conll2003": Task("eriktks/conll2003", None, "refs/convert/parquet", None, "ner_tags"),
}


@dataclass
class Rows:
    """One split as it was read: columns on demand, and where every row stands in its source."""

    where: str
    names: list[str]
    column: Callable[[str], list]
    places: Sequence[int]
    unit: str = "row"
    features: Features = field(default_factory=Features)
    word_lines: bool = False  # every word stands on a line of its own, and a place is the line of the first

    def at(self, row: int, word: int | None = None) -> str:
        """`"train.csv, line 7"`, in front of a message about a row, or about a word of it."""
        if word is not None and self.word_lines:
            return f"{self.where}, line {self.places[row] + word}"
        place = f"{self.where}, {self.unit} {self.places[row]}"
        return place if word is None else f"{place}, word {word + 1}"

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.places)

    def class_names(self, column: str) -> list[str] | None:
        """Names of the classes of a `ClassLabel` column, or of a list of them; `None` for any other."""
        feature = self.features.get(column)
        feature = getattr(feature, "feature", feature)
        return feature.names if isinstance(feature, ClassLabel) else None


def read_splits(config: LabelledConfig, kind: Literal["classification", "tagging"]) -> tuple[dict[str, Rows], Task]:
    """Read the splits that there are, of `train`, `validation` and `test`, and what is known about the task.

    Raises:
        UserError: no file or data set, one that cannot be read, no network, no training split.
    """
    if config.train_file:
        files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
        splits = {split: _read_file(Path(file), kind) for split, file in files.items() if file}
        return splits, Task(Path(config.train_file).name.split(".")[0])
    if config.validation_file or config.test_file:
        raise UserError("--data.validation_file and --data.test_file need --data.train_file beside them")
    if config.glue_dir:
        if config.task not in TASKS or not config.task.startswith("glue/"):
            raise UserError(
                f"--data.glue_dir needs --data.task with a task of GLUE, such as glue/sst2, not {config.task}"
            )
        return read_glue(Path(config.glue_dir), config.task), replace(TASKS[config.task], path=config.task)
    if config.task == "builtin":
        texts, labels = library_texts() if kind == "classification" else signature_tags()
        names = ("text", "label") if kind == "classification" else ("tokens", "tags")
        rows = _from_lists("the built-in task", dict(zip(names, (texts, labels), strict=True)))
        return {"train": rows}, Task("builtin-library" if kind == "classification" else "builtin-signature")
    return _read_hub(config)


def _read_hub(config: LabelledConfig) -> tuple[dict[str, Rows], Task]:
    if config.task.startswith("glue/") and config.task not in TASKS:
        near = difflib.get_close_matches(config.task, TASKS, n=1) or ["glue/sst2"]
        raise UserError(f"there is no task {config.task!r}; did you mean {near[0]}?")
    if Path(config.task.removesuffix(".gz")).suffix in EXTENSIONS:
        raise UserError(f"--data.task {config.task} looks like a file; give it as --data.train_file")
    task = TASKS.get(config.task, Task(config.task))
    task = replace(task, subset=config.subset or task.subset, revision=config.revision or task.revision)
    say(f"opening data set {task.path}")  # without a network the Hub's client tries for half a minute
    try:
        loaded = load_dataset(task.path, task.subset, revision=task.revision)
    except DatasetNotFoundError:
        raise UserError(
            f"{task.path!r} is no data set on the Hub that you may read; names of ours: builtin, {', '.join(TASKS)}"
        ) from None
    except ConnectionError:
        raise UserError(
            f"the Hub cannot be reached for {task.path!r}; what works without a network: --data.task builtin, or "
            f"--data.train_file with a local {', '.join(EXTENSIONS)} file"
        ) from None
    except (ValueError, RuntimeError, FileNotFoundError) as error:  # no such subset or revision, a script, no data
        raise UserError(f"data set {task.path!r} cannot be opened: {' '.join(str(error).split())}") from None
    assert isinstance(loaded, DatasetDict)
    if "train" not in loaded:
        raise UserError(f"data set {task.path!r} has no split 'train', only {', '.join(loaded)}")
    splits = {"train": _from_dataset(f"{task.path} (train)", loaded["train"])}
    validation = next((s for s in (task.validation, "valid", "dev", "val") if s in loaded), None)
    if validation:
        splits["validation"] = _from_dataset(f"{task.path} ({validation})", loaded[validation])
    if task.test in loaded:
        splits["test"] = _from_dataset(f"{task.path} ({task.test})", loaded[task.test])
    hidden = [loaded[name] for name in task.hidden if name in loaded]
    if hidden:
        splits["hidden"] = _from_dataset(f"{task.path} (hidden)", concatenate_datasets(hidden))
    return splits, replace(task, path=config.task)


# folder, and the files whose rows are `train`, `validation`, `test` and `hidden` (and those after it, below each other)
GLUE_FILES: dict[str, tuple[str, str, str, *tuple[str | None, ...]]] = {
    "glue/cola": ("CoLA", "train", "dev", None, "test"),
    "glue/sst2": ("SST-2", "train", "dev", None, "test"),
    "glue/mrpc": ("MRPC", "train", "dev", None, "test"),
    "glue/qqp": ("QQP", "train", "dev", None, "test"),
    "glue/stsb": ("STS-B", "train", "dev", None, "test"),
    "glue/mnli": ("MNLI", "train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"),
    "glue/qnli": ("QNLI", "train", "dev", None, "test"),
    "glue/rte": ("RTE", "train", "dev", None, "test"),
    "glue/wnli": ("WNLI", "train", "dev", None, "test"),
}
GLUE_COLUMNS = {"Quality": "label", "is_duplicate": "label", "score": "label", "gold_label": "label"}
GLUE_COLUMNS |= {"#1 String": "sentence1", "#2 String": "sentence2"}
COLA_COLUMNS = "source\tlabel\tstar\tsentence\n"  # its first line is a row


def read_glue(folder: Path, task: str) -> dict[str, Rows]:
    """A task of GLUE from the files that the benchmark published, each plain or .gz.

    Raises:
        UserError: the training or the development file is not there, or holds no rows.
    """
    name, *files = GLUE_FILES[task]
    found: dict[str, Rows] = {}
    for split, file in zip(("train", "validation", "test", *["hidden"] * 2), files, strict=False):
        if file is None:
            continue
        path = next((p for p in (folder / name / f"{file}.tsv", folder / name / f"{file}.tsv.gz") if p.exists()), None)
        if path is None:
            if split in ("train", "validation"):
                raise UserError(f"{task}: there is no {folder / name / file}.tsv")
            continue
        rows = _read_glue_file(path, COLA_COLUMNS if task == "glue/cola" and split != "hidden" else "")
        if task == "glue/mnli":
            rows = _renamed(rows, {"sentence1": "premise", "sentence2": "hypothesis"})
        found[split] = _joined(found[split], rows) if split in found else rows
    return found


def _read_glue_file(path: Path, header: str) -> Rows:
    (_, names), *records = _tsv_records(header + _read_text(path))
    whole = [(line, values) for line, values in records if len(values) == len(names)]
    if len(whole) < len(records):
        say(f"{path}: {len(records) - len(whole):,} lines with another number of fields are left out")
    if not whole:
        raise UserError(f"{path} holds no rows")
    columns = {name: [values[i] for _, values in whole] for i, name in enumerate(names)}
    places = [line - bool(header) for line, _ in whole]
    return _renamed(_from_lists(str(path), columns, places, "line"), GLUE_COLUMNS)


def _renamed(rows: Rows, names: dict[str, str]) -> Rows:
    columns = {names.get(name, name): rows.column(name) for name in rows.names}
    return replace(rows, names=list(columns), column=columns.__getitem__)


def _joined(first: Rows, second: Rows) -> Rows:
    columns = {name: first.column(name) + second.column(name) for name in first.names if name in second.names}
    return Rows(
        f"{first.where} and {second.where}", list(columns), columns.__getitem__, [*first.places, *second.places]
    )


def _from_dataset(where: str, dataset: Dataset) -> Rows:
    places = range(1, len(dataset) + 1)
    return Rows(where, dataset.column_names, lambda name: dataset[name][:], places, features=dataset.features)


def _from_lists(where: str, columns: dict[str, list], places: Sequence[int] | None = None, unit: str = "row") -> Rows:
    places = places or range(1, len(next(iter(columns.values()), [])) + 1)
    return Rows(where, list(columns), columns.__getitem__, places, unit)


def _read_file(path: Path, kind: str) -> Rows:
    """Read a .csv, .tsv, .json, .jsonl, .parquet or .conll file, plain or .gz."""
    name = path.name.removesuffix(".gz")
    extension = Path(name).suffix.lower()
    if extension not in EXTENSIONS:
        raise UserError(
            f"{path}: files of this kind cannot be read; give a {', '.join(EXTENSIONS)} file, or .gz of one"
        )
    if extension == ".conll" and kind != "tagging":
        raise UserError(
            f"{path} holds one tag a word, not one label a text; fine-tune a tagger on it (finetune_ner.py)"
        )
    if extension == ".parquet":
        try:
            rows = _from_dataset(str(path), Dataset(pq.read_table(io.BytesIO(_read_bytes(path)))))
        except pa.ArrowInvalid:
            raise UserError(f"{path} is not a parquet file") from None
    else:
        rows = _parse(str(path), extension, _read_text(path))
    if not rows.num_rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.endswith(".gz") else content
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {path}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path} is not a whole gzip file; pack or download it again") from None


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _parse(where: str, extension: str, text: str) -> Rows:
    if extension == ".conll":
        words, tags, lines = read_conll(text, where)
        return replace(_from_lists(where, {"tokens": words, "tags": tags}, lines, "line"), word_lines=True)
    if extension in (".csv", ".tsv"):
        (_, header), *records = list(_csv_records(where, text) if extension == ".csv" else _tsv_records(text)) or [
            (0, [])
        ]
        for line, values in records:
            if len(values) != len(header):
                raise UserError(f"{where}, line {line}: {len(values)} fields, but the first line names {len(header)}")
        columns = {name: [values[i] for _, values in records] for i, name in enumerate(header)}
        return _from_lists(where, columns, [line for line, _ in records], "line")
    if extension == ".json" and text.lstrip().startswith("["):
        try:
            objects = list(enumerate(json.loads(text), start=1))
        except json.JSONDecodeError as error:
            raise UserError(f"{where}, line {error.lineno}: this is not JSON ({error.msg})") from None
        unit = "row"
    else:
        objects, unit = [], "line"
        for line, content in enumerate(text.split("\n"), start=1):
            if content.strip():
                try:
                    objects.append((line, json.loads(content)))
                except json.JSONDecodeError as error:
                    raise UserError(f"{where}, line {line}: this is not JSON ({error.msg})") from None
    for place, row in objects:
        if not isinstance(row, dict):
            raise UserError(f"{where}, {unit} {place}: a row must be an object such as {{'text': ..., 'label': ...}}")
    names = dict.fromkeys(name for _, row in objects for name in row)
    columns = {name: [row.get(name) for _, row in objects] for name in names}
    return _from_lists(where, columns, [place for place, _ in objects], unit)


def _csv_records(
    where: str, text: str
) -> Iterator[tuple[int, list[str]]]:  # RFC 4180: quoted fields may hold commas, quotes and line ends
    csv.field_size_limit(2**31 - 1)  # the default stops at texts of 128 kB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        line = 1
        for values in reader:
            if values:
                yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{where}, line {line}: {error}; quote fields as in RFC 4180") from None


def _tsv_records(
    text: str,
) -> Iterator[
    tuple[int, list[str]]
]:  # as IANA defines text/tab-separated-values, and GLUE uses it: there is no quoting
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip("\r"):
            yield line, content.rstrip("\r").split("\t")
