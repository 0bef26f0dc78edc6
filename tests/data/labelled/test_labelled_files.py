"""Labelled files as people have them: in folders, without extensions, in other encodings, separated otherwise."""

import gzip
import json

import pytest

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled import files
from nlp_ssl.data.labelled.labelled_data import open_classification, open_tagging

TEXTS = ["Grüße, a“b", "nichts; gut", "x|y\tz", "plain"]
LABELS = ["gut", "schlecht", "gut", "schlecht"]


def opened(path, **options):
    config = LabelledConfig(train_file=str(path), validation_file=str(path), **options)
    data = open_classification(config)
    return data.train[data.text_columns[0]][:], [data.names[i] for i in data.train["label"]]


def table(delimiter, header=True):
    rows = [f'"{text}"{delimiter}{label}' for text, label in zip(TEXTS, LABELS, strict=True)]
    return "\n".join([f"text{delimiter}label", *rows] if header else rows) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
def test_what_separates_fields_is_found_in_the_first_rows(tmp_path, delimiter, capsys):
    path = tmp_path / "a.csv"
    path.write_text(table(delimiter))
    assert opened(path) == (TEXTS, LABELS)
    assert ("--data.delimiter decides otherwise" in capsys.readouterr().out) == (delimiter != ",")
    assert opened(path, delimiter=delimiter.replace("\t", "\\t")) == (TEXTS, LABELS)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_other_encodings(tmp_path, encoding):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(table(";").encode(encoding)))
    if encoding != "utf-8-sig":
        with pytest.raises(UserError, match=rf"a\.csv\.gz.*--data\.encoding {encoding}"):
            opened(path)
    assert opened(path, encoding=encoding) == (TEXTS, LABELS)


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_table_without_a_header(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    texts = [text.replace("\t", " ") for text in TEXTS]
    rows = zip(LABELS, texts, strict=True)
    path.write_text("\n".join("\t".join(row) for row in rows))
    with pytest.raises(UserError, match=r"--data\.column_names"):
        opened(path)
    assert opened(path, column_names=["label", "text"]) == (texts, LABELS)
    with pytest.raises(UserError, match=r"line 1: 2 fields, but --data.column_names has 3"):
        opened(path, column_names=["label", "text", "more"])


@pytest.mark.parametrize(("name", "content"), [
    ("part-00000", "".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in zip(TEXTS, LABELS, strict=True))),
    ("reviews", json.dumps([{"text": t, "label": n} for t, n in zip(TEXTS, LABELS, strict=True)])),
    ("reviews.txt", table(",")),
    ("reviews.dat", table(";")),
])  # fmt: skip
def test_a_name_that_does_not_tell(tmp_path, name, content, capsys):
    path = tmp_path / name
    path.write_text(content)
    assert opened(path) == (TEXTS, LABELS)
    assert "by its first bytes (--data.format decides otherwise)" in capsys.readouterr().out


def test_sentences_of_tagged_words_without_a_name(tmp_path):
    path = tmp_path / "eng.train"
    path.write_text("Ann B-PER\nsleeps O\n\nBob B-PER\n\n" * 5)
    config = LabelledConfig(train_file=str(path), validation_file=str(path))
    assert open_tagging(config).train["tokens"][:2] == [["Ann", "sleeps"], ["Bob"]]
    path.write_text("nothing that tells")
    with pytest.raises(UserError, match=r"give --data.format"):
        open_tagging(config)


def test_a_folder_is_its_files_and_one_of_several_splits_is_refused(tmp_path):
    for number in range(2):
        (tmp_path / f"part-{number}.csv").write_text(table(","))
    assert opened(tmp_path) == (TEXTS * 2, LABELS * 2)
    (tmp_path / "train.csv").write_text(table(","))
    (tmp_path / "dev.csv").write_text(table(","))
    with pytest.raises(
        UserError, match=r"several splits; name each: --data.validation_file .*dev.csv --data.train_file"
    ):
        opened(tmp_path)


def test_of_columns_with_one_name_the_first_keeps_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,text\n" + "".join(f"{i},{i % 2},other\n" for i in range(4)))
    assert opened(path)[0] == ["0", "1", "2", "3"]


def test_a_packed_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nlp_ssl.data.files.forms.MOST", 1 << 20)
    for name in ("a.jsonl.gz", "a.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b" " * (2 << 20)))
        with pytest.raises(UserError, match="GiB when it is unpacked"):
            opened(tmp_path / name)


def test_json_that_python_cannot_read(tmp_path):
    for content, said in (("[" * 100_000, "a.json"), ('{"text": 1' + "0" * 5000 + "}", r"a\.json, line 1")):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(UserError, match=rf"{said}: JSON that Python cannot read"):
            files.read_file(tmp_path / "a.json", LabelledConfig(), tagged=False)
