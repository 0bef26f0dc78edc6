"""Configuration: the command line, YAML files, and the sentence that a mistake gets."""

import subprocess
import sys

import pytest
import yaml
from launch import ROOT

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import BUDGETS, to_dict
from nlp_ssl.config.finetuning import FinetuneConfig, GlueConfig
from nlp_ssl.config.pretraining import CLMConfig, MLMConfig, PhaseConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir

CONFIGS = [MLMConfig, CLMConfig, FinetuneConfig]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_nothing_given_is_the_defaults(config_class):
    assert parse(config_class, argv=[]) == config_class()
    assert isinstance(parse(config_class, argv=[]), config_class)


def test_dotted_overrides_of_every_kind():
    argv = "--optimizer.lr 1e-3 --train.tokens=1e9 --seed 5 --data.sources [a.txt,b.txt] --model.name bert-tiny"
    argv += " --optimizer.betas [0.9,0.95] --model.overrides.num_hidden_layers 3 --tracking.trackers [tensorboard]"
    config = parse(MLMConfig, argv=argv.split())
    assert config.optimizer.lr == 1e-3
    assert config.train.tokens == 1e9
    assert config.seed == 5
    assert config.data.sources == ["a.txt", "b.txt"]
    assert tuple(config.optimizer.betas) == (0.9, 0.95)
    assert config.model.overrides == {"num_hidden_layers": 3}
    assert config.tracking.trackers == ["tensorboard"]
    assert parse(MLMConfig, argv=["--data.sources", "one.txt"]).data.sources == "one.txt"


def test_yaml_reads_1e_3_as_a_number_and_later_ones_win(tmp_path):
    (tmp_path / "a.yaml").write_text("optimizer:\n  lr: 1e-3\n  name: muon\ntrain:\n  tokens: 1e9\nseed: 3\n")
    (tmp_path / "b.yaml").write_text("optimizer:\n  lr: 5e-4\n")
    a, b = ["--config", str(tmp_path / "a.yaml")], ["--config", str(tmp_path / "b.yaml")]
    config = parse(MLMConfig, argv=a)
    assert (config.optimizer.lr, config.optimizer.name, config.train.tokens, config.seed) == (1e-3, "muon", 1e9, 3)
    config = parse(MLMConfig, argv=a + b)
    assert (config.optimizer.lr, config.optimizer.name) == (5e-4, "muon")
    assert parse(MLMConfig, argv=[*a, "--optimizer.lr", "0.1"]).optimizer.lr == 0.1
    assert parse(MLMConfig, argv=["--optimizer.lr", "0.1", *a]).optimizer.lr == 1e-3


def test_a_budget_on_the_command_line_replaces_that_of_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text("train:\n  tokens: 1e9\n")
    (tmp_path / "b.yaml").write_text("train:\n  epochs: 2\n")
    a, b = (["--config", str(tmp_path / name)] for name in ("a.yaml", "b.yaml"))

    def budgets(*argv: str) -> dict:
        train = parse(MLMConfig, argv=list(argv)).train
        return {name: value for name in BUDGETS if (value := getattr(train, name)) is not None}

    assert budgets(*a, "--train.steps", "20") == budgets("--train.steps=20", *a) == {"steps": 20}
    assert budgets(*a, *b) == {"epochs": 2}
    assert budgets(*b, *a) == {"tokens": 1e9}
    assert budgets(*a, "--train.tokens", "5") == {"tokens": 5}
    assert budgets(*a, "--train.steps", "null") == {"tokens": 1e9}
    assert budgets(*a, "--train.tokens", "null") == {}
    (tmp_path / "section.yaml").write_text("minutes: 3\n")
    assert budgets(*a, "--train", str(tmp_path / "section.yaml")) == {"minutes": 3}


def test_two_budgets_in_one_place_are_refused_and_the_place_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("train:\n  tokens: 1e9\n  steps: 5\n")
    with pytest.raises(UserError, match=r"a\.yaml gives 2 budgets, --train\.tokens .* and --train\.steps 5: "):
        parse(MLMConfig, argv=["--config", str(tmp_path / "a.yaml")])
    with pytest.raises(UserError, match=r"^the command line gives 2 budgets, --train\.steps 5 and --train"):
        parse(MLMConfig, argv=["--train.steps", "5", "--train.minutes=1"])


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_stored_configuration_reads_back_as_it_was(config_class, tmp_path):
    changed = config_class(output_dir="x", seed=5)
    changed.train.minutes, changed.hub.repo_id, changed.optimizer.lr = 1.5, "me/model", 3e-4
    plain = to_dict(changed)
    plain["optimizer"]["betas"] = list(plain["optimizer"]["betas"])
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain))
    read = parse(config_class, argv=["--config", str(tmp_path / "c.yaml")])
    read.optimizer.betas = tuple(read.optimizer.betas)
    assert read == changed


def test_bare_flags():
    config = parse(MLMConfig, argv=["--resume", "--train.compile", "--seed", "3", "--hub.private"])
    assert config.resume.enabled
    assert not config.resume.allow_changed
    assert parse(MLMConfig, argv=["--resume.allow_changed", "--seed", "1"]).resume.allow_changed
    assert config.train.compile
    assert config.hub.private
    assert config.seed == 3
    assert not parse(MLMConfig, argv=["--resume", "false", "--seed", "1"]).resume.enabled
    assert parse(MLMConfig, argv=["--resume=true"]).resume


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--optimiser.lr", "1"], "unknown option --optimiser.lr; did you mean --optimizer.lr?"),
        (["--train.step", "3"], "unknown option --train.step; did you mean --train.steps?"),
        (["--lr", "1"], "unknown option --lr; did you mean --optimizer.lr?"),
        (["--zzzzzzzz", "1"], "unknown option --zzzzzzzz; see --help"),
        (["--train.steps", "many"], "--train.steps cannot be 'many'; it takes an integer"),
        (["--optimizer.lr", "fast"], "--optimizer.lr cannot be 'fast'; it takes a number"),
        (["--schedule.name", "step"], "--schedule.name cannot be 'step'; it takes linear, cosine, wsd or constant"),
        (["--resume", "perhaps"], "--resume cannot be 'perhaps'; it takes true or false"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence):
    with pytest.raises(UserError) as caught:
        parse(MLMConfig, argv=argv)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_precision_that_there_is_not_is_refused_at_once_for_glue_too():
    assert parse(GlueConfig, argv=["--mixed_precision", "no"]).mixed_precision == "no"
    with pytest.raises(UserError, match="--mixed_precision cannot be 'bf61'"):
        parse(GlueConfig, argv=["--mixed_precision", "bf61"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optimizer:\n  learning_rate: 1e-3\n", "optimizer.learning_rate"),
        ("optimizer:\n  lrr: 1e-3\n", "did you mean --optimizer.lr?"),
        ("optimiser:\n  lr: 1e-3\n", "optimiser"),
        ("sed: 3\n", "did you mean --seed?"),
        ("train:\n  steps: soon\n", "--train.steps cannot be 'soon'; it takes an integer"),
        ("train: [1\n", "c.yaml: line 2 is not valid YAML: expected ','"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(text, sentence, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        parse(MLMConfig, argv=["--config", str(tmp_path / "c.yaml")])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_one_of_several_files_names_that_file_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/good.yaml").write_text("seed: 3\n")
    for text, said in [
        ("maskng:\n  probability: 0.2\n", "unknown key 'maskng.probability'; did you mean --masking.probability?"),
        ("train: {steps: soon}\n", "--train.steps cannot be 'soon'"),
        ("train: [1\n", "line 2 is not valid YAML"),
        ("- 1\n", "options are written as `name: value`, not as '- 1'"),
    ]:
        (tmp_path / "sub/bad.yaml").write_text(text)
        with pytest.raises(UserError) as caught:
            parse(MLMConfig, argv=["--config", "sub/good.yaml", "--config=sub/bad.yaml", "--seed", "4"])
        assert str(caught.value).startswith(f"sub/bad.yaml: {said}")
    with pytest.raises(UserError, match=r"^--seed cannot be 'x'"):  # not the file's
        parse(MLMConfig, argv=["--config", "sub/good.yaml", "--seed", "x"])


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv in (["--config", "nowhere.yaml"], ["--seed", "3", "--config=nowhere.yaml"]):
        with pytest.raises(UserError) as caught:
            parse(MLMConfig, argv=argv)
        assert str(caught.value).startswith(f"--config nowhere.yaml: there is no such file in {tmp_path}; `")
        assert str(caught.value).endswith(" > nowhere.yaml` writes one with every option")
    with pytest.raises(UserError, match=r"^--config /no/where\.yaml: there is no such file; `"):
        parse(MLMConfig, argv=["--config", "/no/where.yaml"])
    with pytest.raises(UserError, match="is a folder; give the YAML file in it"):
        parse(MLMConfig, argv=["--config", str(tmp_path)])


def test_a_section_is_read_from_a_file_of_its_own(tmp_path):
    (tmp_path / "train.yaml").write_text("steps: 3\nminutes: null\n")
    assert parse(MLMConfig, argv=["--train", str(tmp_path / "train.yaml")]).train.steps == 3
    with pytest.raises(UserError, match=r"^there is no file 'nope\.yaml', where a section's options are given by one$"):
        parse(MLMConfig, argv=["--train", "nope.yaml"])
    with pytest.raises(UserError, match=r"^--train takes a YAML file with options of that section; '/no/pe' is none$"):
        parse(MLMConfig, argv=["--train", "/no/pe"])


@pytest.mark.parametrize(
    ("config_class", "given", "meant"),
    [(MLMConfig, "text_columns", "text_column"), (FinetuneConfig, "text_column", "text_columns")],
)
def test_each_name_of_the_text_column_is_known_where_the_other_is_meant(config_class, given, meant, tmp_path):
    for key in (given, f"data.{given}"):
        with pytest.raises(UserError, match=rf"^unknown option --{key}; did you mean --data\.{meant}\?$"):
            parse(config_class, argv=[f"--{key}", "review"])
    (tmp_path / "c.yaml").write_text(f"data:\n  {given}: review\n")
    with pytest.raises(UserError, match=rf"c\.yaml: .*did you mean --data\.{meant}\?$"):
        parse(config_class, argv=["--config", str(tmp_path / "c.yaml")])


HELP_OF_ALL = """
import contextlib, io, runpy, sys
for recipe in sys.argv[1:]:
    sys.argv = [recipe, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        runpy.run_path(recipe, run_name="__main__")
    assert shown.getvalue().startswith("usage: "), recipe
    heavy = {"torch", "transformers", "datasets", "accelerate", "pandas", "scipy"} & sys.modules.keys()
    assert not heavy, f"{recipe} --help imports {heavy}"
"""


def test_every_recipe_answers_before_a_large_library_is_imported():
    recipes = sorted(str(path) for path in (ROOT / "recipes").glob("[!_]*.py"))
    assert len(recipes) > 10
    result = subprocess.run([sys.executable, "-c", HELP_OF_ALL, *recipes], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("NLP_SSL_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("NLP_SSL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "nlp_ssl"


def test_a_list_of_phases_is_read_from_the_command_line_and_from_yaml(tmp_path):
    expected = [PhaseConfig(steps=3, global_batch_size=2), PhaseConfig(steps=1, objective="clm")]
    given = "[{steps: 3, global_batch_size: 2}, {steps: 1, objective: clm}]"
    assert parse(MLMConfig, argv=["--phases", given]).phases == expected
    (tmp_path / "run.yaml").write_text("phases:\n- steps: 3\n  global_batch_size: 2\n- {steps: 1, objective: clm}\n")
    assert parse(MLMConfig, argv=["--config", str(tmp_path / "run.yaml")]).phases == expected
    with pytest.raises(UserError, match="unknown key 'stpes'"):
        parse(MLMConfig, argv=["--phases", "[{stpes: 3}]"])


def test_no_is_the_word_that_it_is_and_a_date_too(tmp_path):
    (tmp_path / "x.yaml").write_text("train: {mixed_precision: no, deterministic: true}\ndata: {subset: 2020-01-01}\n")
    config = parse(MLMConfig, argv=["--config", str(tmp_path / "x.yaml"), "--optimizer.lr", "1e-3"])
    assert config.train.mixed_precision == "no"
    assert config.train.deterministic is True
    assert config.data.subset == "2020-01-01"
    assert config.optimizer.lr == 1e-3
