"""The command `nlp-ssl`, from a wheel that lies outside of the clone; and advice in the form in which one started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ROOT, TINY, execute, write_corpus

from nlp_ssl.__main__ import programs

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[!_]*.py"))
HELP_OF_ALL = """
import contextlib, io, sys
import nlp_ssl.__main__
print(nlp_ssl.__main__.__file__)
for group in nlp_ssl.__main__.programs().values():
    for name in group:
        sys.argv = ["nlp-ssl", name, "--help"]
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
            nlp_ssl.__main__.main()
        print(name, shown.getvalue().startswith("usage: "))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing in it but what the wheel installs; its libraries are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

    def run(*command: object) -> None:
        done = subprocess.run([*pip, *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    run("install", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def nlp_ssl(installed: Path, *arguments: object, cwd: Path, expect: int = 0) -> str:
    script = [sys.executable, str(installed / "bin" / "nlp-ssl")]
    return execute([*script, *map(str, arguments)], expect, cwd=cwd, PYTHONPATH=str(installed))


def test_every_recipe_is_there_with_its_files(installed, tmp_path):
    listed = nlp_ssl(installed, "--help", cwd=tmp_path)
    lines = {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}
    assert {name.replace("_", "-") for name in RECIPES} <= lines
    shown = execute([sys.executable, "-c", HELP_OF_ALL], cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert shown[0].startswith(str(installed))
    assert len(shown) == 1 + sum(map(len, programs().values())) > len(RECIPES)
    assert all(line.endswith(" True") for line in shown[1:])
    shipped = {path.name for path in (installed / "nlp_ssl" / "recipes" / "configs").iterdir()}
    assert shipped == {path.name for path in (ROOT / "recipes" / "configs").iterdir()}


def test_a_model_is_pretrained_by_the_command_and_its_card_says_how(installed, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.txt")
    given = ["--data.sources", corpus, *TINY, "--train.steps", 3, "--train.global_batch_size", 8]
    nlp_ssl(installed, "pretrain-mlm", *given, "--output_dir", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert "\nnlp-ssl pretrain-mlm --config nlp_ssl_config.yaml\n" in (tmp_path / "run" / "README.md").read_text()


def test_the_nearest_name_and_the_version(installed, tmp_path):
    said = nlp_ssl(installed, "pretrain-ml", "--train.steps", 1, cwd=tmp_path, expect=2)
    assert said == "error: there is no program 'pretrain-ml'; the nearest is pretrain-mlm; nlp-ssl --help lists all\n"
    assert nlp_ssl(installed, "--version", cwd=tmp_path).startswith("nlp_ssl 0.")


def test_a_reader_that_has_enough_is_no_error(installed):
    script = f"set -o pipefail; {sys.executable} {installed}/bin/nlp-ssl --help | head -n 1"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: nlp-ssl NAME")


def test_every_recipe_is_in_one_group():
    named = [module.rpartition(".")[2] for group in programs().values() for module in group.values()]
    assert sorted(name for name in named if name not in ("doctor", "gpu", "trying")) == RECIPES


@pytest.mark.parametrize(
    ("start", "advised"),
    [
        ([sys.executable, "recipes/finetune_ner.py"], "(`python recipes/pretrain_mlm.py`)"),
        ([sys.executable, "-m", "nlp_ssl.recipes.finetune_ner"], "(`python -m nlp_ssl.recipes.pretrain_mlm`)"),
        (["nlp-ssl", "finetune-ner"], "(`nlp-ssl pretrain-mlm`)"),
    ],
)
def test_advice_names_programs_as_this_one_was_started(start, advised, installed, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    if start[0] == "nlp-ssl":
        start = [sys.executable, str(installed / "bin" / "nlp-ssl"), *start[1:]]
    printed = execute(start, 2, cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed.rstrip().endswith(f"pretrain one {advised}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nlp-ssl finetune", {"finetune-classification", "finetune-ner"}),
        ("nlp-ssl pretrain-mlm --train.mi", {"--train.minutes", "--train.micro_batch_size", "--train.mixed_precision"}),
    ],
)
def test_the_shell_completes_names_and_options(line, words, installed, tmp_path):
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "IFS": "\013"}
    script = [sys.executable, str(installed / "bin" / "nlp-ssl")]
    subprocess.run(script, env=os.environ | asked | {"PYTHONPATH": str(installed)}, check=True)
    assert set((tmp_path / "words").read_text().split("\013")) == words
