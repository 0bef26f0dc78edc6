"""What a study can judge pretrained models by: what each kind reads, how it runs, and its metric."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoModel

from nlp_ssl.config.finetuning import ClassificationConfig, NERConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
from nlp_ssl.evaluation.predictions import PREDICTIONS_FILE, write_predictions
from nlp_ssl.evaluation.similarity import pair_cosines
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.labelled import LabelledObjective, Prediction
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.runs.multi_seed import finetune
from nlp_ssl.runs.status import write_status


@dataclass(frozen=True)
class Judge:
    """A kind of judge.

    Attributes:
        objective: reads its rows.
        config: its options.
        judge: takes them, and leaves `predictions.jsonl` and a finished `run_status.json` in the folder of the run.
        metric: a key of `METRICS`; the first one of the data when `None`.
        check: refuses rows that it cannot judge by, with the judge's name.
    """

    objective: type[LabelledObjective]
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


def score_pairs(config: ClassificationConfig) -> None:
    """Write `predictions.jsonl`: for every labelled pair that is not for training the cosine of its vectors.

    A text's vector is the mean over its tokens in the last layer; nothing is fine-tuned.

    Args:
        config: the model, the rows, and the folder of the run.
    """
    data, folder = Classification.read(config.data), Path(config.output_dir)
    tokenizer = load_tokenizer(str(config.model.name), config.model.revision)
    model = AutoModel.from_pretrained(config.model.name, revision=config.model.revision, trust_remote_code=False)
    found = {}
    for part in ("validation", "test"):
        if (rows := getattr(data, part)) is None:
            continue
        pairs = (rows[column] for column in data.text_columns)
        cosines = pair_cosines(model, tokenizer, *pairs, max_length=config.max_length).tolist()
        found[part] = [Prediction(cosine, score) for cosine, score in zip(cosines, rows["label"], strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS_FILE, data, found)
    write_status(folder, "finished", 0)


JUDGES = {
    "classification": Judge(Classification, ClassificationConfig, partial(finetune, objective=Classification)),
    "ner": Judge(Tagging, NERConfig, partial(finetune, objective=Tagging)),
    "similarity": Judge(Classification, ClassificationConfig, score_pairs, "spearmanr", check_pairs),
}
