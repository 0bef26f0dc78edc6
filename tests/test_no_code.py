"""A file that somebody else made runs nothing: a program is planted in each kind of file that is read."""

import ast
import contextlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import forks
import pytest
import torch
from toys import tiny_config, tiny_model, tokenizer
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import ModelConfig
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.yaml_text import MOST_REPEATED, check_yaml
from nlp_ssl.data.tokens.tokenizer import load_tokenizer, save_tokenizer
from nlp_ssl.models.loading import architecture, build_model, find_config
from nlp_ssl.training.state_files import read_tensors, rng_state, set_rng_state

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for part in ("nlp_ssl", "recipes") for path in (ROOT / part).rglob("*.py"))
FORBIDDEN = (
    r"\bpickle\b|allow_pickle|weights_only\s*=\s*False|trust_remote_code\s*=\s*True|\bmarshal\b|\bshelve\b|joblib"
)
FORBIDDEN += r"|\bdill\b|yaml\.(unsafe_|full_)?load(_all)?\(|UnsafeLoader|FullLoader|(?<![\w.])(eval|exec)\("
READERS = r"pipeline|(Auto\w+|auto_class)\.from_(pretrained|config)"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reader_that_could_run_a_program_is_called(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if re.search(FORBIDDEN, line)]
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_whatever_reads_a_model_says_that_its_code_is_not_run(path: Path) -> None:
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and re.fullmatch(READERS, ast.unparse(call.func)):
            given = [ast.unparse(keyword) for keyword in call.keywords]
            assert {"trust_remote_code=False", "**source", "**_source(name, revision)"} & set(given), ast.unparse(call)


class Program:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("inside", [False, True])
def test_a_program_in_a_file_of_tensors_is_not_run(tmp_path: Path, inside: bool) -> None:
    program = Program(tmp_path / "ran")
    torch.save(
        {"state": {0: {"step": torch.tensor(3.0), "exp_avg": program}}} if inside else program, tmp_path / "f.pt"
    )
    with pytest.raises(UserError, match=r"f\.pt holds \w+\.mkdir, which could run a program, where tensors"):
        read_tensors(tmp_path / "f.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"PK\x03\x04" + bytes(64), b"cos\nsystem\n(S'true'\ntR."])
def test_a_file_that_is_none_of_tensors_gets_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"f\.pt holds .* where tensors and numbers should be"):
        read_tensors(tmp_path / "f.pt")


def test_random_state_is_read_back_by_the_reader_of_plain_values(tmp_path: Path) -> None:
    torch.save(rng_state(), tmp_path / "rank-0.pt")
    expected = torch.rand(3)
    set_rng_state(torch.load(tmp_path / "rank-0.pt", weights_only=True))
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------------------------------------------------------
# configurations


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working directory that leaves a file behind when it is imported."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "ran").exists()
    assert "planted" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "data: {class_path: planted.X}",
        "class_path: planted.X",
        "train:\n  steps: 3\nmodel:\n  overrides:\n    deep: {deeper: [1, {class_path: planted.X}]}",
        "phases: [{class_path: planted.X, init_args: {steps: 3}}]",
        'data: {"class\\u005fpath": planted.X}',
        "seed: &key class_path\ndata: {*key : planted.X}",
        "base: &base {class_path: planted.X}\ndata: {<<: *base}",
        '{\t"data": {\t"class_path": "planted.X"}}',
    ],
)
@pytest.mark.parametrize("config_class", [MLMConfig, FinetuneConfig])
def test_a_class_named_in_yaml_is_not_imported(module: Path, text: str, config_class: type) -> None:
    (module / "my.yaml").write_text(text)
    with pytest.raises(UserError, match=r"my\.yaml: line \d+ has a key class_path, which names Python code"):
        parse(config_class, argv=["--config", "my.yaml"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--data", "planted.X"],
        ["--data={class_path: planted.X}"],
        ["--data.class_path", "planted.X"],
        ["--data.class_path=planted.X", "--data.init_args.split", "train"],
        ["--phases", "[{class_path: planted.X}]"],
        ["--model.overrides", "{a: {class_path: planted.X}}"],
        ["--config", "{data: {class_path: planted.X}}"],
        ["--data.help", "planted.X"],
        ["--data", "./nested.yaml"],
        ["--config", "outer.yaml"],
        ["--config", "group.yaml"],
    ],
    ids=" ".join,
)
def test_a_class_named_on_the_command_line_is_not_imported(module: Path, argv: list[str]) -> None:
    (module / "nested.yaml").write_text("class_path: planted.X")
    (module / "outer.yaml").write_text("data: ./nested.yaml")
    (module / "group.yaml").write_text("data: planted.X")
    with pytest.raises(UserError, match=r"class_path|names Python code|unknown option"):
        parse(MLMConfig, argv=argv)


def test_a_class_named_in_the_environment_is_not_imported(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["recipe.py"])
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("RECIPE_DATA", "planted.X")
    with contextlib.suppress(UserError):  # whether jsonargparse reads the variable is its own affair
        parse(MLMConfig, argv=[])


def test_aliases_that_stand_for_a_billion_values_are_refused_and_a_few_are_not(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"bomb\.yaml: its aliases .* stand for \d+,\d+,\d+ values") as refused:
        parse(MLMConfig, argv=["--config", str(tmp_path / "bomb.yaml")])
    assert len(str(refused.value)) < 300
    with pytest.raises(UserError, match="what they are part of"):
        check_yaml("a: &a [*a]")
    (tmp_path / "few.yaml").write_text("optimizer: {lr: &lr 1e-3, muon_lr: *lr}")
    assert parse(MLMConfig, argv=["--config", str(tmp_path / "few.yaml")]).optimizer.muon_lr == 1e-3
    check_yaml(f"[{'x, ' * 3 * MOST_REPEATED}x]")  # a long list without aliases is as large as it looks


def test_what_is_quoted_of_a_wrong_value_is_short(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(f"seed: [{'x, ' * 100_000}x]")
    with pytest.raises(UserError, match="--seed cannot be") as refused:
        parse(MLMConfig, argv=["--config", str(tmp_path / "long.yaml")])
    assert len(str(refused.value)) < 400


# ---------------------------------------------------------------------------------------------------------------------
# models and tokenizers


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A BERT whose files name Python code that lies beside them, and an attention to download."""
    folder = tmp_path / "stranger"
    tiny_model("bert", vocab_size=len(tokenizer("bpe"))).save_pretrained(folder)
    tokenizer("bpe").save_pretrained(folder)
    (folder / "planted.py").write_text(
        f"import os\nos.makedirs({str(tmp_path / 'ran')!r}, exist_ok=True)\nfrom transformers import BertConfig as C\n"
        "from transformers import BertForMaskedLM as M, PreTrainedTokenizerFast as T\n"
    )
    more = {"auto_map": {"AutoConfig": "planted.C", "AutoModelForMaskedLM": "planted.M"}}
    more |= {"custom_pipelines": {"fill-mask": {"impl": "planted.M", "pt": ["AutoModelForMaskedLM"]}}}
    _write(folder / "config.json", **more, attn_implementation="somebody/kernel")
    _write(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["planted.T", "planted.T"]})
    return folder


def _write(path: Path, **more: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_code_that_comes_with_a_known_model_is_neither_run_nor_saved(stranger: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # as `yes |` answers
    read = load_tokenizer(str(stranger))
    out = stranger.parent / "out"
    for scratch in (False, True):
        config = ModelConfig(name=str(stranger), from_scratch=scratch)
        found = architecture(config, AutoModelForMaskedLM, read, 32, None)
        build_model(config, found, AutoModelForMaskedLM, isolated=False).save_pretrained(out)
        read.save_pretrained(out)
        for path in out.glob("*.json"):
            assert not re.search("auto_map|custom_pipelines|planted|somebody", path.read_text()), path.name
    save_tokenizer(AutoTokenizer.from_pretrained(stranger, trust_remote_code=False), out.with_name("saved"))
    assert "auto_map" not in (out.with_name("saved") / "tokenizer_config.json").read_text()
    assert type(AutoConfig.from_pretrained(out)).__name__ == "BertConfig"
    assert not (stranger.parent / "ran").exists()


def test_a_model_that_is_nothing_but_code_of_its_own_is_refused(stranger: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    _write(stranger / "config.json", model_type="never_heard_of")
    with pytest.raises(UserError, match=r"Python code of its own \(auto_map in its config.json\).*never run here"):
        find_config(str(stranger))
    _write(stranger / "tokenizer_config.json", tokenizer_class="NeverHeardOf")
    (stranger / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(str(stranger))
    assert not (stranger.parent / "ran").exists()


def test_a_sub_configuration_names_no_code_either(tmp_path: Path) -> None:
    """Read in a process of its own: transformers remembers what it was told of an architecture."""
    tiny_config("bert").save_pretrained(tmp_path / "text")
    text = json.loads((tmp_path / "text" / "config.json").read_text()) | {"auto_map": {"AutoConfig": "planted.C"}}
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "config.json").write_text(json.dumps({"model_type": "blip", "text_config": text}))
    program = (
        "import sys; from nlp_ssl.models.loading import find_config; print(find_config(sys.argv[1]).to_json_string())"
    )
    shown = forks.run([sys.executable, "-c", program, str(tmp_path / "both")], env=forks.ENVIRONMENT, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert '"text_config"' in shown.stdout
    assert "auto_map" not in shown.stdout


def test_a_tokenizer_saved_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    save_tokenizer(tokenizer("bpe"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "tokenizer.json").is_file()
    shutil.rmtree(tmp_path / "disk")
