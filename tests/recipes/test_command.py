"""The command `nlp-ssl`, from a wheel that lies outside of the clone; and advice in the form in which one started."""

import os
import re
import shlex
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
    card = (tmp_path / "run" / "README.md").read_text()
    assert "\nnlp-ssl pretrain-mlm --config nlp_ssl_config.yaml --tokenizer.path .\n" in card
    assert "model='run'" in card
    assert "| Precision | float32 |" in card


def test_the_nearest_name_and_the_version(installed, tmp_path):
    said = nlp_ssl(installed, "pretrain-ml", "--train.steps", 1, cwd=tmp_path, expect=2)
    assert said == "error: there is no program 'pretrain-ml'; the nearest is pretrain-mlm; nlp-ssl --help lists all\n"
    assert nlp_ssl(installed, "--version", cwd=tmp_path).startswith("nlp_ssl 0.")


def test_a_file_with_every_option_is_written_and_starts_the_program(installed, tmp_path):
    written = nlp_ssl(installed, "config", "pretrain-mlm", "--train.steps", 3, cwd=tmp_path)
    assert "\n#     nlp-ssl pretrain-mlm --config my.yaml\n" in written
    assert "\n  steps: 3\n" in written
    (tmp_path / "my.yaml").write_text(written)
    corpus = write_corpus(tmp_path / "corpus.txt")
    given = ["--config", "my.yaml", "--data.sources", corpus, *TINY, "--train.global_batch_size", 8]
    nlp_ssl(installed, "pretrain-mlm", *given, "--output_dir", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config"], "name a program, such as nlp-ssl config pretrain-mlm; nlp-ssl --help lists all"),
        (["config", "pretrain-ml"], "there is no program 'pretrain-ml'; the nearest is pretrain-mlm; nlp-ssl --help"),
        (["config", "pretrain-mlm", "--seed", "x"], "--seed cannot be 'x'; it takes an integer"),
        (["pretrain-mlm", "--help", "sed_x"], "no option has 'sed_x' in its name or description; the nearest are --"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, said, installed, tmp_path):
    printed = nlp_ssl(installed, *arguments, cwd=tmp_path, expect=2)
    assert printed.startswith(f"error: {said}")
    assert printed.count("\n") == 1


def test_programs_are_listed_once_and_so_is_the_file_of_options(installed, tmp_path):
    listed = nlp_ssl(installed, "--help", cwd=tmp_path)
    names = [line.split()[0] for line in listed.splitlines() if re.match(r"  \S", line)]
    assert len(names) == len(set(names)) == sum(map(len, programs().values()))
    assert listed.count("nlp-ssl config NAME > my.yaml") == 1


@pytest.mark.parametrize(
    ("start", "usage", "writes"),
    [
        (["recipes/distill.py"], "python recipes/distill.py", "python -m nlp_ssl config distill"),
        (["-m", "nlp_ssl.recipes.distill"], "python -m nlp_ssl.recipes.distill", "python -m nlp_ssl config distill"),
        (["-m", "nlp_ssl.doctor"], "python -m nlp_ssl.doctor", "python -m nlp_ssl.doctor --print_config=commented"),
        (["nlp-ssl", "distill"], "nlp-ssl distill", "nlp-ssl config distill"),
        (["nlp-ssl", "doctor"], "nlp-ssl doctor", "nlp-ssl config doctor"),
        (["nlp-ssl", "benchmark-gpu"], "nlp-ssl benchmark-gpu", "nlp-ssl config benchmark-gpu"),
        (["mine.py"], "python mine.py", "python mine.py --print_config=commented"),
    ],
)
def test_help_names_the_program_as_it_was_started(start, usage, writes, installed, tmp_path):
    site = installed / "nlp_ssl" / "recipes"
    (tmp_path / "recipes").symlink_to(site)
    (tmp_path / "mine.py").write_text((site / "distill.py").read_text())
    if start[0] == "nlp-ssl":
        start = [str(installed / "bin" / "nlp-ssl"), *start[1:]]
    printed = execute([sys.executable, *start, "--help"], cwd=tmp_path, PYTHONPATH=str(installed), COLUMNS="110")
    assert printed.startswith(f"usage: {usage} [--option value ...]\n")
    assert f"\n{writes} > my.yaml writes all" in printed
    command = [sys.executable, *shlex.split(writes.removeprefix("python "))]
    if writes.startswith("nlp-ssl"):
        command = [sys.executable, str(installed / "bin" / "nlp-ssl"), *writes.split()[1:]]
    written = execute(command, cwd=tmp_path, PYTHONPATH=str(installed))
    program = usage if not writes.startswith("python -m nlp_ssl config") else "python -m nlp_ssl.recipes.distill"
    assert f"\n#     {program} --config my.yaml\n" in written


def test_a_reader_that_has_enough_is_no_error(installed):
    script = f"set -o pipefail; {sys.executable} {installed}/bin/nlp-ssl --help | head -n 1"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: nlp-ssl NAME")


def test_every_recipe_is_in_one_group():
    named = [module.rpartition(".")[2] for group in programs().values() for module in group.values()]
    assert sorted(name for name in named if name not in ("doctor", "gpu", "reports", "trying")) == RECIPES


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
        ("nlp-ssl conf", {"config "}),
        ("nlp-ssl config finetune", {"finetune-classification", "finetune-ner"}),
        (
            "nlp-ssl config pretrain-mlm --train.mi",
            {"--train.minutes", "--train.micro_batch_size", "--train.mixed_precision"},
        ),
        ("nlp-ssl pretrain-mlm --train.mi", {"--train.minutes", "--train.micro_batch_size", "--train.mixed_precision"}),
    ],
)
def test_the_shell_completes_names_and_options(line, words, installed, tmp_path):
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "IFS": "\013"}
    script = [sys.executable, str(installed / "bin" / "nlp-ssl")]
    subprocess.run(script, env=os.environ | asked | {"PYTHONPATH": str(installed)}, check=True)
    assert set((tmp_path / "words").read_text().split("\013")) == words
