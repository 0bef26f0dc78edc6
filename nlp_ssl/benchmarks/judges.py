"""What a study can judge pretrained models by: what each kind reads, how it runs, and its metric."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.config.finetuning import ClassificationConfig, LabelledConfig, NERConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.kinds import SCORE
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
from nlp_ssl.evaluation.predictions import write_predictions
from nlp_ssl.evaluation.similarity import HALF, nearest_halves, pair_cosines
from nlp_ssl.models.loading import trained_body
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.labelled import Prediction
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.reports.record import PREDICTIONS_FILE
from nlp_ssl.runs.multi_seed import finetune
from nlp_ssl.runs.status import write_status
from nlp_ssl.training.device import training_device, use_cores


@dataclass(frozen=True)
class Judge:
    """A kind of judge.

    Attributes:
        read: its rows.
        config: its options.
        judge: takes them, and leaves `predictions.jsonl` and a finished `run_status.json` in the folder of the run.
        metric: a key of `METRICS`; the first one of the data when `None`.
        check: refuses rows that it cannot judge by, with the judge's name.
    """

    read: Callable[[LabelledConfig], LabelledData]
    config: Any
    judge: Callable[[Any], Any]
    metric: str | None = None
    check: Callable[[LabelledData, str], None] = lambda data, name: None


def check_pairs(data: LabelledData, name: str) -> None:
    """Refuse labelled texts that are no pairs with a score.

    Args:
        data: of the judge.
        name: of the judge.
    """
    if data.labels is not None or len(data.text_columns) != 2:
        raise UserError(
            f"--judges, {name}: similarity needs pairs of texts, each with a score, as in STS-B; this is "
            f"{data.description}"
        )


def read_long_texts(config: LabelledConfig) -> LabelledData:
    """Texts of two halves at least, each labelled with the number of its row; their own labels do not matter."""

    def numbered(rows: Dataset) -> Dataset:
        texts = [" ".join(row[column] for column in data.text_columns) for row in rows]
        texts = [text for text in texts if len(text.split()) >= 2 * HALF]
        return Dataset.from_dict({"text": texts, "label": [float(number) for number in range(len(texts))]})

    data = Classification.read(config)
    validation, test = numbered(data.validation), None if data.test is None else numbered(data.test)
    there, kept = (len(one) + len(other or ()) for one, other in ((data.validation, data.test), (validation, test)))
    said = f"{kept:,} texts are cut into halves; {there - kept:,} of fewer than {2 * HALF} words are left out"
    return replace(
        data, validation=validation, test=test, kind=SCORE, labels=None, text_columns=["text"], metrics=["accuracy"],
        description=said,
    )  # fmt: skip


def check_texts(data: LabelledData, name: str) -> None:
    """Refuse fewer than two texts, of which nothing is to be told apart.

    Args:
        data: of `read_long_texts`.
        name: of the judge.
    """
    if min(len(rows) for rows in (data.validation, data.test) if rows is not None) < 2:
        raise UserError(f"--judges, {name}: retrieval needs two texts at least: {data.description}")


def cosines_of_pairs(model: Any, tokenizer: Any, rows: Mapping[str, Any], max_length: int) -> Sequence[float]:
    """How alike the vectors of each pair are."""
    pairs = [rows[column] for column in rows if column != "label"]
    return pair_cosines(model, tokenizer, *pairs, max_length=max_length).tolist()


def halves_found(model: Any, tokenizer: Any, rows: Mapping[str, Any], max_length: int) -> Sequence[float]:
    """For the first half of each text the number of the text whose second half is nearest."""
    return [float(row) for row in nearest_halves(model, tokenizer, rows["text"], max_length=max_length)]


def judge_vectors(
    config: ClassificationConfig,
    *,
    read: Callable[[LabelledConfig], LabelledData],
    predict: Callable[[PreTrainedModel, PreTrainedTokenizerFast, Mapping[str, Any], int], Sequence[float]],
) -> None:
    """Write `predictions.jsonl` of all rows that are not for training, by the vectors of texts; nothing is fine-tuned.

    A text's vector is the mean over its tokens in the last layer.

    Args:
        config: the model, the rows, and the folder of the run.
        read: the rows.
        predict: what the vectors say of each.
    """
    data, folder = read(config.data), Path(config.output_dir)
    tokenizer = load_tokenizer(str(config.model.name), config.model.revision)
    device = training_device()
    if device.type == "cpu":
        use_cores(config.train.cpu_threads)
    model = trained_body(str(config.model.name), config.model.revision).to(device)
    found = {}
    for part in ("validation", "test"):
        if (rows := getattr(data, part)) is None:
            continue
        columns = {column: rows[column] for column in (*data.text_columns, "label")}
        predicted = predict(model, tokenizer, columns, config.max_length)
        found[part] = [Prediction(value, label) for value, label in zip(predicted, columns["label"], strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS_FILE, data, found)
    write_status(folder, "finished", 0)


SIMILARITY = partial(judge_vectors, read=Classification.read, predict=cosines_of_pairs)
RETRIEVAL = partial(judge_vectors, read=read_long_texts, predict=halves_found)
JUDGES = {
    "classification": Judge(Classification.read, ClassificationConfig, partial(finetune, objective=Classification)),
    "ner": Judge(Tagging.read, NERConfig, partial(finetune, objective=Tagging)),
    "similarity": Judge(Classification.read, ClassificationConfig, SIMILARITY, "spearmanr", check_pairs),
    "retrieval": Judge(read_long_texts, ClassificationConfig, RETRIEVAL, check=check_texts),
}
