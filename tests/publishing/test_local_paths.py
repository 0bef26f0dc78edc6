"""What is published of a path is its name; what is no path stays as it is."""

from pathlib import Path

import pytest

from nlp_ssl.config.common import to_dict
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.publishing.local_paths import hide, names_only

PATHS = {
    "/home/ann/acme/x.txt": "x.txt",
    "~/acme/x.txt": "x.txt",
    "~ann/x.txt": "x.txt",
    "../acme/x": "x",
    "./x.txt": "x.txt",
    "acme/secret/x.txt": "x.txt",
    "acme/x.jsonl.gz": "x.jsonl.gz",
    "acme/*.csv": "*.csv",
    "/home/ann/My Documents/the texts.txt": "the texts.txt",
    "My Documents/texts": "texts",
    "file:///home/ann/x.txt": "x.txt",
    "file:/home/ann/x.txt": "x.txt",
    "file:///home/ann/my%20texts.txt": "my texts.txt",
    "s3://acme-bucket/secret/x.parquet": "x.parquet",
    "https://ann:password@example.org/x.csv": "x.csv",
    "C:\\Users\\ann\\x.txt": "x.txt",
    "C:/Users/ann/x.txt": "x.txt",
    "c:\\Users\\ann\\My Documents\\x.txt": "x.txt",
    "\\\\server\\acme\\x.txt": "x.txt",
    "acme\\x.txt": "x.txt",
    "runs/mlm": "mlm",
    "/home/ann/runs/mlm/": "mlm",
    "/": "local",
    "~": "local",
    "..": "local",
    "C:\\": "local",
}
NO_PATHS = ["user/name", "bert-base-uncased", "openai-community/gpt2", "builtin", "corpus.txt", "glue/sst2", "text"]
NO_PATHS += ["hf://datasets/user/name", "https://example.org/a/x.csv", "", "a|b", "1e-3", "x, y", "held_out_loss"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_its_name_wherever_it_stands(path: str) -> None:
    name = PATHS[path]
    nested = {"a": path, "b": [path, "x"], "c": {"d": {"e": [[path]]}}, "n": 3, "f": None, "t": (path, 0.9)}
    expected = {"a": name, "b": [name, "x"], "c": {"d": {"e": [[name]]}}, "n": 3, "f": None, "t": [name, 0.9]}
    assert names_only(nested) == expected
    if path not in ("/", "~", "..", "C:\\"):
        told = f"{path}: 300 documents, 50 kB; and {path}, from [{path}]"
        assert hide(told, nested) == told.replace(path, name)


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_no_path_stays(text: str) -> None:
    assert names_only({"a": [text]}) == {"a": [text]}
    assert hide(f"from {text}: 3", {"a": text}) == f"from {text}: 3"


def test_a_folder_that_looks_like_a_hub_id_is_a_folder_if_it_is_here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_only({"name": "acme/secret"}) == {"name": "acme/secret"}
    (tmp_path / "acme" / "secret").mkdir(parents=True)
    assert names_only({"name": "acme/secret"}) == {"name": "secret"}
    # ... also when the run is pushed from elsewhere
    monkeypatch.chdir("/")
    assert names_only({"name": "acme/secret"}) == {"name": "acme/secret"}
    assert names_only({"name": "acme/secret"}, near=tmp_path / "runs" / "mlm") == {"name": "secret"}


@pytest.mark.parametrize("config_class", [MLMConfig, FinetuneConfig])
def test_of_the_default_settings_only_paths_change(config_class: type) -> None:
    config = config_class(output_dir="acme/model")
    config.hub.repo_id = "runs/model"
    settings = to_dict(config)
    if config_class is MLMConfig:
        settings["tokenizer"]["special_tokens"] = ["</s>", "<|user|>", "[/INST]"]
    found = names_only(settings)
    assert found.pop("output_dir") == "model"
    assert settings.pop("output_dir") == "acme/model"
    if config_class is FinetuneConfig:
        assert found["model"].pop("name") == "mlm"
        assert settings["model"].pop("name") == "runs/mlm"
    settings["optimizer"]["betas"] = list(settings["optimizer"]["betas"])
    assert found == settings


def test_absolute_paths_that_no_setting_names_are_hidden_too_and_addresses_are_not() -> None:
    card = "from /home/ann/acme/x.txt, (file:///home/ann/y.txt) and [site](https://huggingface.co/user/name)"
    assert hide(card, {}) == "from x.txt, (y.txt) and [site](https://huggingface.co/user/name)"


def test_a_path_given_with_a_tilde_is_hidden_when_it_was_written_out(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert hide("corpus: /home/ann/my acme/x.txt!", {"sources": "~/my acme/x.txt"}) == "corpus: x.txt!"
