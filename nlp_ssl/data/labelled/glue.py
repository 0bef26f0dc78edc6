"""GLUE (Wang et al. 2018) as data: its tasks on the Hub, the files that it published, those that its server takes."""

import io
from pathlib import Path
from typing import Any

from nlp_ssl.config.common import FilesConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.files.forms import form_of
from nlp_ssl.data.files.tables import records
from nlp_ssl.data.labelled.files import read_text
from nlp_ssl.data.labelled.rows import Rows, Task, from_lists, joined, with_names


def _glue(subset: str, columns: str, classes: str, metrics: str = "accuracy", **splits: Any) -> Task:
    names = tuple(classes.split())
    return Task("nyu-mll/glue", subset, None, columns.split(), "label", metrics.split(), names, **splits)


GLUE_TASKS = {
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
}
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
            rows = with_names(rows, {"sentence1": "premise", "sentence2": "hypothesis"})
        found[split] = joined([found[split], rows]) if split in found else rows
    return found


def _read_glue_file(path: Path, header: str) -> Rows:
    form = form_of(path, FilesConfig(), ("tsv",))
    first, *rows = records(io.StringIO(header + read_text(path, form), newline="\n"), form)
    names = first.fields
    whole = [row for row in rows if len(row.fields) == len(names)]
    if len(whole) < len(rows):
        say(f"{path}: {len(rows) - len(whole):,} lines with another number of fields are left out")
    if not whole:
        raise UserError(f"{path} holds no rows")
    columns = {name: [row.fields[i] for row in whole] for i, name in enumerate(names)}
    places = [row.line - bool(header) for row in whole]
    return with_names(from_lists(str(path), columns, places, "line"), GLUE_COLUMNS)


# what the benchmark's server wants: a file a task, and for some the name of the class instead of its number
SUBMISSION = {
    "glue/cola": ("CoLA",),
    "glue/sst2": ("SST-2",),
    "glue/mrpc": ("MRPC",),
    "glue/qqp": ("QQP",),
    "glue/stsb": ("STS-B",),
    "glue/mnli": ("MNLI-m", "MNLI-mm"),
    "glue/qnli": ("QNLI",),
    "glue/rte": ("RTE",),
    "glue/wnli": ("WNLI",),
}
NAMED = ("glue/mnli", "glue/qnli", "glue/rte")
MNLI_TEST = (9796, 9847)
"""Test rows of MNLI that are matched, and the mismatched ones that come after them."""


def submission(task: str, predicted: list, labels: list[str] | None) -> dict[str, str]:
    """The files that the benchmark's server takes for a task, by name, from the predictions of its test rows.

    Args:
        task: one of `TASKS`.
        predicted: names of classes, or scores, in the order of the test rows; MNLI's matched ones first. Of MNLI there
            must be all, or there is no telling them apart, and no file is made.
        labels: names of the classes in the order of their ids; `None` for scores.
    """
    if labels is None:
        shown = [f"{min(5.0, max(0.0, score)):.3f}" for score in predicted]
    else:
        shown = [name if task in NAMED else str(labels.index(name)) for name in predicted]
    parts = [shown]
    if task == "glue/mnli":
        if len(shown) != sum(MNLI_TEST):
            return {}
        parts = [shown[: MNLI_TEST[0]], shown[MNLI_TEST[0] :]]
    return {
        f"{name}.tsv": "index\tprediction\n" + "".join(f"{i}\t{value}\n" for i, value in enumerate(part))
        for name, part in zip(SUBMISSION[task], parts, strict=True)
    }
