"""A user's mistake: one sentence, last, on stderr; exit code 2; nothing half-written."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from launch import BIN, ROOT, TINY, execute, write_corpus
from transformers import BertConfig, BertForMaskedLM

from nlp_ssl.config.common import ResumeConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core import program
from nlp_ssl.data.tokens.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a model of 64 positions with its tokenizer, and a tokenizer without a mask token."""
    folder = tmp_path_factory.mktemp("work")
    write_corpus(folder / "corpus.txt", documents=60)
    texts = (folder / "corpus.txt").read_text().split("\n\n")
    tokenizer = train_tokenizer(texts, "bpe", 290)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=280, max_position_embeddings=64, **shape)).save_pretrained(folder / "narrow")
    BertForMaskedLM(BertConfig(vocab_size=290, max_position_embeddings=64, **shape)).save_pretrained(folder / "short")
    tokenizer.save_pretrained(folder / "narrow")
    tokenizer.save_pretrained(folder / "short")
    tokenizer.save_pretrained(folder / "no-mask")
    settings = json.loads((folder / "no-mask" / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (folder / "no-mask" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "empty.txt").write_text(" \n\n \n")
    (folder / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (folder / "train.csv").write_text("text,label\ngood film,pos\nbad film,neg\n" * 20)
    (folder / "dev.csv").write_text("text,label\nodd film,odd\n")
    (folder / "bad.jsonl").write_text('{"tokens": ["a", "b"], "ner_tags": ["O"]}\n')
    (folder / "typo.yaml").write_text("optimizer:\n  lrr: 1e-3\n")
    return folder


MLM, NER, CLASSIFY = "pretrain_mlm.py", "finetune_ner.py", "finetune_classification.py"
CASES = {
    "unknown option": (MLM, "--train.step 3", ["--train.step", "did you mean --train.steps"]),
    "unknown key in a file": (MLM, "--config {0}/typo.yaml", ["optimizer.lrr", "did you mean --optimizer.lr"]),
    "no such file": (MLM, "--data.sources {0}/nowhere.txt", ["nowhere.txt"]),
    "no such glob": (MLM, "--data.sources {0}/*.parquet", ["*.parquet"]),
    "no network": (MLM, "--data.sources somebody/corpus", ["somebody/corpus", "builtin"]),
    "empty corpus": (MLM, "--data.sources {0}/empty.txt", ["empty.txt"]),
    "not UTF-8": (MLM, "--data.sources {0}/latin1.txt", ["latin1.txt", "3", "UTF-8"]),
    "a broken row": (MLM, "--data.sources {0}/broken.jsonl", ["broken.jsonl", "2"]),
    "no such column": (MLM, "--data.sources {0}/train.csv --data.text_column words", ["words", "'text', 'label'"]),
    "vocabulary too large": (MLM, "--data.sources {0}/corpus.txt --tokenizer.vocab_size 9000", ["9,000", "lower"]),
    "no mask token": (MLM, "--data.sources {0}/corpus.txt --tokenizer.path {0}/no-mask", ["no mask token"]),
    "vocabulary beyond the model's": (
        MLM, "--data.sources {0}/corpus.txt --model.name {0}/narrow --tokens.sequence_length 32", ["290", "280"],
    ),
    "rows beyond the positions": (
        MLM, "--data.sources {0}/corpus.txt --model.name {0}/short --tokens.sequence_length 65", ["65", "64 positions"],
    ),
    "no such preset": (MLM, "--data.sources {0}/corpus.txt --model.name bert-huge", ["bert-huge", "bert-large"]),
    "two budgets": (MLM, "--data.sources {0}/corpus.txt --train.steps 3 --train.minutes 1", ["command line gives 2"]),
    "a decoder to mask": (MLM, "--data.sources {0}/corpus.txt --model.name gpt2-tiny", ["pretrain-clm`"]),
    "no such objective": (
        MLM, '--data.sources {0}/corpus.txt --phases=[{{"steps":1,"objective":"masked"}}]', ["'masked'", "clm", "mlm"],
    ),
    "masks in a causal phase": (
        MLM, '--data.sources {0}/corpus.txt --phases=[{{"steps":1,"objective":"clm","mask_probability":0.3}}]',
        ["mask_probability", "causal language modelling"],
    ),
    "a folder in use": (MLM, "--data.sources {0}/corpus.txt --output_dir {0}", ["holds other files"]),
    "a file where a folder should be": (
        MLM, "--data.sources {0}/corpus.txt --output_dir {0}/corpus.txt/run", ["corpus.txt is a file; give a folder"],
    ),
    "a name that is too long": (
        MLM, "--data.sources {0}/corpus.txt --output_dir " + 300 * "x", ["File name too long; give a shorter name"],
    ),
    "no such tracker": (MLM, '--tracking.trackers ["tensorbored"]', ["tensorbored", "tensorboard"]),
    "a label never trained": (
        CLASSIFY, "--data.train_file {0}/train.csv --data.validation_file {0}/dev.csv --model.name {0}/short",
        ["odd", "dev.csv"],
    ),
    "tags that do not match": (NER, "--data.train_file {0}/bad.jsonl --model.name {0}/short", ["2", "1", "bad.jsonl"]),
    "too long for the model": (
        CLASSIFY, "--data.train_file {0}/train.csv --data.validation_file {0}/train.csv --model.name {0}/short "
        "--max_length 65", ["65", "64"],
    ),
    "no model yet": (NER, "", ["runs/mlm", "pretrain"]),
}  # fmt: skip


def main_of(recipe: str) -> Any:
    spec = importlib.util.spec_from_file_location(recipe.removesuffix(".py"), ROOT / "recipes" / recipe)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_gets_one_sentence(
    case: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, line, said = CASES[case]
    arguments = line.format(work).split()
    if "--output_dir" not in arguments:
        arguments += ["--output_dir", str(tmp_path / "run")]
    small = [] if recipe != MLM else TINY[TINY.index("--data.held_out_fraction") :]
    if recipe == MLM and "--tokenizer.vocab_size" not in arguments:
        small += ["--tokenizer.vocab_size", "290"]
    if "--train.steps" not in arguments:
        small += ["--train.steps", "1"]
    monkeypatch.setattr("sys.argv", [recipe, *small, *arguments])
    monkeypatch.chdir(tmp_path)
    module = main_of(recipe)
    config = {MLM: "MLMConfig", NER: "NERConfig", CLASSIFY: "ClassificationConfig"}[recipe]
    before = sorted(os.listdir(work))
    with pytest.raises(SystemExit) as stopped:
        program.run(module.main, lambda: module.parse(getattr(module, config), module.__doc__))
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert all(part in last for part in said), last
    assert not (tmp_path / "run").exists()
    assert sorted(os.listdir(work)) == before


def test_the_stack_trace_of_a_launcher_is_explained_where_it_begins(tmp_path: Path) -> None:
    recipe = os.path.relpath(ROOT / "recipes" / MLM, tmp_path)
    start = [str(BIN / "accelerate"), "launch", "--cpu", recipe, "--train.step", "3"]
    printed = execute(start, 1, cwd=tmp_path)
    said = f"(the stack trace that accelerate prints below says nothing else; `python {recipe}` starts it without)"
    assert printed.count(said) == 1
    assert "error: unknown option --train.step; did you mean --train.steps? " + said in printed.splitlines()
    assert printed.index(said) < printed.index("Traceback")
    alone = execute([sys.executable, recipe, "--train.step", "3"], 2, cwd=tmp_path)
    assert alone.strip().endswith("did you mean --train.steps?")


def test_what_was_stopped_is_continued_as_its_sentence_says() -> None:
    assert program._again(MLMConfig()) == "run the same command again with --resume"
    assert program._again(MLMConfig(resume=ResumeConfig(enabled=True))) == "run the same command again"
    assert program._again(object()) == "run the same command again"  # a program without that option
