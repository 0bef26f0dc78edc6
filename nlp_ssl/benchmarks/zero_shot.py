"""What a pretrained model's vectors know of pairs of texts before anything is fine-tuned, as a judge of a study."""

from pathlib import Path

import torch.nn.functional as F
from transformers import AutoModel

from nlp_ssl.config.finetuning import ClassificationConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
from nlp_ssl.evaluation.predictions import PREDICTIONS_FILE, write_predictions
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.labelled import Prediction
from nlp_ssl.objectives.text_vectors import text_vectors
from nlp_ssl.runs.status import write_status


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

    A text's vector is the mean over its tokens in the last layer.

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
        first, second = (
            text_vectors(model, tokenizer, rows[column], max_length=config.max_length) for column in data.text_columns
        )
        cosines = F.cosine_similarity(first.double(), second.double()).tolist()
        found[part] = [Prediction(cosine, score) for cosine, score in zip(cosines, rows["label"], strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS_FILE, data, found)
    write_status(folder, "finished", 0)
