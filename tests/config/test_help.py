"""`--help` in two levels: what people use on a screen, every option, and those about a word."""

import dataclasses
import re
import sys
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Literal

import pytest
from launch import ROOT
from test_options import LIST, RECIPES, config_of, options

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import options as section
from nlp_ssl.config.described import everyday, in_words, sections
from nlp_ssl.config.pretraining import CLMConfig, MLMConfig, PretrainConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.yaml_text import load_yaml

DOCTOR = ROOT / "nlp_ssl" / "doctor" / "__main__.py"


def docstring(recipe: Path) -> str:
    return sys.modules[f"options of {recipe.stem}"].__doc__


def shown(config: type, about: str, *argv: str, columns: int, monkeypatch, capsys) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        parse(config, about, list(argv))
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def help_of(monkeypatch, capsys):
    """What a configuration prints for arguments, in this many columns."""

    def printed(config, *argv, about="", columns=110):
        return shown(config, about, *argv, columns=columns, monkeypatch=monkeypatch, capsys=capsys)

    return printed


def entries(text: str) -> dict[str, str]:
    """By the options that have a line of their own in help, what is said about each."""
    parts = re.split(r"(?m)^  --(\S+)", text)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert len(found) == len(parts) // 2, "an option is there twice"
    return {name: " ".join(re.split(r"\n\n|\n\S", about)[0].split()) for name, about in found.items()}


def key(flag: str) -> str:
    return "resume.enabled" if flag == "resume" else flag


@pytest.mark.parametrize("recipe", [*RECIPES, DOCTOR], ids=lambda path: path.stem)
def test_the_options_that_people_use_fit_on_a_screen(recipe, help_of):
    config = config_of(recipe) if recipe != DOCTOR else MLMConfig
    about = docstring(recipe) if recipe != DOCTOR else ""
    text = help_of(config, "--help", about=about)
    assert text == help_of(config, "-h", about=about)
    lines = text.splitlines()
    assert len(lines) < 75
    assert lines[0].startswith("usage: ")
    assert about.strip() in text
    every = list(options(config))
    found = entries(text)
    assert {key(flag) for flag in found} <= set(every)
    assert len(found) <= 25
    assert len(found) >= 15 or len(every) < 40
    assert max(map(len, text.replace(about.strip(), "").splitlines())) <= 110
    assert ("--help all lists the other" in text) == (len(found) < len(every))
    if len(found) < len(every):
        assert f"the other {len(every) - len(found)} options" in " ".join(text.split())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("argv", [["--help"], ["--help", "all"]], ids=" ".join)
def test_defaults_are_those_of_the_class(recipe, argv, help_of):
    config = config_of(recipe)
    given = config()
    for flag, about in entries(help_of(config, *argv)).items():
        value = reduce(getattr, key(flag).split("."), given)
        told = re.search(r", default (.*?)\](?: - |$)", about)
        if told is None:
            assert value in (None, {})
            assert "Derived" in about
        elif value is None:
            assert told[1] == "none"
        elif not (isinstance(value, list) and value and dataclasses.is_dataclass(value[0])):
            assert load_yaml(told[1]) == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_all_is_every_option_once(recipe, help_of):
    known = {line.split(" --")[1] for line in LIST.read_text().splitlines() if line.split()[0] == recipe.stem}
    text = help_of(config_of(recipe), "--help", "all", about=docstring(recipe))
    assert {key(flag) for flag in entries(text)} == known
    assert text.count("usage: ") == 1
    assert "Path to a configuration file" not in text


def test_sections_are_headed_by_their_docstrings(help_of):
    text = help_of(MLMConfig, "--help", "all")
    assert "\nThe learning-rate schedule: warm-up and decay:\n  --schedule.name " in text
    assert "\nWhere the text comes from:\n  --data." in text
    assert "A section may be a file by itself, too: --masking masking.yaml." in " ".join(text.split())
    assert re.search(r"(?m)^    - global_batch_size +Sequences per optimizer step", text)  # a key of a phase


@pytest.mark.parametrize("columns", [20, 60, 80])
def test_a_narrow_terminal_breaks_lines_between_words(columns, help_of):
    text = help_of(CLMConfig, "--help", columns=columns)
    assert entries(text).keys() == entries(help_of(CLMConfig, "--help")).keys()
    for line in text.splitlines()[1:]:
        assert len(line) <= columns or columns == 20
    assert "  --train.global_batch_size" in text


def test_a_wide_terminal_is_not_filled(help_of):
    assert help_of(CLMConfig, "--help", columns=300) == help_of(CLMConfig, "--help", columns=110)


@pytest.mark.parametrize(
    ("word", "there", "not_there"),
    [
        ("lr", {"optimizer.lr", "optimizer.muon_lr"}, {"train.steps"}),
        ("batch_size", {"train.global_batch_size", "train.micro_batch_size", "evaluation.batch_size"}, {"seed"}),
        ("train", {"train.steps", "train.deterministic"}, {"data.delimiter"}),
        ("muon", {"optimizer.name", "optimizer.muon_lr"}, {"optimizer.betas"}),
        ("learning_rate", {"optimizer.lr", "optimizer.muon_lr"}, {"train.steps"}),
        ("resume", {"resume", "resume.allow_changed"}, {"train.steps"}),
        ("fp16", {"train.mixed_precision"}, {"seed"}),
        ("save_steps", {"checkpoint.every"}, {"evaluation.every"}),
    ],
)
def test_a_word_finds_the_options_about_it(word, there, not_there, help_of):
    for argv in (["--help", word], [f"--help={word}"], ["--train.steps", "3", "-h", word]):
        found = entries(help_of(MLMConfig, *argv)).keys()
        assert there <= found
        assert not found & not_there


def test_a_word_that_no_option_has_gets_the_nearest_names():
    with pytest.raises(UserError) as caught:
        parse(MLMConfig, argv=["--help", "learning_rte"])
    assert str(caught.value).startswith("no option has 'learning_rte' in its name or description")
    with pytest.raises(UserError, match=r"the nearest are .*--data\.text_column"):
        parse(MLMConfig, argv=["--help", "txt_column"])


@section
class MineSection:
    """My objective: how it is trained. The second sentence."""

    strength: float = 0.5
    """How strong it is. A second sentence."""
    way: Literal["up", "down"] = "up"
    """Where to."""


@section
class MineConfig(PretrainConfig):
    """One run of mine."""

    output_dir: str = "runs/mine"
    """Folder of the run."""
    mine: MineSection = field(default_factory=MineSection)


def test_an_objective_of_ones_own_has_its_section_in_help(help_of):
    text = help_of(MineConfig, "--help")
    assert "My objective: how it is trained:\n" in text
    assert entries(text)["mine.strength"] == "How strong it is. [number, default 0.5]"
    assert entries(text)["mine.way"] == "Where to. [up or down, default up]"
    assert "How strong it is. A second sentence. [number" in help_of(MineConfig, "--help", "all")
    assert {option.key for group in everyday(CLMConfig).values() for option in group} | {
        "mine.strength",
        "mine.way",
    } == {key(flag) for flag in entries(text)}


def test_every_option_is_described():
    for recipe in RECIPES:
        for part in sections(config_of(recipe)):
            assert part.title
            for option in part.options:
                assert option.description.endswith((".", ".)")), f"{recipe.stem} --{option.key}"
                assert all(entry.description for entry in option.entries)


def test_an_undocumented_key_is_shown_all_the_same(help_of):
    @dataclass
    class Part:
        silent: int = 3

    @dataclass
    class Whole:
        part: Part = field(default_factory=Part)

    assert entries(help_of(Whole, "--help")) == {"part.silent": "[integer, default 3]"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int | None, "integer"),
        (str | list[str] | None, "text or list of texts"),
        (tuple[float, float], "list of 2 numbers"),
        (Literal["no", "bf16", "fp16"] | None, "no, bf16 or fp16"),
        (int | Literal["auto"] | None, "integer or auto"),
        (dict[str, int], "mapping"),
        (bool, "true or false"),
    ],
)
def test_types_are_said_in_words(kind, words):
    assert in_words(kind) == words
