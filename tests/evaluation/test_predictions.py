"""The file of predictions: what it says of a row, whatever the columns are called."""

import csv
import json

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.data.labelled.labelled_data import open_classification
from nlp_ssl.evaluation.predictions import read_predictions, write_predictions
from nlp_ssl.objectives.labelled import Prediction


def test_columns_of_text_may_be_called_like_the_keys_of_a_row(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["set", "predicted", "label"], ["one", "two", "x"], ["three", "four", "y"]])
    source = str(tmp_path / "a.csv")
    data = open_classification(
        LabelledConfig(train_file=source, validation_file=source, text_columns=["set", "predicted"])
    )
    found = [Prediction(predicted, reference, [0.25, 0.75]) for predicted, reference in ((1, 0), (1, 1))]
    write_predictions(tmp_path / "predictions.jsonl", data, {"validation": found})
    first, _ = map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert first == {
        "set": "validation",
        "row": 0,
        "texts": {"set": "one", "predicted": "two"},
        "label": "x",
        "predicted": "y",
        "probabilities": {"x": 0.25, "y": 0.75},
    }
    assert read_predictions(tmp_path / "predictions.jsonl", "validation") == (["y", "y"], ["x", "y"])
