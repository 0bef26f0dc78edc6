"""Runs started from Python: the same as those of the command line, several in one process, quiet where one wants it."""

import json
import logging
import re

import pytest
import torch
from huggingface_hub import ModelCard
from launch import TINY, run, write_corpus, write_labelled
from safetensors.torch import load_file
from transformers import BertForMaskedLM, ModernBertForMaskedLM, ModernBertForSequenceClassification

import nlp_ssl

SMALL = {
    "model": {"overrides": {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48}},
    "tokenizer": {"vocab_size": 320, "kind": "bpe"},
    "tokens": {"sequence_length": 48},
    "data": {"held_out_fraction": 0.1},
    "train": {"log_every": 1, "mixed_precision": "no", "cpu_threads": 1},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus")


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    return nlp_ssl.pretrain(corpus, steps=6, output_dir=tmp_path_factory.mktemp("runs") / "mlm", **SMALL)


def test_the_function_trains_what_the_command_trains(trained, corpus, tmp_path):
    run("pretrain_mlm.py", "--data.sources", corpus, "--output_dir", tmp_path / "run", "--train.steps", 6, *TINY)
    by_command = load_file(tmp_path / "run" / "model.safetensors")
    assert isinstance(trained.model, ModernBertForMaskedLM)
    assert all(
        torch.equal(value, by_command[name]) for name, value in load_file(trained.folder / "model.safetensors").items()
    )
    assert trained.tokenizer.mask_token is not None
    assert trained.report.exists()
    card = ModelCard.load(trained.folder / "README.md")
    assert card.data.language == ["en"]
    assert "masking.probability 0.15" in card.content
    flops = 6 * sum(m.weight.numel() for m in trained.model.model.layers.modules() if isinstance(m, torch.nn.Linear))
    seen = [row for row in map(json.loads, (trained.folder / "log.jsonl").read_text().splitlines()) if "tokens" in row]
    (said,) = re.findall(r"Training FLOPs.*\| ([\d,]+) \|", card.content)
    assert int(said.replace(",", "")) == pytest.approx(flops * seen[-1]["tokens"], rel=0.005)
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert trained.results["held_out_loss"] == [x for x in logged if x["event"] == "evaluation"][-1]["held_out_loss"]


def test_runs_of_one_process_may_differ_in_everything(trained, corpus, tmp_path):
    other = SMALL | {
        "model": SMALL["model"] | {"name": "bert-tiny"},
        "train": {"mixed_precision": "bf16", "cpu_threads": 1},
    }
    second = nlp_ssl.pretrain(corpus, steps=3, output_dir=tmp_path / "bert", **other)
    assert isinstance(second.model, BertForMaskedLM)
    file, _ = write_labelled(tmp_path)
    found = nlp_ssl.finetune(file, model=trained.folder, steps=4, output_dir=tmp_path / "cls", train=SMALL["train"])
    assert isinstance(found.model, ModernBertForSequenceClassification)
    rows = [json.loads(line) for line in (tmp_path / "cls" / "predictions.jsonl").read_text().splitlines()]
    right = [row["label"] == row["predicted"] for row in rows if row["set"] == "validation"]
    assert found.results["validation_accuracy"] == pytest.approx(sum(right) / len(right))
    seeds = nlp_ssl.finetune(
        file, model=trained.folder, steps=2, seeds=[0, 1], output_dir=tmp_path / "seeds", train=SMALL["train"]
    )
    assert {path.name for path in tmp_path.joinpath("seeds").iterdir()} >= {"seed-0", "seed-1", "results.json"}
    assert 0 <= seeds.results["validation_accuracy"] <= 1
    assert seeds.report.parent.name == "seed-0"


def test_a_mistake_is_a_value_error_that_names_the_option(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"did you mean --optimizer\.lr"):
        nlp_ssl.pretrain(corpus, optimizer={"rl": 1.0}, output_dir=tmp_path / "a")
    with pytest.raises(ValueError, match=r"there is no file|no file or folder"):
        nlp_ssl.pretrain(tmp_path / "missing", output_dir=tmp_path / "b")
    with pytest.raises(nlp_ssl.UserError, match="is no pretraining objective"):
        nlp_ssl.pretrain(corpus, objective="mln")


def test_logging_decides_what_is_said(trained, corpus, tmp_path, capsys):
    logger = logging.getLogger("nlp_ssl")
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    try:
        logger.setLevel("WARNING")
        nlp_ssl.pretrain(corpus, steps=2, output_dir=tmp_path / "quiet", **SMALL)
        assert not [line for line in lines if line.startswith("step ")]
        assert "step 0" not in capsys.readouterr().out
        logger.setLevel("INFO")
        nlp_ssl.pretrain(corpus, steps=2, output_dir=tmp_path / "loud", **SMALL)
        assert any(line.startswith("step 0: held out loss") for line in lines)
        assert "step 0: held out loss" in capsys.readouterr().out
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
