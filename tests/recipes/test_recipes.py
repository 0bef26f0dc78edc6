"""The whole way, by the recipes: text -> model -> classifier and tagger, read back by plain transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from launch import BIN, ROOT, TINY, WORDS, events, execute, run, write_corpus, write_labelled
from transformers import pipeline

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.finetuning import FinetuneConfig, GlueConfig
from nlp_ssl.config.pretraining import CLMConfig, MLMConfig
from nlp_ssl.config.span_corruption import SpanCorruptionConfig


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_corpus(folder / "corpus.txt")
    write_labelled(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(work: Path) -> Path:
    out = work / "mlm"
    arguments = ["--data.sources", str(work / "corpus.txt"), "--output_dir", str(out), *TINY]
    arguments += ["--train.steps", "60", "--train.global_batch_size", "16", "--tracking.trackers", '["tensorboard"]']
    printed = execute([str(BIN / "accelerate"), "launch", str(ROOT / "recipes" / "pretrain_mlm.py"), *arguments])
    assert "cannot see each other" in printed
    assert "another split" not in printed  # without dropout and in float32 a step is the same under every split
    assert f"done: {out}" in printed
    return out


def test_masked_model_learns_and_loads_in_plain_transformers(pretrained: Path, work: Path) -> None:
    losses = [event["held_out_loss"] for event in events(pretrained, "evaluation")]
    assert losses[0] == pytest.approx(5.77, abs=0.3)  # ln 320: it knew nothing before the first step
    assert losses[-1] < losses[0] - 2
    fill = pipeline("fill-mask", str(pretrained))
    guesses = fill(f"the model reads{fill.tokenizer.mask_token} text and writes tokens")
    assert all(0 <= guess["score"] <= 1 for guess in guesses)
    config = json.loads((pretrained / "config.json").read_text())
    assert "isolated" not in json.dumps(config)
    assert json.loads((pretrained / "run_status.json").read_text())["status"] == "finished"
    assert list(pretrained.glob("**/events.out.tfevents*"))
    assert "fill-mask" in (pretrained / "README.md").read_text()
    assert not list(pretrained.glob(".*tmp*"))


def test_checkpoint_is_the_finished_model(pretrained: Path) -> None:
    newest = sorted((pretrained / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000060"
    assert (newest / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()
    assert len(list((pretrained / "checkpoints").iterdir())) == 2  # keep_last


def test_resolved_config_makes_the_same_model_again(pretrained: Path, work: Path) -> None:
    out = work / "again"
    run("pretrain_mlm.py", "--config", pretrained / "nlp_ssl_config.yaml", "--output_dir", out)
    assert (out / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()
    settings = yaml.safe_load((out / "nlp_ssl_config.yaml").read_text())
    assert settings["train"]["micro_batch_size"] == 16
    assert settings["optimizer"]["name"] == "muon"


def test_continued_pretraining_keeps_tokenizer_and_begins_where_the_model_was(pretrained: Path, work: Path) -> None:
    out = work / "continued"
    printed = run(
        "pretrain_mlm.py", "--data.sources", work / "corpus.txt", "--data.held_out_fraction", 0.1, "--output_dir", out,
        "--model.name", pretrained, "--tokens.sequence_length", 48, "--train.steps", 4, "--train.global_batch_size", 16,
        "--train.mixed_precision", "no", "--model.dropout", 0.1,
    )  # fmt: skip
    assert "continuing from the weights" in printed
    assert "  dropout 0.1: another split of the batch gives other masks" in printed
    before = events(pretrained, "evaluation")[-1]["held_out_loss"]
    assert events(out, "evaluation")[0]["held_out_loss"] == pytest.approx(before, rel=1e-5)
    assert (out / "tokenizer.json").read_bytes() == (pretrained / "tokenizer.json").read_bytes()


def test_causal_model_learns_and_generates(work: Path) -> None:
    out = work / "clm"
    run(
        "pretrain_clm.py", "--data.sources", work / "corpus.txt", "--output_dir", out, *TINY,
        "--train.steps", 60, "--train.global_batch_size", 16,
    )  # fmt: skip
    found = events(out, "evaluation")
    assert found[-1]["bits_per_byte"] < found[0]["bits_per_byte"] / 3
    generate = pipeline("text-generation", str(out))
    text = generate("the model", max_new_tokens=5, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert set(text.split()) & set(WORDS)


def test_classifier_from_a_csv(pretrained: Path, work: Path) -> None:
    out = work / "classifier"
    printed = run(
        "finetune_classification.py", "--data.train_file", work / "labelled.csv", "--model.name", pretrained,
        "--output_dir", out, "--max_length", 32, "--train.epochs", 8, "--train.mixed_precision", "no",
    )  # fmt: skip
    assert "accuracy" in printed
    classify = pipeline("text-classification", str(out))
    assert set(classify.model.config.label2id) == {"cat", "other"}
    assert events(out, "evaluation")[-1]["accuracy"] > 0.8


def test_tagger_from_a_conll_file(pretrained: Path, work: Path) -> None:
    out = work / "tagger"
    printed = run(
        "finetune_ner.py", "--data.train_file", work / "labelled.conll", "--model.name", pretrained,
        "--output_dir", out, "--max_length", 32, "--train.epochs", 12, "--train.mixed_precision", "no",
        "--optimizer.lr", "4e-3",
    )  # fmt: skip
    assert events(out, "evaluation")[-1]["f1"] > 0.8
    assert "does not support real words" not in printed
    tag = pipeline("token-classification", str(out), aggregation_strategy="simple")
    assert tag("while cats sleep near")[0]["entity_group"] == "ANIMAL"


def test_output_folder_with_a_run_is_left_alone(pretrained: Path, work: Path) -> None:
    before = (pretrained / "log.jsonl").read_bytes()
    printed = run("pretrain_mlm.py", "--data.sources", work / "corpus.txt", "--output_dir", pretrained, *TINY, expect=2)
    assert "holds a run already; give --resume" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert (pretrained / "log.jsonl").read_bytes() == before


def test_resuming_what_was_not_begun_is_said_before_any_work(pretrained: Path, work: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "none", tmp_path / "mlm"
    shutil.copytree(pretrained, other)
    args = ["--data.sources", work / "corpus.txt", "--train.steps", 1, *TINY, "--output_dir", out]
    printed = run("pretrain_mlm.py", *args, "--resume")
    said = f"resume: {out} holds no checkpoint yet: this run begins at step 0 (other runs there: {other})"
    assert said in printed.splitlines()
    assert printed.index(said) < printed.index("corpus: ")


def test_prepared_tokens_are_found_by_training(work: Path) -> None:
    args = [
        "--data.sources",
        work / "corpus.txt",
        "--tokens.folder",
        work / "tokens",
        "--output_dir",
        work / "found",
        *TINY,
    ]
    run("prepare_tokens.py", *args)
    before = (work / "tokens" / "train" / "manifest.json").stat().st_mtime_ns
    printed = run("pretrain_mlm.py", *args, "--train.steps", 1)
    assert str(work / "tokens") in printed
    assert (work / "tokens" / "train" / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("config", sorted((ROOT / "recipes" / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_yaml_files_are_read(config: Path) -> None:
    kinds = {"mlm": MLMConfig, "clm": CLMConfig, "finetune": FinetuneConfig, "glue": GlueConfig}
    kinds |= {"seq2seq": SpanCorruptionConfig}
    kind = next((cls for name, cls in kinds.items() if config.stem.startswith(name)), None)
    if kind is None:
        pytest.skip("read by the test of its own recipe")
    assert parse(kind, argv=["--config", str(config)])


def test_finished_weights_are_float32(pretrained: Path) -> None:
    from safetensors.torch import load_file

    assert {tensor.dtype for tensor in load_file(pretrained / "model.safetensors").values()} == {torch.float32}
