"""`nlp-ssl config NAME`: a commented YAML of every option that starts the same run as no file."""

import re
from pathlib import Path

import pytest
import yaml
from launch import ROOT
from test_options import RECIPES, config_of, options

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import flatten
from nlp_ssl.config.described import everyday
from nlp_ssl.config.mixture import SupervisedConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core.invocation import COMMENTED
from nlp_ssl.core.yaml_text import dump_yaml, load_yaml


@pytest.fixture
def written(tmp_path, capsys):
    """The file that is written for a configuration class and arguments."""

    def write(config: type, *argv: str) -> Path:
        with pytest.raises(SystemExit) as ended:
            parse(config, "What it does.\n\n    how\n", [*argv, COMMENTED])
        assert ended.value.code == 0
        file = tmp_path / "my.yaml"
        file.write_text(capsys.readouterr().out)
        return file

    return write


def uncommented(file: Path) -> Path:
    return Path(file.write_text(re.sub(r"(?m)^( *)#(?=\w)", r"\1", file.read_text())) and file)


@pytest.mark.parametrize("config", [*map(config_of, RECIPES), SupervisedConfig], ids=lambda kind: kind.__name__)
def test_the_file_changes_nothing_with_its_comments_and_without(config, written):
    default = parse(config, argv=[])
    file = written(config)
    used = {option.key for group in everyday(config).values() for option in group}
    active = {name for name in flatten(load_yaml(file.read_text())) if name in set(options(config))}
    assert used - {"rtd.generator"} == active - {"rtd.generator"}
    assert parse(config, argv=["--config", str(file)]) == default
    uncommented(file)
    assert parse(config, argv=["--config", str(file)]) == default
    for key in options(config):
        assert len(re.findall(rf"(?m)^ *{key.rpartition('.')[2]}:", file.read_text())) >= 1, key


def test_what_is_given_stands_in_it(written):
    given = ["--train.minutes", "3", "--data.subset", "1e3", "--data.split=no", "--train.deterministic"]
    given += ["--phases", "[{steps: 3, objective: clm}]", "--model.overrides.num_hidden_layers", "4"]
    file = written(MLMConfig, *given)
    assert parse(MLMConfig, argv=["--config", str(file)]) == parse(MLMConfig, argv=given)
    assert "\n  minutes: 3.0\n" in file.read_text()
    assert "\n  deterministic: true\n" in file.read_text()


def test_options_are_explained_and_the_header_says_how_to_start(written):
    text = written(MLMConfig).read_text()
    assert text.startswith("# What it does.\n#\n#     ")
    assert text.split("\n")[2].endswith(" --config my.yaml")
    assert "\n# The learning-rate schedule: warm-up and decay.\nschedule:\n" in text
    assert "\n  # Peak learning rate of Muon. [number]\n  #muon_lr: 0.02\n" in text
    assert all(len(line) <= 100 for line in text.splitlines() if line.lstrip().startswith("# "))


def test_a_section_with_nothing_left_in_it_is_as_if_it_were_not_there(tmp_path):
    (tmp_path / "a.yaml").write_text("train:\n  # steps: 3\nseed: 3\n")
    config = parse(MLMConfig, argv=["--config", str(tmp_path / "a.yaml")])
    assert config == MLMConfig(seed=3)


@pytest.mark.parametrize(
    "value", ["no", "1e-3", "2020-01-01", "null", "3", "a: b", "# x", "", "x\ny", [1, "1"], {"a": ["no"]}]
)
def test_values_are_read_back_as_they_were(value):
    assert load_yaml(dump_yaml({"key": value})) == {"key": value}
    assert load_yaml(dump_yaml(value, one_line=True)) == value
    assert isinstance(value, str) or yaml.safe_load(dump_yaml(value)) == value


def test_what_print_config_prints_is_read_back(tmp_path, capsys):
    given = ["--data.subset", "1e3", "--phases", "[{steps: 3}]", "--seed", "3"]
    with pytest.raises(SystemExit):
        parse(MLMConfig, argv=[*given, "--print_config"])
    printed = capsys.readouterr().out
    assert "\nresume:\n  enabled: false\n  allow_changed: false\n" in printed
    (tmp_path / "c.yaml").write_text(printed)
    assert parse(MLMConfig, argv=["--config", str(tmp_path / "c.yaml")]) == parse(MLMConfig, argv=given)


def test_recipes_of_the_repository_are_all_here():
    assert len(RECIPES) == len(list((ROOT / "recipes").glob("[!_]*.py"))) > 20
