"""What README and the cookbook tell people to type, and the YAML files beside the recipes: small models, few steps."""

import gzip
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from glue_layout import write_glue
from launch import ROOT, TINY, execute, write_corpus, write_labelled

sys.path.append(str(ROOT / "tests"))
sys.path.append(str(ROOT / "tests" / "publishing"))
from hub_server import HubServer
from test_options import config_of

from nlp_ssl.config.command_line import parse
from nlp_ssl.doctor.__main__ import objective_named
from nlp_ssl.objectives.objective import find_objective

README = (ROOT / "README.md").read_text() + (ROOT / "recipes" / "README.md").read_text()
# options behind those of README, which give way to them
SHAPE = [*TINY, "--data.held_out_fraction", "0.2"]
TEXT = ["--data.sources", "corpus/a.txt"]
BUDGET = ["--train.steps", "2", "--train.global_batch_size", "8"]
BUDGET += [word for name in ("tokens", "minutes", "epochs") for word in (f"--train.{name}", "null")]
FEW = [*BUDGET, "--train.mixed_precision", "no", "--train.cpu_threads", "1", "--max_length", "48"]
CSV = ["--data.train_file", "train.csv"]
SHORT = {
    "pretrain_mlm.py": [*SHAPE, *BUDGET],
    "pretrain_clm.py": [*SHAPE, *TEXT, *BUDGET],
    "pretrain_rtd.py": [*SHAPE, *TEXT, *BUDGET],
    "pretrain_contrastive.py": ["--tokens.sequence_length", "48", "--data.held_out_fraction", "0.2", *TEXT, *BUDGET],
    "distill.py": ["--tokens.sequence_length", "48", "--data.held_out_fraction", "0.2", *TEXT, *BUDGET],
    "finetune_classification.py": [*FEW, *CSV],
    "finetune_ner.py": [*FEW, "--data.train_file", "train.conll"],
    "compare_transfer.py": [*FEW, *CSV, "--fractions", "[1]", "--seeds", "[0]"],
    "evaluate_glue.py": ["--glue_dir", "glue_data", "--tasks", "[rte]", "--seeds", "[0]", "--mixed_precision", "no"],
    "explore_embeddings.py": [*CSV, "--max_length", "48"],
    "train_tokenizer.py": ["--tokenizer.vocab_size", "320"],
    "prepare_tokens.py": SHAPE,
    "push_to_hub.py": [],
}
# those that run for minutes, and have tests of their own: here their options are read
LONG = {"benchmark.py", "benchmark_finetuning.py", "compare_objectives.py", "nlp_ssl.doctor", "nlp_ssl.benchmarks.gpu"}
# what is given beside a file of recipes/configs: its text and its model, a budget, and a size for a test; nothing that
# depends on how much text there is, or in how many files
SMALL = [*BUDGET, "--tokens.sequence_length", "48", "--train.mixed_precision", "no", "--train.cpu_threads", "1"]
NEW = [*SMALL, "--model.overrides.num_hidden_layers", "2", "--model.overrides.hidden_size", "64"]
YAML = {
    "mlm_own_corpus": ("pretrain_mlm.py", [*NEW, *TEXT, "--model.name", "modernbert-tiny"]),
    "mlm_continue": ("pretrain_mlm.py", [*SMALL, *TEXT, "--model.name", "runs/mlm"]),
    "contrastive": ("pretrain_contrastive.py", [*SMALL, *TEXT, "--model.name", "runs/mlm"]),
    "clm_own_corpus": ("pretrain_clm.py", [*NEW, "--data.sources", "corpus/*.zst", "--model.name", "llama-tiny"]),
    "hybrid_own_corpus": ("pretrain_hybrid.py", [*NEW, *TEXT, "--model.name", "modernbert-tiny"]),
    "fim_own_corpus": ("pretrain_fim.py", [*NEW, "--data.sources", "corpus/*.zst", "--model.name", "llama-tiny"]),
    "diffusion_own_corpus": ("pretrain_diffusion.py", [*NEW, *TEXT, "--model.name", "modernbert-tiny"]),
    "sentence_order_own_corpus": (
        "pretrain_sentence_order.py",
        [*NEW, "--data.sources", "sentences.txt", "--model.name", "bert-tiny"],
    ),
    "autoencoder_domain": ("pretrain_autoencoder.py", [*SMALL, "--model.name", "runs/mlm"]),
    "distill_own_corpus": ("distill.py", [*SMALL, *TEXT, "--distillation.teacher", "runs/mlm"]),
    "seq2seq_own_corpus": ("pretrain_seq2seq.py", [*SMALL, *TEXT, "--model.name", "t5-tiny"]),
    "finetune_sst2": ("finetune_classification.py", [*FEW, *CSV]),
    "finetune_conll2003": ("finetune_ner.py", [*FEW, "--data.train_file", "train.conll"]),
    "glue_cramming": ("evaluate_glue.py", SHORT["evaluate_glue.py"]),
    "tokenizer_bpe_32k": ("train_tokenizer.py", [*TEXT, "--tokenizer.vocab_size", "320"]),
}


def commands() -> list[str]:
    """What README shows, in its shell blocks and between words, that starts a program of this repository."""
    found = re.findall(r"`(python recipes/\w[^`]+)`", README)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split("  #")[0].split(" && ")[-1]
            if re.search(r"recipes/|-m nlp_ssl", line) and not line.startswith("#"):
                found.append(" ".join(line.split()))
    return list(dict.fromkeys(found))


def program_and_options(line: str) -> tuple[str, list[str]]:
    """Such as `pretrain_mlm.py` or `nlp_ssl.doctor`, and what stands behind it."""
    words = shlex.split(line)
    at = next(i for i, word in enumerate(words) if "recipes/" in word or word.startswith("nlp_ssl."))
    return words[at].removeprefix("recipes/"), words[at + 1 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which README's file names are there, and `runs/mlm` is what its first command left."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for name in ("corpus/wiki", "corpus/books", "domain", "glue_data"):
        (folder / name).mkdir(parents=True)
    text = write_corpus(folder / "corpus" / "a.txt", documents=200).read_text()
    (folder / "domain" / "notes.txt").write_text(text)
    (folder / "corpus" / "books" / "book.txt").write_text(text)
    (folder / "sentences.txt").write_text(text.replace(" cats ", " cats. The "))
    rows = "".join(json.dumps({"text": line}) + "\n" for line in text.split("\n\n")).encode()
    for name in ("corpus/b.jsonl.gz", "corpus/wiki/w.jsonl.gz"):
        (folder / name).write_bytes(gzip.compress(rows))
    with pa.output_stream(str(folder / "corpus" / "c.jsonl.zst"), compression="zstd") as out:
        out.write(rows)
    csv, conll = write_labelled(folder, rows=80)
    csv.rename(folder / "train.csv")
    conll.rename(folder / "train.conll")
    write_glue(folder / "glue_data", "rte", rows=30)
    (folder / "my.yaml").write_text("train: {steps: 5}\n")
    recipe(folder, "pretrain_mlm.py", [*SHORT["pretrain_mlm.py"], *TEXT, "--output_dir", "runs/mlm"])
    return folder


def recipe(folder: Path, name: str, options: list[str], **variables: str) -> str:
    return execute([sys.executable, f"recipes/{name}", *options], cwd=folder, **variables)


def in_short(name: str, options: list[str], out: str) -> list[str]:
    """Options and what makes them short; text is read from the files of the test where README names none."""
    builtin = name in ("pretrain_mlm.py", "prepare_tokens.py", "train_tokenizer.py") and not any(
        option in ("--data.sources", "--config") for option in options
    )
    words = ["--data.train_file", "train.conll"] if "ner" in options else []
    large = ["--model.name", "modernbert-tiny"] if "--config" in options else []
    where = [] if name in ("push_to_hub.py", "prepare_tokens.py") else ["--output_dir", out]
    return [*options, *SHORT[name], *(TEXT if builtin else []), *large, *words, *where]


def test_commands_are_found() -> None:
    programs = [program_and_options(line)[0] for line in commands()]
    assert len(programs) >= 15
    assert set(programs) == SHORT.keys() | LONG


@pytest.mark.parametrize("line", commands())
def test_a_command_of_readme(line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, options = program_and_options(line)
    if name in LONG:
        module = name.replace(".", "/") if name.startswith("nlp_ssl") else f"recipes/{name.removesuffix('.py')}"
        module += "/__main__.py" if (ROOT / module).is_dir() else ".py"
        monkeypatch.chdir(folder)
        objective, options = objective_named(options)  # the doctor's, whose options are that objective's
        assert parse(find_objective(objective).Config if objective else config_of(ROOT / module), argv=options)
    elif name == "push_to_hub.py":
        with HubServer() as server:
            assert "pushed: " in recipe(folder, name, [*options, "--repo_id", "tester/name"], **server.variables)
        assert "model.safetensors" in server.repos["tester/name"].files()
    else:
        printed = recipe(folder, name, in_short(name, options, str(tmp_path / "run")))
        assert printed.strip()
        if "--output_dir" in in_short(name, options, ""):
            assert any((tmp_path / "run").rglob("*.json")), printed


def test_every_yaml_file_is_run() -> None:
    assert {path.stem for path in (ROOT / "recipes" / "configs").glob("*.yaml")} == YAML.keys()


@pytest.mark.parametrize("config", YAML)
def test_a_yaml_file_runs_when_only_its_files_are_named(config: str, folder: Path, tmp_path: Path) -> None:
    name, small = YAML[config]
    out = tmp_path / "run"
    recipe(folder, name, ["--config", f"recipes/configs/{config}.yaml", *small, "--output_dir", str(out)])
    assert any(out.rglob("*.json"))


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(snippets())))
def test_a_python_snippet_of_readme(number: int, folder: Path) -> None:
    snippet = snippets()[number].replace("minutes=30", "steps=3")
    execute([sys.executable, "-c", snippet], cwd=folder)


def test_names_that_readme_promises() -> None:
    import nlp_ssl

    (sentence,) = re.findall(r"The same way stand alone (.*?), each documented", README.replace("\n", " "))
    names: list[Any] = re.findall(r"`(\w+)`", sentence)
    assert len(names) >= 5
    assert all(getattr(nlp_ssl, name).__doc__ for name in names)
