"""The cache is believed only as far as it can be checked, and is nobody else's to read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch import TINY, command, execute, write_corpus, write_labelled

from nlp_ssl.core import cache
from nlp_ssl.core.cache import caching, is_whole


def flip(file: Path) -> None:
    with open(file, "r+b") as open_file:
        open_file.seek(file.stat().st_size // 2)
        byte = open_file.read(1)
        open_file.seek(-1, os.SEEK_CUR)
        open_file.write(bytes([byte[0] ^ 1]))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("fault", [flip, cut, Path.unlink, lambda file: file.write_text("")])
def test_what_is_damaged_is_no_longer_there(tmp_path, fault, large, monkeypatch, capsys):
    monkeypatch.setattr(cache, "LARGE", 0 if large else 10**9)
    folder, single = tmp_path / "folder", tmp_path / "single.bin"
    with caching(folder) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a.bin").write_bytes(bytes(range(256)))
    with caching(single) as temporary:
        temporary.write_bytes(bytes(range(256)))
    assert is_whole(folder)
    assert is_whole(single)
    for path, file in ((folder, folder / "inner" / "a.bin"), (single, single)):
        fault(file)
        assert not is_whole(path)
        assert not path.exists()
    assert "damaged" in capsys.readouterr().err or not large


def test_what_an_older_version_left_and_a_damaged_seal_are_made_again(tmp_path):
    (tmp_path / "old").write_text("x")
    assert not is_whole(tmp_path / "old")
    with caching(tmp_path / "new") as temporary:
        temporary.write_text("x")
    (tmp_path / ".new.seal").write_text("[1]")
    assert not is_whole(tmp_path / "new")


def test_a_large_file_that_was_copied_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LARGE", 0)
    with caching(tmp_path / "a") as temporary:
        temporary.write_text("x" * 1000)
    assert is_whole(tmp_path / "a")  # its name is new, and so its time
    monkeypatch.setattr(cache, "sha256", None)
    assert is_whole(tmp_path / "a")


STEP = ["--train.steps", "1", "--train.global_batch_size", "8"]


def test_a_run_makes_every_damaged_file_of_the_cache_again(tmp_path):
    text, variables = write_corpus(tmp_path / "corpus.txt"), {"NLP_SSL_CACHE": str(tmp_path / "cache")}

    def train(out: str) -> str:
        arguments = ["--data.sources", text, *TINY, *STEP, "--output_dir", tmp_path / out]
        return execute(command("pretrain_mlm.py", *arguments), **variables)

    train("first")
    weights = (tmp_path / "first" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "cache" / "tokens")
    damaged = [*tmp_path.glob("cache/corpus/*/*"), *tmp_path.glob("cache/tokenizers/*/tokenizer.json")]
    damaged += tmp_path.glob("cache/hashes/[0-9a-f]*")
    assert len(damaged) == 5  # two of Arrow, their counts, a tokenizer, the hash of the file
    for file in damaged:
        flip(file)
    printed = train("second")
    assert printed.count("is damaged") == 2
    assert (tmp_path / "second" / "model.safetensors").read_bytes() == weights


def test_so_does_fine_tuning(tmp_path):
    table, variables = write_labelled(tmp_path)[0], {"NLP_SSL_CACHE": str(tmp_path / "cache")}
    text = write_corpus(tmp_path / "corpus.txt")
    base = ["--data.sources", text, *TINY, *STEP, "--output_dir", tmp_path / "base"]
    execute(command("pretrain_mlm.py", *base), **variables)

    def train(out: str) -> str:
        options = ["--model.name", tmp_path / "base", "--data.train_file", table, "--max_length", 48, *STEP]
        options += ["--train.mixed_precision", "no", "--train.cpu_threads", 1]
        return execute(command("finetune_classification.py", *options, "--output_dir", tmp_path / out), **variables)

    train("first")
    prepared = list(tmp_path.glob("cache/prepared/*.arrow"))
    assert prepared
    for file in prepared:
        cut(file)
    assert train("second").count("is damaged") == len(prepared)
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("first", "second")]
    assert weights[0] == weights[1]


def test_the_cache_is_private_where_it_is_made(tmp_path):
    code = "from nlp_ssl.core.program import run; run(lambda config: None, lambda: None)"
    for variables, opened in (({"HOME": str(tmp_path)}, 0o700), ({"NLP_SSL_CACHE": str(tmp_path / "shared")}, 0o755)):
        given = {k: v for k, v in os.environ.items() if k not in ("NLP_SSL_CACHE", "XDG_CACHE_HOME")} | variables
        root = Path(variables.get("NLP_SSL_CACHE", tmp_path / ".cache" / "nlp_ssl"))
        subprocess.run([sys.executable, "-c", code], env=given, check=True)
        assert root.stat().st_mode & 0o777 == 0o700
        root.chmod(0o755)
        subprocess.run([sys.executable, "-c", code], env=given, check=True)
        assert root.stat().st_mode & 0o777 == opened
