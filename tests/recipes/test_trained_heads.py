"""A model that has a head already: it answers as `pipeline` does, whatever the order and writing of its labels.

The truth of every row is what the model itself says of it, by plain transformers. So a head that is kept scores 1
before any training, and one whose rows were taken for other classes does not.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from launch import run
from safetensors.torch import load_file
from toys import tokenizer as toy_tokenizer
from trained_heads import CLS, NER, PAIRS, TEXTS, one, reorder, said_by, write_model
from transformers import PreTrainedModel, pipeline

from nlp_ssl.config.finetuning import ClassificationConfig, FinetuneConfig, NERConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.labelled import Prediction
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.runs.finetuning import Prepared, predict_set, prepare, start
from nlp_ssl.runs.run import Run

NLI = ["entailment", "neutral", "contradiction"]
TAGS = ["B-LOC", "O", "I-PER", "I-LOC", "B-PER"]
NO_TRAINING = ["--train.steps", 1, "--optimizer.lr", "1e-9", "--train.mixed_precision", "no", "--train.cpu_threads", 1]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass
class Started:
    """A task, and a run on it before its first step."""

    task: Prepared
    run: Run


def begin(config: type[FinetuneConfig], model: Path, data: Path, out: Path, **fields: Any) -> Started:
    """A run before its first step."""
    settings = config(output_dir=str(out), max_length=48, **fields)
    settings.model.name, settings.train.steps, settings.train.mixed_precision = str(model), 1, "no"
    if data.is_dir():
        settings.data.task = str(data)
    else:
        settings.data.train_file = settings.data.validation_file = str(data)
    task = prepare(settings, Tagging if config is NERConfig else Classification)
    return Started(task, start(settings, task))


def measure(started: Started) -> tuple[dict[str, float], list[Prediction]]:
    run = started.run
    predictions, _ = predict_set(run.objective, started.task, "validation", run.accelerator, run.config)
    return run.measure(run.objective, lambda: False), predictions


def model_of(started: Started) -> PreTrainedModel:
    return started.run.objective.published()[""]


def names(task: Prepared, predictions: list[Prediction]) -> list[Any]:
    return [task.data.named(p.predicted) for p in predictions]


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("nli"), NLI, texts=PAIRS)


@pytest.fixture(scope="module")
def pairs(nli: Path) -> list[dict[str, str]]:
    labels = said_by(nli, PAIRS)
    assert min(labels.count(label) for label in NLI) > 4
    return [{"premise": p, "hypothesis": h, "label": label} for (p, h), label in zip(PAIRS, labels, strict=True)]


@pytest.mark.parametrize(
    ("order", "stored", "written"),
    [
        ([2, 1, 0], ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], dict(zip(NLI, NLI, strict=True))),
        ([0, 1, 2], ["entailment", "neutral", "contradiction"], dict(zip(NLI, NLI, strict=True))),
        ([2, 0, 1], ["Contradiction", "Entailment", "Neutral"], dict(zip(NLI, NLI, strict=True))),
        ([0, 1, 2], ["LABEL_0", "LABEL_1", "LABEL_2"], {name: i for i, name in enumerate(NLI)}),
        ([1, 2, 0], ["1", "2", "0"], {name: str(i) for i, name in enumerate(NLI)}),
    ],
)
def test_a_classifier_is_right_whatever_its_order(nli, pairs, tmp_path, capsys, order, stored, written):
    model = reorder(nli, tmp_path / "model", order, stored)
    rows = write_rows(tmp_path / "rows.jsonl", [row | {"label": written[row["label"]]} for row in pairs])
    started = begin(ClassificationConfig, model, rows, tmp_path / "run")
    numbers, predictions = measure(started)
    assert numbers["accuracy"] == 1
    assert started.task.keep_head
    config = model_of(started).config
    assert [config.id2label[i] for i in range(3)] == [str(written[NLI[i]]) for i in order]
    assert {name: i for i, name in config.id2label.items()} == config.label2id
    assert names(started.task, predictions) == [str(written[row["label"]]) for row in pairs]
    output = capsys.readouterr()
    assert "is kept" in output.out
    assert "made anew" not in output.out + output.err


def test_numbers_on_one_side_only_are_told(nli, pairs, tmp_path, capsys):
    features = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=NLI)})
    hub = tmp_path / "hub"
    for split in ("train", "validation"):
        Dataset.from_list(pairs).cast(features).to_parquet(hub / f"{split}.parquet")
    unnamed = reorder(nli, tmp_path / "unnamed", [0, 1, 2], ["LABEL_0", "LABEL_1", "LABEL_2"])
    numbers, _ = measure(begin(ClassificationConfig, unnamed, hub, tmp_path / "run"))
    assert numbers["accuracy"] == 1
    assert "by number: LABEL_0 is entailment, LABEL_1 is neutral, LABEL_2 is contradiction" in capsys.readouterr().err

    rows = write_rows(tmp_path / "rows.jsonl", [row | {"label": NLI.index(row["label"])} for row in pairs])
    numbers, _ = measure(begin(ClassificationConfig, nli, rows, tmp_path / "run-2"))
    assert numbers["accuracy"] == 1
    assert "by number: entailment is 0, neutral is 1, contradiction is 2" in capsys.readouterr().err


def test_a_head_without_names_is_not_guessed_and_can_be_named(nli, pairs, tmp_path, capsys):
    unnamed = reorder(nli, tmp_path / "unnamed", [2, 0, 1], ["LABEL_0", "LABEL_1", "LABEL_2"])
    rows = write_rows(tmp_path / "rows.jsonl", pairs)
    started = begin(ClassificationConfig, unnamed, rows, tmp_path / "run")
    assert not started.task.keep_head
    assert "made anew; the 3 classes of" in capsys.readouterr().out
    given = ["contradiction", "entailment", "neutral"]
    numbers, _ = measure(begin(ClassificationConfig, unnamed, rows, tmp_path / "run-2", head_labels=given))
    assert numbers["accuracy"] == 1
    for wrong in (given[:2], ["neutral", *given[:1], "neutral"]):
        with pytest.raises(UserError, match=f"--head_labels gives {len(wrong)} names, but .* has a head of 3 labels"):
            begin(ClassificationConfig, unnamed, rows, tmp_path / "run-3", head_labels=wrong)


def test_other_classes_are_named_and_get_a_new_head_on_the_same_body(nli, pairs, tmp_path, capsys):
    other = {"entailment": "entailment", "neutral": "unrelated", "contradiction": "contradiction"}
    rows = write_rows(tmp_path / "rows.jsonl", [row | {"label": other[row["label"]]} for row in pairs])
    started = begin(ClassificationConfig, nli, rows, tmp_path / "run")
    assert "made anew; that of" in (said := capsys.readouterr().out)
    assert "(new: unrelated; gone: neutral)" in said
    stored, found = load_file(nli / "model.safetensors"), model_of(started).state_dict()
    changed = {name for name in stored if not torch.equal(stored[name], found[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert not found["classifier.bias"].any()
    assert 0.01 < float(found["classifier.weight"].std()) < 0.03  # as transformers draws it: 0.02
    again = model_of(begin(ClassificationConfig, nli, rows, tmp_path / "run-2")).state_dict()
    seeded = model_of(begin(ClassificationConfig, nli, rows, tmp_path / "run-3", seed=1)).state_dict()
    assert torch.equal(found["classifier.weight"], again["classifier.weight"])
    assert not torch.equal(found["classifier.weight"], seeded["classifier.weight"])


def test_glue_is_measured_and_submitted_by_the_numbers_of_the_benchmark(tmp_path: Path) -> None:
    """MRPC's files have numbers, its published models names, in either order; F1 is that of class 1."""
    sklearn = pytest.importorskip("sklearn.metrics")
    model = write_model(tmp_path / "model", ["equivalent", "not equivalent"], texts=PAIRS, max_position_embeddings=256)
    right = [label == "equivalent" for label in said_by(model, PAIRS)]
    truth = [int(same and i % 3 > 0) for i, same in enumerate(right)]
    folder = tmp_path / "glue" / "MRPC"
    folder.mkdir(parents=True)
    rows = [f"{label}\t1\t2\t{first}\t{second}" for label, (first, second) in zip(truth, PAIRS, strict=True)]
    for name, first in (("train", "Quality"), ("dev", "Quality"), ("test", "index")):
        (folder / f"{name}.tsv").write_text("\n".join([f"{first}\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows, ""]))
    out = tmp_path / "out"
    printed = run(
        "evaluate_glue.py", "--model.name", model, "--glue_dir", tmp_path / "glue", "--tasks", "[mrpc]",
        "--seeds", "[0]", "--lr", "[1e-9]", "--mixed_precision", "no", "--output_dir", out,
    )  # fmt: skip
    assert "its classes are found by name: 1, 0" in printed
    found = {row["metric"]: row["mean"] / 100 for row in json.loads((out / "results.json").read_text())["numbers"]}
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, right))
    assert found["f1"] == pytest.approx(sklearn.f1_score(truth, right))
    assert found["f1"] != pytest.approx(sklearn.f1_score(truth, right, pos_label=0))
    (finished,) = out.glob("mrpc/lr-*/seed-0")
    assert said_by(finished, PAIRS) == [str(int(same)) for same in right]
    submitted = [line.split("\t")[1] for line in (out / "submission" / "MRPC.tsv").read_text().splitlines()[1:]]
    assert submitted == [str(int(same)) for same in right]


def test_several_classes_a_row_are_measured_by_those_that_the_data_has(tmp_path):
    sklearn = pytest.importorskip("sklearn.metrics")
    stored = ["Rain", "stone", "CATS", "walls"]
    model = write_model(tmp_path / "model", stored, problem_type="multi_label_classification")
    scores = pipeline("text-classification", str(model), device="cpu", top_k=None)(TEXTS)
    said = [{each["label"] for each in row if each["score"] > 0.5} for row in scores]
    data = ["cats", "rain", "stone"]
    truth = [sorted({n.lower() for n in row if n != "walls"}) for row in said]
    truth[0] = ["cats"] if truth[0] == [] else []
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, truth, strict=True)]
    started = begin(ClassificationConfig, model, write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run")
    numbers, predictions = measure(started)
    assert model_of(started).config.id2label == dict(enumerate(["rain", "stone", "cats", "walls"]))
    assert [{n.lower() for n in row} for row in said] == [set(row) for row in names(started.task, predictions)]
    columns = [[[int(n in {x.lower() for x in row}) for n in data] for row in side] for side in (truth, said)]
    for average in ("micro", "macro"):
        assert numbers[f"f1_{average}"] == pytest.approx(sklearn.f1_score(*columns, average=average))


def test_scores(tmp_path, capsys):
    model = write_model(tmp_path / "model", ["LABEL_0"], problem_type="regression")
    encoded, network = toy_tokenizer("wordpiece")(TEXTS), CLS.from_pretrained(model).eval()
    with torch.no_grad():
        truth = [float(network(**one(encoded, i)).logits) for i in range(len(TEXTS))]
    rows = [{"text": text, "score": score} for text, score in zip(TEXTS, truth, strict=True)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    numbers, predictions = measure(begin(ClassificationConfig, model, data, tmp_path / "run"))
    assert numbers["pearsonr"] == pytest.approx(1)
    assert [p.predicted for p in predictions] == pytest.approx(truth, abs=1e-4)
    assert "is kept, it gives one score per row" in capsys.readouterr().out

    classes = write_model(tmp_path / "classes", NLI)
    assert not begin(ClassificationConfig, classes, data, tmp_path / "run-2").task.keep_head
    assert "gives the classes entailment, neutral, contradiction, the data has one score" in capsys.readouterr().out
    labelled = write_rows(tmp_path / "b.jsonl", [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(TEXTS)])
    assert not begin(ClassificationConfig, model, labelled, tmp_path / "run-3").task.keep_head
    assert "gives 1 score a row, the data has the classes a, b" in capsys.readouterr().out


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tagger"), TAGS, NER)


def tagged(model: Path) -> list[dict[str, list[str]]]:
    """The texts' words, and what plain transformers says at the first sub-word of each."""
    tokenizer, network = toy_tokenizer("wordpiece"), NER.from_pretrained(model).eval()
    rows = []
    for text in TEXTS:
        encoded = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            found = network(**encoded).logits[0].argmax(-1).tolist()
        ids = encoded.word_ids(0)
        first = [ids.index(word) for word in range(len(text.split()))]
        rows.append({"tokens": text.split(), "ner_tags": [network.config.id2label[found[at]] for at in first]})
    return rows


@pytest.mark.parametrize("stored", [TAGS, ["O", "b-per", "i-per", "b-loc", "i-loc", "E-PER", "[CLS]"]])
def test_a_tagger_is_right_whatever_its_order(tmp_path, stored):
    model = write_model(tmp_path / "model", stored, NER)
    said = tagged(model)
    mine = {name: name.upper() for name in stored} | {"E-PER": "I-PER", "[CLS]": "O"}
    # the data is IOB2: as it is written, though the head may break the scheme
    truth = [[mine[tag] for tag in row["ner_tags"]] for row in said]
    rows = [row | {"ner_tags": tags} for row, tags in zip(said, truth, strict=True)]
    started = begin(NERConfig, model, write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run")
    numbers, predictions = measure(started)
    assert started.task.keep_head
    assert [model_of(started).config.id2label[i].lower() for i in range(len(stored))] == [n.lower() for n in stored]
    predicted = names(started.task, predictions)
    assert [[tag.upper() for tag in row] for row in predicted] == [[t.upper() for t in row["ner_tags"]] for row in said]
    assert "[CLS]" not in stored or any("[CLS]" in row for row in predicted)
    assert numbers["f1"] > (0.5 if "[CLS]" in stored else 0.999)


def test_a_head_of_another_kind_is_no_head(nli, tmp_path, capsys):
    """BERT calls the last layer of a classifier and of a tagger alike, so that transformers loads one as the other."""
    rows = [
        {"tokens": ["a", "b"], "ner_tags": ["entailment", "neutral"]},
        {"tokens": ["c"], "ner_tags": ["contradiction"]},
    ]
    started = begin(NERConfig, nli, write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run")
    assert not started.task.keep_head
    assert "a BertForSequenceClassification, is for other labels" in capsys.readouterr().out
    stored = load_file(nli / "model.safetensors")
    assert not torch.equal(stored["classifier.weight"], model_of(started).classifier.weight)


def test_numbered_tags_of_a_data_set(tagger, tmp_path):
    rows = tagged(tagger)
    hub = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=hub))})
    # as IOB2 has it, or the data would be rewritten
    begins = [{**row, "ner_tags": [tag.replace("I-", "B-") for tag in row["ner_tags"]]} for row in rows]
    for split in ("train", "validation"):
        Dataset.from_list([{**r, "ner_tags": [hub.index(t) for t in r["ner_tags"]]} for r in begins]).cast(
            features
        ).to_parquet(tmp_path / "hub" / f"{split}.parquet")
    started = begin(NERConfig, tagger, tmp_path / "hub", tmp_path / "run")
    _, predictions = measure(started)
    assert started.task.data.labels == TAGS
    assert [p.reference for p in predictions] == [row["ner_tags"] for row in begins]
    assert names(started.task, predictions) == [row["ner_tags"] for row in rows]


def test_a_whole_run_with_more_classes_than_the_data(nli, pairs, tmp_path):
    """What is written: labels of predictions and card, the picture, the model that `pipeline` reads; on two seeds."""
    model = reorder(nli, tmp_path / "model", [2, 1, 0], ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"])
    few = [row for row in pairs if row["label"] != "neutral"]
    rows = write_rows(tmp_path / "rows.jsonl", few)
    out = tmp_path / "runs"
    printed = run(
        "finetune_classification.py", "--data.train_file", rows, "--data.validation_file", rows, "--model.name", model,
        "--max_length", 48, "--output_dir", out, "--seeds", "[0,1]", *NO_TRAINING,
    )  # fmt: skip
    assert "the data has no rows of NEUTRAL" in printed
    results = {row["metric"]: row["mean"] for row in json.loads((out / "results.json").read_text())}
    assert results == {"accuracy": 1, "f1_macro": 1}
    folder = out / "seed-1"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [row["label"] for row in few]
    assert [line["predicted"] for line in lines] == said_by(
        folder, [(row["premise"], row["hypothesis"]) for row in few]
    )
    assert list(lines[0]["probabilities"]) == ["contradiction", "NEUTRAL", "entailment"]
    assert "contradiction, NEUTRAL, entailment" in (folder / "README.md").read_text()
    assert (folder / "confusion.png").stat().st_size > 1000
