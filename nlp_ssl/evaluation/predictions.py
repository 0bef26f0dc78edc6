"""What a fine-tuned model says about every row, as a file that anyone can read, and what is most wrong in it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from nlp_ssl.core.files import replacing
from nlp_ssl.data.labelled.detokenize import as_written
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.objectives.labelled import Prediction


def write_predictions(path: Path, data: LabelledData, found: Mapping[str, list[Prediction]], mode: int = 0o666) -> None:
    """One JSON object per row: `set`, `row`, `texts` by column, `label`, `predicted`, `probabilities` of the classes.

    Args:
        path: the file; written apart and renamed.
        data: the task.
        found: the predictions for `"validation"`, `"test"` and `"hidden"` rows, as far as there are any.
        mode: permissions of the file, which holds texts.
    """
    with replacing(path, mode) as file:
        for part, predictions in found.items():
            for line in _lines(part, getattr(data, part), data, predictions):
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def _lines(part: str, rows: Dataset, data: LabelledData, predictions: list[Prediction]) -> Iterator[dict[str, Any]]:
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        texts = {column: row[column] for column in data.text_columns}
        line = {"set": part, "row": number, "texts": texts}
        line |= {"label": data.named(prediction.reference), "predicted": data.named(prediction.predicted)}
        if prediction.probabilities is not None:
            line["probabilities"] = {
                name: round(p, 6) for name, p in zip(data.names, prediction.probabilities, strict=True)
            }
        yield line


def read_predictions(path: Path, part: str) -> tuple[list[Any], list[Any]]:
    """Predicted and true labels of a set, by name, in the order of its rows."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in map(json.loads, file) if line["set"] == part]
    return [line["predicted"] for line in lines], [line["label"] for line in lines]


def worst_errors(data: LabelledData, predictions: list[Prediction], count: int = 10) -> list[dict[str, Any]]:
    """The validation rows that the model is most wrong about: table rows with `text`, `label`, `predicted`.

    The most wrong is the row whose truth has the lowest probability, of scores the one that is furthest off, and of
    tags the sentence with the most wrong words.
    """
    errors = [(i, p) for i, p in enumerate(predictions) if p.reference is not None and p.predicted != p.reference]
    wrongness = {i: data.kind.wrongness(p.predicted, p.reference, p.probabilities) for i, p in errors}
    errors.sort(key=lambda error: -wrongness[error[0]])
    rows = []
    for i, prediction in errors[:count]:
        row = data.validation[i]
        text = " | ".join(
            as_written(value)[0] if isinstance(value := row[c], list) else value for c in data.text_columns
        )
        found = {"label": data.named(prediction.reference), "predicted": data.named(prediction.predicted)}
        found = {key: data.kind.shown(label, row) for key, label in found.items()}
        if data.kind.exclusive:
            found["probability of the label"] = 1 - wrongness[i]
        rows.append({"text": text[:120], **{key: v if isinstance(v, float) else str(v) for key, v in found.items()}})
    return rows
