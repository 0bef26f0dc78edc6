"""The metrics against scikit-learn, SciPy, closed forms and seqeval; and their life inside `evaluate`."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from toys import texts, tiny_model, tokenizer

from nlp_ssl.evaluation import metrics
from nlp_ssl.evaluation.metrics import (
    F1,
    Accuracy,
    BitsPerByte,
    EntityF1,
    MatthewsCorrelation,
    PearsonSpearman,
    Perplexity,
    TagAccuracy,
)

RNG = np.random.default_rng(0)


def test_classification_metrics_equal_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    for num_classes in (2, 3, 7):
        r = RNG.integers(0, num_classes, 200)
        p = np.where(RNG.random(200) < 0.5, r, RNG.integers(0, num_classes, 200))
        both = {"predictions": p, "references": r}
        assert Accuracy().compute(**both)["accuracy"] == pytest.approx(sklearn.accuracy_score(r, p))
        assert F1("macro").compute(**both)["f1_macro"] == pytest.approx(sklearn.f1_score(r, p, average="macro"))
        assert F1("micro").compute(**both)["f1_micro"] == pytest.approx(sklearn.f1_score(r, p, average="micro"))
        expected = sklearn.matthews_corrcoef(r, p)
        assert MatthewsCorrelation().compute(**both)["matthews_correlation"] == pytest.approx(expected)
    r, p = RNG.integers(0, 2, 50), RNG.integers(0, 2, 50)
    assert F1().compute(predictions=p, references=r)["f1"] == pytest.approx(sklearn.f1_score(r, p))
    score = F1().compute(predictions=p, references=r, pos_label=0)["f1"]
    assert score == pytest.approx(sklearn.f1_score(r, p, pos_label=0))
    r, p = RNG.integers(0, 2, (50, 4)), RNG.integers(0, 2, (50, 4))
    both = {"predictions": p.tolist(), "references": r.tolist()}
    for average in ("macro", "micro"):
        found = F1(f"{average}_multilabel").compute(**both)[f"f1_{average}"]
        assert found == pytest.approx(sklearn.f1_score(r, p, average=average))
    assert Accuracy("multilabel").compute(**both)["accuracy"] == pytest.approx(sklearn.accuracy_score(r, p))


def test_undefined_scores_are_what_the_field_says():
    assert F1().compute(predictions=[0, 0], references=[0, 0])["f1"] == 0
    # a head may know a class that the data does not have: no hit, and no prediction of class 1
    assert F1().compute(predictions=[0, 1, 2], references=[0, 1, 1])["f1"] == pytest.approx(2 / 3)
    assert MatthewsCorrelation().compute(predictions=[1, 1, 1], references=[0, 1, 1])["matthews_correlation"] == 0
    constant = PearsonSpearman().compute(predictions=[0.1] * 3, references=[1, 2, 3])
    assert np.isnan(constant["pearsonr"])
    assert np.isnan(constant["spearmanr"])
    with pytest.raises(ValueError, match="more than two"):
        F1().compute(predictions=[0, 1, 2], references=[0, 1, 2])
    empty = EntityF1().compute(predictions=[["O"], []], references=[["O"], []])
    assert (empty["overall_f1"], empty["overall_accuracy"]) == (0, 1)


def test_correlations_equal_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    r, p = RNG.integers(0, 6, 100) / 2, RNG.normal(size=100).round(1)
    result = PearsonSpearman().compute(predictions=p, references=r)
    assert result["pearsonr"] == pytest.approx(stats.pearsonr(p, r).statistic)
    assert result["spearmanr"] == pytest.approx(stats.spearmanr(p, r).statistic)


def test_correlations_in_closed_form():
    # deviations of (1, 2, 3, 4) and (1, 3, 2, 4) from 2.5: products sum to 4, squares to 5
    result = PearsonSpearman().compute(predictions=[1, 2, 3, 4], references=[1, 3, 2, 4])
    assert result == dict.fromkeys(("pearson_spearman", "pearsonr", "spearmanr"), pytest.approx(0.8))
    # a monotone curve: ranks correlate fully, values do not
    curved = PearsonSpearman().compute(predictions=[1, 2, 3], references=[1, 10, 100])
    assert curved["spearmanr"] == pytest.approx(1)
    assert curved["pearsonr"] < 0.95


def test_entities_by_hand():
    result = EntityF1().compute(
        predictions=[["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]],
        references=[["B-PER", "O", "O", "B-LOC"], ["B-LOC", "B-PER"]],
    )
    assert result["LOC"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 2}
    assert result["PER"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 2}  # a span too long is no hit
    assert result["overall_precision"] == pytest.approx(2 / 3)
    assert result["overall_recall"] == pytest.approx(2 / 4)
    assert result["overall_accuracy"] == pytest.approx(4 / 6)


# What seqeval 1.2.2, which is no longer maintained and runs code when it is installed, says of `random_tags`:
#     classification_report(r, p, output_dict=True) and accuracy_score(r, p); "strict" with mode="strict", scheme=IOB2
SEQEVAL = json.loads((Path(__file__).parent / "seqeval.json").read_text())


def random_tags(prefixes: str, kinds: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """References and predictions, well formed or not; of numbers that Python promises to draw in every version."""
    tags = ["O", "O", *[f"{prefix}-{kind}" for prefix in prefixes for kind in kinds]]
    random_number = random.Random(1).random

    def draw() -> str:
        return tags[int(random_number() * len(tags))]

    references = [[draw() for _ in range(1 + int(random_number() * 11))] for _ in range(1000)]
    return references, [[tag if random_number() < 0.7 else draw() for tag in row] for row in references]


@pytest.mark.parametrize("prefixes", ["BI", "I", "BIES"])
def test_entity_f1_equals_seqeval_on_random_tags_well_formed_or_not(prefixes):
    r, p = random_tags(prefixes, ("PER", "LOC", "A-B"))
    ours, theirs = EntityF1().compute(predictions=p, references=r), SEQEVAL[prefixes]
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert ours[f"overall_{name}"] == pytest.approx(theirs["micro avg"][key])
        for kind in ("PER", "LOC", "A-B"):
            assert ours[kind][name] == pytest.approx(theirs[kind][key])
    assert ours["overall_accuracy"] == pytest.approx(theirs["accuracy"])
    assert TagAccuracy().compute(predictions=p, references=r)["tag_accuracy"] == pytest.approx(ours["overall_accuracy"])


def test_strict_entity_f1_equals_seqevals_strict_iob2():
    r, p = random_tags("BI", ("PER", "LOC"))
    ours, lenient = (EntityF1(name).compute(predictions=p, references=r) for name in ("strict", "default"))
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert ours[f"overall_{name}"] == pytest.approx(SEQEVAL["strict"]["micro avg"][key])
    assert ours["overall_f1"] != lenient["overall_f1"]


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="sentence 1: 1 predicted tags for 2 words"):
        EntityF1().compute(predictions=[["O"], ["O"]], references=[["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="'X-PER'"):
        EntityF1().compute(predictions=[["X-PER"]], references=[["O"]])
    with pytest.raises(ValueError, match="weighted"):
        F1("weighted").compute(predictions=[0], references=[0])


def test_batches_combine_and_files():
    both = metrics.combine(["accuracy", "f1", "f1_macro"])
    for start in (0, 2):
        both.add_batch(predictions=torch.tensor([0, 1, 1, 1])[start : start + 2], references=[0, 1, 0, 1][start:][:2])
    # class 1: 2 hits of 3 predicted and 2 there, 0.8; class 0: 1 hit of 1 and 2, 2/3
    assert both.compute() == {
        "accuracy": 0.75,
        "f1": pytest.approx(0.8),
        "f1_macro": pytest.approx((0.8 + 2 / 3) / 2),
    }
    on_disk = evaluate.combine([Accuracy(keep_in_memory=False), PearsonSpearman(keep_in_memory=False)])
    assert on_disk.compute(predictions=[1, 2, 3], references=[1, 2, 3])["accuracy"] == 1


def test_metrics_side_by_side_do_not_mix():
    results = {}

    def measure(i):
        metric = Accuracy(keep_in_memory=i % 2 == 0)
        for k in range(10):
            metric.add_batch(predictions=[1] * 4, references=[1] * i + [0] * (4 - i) if k % 2 else [1] * 4)
        results[i] = metric.compute()["accuracy"]

    threads = [threading.Thread(target=measure, args=(i,)) for i in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert results == {i: (i / 4 + 1) / 2 for i in range(5)}


def test_needs_no_network_and_writes_nothing_into_the_home_folder(tmp_path):
    code = (
        "from nlp_ssl.evaluation.metrics import Accuracy, EntityF1\n"
        "print(Accuracy().compute(predictions=[1], references=[1]))\n"
        "print(EntityF1().compute(predictions=[['B-X']], references=[['B-X']])['overall_f1'])\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "NLP_SSL"))} | {
        "HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["{'accuracy': 1.0}", "1.0"]
    assert not list(tmp_path.rglob("*metrics*"))


def test_inside_a_transformers_trainer(tmp_path):
    from datasets import Dataset
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    model = BertForSequenceClassification(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    rows = Dataset.from_dict({"input_ids": [[i, i + 1] for i in range(8)], "labels": [0, 1] * 4})
    metric = Accuracy()
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, per_device_eval_batch_size=4),
        eval_dataset=rows,
        compute_metrics=lambda out: metric.compute(predictions=out.predictions.argmax(-1), references=out.label_ids),
    )
    output = trainer.predict(rows)
    assert output.metrics["test_accuracy"] == (output.predictions.argmax(-1) == output.label_ids).mean()


def test_perplexity_and_bits_per_byte_of_texts_are_those_of_transformers_own_loss():
    reader = tokenizer("bpe")
    model = tiny_model("gpt2", vocab_size=len(reader))
    nats, tokens, num_bytes = [], [], []
    for text in [text for text in texts() if text][:8]:
        ids = reader(text, return_tensors="pt", truncation=True, max_length=64).input_ids
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        nats.append(-float(logits.gather(-1, ids[0, 1:, None]).sum()))
        tokens.append(ids.shape[1] - 1)
        num_bytes.append(len(reader.decode(ids[0, 1:], skip_special_tokens=True).encode()))
    with torch.no_grad():
        losses = [  # transformers' mean a token
            (float(model(input_ids=ids, labels=ids).loss), ids.shape[1] - 1)
            for text in [text for text in texts() if text][:8]
            for ids in [reader(text, return_tensors="pt", truncation=True, max_length=64).input_ids]
        ]
    mean = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    found = Perplexity().compute(predictions=nats, references=tokens)["perplexity"]
    assert found == pytest.approx(np.exp(mean), rel=1e-5)
    bits = BitsPerByte().compute(predictions=nats, references=num_bytes)["bits_per_byte"]
    assert bits == pytest.approx(mean * sum(tokens) / np.log(2) / sum(num_bytes), rel=1e-5)


def test_perplexity_and_bits_per_byte_at_their_edges():
    guess = 8 * np.log(256)  # eight tokens, each one of 256
    assert Perplexity().compute(predictions=[guess], references=[8])["perplexity"] == pytest.approx(256)
    assert BitsPerByte().compute(predictions=[guess, 0.0], references=[8, 8])["bits_per_byte"] == pytest.approx(4)
    assert np.isnan(Perplexity().compute(predictions=[0.0], references=[0])["perplexity"])
    assert np.isnan(BitsPerByte().compute(predictions=[0.0], references=[0])["bits_per_byte"])
    assert np.isinf(Perplexity().compute(predictions=[1e6], references=[1])["perplexity"])
