"""Opening text: every format, the split, weights, fingerprints, and what bad input gets."""

import csv
import gzip
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from launch import ROOT

from nlp_ssl.config.pretraining import CorpusConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.text.corpus import open_corpus
from nlp_ssl.data.text.readers import DocumentFile

DATA = ROOT.parent / "shared" / "data"
HOSTILE = DATA / "hostile"

# Line separators that are no line ends, a comma, quotes, tabs, inner newlines, emoji, Chinese, trailing spaces.
TEXTS = [
    "plain",
    "one\u2028two\u0085three\x0bfour",
    'a "quoted", word',
    "two\nlines  ",
    "Stra\u00dfe e\u0301 \u4e2d\u6587 \U0001f600",
    *(f"document number {i}" for i in range(195)),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encode(texts: list[str], kind: str) -> bytes:
    """A file of one format, written by somebody else's writer."""
    if kind == "txt":
        return "\n\n".join(texts).encode()
    if kind == "jsonl":
        return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()
    if kind == "csv":
        out = io.StringIO(newline="")
        csv.writer(out).writerows([("id", "text"), *enumerate(texts)])
        return out.getvalue().encode()
    if kind == "tsv":
        return "".join(f"{i}\t{t}\n" for i, t in [("id", "text"), *enumerate(texts)]).encode()
    out = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), out, row_group_size=50)
    return out.getvalue()


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(data)
        return sink.getvalue().to_pybytes()
    return data


def write(path: Path, content: bytes | str | list[str]) -> str:
    """Write texts in the format of the extension, or bytes as they are; returns the path."""
    name = path.name.split(".")
    if isinstance(content, list):
        content = compress(encode(content, name[1]), "." + name[2] if len(name) > 2 else "")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.fixture
def other(tmp_path: Path) -> str:
    """A held-out file."""
    return write(tmp_path / "held_out.txt", "measured on this")


def train_texts(other: str | None = None, **options) -> list[str]:
    return list(open_corpus(CorpusConfig(held_out=other, **options)).train["text"])


def error(**options) -> str:
    with pytest.raises(UserError) as caught:
        open_corpus(CorpusConfig(**options))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# ---------------------------------------------------------------------------------------------------------------------
# formats


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_format_gives_back_the_documents(tmp_path, other, kind, suffix, streaming):
    texts = [text for text in TEXTS if "\n" not in text] if kind == "tsv" else TEXTS
    path = write(tmp_path / f"corpus.{kind}{suffix}", texts)
    corpus = open_corpus(CorpusConfig(sources=path, held_out=other, streaming=streaming))
    rows = list(corpus.train)
    assert [row["text"] for row in rows] == texts
    assert {row["source"] for row in rows} == {f"corpus.{kind}{suffix}"}
    assert next(iter(corpus.held_out))["text"] == "measured on this"


def test_gzip_of_several_members_is_read_to_its_end(tmp_path, other):
    path = write(tmp_path / "a.txt.gz", gzip.compress(b"one\n\n") + gzip.compress(b"two"))
    assert train_texts(other, sources=path) == ["one", "two"]


@pytest.mark.parametrize(
    ("rule", "documents"),
    [
        ("blank_line", ["one\ntwo", "three\u2028still three", "four"]),
        ("line", ["one", "two", "three\u2028still three", "four"]),
        ("file", ["one\ntwo\n\nthree\u2028still three\n \t \n\nfour"]),
    ],
)
def test_document_rules_of_txt(tmp_path, other, rule, documents):
    path = write(tmp_path / "a.txt", "\ufeffone\r\ntwo\r\n\r\nthree\u2028still three\r\n \t \n\nfour\r")
    assert train_texts(other, sources=path, txt_documents=rule) == documents


def test_several_sources_a_glob_and_another_column(tmp_path, other):
    write(tmp_path / "b-2.jsonl", '{"body": "third"}\n')
    write(tmp_path / "b-1.jsonl", '\n{"body": "first"}\r\n{"body": "second"}')
    write(tmp_path / "c.csv", 'body,n\r\nfourth,1\r\n\r\n"fi\r\nfth",2')
    sources = [str(tmp_path / "b-*.jsonl"), str(tmp_path / "c.csv")]
    texts = train_texts(other, sources=sources, text_column="body")
    assert texts == ["first", "second", "third", "fourth", "fi\r\nfth"]


def test_long_lines_and_long_words(tmp_path, other):
    line, word = "word " * 600_000 + "end", "x" * 105_000
    for kind in ("txt", "jsonl", "csv", "parquet"):
        assert train_texts(other, sources=write(tmp_path / f"long.{kind}", [line, word])) == [line, word]


def test_parquet_strings_of_any_arrow_type(tmp_path, other):
    for i, kind in enumerate([pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]):
        pq.write_table(pa.table({"text": pa.array(["a", "b", None, "a"]).cast(kind)}), tmp_path / f"{i}.parquet")
        assert train_texts(other, sources=str(tmp_path / f"{i}.parquet")) == ["a", "b", "a"]


# ---------------------------------------------------------------------------------------------------------------------
# split, weights, limits, streams


def test_split_is_disjoint_stable_and_of_the_right_share(tmp_path):
    texts = [f"document {i % 4000}" for i in range(8000)]  # every text twice
    a = write(tmp_path / "a.jsonl", texts)
    b = write(tmp_path / "b.jsonl", [*reversed(texts), "one more"])
    splits = [open_corpus(CorpusConfig(sources=source, held_out_fraction=0.1)) for source in (a, b)]
    train, held_out = ({*splits[0].train["text"]}, {*splits[0].held_out["text"]})
    assert not train & held_out
    assert train | held_out == {*texts}
    assert abs(len(held_out) / 4000 - 0.1) < 0.015  # 3 standard deviations of a binomial
    assert len(splits[0].held_out) == 2 * len(held_out)  # both copies are on one side
    assert {*splits[1].held_out["text"]} - {"one more"} == held_out  # another order, another file


def test_the_split_never_changes_between_versions(tmp_path):
    texts = [f"document {i}" for i in range(1000)]
    held_out = open_corpus(CorpusConfig(sources=write(tmp_path / "a.jsonl", texts), held_out_fraction=0.01)).held_out
    assert list(held_out["text"]) == [f"document {i}" for i in (34, 260, 378, 430, 479, 593, 621, 810)]


@pytest.mark.parametrize("max_documents", [None, 37])
def test_a_stream_is_the_map_style_corpus(tmp_path, max_documents):
    for i in range(3):
        write(tmp_path / f"{i}.jsonl", [f"{text} {i}" for text in TEXTS])
    options = {"sources": str(tmp_path / "*.jsonl"), "weights": [1.5], "held_out_fraction": 0.1}
    options["max_documents"] = max_documents
    mapped, stream = (open_corpus(CorpusConfig(**options, streaming=streaming)) for streaming in (False, True))
    assert list(stream.train) == list(mapped.train)
    assert list(stream.held_out) == list(mapped.held_out)
    assert stream.fingerprint == mapped.fingerprint
    if max_documents:
        assert len(mapped.train) == 37
        everything = open_corpus(CorpusConfig(**{**options, "max_documents": None}))
        assert mapped.train["text"] == everything.train["text"][:37]
        assert mapped.held_out["text"] == everything.held_out["text"][:37]
    else:
        assert stream.train.num_shards == 3
        shards = [row for i in range(3) for row in pickle.loads(pickle.dumps(stream.train)).shard(3, i)]
        assert shards == list(mapped.train)


def test_weights(tmp_path):
    texts = [f"text {i}" for i in range(2000)]
    a, b = write(tmp_path / "a.jsonl", texts), write(tmp_path / "b.jsonl", [f"other {t}" for t in texts])
    plain = open_corpus(CorpusConfig(sources=[a, b], held_out_fraction=0.1))
    weighted = open_corpus(CorpusConfig(sources=[a, b], weights=[2, 0.5], held_out_fraction=0.1))
    again = open_corpus(CorpusConfig(sources=[b], weights=[0.5], held_out_fraction=0.1))

    train_a = [t for t in plain.train["text"] if t.startswith("text")]
    train_b = [t for t in plain.train["text"] if t.startswith("other")]
    assert sorted(t for t in weighted.train["text"] if t.startswith("text")) == sorted(train_a * 2)
    half = [t for t in weighted.train["text"] if t.startswith("other")]
    assert {*half} < {*train_b}
    assert abs(len(half) / len(train_b) - 0.5) < 0.04
    assert half == list(again.train["text"])  # always the same half
    held_out = list(weighted.held_out["text"])
    assert len(held_out) == len({*held_out})  # nothing is measured twice
    assert {*held_out} < {*plain.held_out["text"]}


def test_named_held_out_sources_take_nothing_from_training(tmp_path, other):
    path = write(tmp_path / "a.jsonl", TEXTS)
    corpus = open_corpus(CorpusConfig(sources=path, held_out=[other, path], max_documents=150))
    assert corpus.train["text"] == TEXTS[:150]
    assert corpus.held_out["text"] == ["measured on this", *TEXTS[:149]]


def test_fingerprint_and_copy_follow_the_text(tmp_path, cache):
    path = Path(write(tmp_path / "a.jsonl", TEXTS))
    options = {"held_out_fraction": 0.1}
    first = open_corpus(CorpusConfig(sources=str(path), **options))
    copies = {p: p.stat().st_mtime_ns for p in cache.rglob("*.arrow")}
    assert len(copies) == 2

    os.utime(path, (1, 1))  # another time, another folder: the same text
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(path, moved)
    for same in (path, moved / "a.jsonl"):
        assert open_corpus(CorpusConfig(sources=[str(same)], **options)).fingerprint == first.fingerprint
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.arrow")} == copies

    changed = [
        {"held_out_fraction": 0.2},
        {**options, "weights": [2]},
        {**options, "max_documents": 5},
        {**options, "on_bad_text": "skip"},
        {**options, "held_out": write(tmp_path / "h.txt", "held out")},
        {**options, "sources": [str(path), str(path)]},
    ]
    fingerprints = {open_corpus(CorpusConfig(**{"sources": str(path), **change})).fingerprint for change in changed}
    assert len(fingerprints | {first.fingerprint}) == len(changed) + 1

    same_size = [TEXTS[0].replace("p", "q"), *TEXTS[1:]]
    write(path, same_size)
    second = open_corpus(CorpusConfig(sources=str(path), **options))
    assert second.fingerprint != first.fingerprint
    assert "qlain" in [*second.train["text"], *second.held_out["text"]]


def test_an_interrupted_copy_leaves_nothing_behind(tmp_path, cache, other):
    path = write(tmp_path / "a.jsonl", '{"text": "good"}\n{"text": bad}\n')
    error(sources=path, held_out=other)
    assert not list(cache.rglob("*.arrow"))


def test_builtin(monkeypatch, tmp_path):
    from nlp_ssl.data.text import pydocs

    root = tmp_path / "site"
    for i in range(60):
        write(
            (root / f"package{i}").mkdir(parents=True) or root / f"package{i}/__init__.py", f'"""{i} {"doc " * 40}"""'
        )
    monkeypatch.setattr(pydocs, "_environment", lambda: [root])
    corpus = open_corpus(CorpusConfig(held_out_fraction=0.2))
    texts = [*corpus.train["text"], *corpus.held_out["text"]]
    assert sorted(texts) == sorted(doc.text for doc in pydocs.read_pydocs())
    assert len(texts) == 60
    assert corpus.description.startswith("builtin: ")


# ---------------------------------------------------------------------------------------------------------------------
# bad input


BAD_ROWS = [  # (line of JSON, what is said about it)
    (b"not json at all", "not JSON"),
    (b'{"text": "cut off here', "not JSON"),
    (b'["a", "list"]', "a JSON list"),
    (b'{"label": 1}', "no column 'text'; it has 'label'"),
    (b'{"text": 5}', "holds int, not text"),
    (b'{"text": ["a"]}', "holds list, not text"),
    (rb'{"text": "lone \ud83d"}', "lone surrogate"),
    (rb'{"text": "nul \u0000"}', "NUL"),
    (b'{"text": "\xff"}', "byte 37: 0xff is not UTF-8"),
    (b"[" * 100_000, "JSON"),
    (b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "JSON"),
]


@pytest.mark.parametrize(("line", "said"), BAD_ROWS, ids=[said for _, said in BAD_ROWS])
def test_bad_json_rows(tmp_path, other, capsys, line, said):
    path = write(tmp_path / "a.jsonl", b'{"text": "good", "x": NaN}\n' + line + b'\n{"text": "last"}')
    sentence = error(sources=path, held_out=other)
    assert said in sentence
    assert f"{path}, line 2" in sentence
    assert train_texts(other, sources=path, on_bad_text="skip") == ["good", "last"]
    assert "1 bad" in (out := capsys.readouterr().out)
    assert "line 2" in out


def test_plain_text_that_is_called_jsonl_is_not_to_be_skipped_but_read_as_text(tmp_path, other):
    path = write(tmp_path / "a.jsonl", "A first document.\n\nA second one.\n")
    said = f"{path}, line 1: not JSON, it looks like plain text: --data.format txt reads it as such"
    assert error(sources=path, held_out=other) == said
    assert train_texts(other, sources=path, format="txt") == ["A first document.", "A second one."]
    rows = write(tmp_path / "rows.jsonl", ["one"])
    assert train_texts(other, sources=rows, format="txt") == ["one"]  # its name is right


BAD_TXT = [
    (b"one\n\nLatin-1: Z\xfcrich\n\nlast", "byte 15: 0xfc is not UTF-8"),
    (b"\xef\xbb\xbfone\r\n\r\nNUL: \0!\n\nlast", "byte 15: a NUL"),
    (b"one\n\n\xed\xa0\x80 surrogate\n\nlast", "byte 5: 0xed"),
    (b"one\n\ncut \xf0\x9f\x98\n\nlast", "byte 9: 0xf0"),
    (b"one\n\nover\xc0\x80long\n\nlast", "byte 9: 0xc0"),
]


@pytest.mark.parametrize(("data", "said"), BAD_TXT, ids=[said for _, said in BAD_TXT])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_bytes_in_txt(tmp_path, other, capsys, data, said, suffix):
    path = write(tmp_path / f"a.txt{suffix}", compress(data, suffix))
    sentence = error(sources=path, held_out=other)
    assert f"{path}, {said}" in sentence
    assert train_texts(other, sources=path, on_bad_text="skip") == ["one", "last"]
    assert "1 bad" in capsys.readouterr().out
    stream = open_corpus(CorpusConfig(sources=path, held_out=other, streaming=True)).train
    with pytest.raises(UserError, match=r"UTF-8|NUL"):
        list(stream)


BAD_CSV = [
    (b"1,too,many", "line 3: 3 fields where the header has 2"),
    (b"1", "line 3: 1 fields"),
    (b"1,nul \0", "line 3: a NUL"),
    (b"1,\xff", "line 3: 0xff"),
    (b"1,lone \r return", "line 3"),
]


@pytest.mark.parametrize(("row", "said"), BAD_CSV, ids=[said for _, said in BAD_CSV])
def test_bad_csv_rows(tmp_path, other, row, said):
    path = write(tmp_path / "a.csv", b"id,text\n0,good\r\n" + row + b"\n2,last")
    assert said in error(sources=path, held_out=other)
    assert train_texts(other, sources=path, on_bad_text="skip") == ["good", "last"]


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path, other):
    rows = [f'"text {i}, quoted",{i}\n' for i in range(200)]
    rows[10] = '"never closed,10\n'
    path = write(tmp_path / "a.csv", "text,n\n" + "".join(rows))
    assert "line 12" in error(sources=path, held_out=other)
    found = train_texts(other, sources=path, on_bad_text="skip")
    assert found == [f"text {i}, quoted" for i in range(200) if i != 10]
    path = write(tmp_path / "b.csv", 'text,n\ngood,1\n"never closed,2\nlast,3\n')
    assert "line 3: not a row of a csv file (a quote that is never closed)" in error(sources=path, held_out=other)
    assert train_texts(other, sources=path, on_bad_text="skip") == ["good", "last"]


def test_an_open_quote_does_not_fill_the_memory(tmp_path, other, monkeypatch):
    monkeypatch.setattr("nlp_ssl.data.files.tables.LONGEST", 1000)
    path = write(tmp_path / "a.csv", 'text,n\ngood,1\n"open\n' + "last,3\n" * 500)
    assert train_texts(other, sources=path, on_bad_text="skip") == ["good", *["last"] * 500]


def test_utf16_is_named(tmp_path, other, capsys):
    for codec in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path / "a.txt", "\ufeffone\n\ntwo\u2028ĉ".encode(codec))
        for on_bad_text in ("stop", "skip"):
            assert "--data.encoding utf-16" in error(sources=path, held_out=other, on_bad_text=on_bad_text)
        held_out = write(tmp_path / "held.txt", "\ufeffheld out".encode(codec))
        assert train_texts(held_out, sources=path, encoding="utf-16") == ["one", "two\u2028ĉ"]


ENCODINGS = [("latin-1", "Der Bär übt öfter, naïve café. "), ("cp1252", "It’s a “naïve” café – 5 €. ")]
ENCODINGS += [("cp1251", "Съешь же ещё этих мягких французских булок, да выпей чаю. ")]
ENCODINGS += [("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。")]


@pytest.mark.parametrize(("encoding", "text"), ENCODINGS, ids=[name for name, _ in ENCODINGS])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv"])
def test_a_text_in_another_encoding_is_refused_by_the_name_that_reads_it(tmp_path, other, kind, encoding, text):
    data = encode([text * 20, text], kind).decode().encode(encoding)
    if kind == "jsonl":
        data = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in (text * 20, text)).encode(encoding)
    path = write(tmp_path / f"a.{kind}.gz", gzip.compress(data))
    named = re.search(r"--data\.encoding (\S+)", error(sources=path, held_out=other))[1].rstrip(")")
    assert train_texts(other, sources=path, encoding=named) == [text * 20, text]
    assert train_texts(other, sources=path, encoding=encoding) == [text * 20, text]
    assert "there is no such encoding" in error(sources=path, held_out=other, encoding="klingon")
    assert "is not ascii" in error(sources=path, held_out=other, encoding="ascii")


def test_one_damaged_byte_is_no_other_encoding(tmp_path, other):
    path = write(tmp_path / "a.txt", "äöü ".encode() * 50 + b"\xff")
    sentence = error(sources=path, held_out=other)
    assert "0xff is not UTF-8 here" in sentence
    assert "--data.encoding" not in sentence


def test_empty_documents_are_skipped_and_counted_once(tmp_path, other, capsys):
    path = write(tmp_path / "a.jsonl", ["", "one", " \t\n", "\u00a0\u3000\u200b", "two", "\ufeff"])
    write(tmp_path / "b.jsonl", '{"text": null}\n{"text": "three"}')
    assert train_texts(other, sources=[path, str(tmp_path / "b.jsonl")]) == ["one", "two", "three"]
    assert capsys.readouterr().out.count("5 empty documents") == 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_empty_corpus(tmp_path, other, name, streaming):
    data = compress(b"\n \n", "." + name.split(".")[-1]) if name.startswith("a.t") and "tsv" not in name else b""
    path = write(tmp_path / name, data)
    assert path in error(sources=path, held_out=other, streaming=streaming)
    assert "no text" in error(sources=path, streaming=streaming)


@pytest.mark.parametrize(("documents", "least", "most"), [(100, 10, 30), (261, 20, 45), (1500, 20, 50), (4000, 25, 60)])
def test_a_small_corpus_holds_out_documents_enough_to_measure_on(tmp_path, capsys, documents, least, most):
    path = write(tmp_path / "a.txt", "\n\n".join(f"document {number}" for number in range(documents)))
    corpus = open_corpus(CorpusConfig(sources=path))
    assert least <= len(corpus.held_out) <= most
    assert len(corpus.train) + len(corpus.held_out) == documents
    said = f"% of {documents:,} documents, as a draw of 1% has only "
    assert (said in capsys.readouterr().out) == (documents < 2000)
    again = open_corpus(CorpusConfig(sources=path))
    assert again.held_out["text"][:] == corpus.held_out["text"][:]
    assert len(open_corpus(CorpusConfig(sources=path, held_out_fraction=0.1)).held_out) > documents * 0.05  # as given


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_held_out(tmp_path, other, streaming):
    path = write(tmp_path / "a.txt", "the only document")
    assert "--data.held_out" in error(sources=path, streaming=streaming)
    assert "--data.held_out" in error(sources=path, held_out_fraction=0.0, streaming=streaming)
    assert "every document was held out" in error(sources=path, held_out_fraction=0.9999, streaming=streaming)
    empty = write(tmp_path / "b.txt", "")
    assert "b.txt" in error(sources=path, held_out=empty, streaming=streaming)


def test_missing_columns_name_the_ones_there_are(tmp_path, other):
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        path = write(tmp_path / f"a.{kind}", ["one", "two"])
        sentence = error(sources=path, held_out=other, text_column="body")
        assert all(word in sentence for word in (path, "'body'", "'id', 'text'"))
    assert "int64" in error(sources=path, held_out=other, text_column="id")


def test_files_that_are_not_there_or_not_supported(tmp_path):
    where = f"(looked in {Path.cwd()})"
    for name in ("nowhere.txt", "some/where/deep/file", "corpus/"):
        assert error(sources=name) == f"there is no file or folder {name} {where}; --data.sources names it"
    there = write(tmp_path / "there.txt", "text")
    gone = f"{tmp_path}/gone.txt"
    assert error(sources=there, held_out=gone) == f"there is no file or folder {gone}; --data.held_out names it"
    assert error(sources="gone/*.txt") == f"no file matches gone/*.txt {where}; --data.sources names it"
    (tmp_path / "empty").mkdir()
    assert "is a folder without files" in error(sources=str(tmp_path / "empty"))
    sentence = error(sources=write(tmp_path / "a.docx", b"PK\x03\x04..."))
    assert all(word in sentence for word in ("zip archive", "txt", "jsonl", "csv", "parquet", "gzip", "zstd"))
    assert "is a conll file" in error(sources=write(tmp_path / "a.conll", b"a O\n"))
    assert "is no text" in error(sources=write(tmp_path / "a.bin", b"a\0b"))
    assert "--data.format parquets is none" in error(sources=write(tmp_path / "a", b"a"), format="parquets")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_name_without_extension_is_read_by_its_first_bytes(tmp_path, other, kind, suffix, capsys):
    packed = compress(encode(["one", "two"], kind), suffix) if suffix else encode(["one", "two"], kind)
    path = write(tmp_path / "part-00000", packed)
    assert train_texts(other, sources=path) == ["one", "two"]
    assert f"{path} is read as {kind}, by its first bytes (--data.format decides" in capsys.readouterr().out
    moved = write(tmp_path / f"wiki.00{suffix}", packed)
    assert train_texts(other, sources=moved, format=kind) == ["one", "two"]
    assert "first bytes" not in capsys.readouterr().out


def test_a_folder_is_its_files(tmp_path, other, capsys):
    folder = tmp_path / "corpus"
    for name in ("b/wiki.txt", "a.jsonl", ".hidden/x.txt", "b/.part.txt", "notes.md", "_SUCCESS"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = encode([name], "jsonl" if name.endswith("jsonl") else "txt")
        (folder / name).write_bytes(b"" if name == "_SUCCESS" else content)
    assert train_texts(other, sources=str(folder)) == ["a.jsonl", "b/wiki.txt"]
    assert "2 files; 1 of other formats left out (notes.md)" in capsys.readouterr().out
    assert train_texts(other, sources=f"{folder}/", format="txt") == ["a.jsonl", "b/wiki.txt", "notes.md"]
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(3):
        (parts / f"part-{number:05}").write_bytes(encode([f"text {number}"], "jsonl"))
    assert train_texts(other, sources=str(parts)) == ["text 0", "text 1", "text 2"]


SEPARATED = [(";", "text;n\n"), ("\t", "text\tn\n"), ("|", "text|n\n")]


@pytest.mark.parametrize(("delimiter", "header"), SEPARATED, ids=["semicolon", "tab", "bar"])
def test_fields_separated_otherwise(tmp_path, other, delimiter, header, capsys):
    rows = [f'"a, b{i}"{delimiter}{i}\n' for i in range(5)]
    path = write(tmp_path / "a.csv", header + "".join(rows))
    assert train_texts(other, sources=path) == [f"a, b{i}" for i in range(5)]
    assert "(--data.delimiter decides otherwise)" in capsys.readouterr().out
    named = "\\t" if delimiter == "\t" else delimiter  # as it is typed
    assert train_texts(other, sources=path, delimiter=named) == [f"a, b{i}" for i in range(5)]
    assert "must be one character" in error(sources=path, held_out=other, delimiter=", ")


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_table_without_a_header(tmp_path, other, kind):
    between = {"csv": ",", "tsv": "\t"}[kind]
    path = write(tmp_path / f"a.{kind}", "".join(f"{i}{between}row {i}\n" for i in range(3)))
    sentence = error(sources=path, held_out=other)
    assert "has no column 'text'; it has '0', 'row 0'" in sentence
    assert "if that line is a row already, give --data.column_names" in sentence
    assert train_texts(other, sources=path, column_names=["n", "text"]) == ["row 0", "row 1", "row 2"]
    assert "2 fields where the header has 1" in error(sources=path, held_out=other, column_names=["text"])
    assert "has no column 'text'; it has 'a', 'b'" in error(sources=path, held_out=other, column_names=["a", "b"])


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, other, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n\n" * 10)
    documents = DocumentFile(path)
    read = iter(documents)
    assert next(read) == "one"
    path.write_text("three\n\n" * 20)
    with pytest.raises(UserError, match=r"a\.txt changed while it was read"):
        list(read)


def test_a_file_changed_in_place_with_its_time_put_back_is_another_text(tmp_path, other):
    path = write(tmp_path / "a.txt", "one\n")
    before = os.stat(path)
    assert train_texts(other, sources=path) == ["one"]
    with open(path, "r+") as file:
        file.write("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert train_texts(other, sources=path) == ["two"]


def test_a_name_that_is_not_utf8(tmp_path, other):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "w") as file:
        file.write("one\n")
    corpus = open_corpus(CorpusConfig(sources=os.fsdecode(path), held_out=other))
    assert corpus.train[0] == {"text": "one", "source": "caf\ufffd.txt"}


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, other, monkeypatch):
    monkeypatch.setattr("nlp_ssl.data.text.readers.LONGEST", 1 << 20)
    path = write(tmp_path / "bomb.jsonl.zst", compress(b" " * (3 << 20), ".zst"))
    assert "bomb.jsonl.zst, line 1: longer than a document may be" in error(sources=path, held_out=other)
    path = write(tmp_path / "whole.txt", b"a\n" * (1 << 20))
    assert "--data.txt_documents says what ends one" in error(sources=path, held_out=other)


@pytest.mark.parametrize("on_bad_text", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_cut_off_and_mislabelled_files(tmp_path, other, kind, suffix, on_bad_text):
    texts = [os.urandom(50).hex() for _ in range(500)]
    whole = compress(encode(texts, kind), suffix)
    options = {"held_out": other, "on_bad_text": on_bad_text}
    path = write(tmp_path / f"a.{kind}{suffix}", whole[:-20])
    assert f"{path} cannot be read" in error(sources=path, **options)
    path = write(tmp_path / f"b.{kind}{suffix}", encode(texts, kind))
    assert f"{path} cannot be read" in error(sources=path, **options)
    if kind == "parquet":
        path = write(tmp_path / "a.parquet", encode(texts, kind)[:-200])
        assert f"{path} cannot be read" in error(sources=path, **options)


def test_settings_that_make_no_sense(tmp_path, other):
    assert "--data.weights" in error(sources=[other, other], weights=[1.0])
    assert "--data.weights" in error(sources=other, weights=[0.0])
    assert "--data.held_out_fraction" in error(sources=other, held_out_fraction=1.5)
    assert "--data.max_documents" in error(sources=other, max_documents=0)
    assert "--data.sources" in error(sources=[])


# ---------------------------------------------------------------------------------------------------------------------
# the hostile files that come with the data sets


@pytest.mark.skipif(not HOSTILE.exists(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("made_latin1.txt", "byte 1: 0xfc"),
        ("made_nul_and_controls.txt", "byte 0: a NUL"),
        ("made_utf16le_bom.txt", "UTF-16"),
        ("made_bad_rows.jsonl", "line 4"),
        ("made_empty.txt", "no text"),
        ("made_whitespace_only.txt", "no text"),
        ("made_invalid_utf8.bin", "byte 26: 0x80 is not UTF-8"),
    ],
)
def test_hostile_files_stop_with_a_sentence(other, name, said):
    assert said in error(sources=str(HOSTILE / name), held_out=other)


@pytest.mark.skipif(not HOSTILE.exists(), reason="../shared/data is not there")
def test_hostile_files_that_work(other, tmp_path):
    def texts(name: str, **options) -> list[str]:
        return train_texts(other, sources=str(HOSTILE / name), **options)

    assert len(texts("made_one_long_line.txt.gz")[0]) > 2_900_000
    assert len(texts("made_one_long_word.txt.gz")[0]) > 100_000
    assert texts("made_utf8_bom.txt")[0].startswith("Republic")
    mixed = texts("made_mixed_newlines.txt", txt_documents="line")
    assert not any(line.endswith("\r") for line in mixed)
    assert any("\u2028b\u2028c\u2029x\u0085y" in line for line in mixed)
    rows = texts("made_bad_rows.jsonl", on_bad_text="skip")
    assert rows == ["good row", "label is a string", "second", "NaN label", "last row without newline"]
    invalid = tmp_path / "invalid.txt"
    shutil.copy(HOSTILE / "made_invalid_utf8.bin", invalid)
    lines = train_texts(other, sources=str(invalid), on_bad_text="skip", txt_documents="line")
    assert len(lines) == 1  # eight of the nine lines are not UTF-8
    assert lines[0].startswith("noncharacters")


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")
def test_somebody_elses_reader_sees_the_same(other):
    path = str(DATA / "tweet_emotion" / "train.jsonl.gz")
    theirs = datasets.load_dataset("json", data_files=path, split="train")["text"]
    assert train_texts(other, sources=path) == list(theirs)


# ---------------------------------------------------------------------------------------------------------------------
# the Hub


@pytest.fixture
def hub(monkeypatch):
    """A Hub that knows one data set, `someone/poems`, in two files."""
    table = datasets.Dataset.from_dict({"text": [*TEXTS, "", None], "id": range(len(TEXTS) + 2)})

    def dataset_info(self, name, revision=None, timeout=None):
        assert timeout
        return huggingface_hub.hf_api.DatasetInfo(id=name, sha="c0ffee" + "0" * 34)

    def load_dataset(name, subset=None, split=None, revision=None, streaming=False):
        assert (name, subset, revision) == ("someone/poems", "short", "c0ffee" + "0" * 34)
        if split != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        return table.to_iterable_dataset(num_shards=2) if streaming else table

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_data_sets(hub, other, tmp_path, streaming):
    local = write(tmp_path / "a.jsonl", ["local"])
    options = {"sources": ["someone/poems", local], "subset": "short", "streaming": streaming, "held_out": other}
    corpus = open_corpus(CorpusConfig(**options))
    rows = list(corpus.train)
    assert [row["text"] for row in rows] == [*TEXTS, "local"]
    assert rows[0]["source"] == "someone/poems"
    if streaming:
        assert corpus.train.num_shards == 3
    assert "'text', 'id'" in error(**{**options, "text_column": "body"})
    assert "Unknown split" in error(**{**options, "split": "test"})
    assert "int, not text" in error(**{**options, "text_column": "id"})


def test_hub_errors_are_sentences(monkeypatch, hub):
    def script(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found poems.py")

    monkeypatch.setattr(datasets, "load_dataset", script)
    assert "script" in error(sources="someone/poems", subset="short")


OFFLINE = """
import sys
from nlp_ssl.config.pretraining import CorpusConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.text.corpus import open_corpus
try:
    open_corpus(CorpusConfig(sources="someone/poems", streaming=len(sys.argv) > 1))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["refused", "no name", "HF_HUB_OFFLINE"])
def test_without_a_network_it_says_so_within_seconds(tmp_path, how):
    with socket.socket() as unused:  # a port that nobody listens on
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        change = {
            "refused": {"HF_ENDPOINT": f"http://127.0.0.1:{port}"},
            "no name": {"HF_ENDPOINT": "http://no-such-host.invalid"},
            "HF_HUB_OFFLINE": {"HF_HUB_OFFLINE": "1"},
        }[how]
        environment = {**os.environ, **change, "HF_HOME": str(tmp_path / "hf")}
        start = time.monotonic()
        command = [sys.executable, "-c", OFFLINE, *(["streaming"] if how == "refused" else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "could not be reached" in done.stdout, done.stderr
    assert "`builtin` and local files" in done.stdout
    assert time.monotonic() - start < 20  # the import takes most of it
