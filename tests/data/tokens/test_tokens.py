"""The tokenised corpus, read back by `datasets`, and built in every order of events."""

import hashlib
import json
import os
import shutil
import signal

import datasets
import numpy as np
import pytest
from toys import dataset, texts, tokenizer, word_tokenizer

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.tokens import tokenizing
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(tokenizing, "PART_BYTES", 7_000)


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def documents(corpus):
    return [corpus.document(i).tolist() for i in range(corpus.num_documents)]


@pytest.fixture(scope="module")
def expected():
    return {kind: [tokenizer(kind)(t, add_special_tokens=False)["input_ids"] for t in texts()] for kind in ("bpe",)}


@pytest.fixture
def whole(tmp_path):
    return tokenize_corpus(dataset(), tokenizer("bpe"), tmp_path / "whole", "toy", num_proc=1)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_datasets_reads_it_and_it_is_what_the_tokenizer_says(tmp_path, kind):
    corpus = tokenize_corpus(dataset(), tokenizer(kind), tmp_path / "t", "toy", num_proc=1)
    said = [tokenizer(kind)(text, add_special_tokens=False)["input_ids"] for text in texts()]
    loaded = datasets.load_from_disk(str(tmp_path / "t"))
    assert loaded["input_ids"][:] == said
    assert loaded["num_bytes"][:] == [len(text.encode()) for text in texts()]
    assert documents(corpus) == said
    assert corpus.document_bytes.tolist() == loaded["num_bytes"][:]
    assert len(corpus.manifest["shards"]) > 3  # there were several parts
    assert corpus.manifest["documents"] == len(said)
    assert corpus.manifest["tokens"] == sum(map(len, said)) == corpus.num_tokens
    assert corpus.manifest["bytes"] == sum(len(text.encode()) for text in texts())
    for shard in corpus.manifest["shards"]:
        assert hashlib.sha256((tmp_path / "t" / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


def test_reading_copies_nothing(whole):
    view = whole.document(3)
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_empty_documents_anywhere(tmp_path):
    for i, some in enumerate((["", "ka lo"], ["ka lo", ""], ["", ""], ["ka", "", "", "lo mi"])):
        corpus = tokenize_corpus(
            datasets.Dataset.from_dict({"text": some}), tokenizer("bpe"), tmp_path / str(i), "x", num_proc=1
        )
        said = [tokenizer("bpe")(text, add_special_tokens=False)["input_ids"] for text in some]
        assert documents(corpus) == said


def test_padding_and_truncation_that_a_caller_set_do_not_matter(tmp_path, whole):
    from transformers import AutoTokenizer

    tokenizer("bpe").save_pretrained(tmp_path / "tokenizer")
    other = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    other(list(texts()[:3]), padding=True, truncation=True, max_length=4)
    corpus = tokenize_corpus(dataset(), other, tmp_path / "other", "toy", num_proc=1)
    assert contents(corpus.folder) == contents(whole.folder)


def test_interrupted_and_continued_is_the_same_bytes(tmp_path, whole, monkeypatch):
    made = []
    make = tokenizing._make_part

    def dies_at_the_third(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[2])
        make(*args)

    monkeypatch.setattr(tokenizing, "_make_part", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(dataset(), tokenizer("bpe"), tmp_path / "t", "toy", num_proc=1)
    assert not (tmp_path / "t" / "manifest.json").exists()
    with pytest.raises(UserError, match="no finished"):
        TokenCorpus.open(tmp_path / "t")
    before = {path.name: path.stat().st_mtime_ns for path in made}
    monkeypatch.setattr(tokenizing, "_make_part", make)
    corpus = tokenize_corpus(dataset(), tokenizer("bpe"), tmp_path / "t", "toy", num_proc=1)
    assert contents(corpus.folder) == contents(whole.folder)
    assert {path.name: path.stat().st_mtime_ns for path in made} == before  # those were not made again


@pytest.mark.parametrize("stream", [False, True])
def test_wherever_it_dies_it_goes_on(tmp_path, whole, stream, monkeypatch):
    data = dataset().to_iterable_dataset() if stream else dataset()
    replace, calls = os.replace, []

    def dies(*args):
        calls.append(args)
        if len(calls) == death:
            raise KeyboardInterrupt
        replace(*args)

    for death in range(1, 100):  # before each file gets its name
        folder = tmp_path / str(death)
        calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dies)
            try:
                tokenize_corpus(data, tokenizer("bpe"), folder, "toy", num_proc=1)
            except KeyboardInterrupt:
                assert not (folder / "manifest.json").exists()
            else:
                break
        corpus = tokenize_corpus(data, tokenizer("bpe"), folder, "toy", num_proc=1)
        assert contents(corpus.folder) == contents(whole.folder)
    assert death > len(contents(whole.folder)) - 1  # all but `.lock`


def test_a_gap_and_a_half_written_part_are_filled(tmp_path, whole):
    folder = tmp_path / "t"
    shutil.copytree(whole.folder, folder)
    (folder / "manifest.json").unlink()
    parts = sorted(folder.glob("part-*.json"))
    parts[1].unlink()  # its Arrow file is there, the record of its completion is not
    (folder / parts[1].name.replace("json", "arrow")).write_bytes(b"half")
    corpus = tokenize_corpus(dataset(), tokenizer("bpe"), folder, "toy", num_proc=1)
    assert contents(corpus.folder) == contents(whole.folder)


def test_an_unfinished_folder_of_another_corpus_is_refused(tmp_path, whole):
    (whole.folder / "manifest.json").unlink()
    for corpus, kind in (("another", "bpe"), ("toy", "unigram")):
        with pytest.raises(UserError, match="another corpus or tokenizer"):
            tokenize_corpus(dataset(), tokenizer(kind), whole.folder, corpus, num_proc=1)


def test_two_processes_make_the_same_bytes(tmp_path, whole):
    corpus = tokenize_corpus(dataset(), tokenizer("bpe"), tmp_path / "two", "toy", num_proc=2)
    assert contents(corpus.folder) == contents(whole.folder)


def test_a_stream_makes_the_same_bytes(tmp_path, whole):
    corpus = tokenize_corpus(dataset().to_iterable_dataset(), tokenizer("bpe"), tmp_path / "s", "toy", num_proc=1)
    assert contents(corpus.folder) == contents(whole.folder)


@pytest.mark.parametrize("stream", [False, True])
def test_shards_of_several_machines_are_all_documents(tmp_path, expected, stream):
    data = dataset().to_iterable_dataset() if stream else dataset()
    common = {"num_proc": 1, "num_shards": 2}
    assert tokenize_corpus(data, tokenizer("bpe"), tmp_path / "t", "toy", shard=1, **common) is None
    corpus = tokenize_corpus(data, tokenizer("bpe"), tmp_path / "t", "toy", shard=0, **common)
    assert sorted(documents(corpus)) == sorted(expected["bpe"])
    if not stream:
        assert documents(corpus) == expected["bpe"]
    assert datasets.load_from_disk(str(tmp_path / "t"))["input_ids"][:] == documents(corpus)


@pytest.mark.parametrize(("size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_smallest_integers_that_hold_the_vocabulary(tmp_path, size, dtype):
    words = f"w{size - 6} w0"  # the last entry and the first after the special tokens
    data = datasets.Dataset.from_dict({"text": [words]})
    corpus = tokenize_corpus(data, word_tokenizer(size), tmp_path / "t", "x", num_proc=1)
    assert corpus.document(0).tolist() == [size - 1, 5]
    assert corpus.document(0).dtype == np.dtype(dtype)
    assert corpus.manifest["dtype"] == dtype
    assert datasets.load_from_disk(str(tmp_path / "t"))[0]["input_ids"] == [size - 1, 5]


def test_a_finished_folder_is_found_and_nothing_is_read(tmp_path, whole):
    again = tokenize_corpus(None, tokenizer("bpe"), whole.folder, "toy")
    assert again.manifest == whole.manifest
    assert json.loads((whole.folder / "manifest.json").read_text())["tokenizer"] == tokenizing.tokenizer_fingerprint(
        tokenizer("bpe")
    )


def test_an_empty_corpus_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no documents"):
        tokenize_corpus(datasets.Dataset.from_dict({"text": []}), tokenizer("bpe"), tmp_path / "t", "x", num_proc=1)


def killed(*part):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_said_and_what_was_finished_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "_make_part", killed)
    with pytest.raises(UserError, match=r"tokenising was killed, out of memory\? .*smaller --tokens.num_proc"):
        tokenize_corpus(dataset(), tokenizer("bpe"), tmp_path / "t", "toy", num_proc=2)
    monkeypatch.undo()
    monkeypatch.setattr(tokenizing, "PART_BYTES", 7_000)
    corpus = tokenize_corpus(dataset(), tokenizer("bpe"), tmp_path / "t", "toy", num_proc=2)
    assert corpus.num_documents == len(texts())
