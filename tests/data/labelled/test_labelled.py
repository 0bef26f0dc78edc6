"""Labelled data: every format gives the same task; every mistake one sentence with its place."""

import csv
import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from launch import ROOT

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled import sources
from nlp_ssl.data.labelled.labelled_data import open_classification, open_tagging
from nlp_ssl.data.labelled.tag_schemes import entities
from nlp_ssl.data.text.pydocs import PyDoc

SHARED = ROOT.parent / "shared" / "data"

TEXTS = ["plain", 'a "quoted", text\nof two lines', "NA", "None", "emoji 😀 and\u2028separator"] * 6
LABELS = ["pos", "neg", "neutral"] * 10


def write(path, rows):
    """Write rows in the format that the name tells, by pandas or json, not by our code."""
    frame, plain = pd.DataFrame(rows), path.name.removesuffix(".gz")
    if plain.endswith((".csv", ".tsv")):
        tab = plain.endswith(".tsv")
        quoting = {"sep": "\t", "quoting": csv.QUOTE_NONE} if tab else {}
        content = frame.to_csv(index=False, **quoting).encode()
    elif plain.endswith(".parquet"):
        content = frame.to_parquet(index=False)
    elif plain.endswith(".jsonl"):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    else:
        content = json.dumps(rows, indent=1).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def write_conll(path, sentences):
    path.write_text("\n\n".join("\n".join(f"{w} X {t}" for w, t in sentence) for sentence in sentences) + "\n")
    return str(path)


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("extension", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_formats_give_the_rows_that_were_written(tmp_path, extension, gz):
    texts = [text.replace("\n", " ") for text in TEXTS] if extension == "tsv" else TEXTS
    rows = [{"text": text, "label": label} for text, label in zip(texts, LABELS, strict=True)]
    file = write(tmp_path / f"train.{extension}{gz}", rows)
    data = open_classification(LabelledConfig(train_file=file, validation_file=file))
    assert data.labels == ["neg", "neutral", "pos"]
    assert (data.kind.name, data.text_columns, data.test, data.name) == ("classification", ["text"], None, "train")
    assert data.train["text"][:] == texts
    assert data.train.features["label"].int2str(data.train["label"][:]) == LABELS


@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_numbers_are_ordered_by_value_and_floats_are_scores(tmp_path, extension):
    rows = [{"sentence1": "a", "sentence2": "b", "other": "c", "label": i} for i in (10, 9, -1, 10)]
    file = write(tmp_path / f"a.{extension}", rows)
    data = open_classification(LabelledConfig(train_file=file, validation_file=file))
    assert data.labels == ["-1", "9", "10"]
    assert data.train["label"][:] == [2, 1, 0, 2]
    assert data.text_columns == ["sentence1", "sentence2"]
    file = write(tmp_path / f"b.{extension}", [{"text": "a", "score": s} for s in (0.5, 3.0, 4.25)])
    data = open_classification(LabelledConfig(train_file=file, validation_file=file))
    assert (data.kind.name, data.labels, data.metrics) == ("regression", None, ["pearson_spearman"])
    assert data.train["label"][:] == [0.5, 3.0, 4.25]


@pytest.mark.parametrize("extension", ["json", "jsonl", "parquet"])
def test_lists_are_several_classes_a_row(tmp_path, extension):
    labels = [["b", "a"], [], ["c"], ["a"]]
    rows = [{"text": text, "label": label} for text, label in zip("wxyz", labels, strict=True)]
    file = write(tmp_path / f"train.{extension}", rows)
    data = open_classification(LabelledConfig(train_file=file, validation_file=file))
    assert (data.kind.name, data.labels) == ("multilabel", ["a", "b", "c"])
    assert data.metrics == ["f1_micro_multilabel", "f1_macro_multilabel"]
    assert data.train["label"][:] == [[0, 1], [], [2], [0]]
    assert "3 classes, 1.00 of them a row" in data.description
    assert [data.named(data.numbered(sorted(label))) for label in labels] == [["a", "b"], [], ["c"], ["a"]]


def test_test_rows_without_labels_are_kept_for_predictions_in_their_order(tmp_path, capsys):
    file = write(tmp_path / "a.csv", [{"text": t, "label": n} for t, n in zip("abcd", "xyxy", strict=True)])
    for name, rows in {"without": [{"text": t} for t in ("u", "", "v")], "empty": [{"text": "u", "label": -1}]}.items():
        test = write(tmp_path / f"{name}.jsonl", rows)
        data = open_classification(LabelledConfig(train_file=file, validation_file=file, test_file=test))
        assert data.test is None
        assert data.hidden["text"][:] == [row["text"] for row in rows]
        assert "hides its labels: its rows are predicted, not scored" in capsys.readouterr().out


def test_column_is_found_when_only_one_is_left(tmp_path):
    rows = [{"utterance": f"u{i}", "category": "xy"[i % 2]} for i in range(4)]
    file = write(tmp_path / "a.csv", rows)
    data = open_classification(LabelledConfig(train_file=file, validation_file=file, label_column="category"))
    assert data.text_columns == ["utterance"]


def test_held_out_rows_are_chosen_by_text_and_equal_texts_stay_together(tmp_path):
    rows = [{"text": f"text {i % 500}", "label": "xy"[i % 2]} for i in range(1000)]
    one = open_classification(LabelledConfig(train_file=write(tmp_path / "a.csv", rows)))
    other = open_classification(LabelledConfig(train_file=write(tmp_path / "b.jsonl", rows[::-1])))
    assert set(one.validation["text"]) == set(other.validation["text"])
    assert not set(one.validation["text"]) & set(one.train["text"])
    assert 60 <= len(one.validation) <= 140
    assert len(one.validation) + len(one.train) == 1000


def test_at_most_takes_rows_from_everywhere(tmp_path):
    rows = [{"text": f"text {i}", "label": "x" if i < 500 else "y"} for i in range(1000)]  # sorted, as IMDB is
    file = write(tmp_path / "a.csv", rows)
    data = open_classification(LabelledConfig(train_file=file, validation_file=file, max_train=100, max_validation=7))
    assert len(data.train) == 100
    assert len(data.validation) == 7
    assert 30 < sum(data.train["label"]) < 70


def test_rows_without_text_are_counted_and_left_out(tmp_path, capsys):
    rows = [{"text": text, "label": label} for text, label in (("a", "x"), ("  ", "x"), ("b", "y"), (None, "y"))]
    file = write(tmp_path / "a.jsonl", rows)
    data = open_classification(LabelledConfig(train_file=file, validation_file=file))
    assert data.train["text"][:] == ["a", "b"]
    assert f"{file}: 2 rows without text are left out" in capsys.readouterr().out


def packed(path, content):
    """A zstd file, by Arrow's writer."""
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(content)
    return str(path)


@pytest.mark.parametrize("extension", ["csv", "jsonl", "json", "tsv"])
def test_zstd_files_are_read(tmp_path, extension):
    rows = [{"text": f"text {i}", "label": "xy"[i % 2]} for i in range(4)]
    plain = write(tmp_path / f"a.{extension}", rows)
    file = packed(tmp_path / f"b.{extension}.zst", (tmp_path / f"a.{extension}").read_bytes())
    one, other = (open_classification(LabelledConfig(train_file=f, validation_file=f)) for f in (plain, file))
    assert one.train["text"][:] == other.train["text"][:] == [row["text"] for row in rows]
    assert one.train["label"][:] == other.train["label"][:]


def test_several_files_and_globs_are_one_set_and_every_row_keeps_its_place(tmp_path):
    for name, texts in {"a-0.csv": "ab", "a-1.csv": "cd", "b.csv": "ef"}.items():
        write(tmp_path / name, [{"text": t, "label": n} for t, n in zip(texts, "xy", strict=True)])
    sources = [f"{tmp_path}/a-*.csv", f"{tmp_path}/b.csv"]
    data = open_classification(LabelledConfig(train_file=sources, validation_file=f"{tmp_path}/b.csv"))
    assert data.train["text"][:] == list("abcdef")
    assert data.validation["text"][:] == list("ef")
    assert data.name == "a-0"
    (tmp_path / "a-1.csv").write_text("text,label\nc,x\nd,\n")
    with pytest.raises(UserError, match=r"a-1\.csv, line 3 has no label"):
        open_classification(LabelledConfig(train_file=sources))
    (tmp_path / "b.csv").write_text("body,label\ne,x\n")
    with pytest.raises(UserError, match=r"b\.csv has the columns body, label, but .*a-0\.csv has text, label"):
        open_classification(LabelledConfig(train_file=sources))
    with pytest.raises(UserError, match=r"no file matches .*c-\*\.csv"):
        open_classification(LabelledConfig(train_file=f"{tmp_path}/c-*.csv"))
    with pytest.raises(UserError, match=r"--data\.train_file is an empty list; name a file"):
        open_classification(LabelledConfig(train_file=[]))
    for name, classes in {"c-0": ["x", "y"], "c-1": ["y", "x"]}.items():
        features = Features({"text": Value("string"), "label": ClassLabel(names=classes)})
        rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
        rows.to_parquet(str(tmp_path / f"{name}.parquet"))
    with pytest.raises(UserError, match=r"c-1\.parquet numbers the classes of 'label' otherwise than .*c-0"):
        open_classification(LabelledConfig(train_file=f"{tmp_path}/c-?.parquet"))
    whole = packed(tmp_path / "c.csv.zst", b"text,label\na,x\nb,y\n" * 100)
    (tmp_path / "c.csv.zst").write_bytes((tmp_path / "c.csv.zst").read_bytes()[:20])
    with pytest.raises(UserError, match=r"c\.csv\.zst cannot be read .*download or pack it again"):
        open_classification(LabelledConfig(train_file=whole))


GOOD = "text,label\na,x\nb,y\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", None, {}, "there is no file or folder .*a.csv; --data.train_file names it"),
        ("a.csv", GOOD, {"test_file": "/b.csv"}, "no file or folder /b.csv; --data.test_file names it"),
        ("a.txt", "a line\nanother\n", {}, "a.txt: text without columns has no labels; labelled files are csv, tsv"),
        ("a.txt", "a line\n", {"format": "txt"}, "--data.format txt: text without columns has no labels; .*csv"),
        ("a.jsonl", "a line\nanother\n", {}, "a.jsonl, line 1: this is not JSON .*: text without columns has no label"),
        ("a.xlsx", "", {}, r"a.xlsx does not tell by its name or its first bytes what it is; give --data.format"),
        ("a.csv", "", {}, "a.csv holds no rows"),
        ("a.csv", "body,label\na,x\n", {"text_columns": ["text"]}, "a.csv has no column 'text', only body, label"),
        ("a.csv", "text,class\na,x\n", {}, "none of the columns label, labels, score, only text, class"),
        ("a.csv", "id,body,label\n1,a,x\n", {}, "none of the columns text, .*, only id, body, label; .*text_columns"),
        ("a.csv", GOOD, {"text_columns": ["a", "b", "c"]}, "names 3 columns"),
        ("a.csv", 'text,label\n"a\nb",x\nb\n', {}, "a.csv, line 4: 1 fields, but the first line names 2"),
        ("a.csv", 'text,label\n"a"b,x\n', {}, "a.csv, line 2: .*RFC 4180"),
        ("a.csv", "text,label\na,x\nb,\n", {}, "a.csv, line 3 has no label"),
        ("a.csv", "text,label\na,x\nb,x\n", {}, "every row of .*a.csv has the label 'x'"),
        ("a.csv", "text,label\na,1.5\nb,2\nc,high\nd,0\n", {}, "a.csv, line 4: the score 'high' is no finite number"),
        ("a.csv", "text,label\n,x\n ,y\n", {}, "no row of .*a.csv has both text and a label"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n\n{"text": \n', {}, "a.jsonl, line 3: this is not JSON"),
        ("a.jsonl", '["a"]\n', {}, "a.jsonl, line 1: a row must be an object"),
        ("a.jsonl", '{"text": ["a"], "label": "x"}\n', {}, "line 1: column 'text' holds a list, not text"),
        ("a.jsonl", '{"text": "a", "label": ["x"]}\n', {}, "every row of .*a.jsonl has the label 'x'"),
        ("a.jsonl", '{"text": "a", "label": []}\n', {}, "every row of .*a.jsonl has no label"),
        (
            "a.jsonl",
            '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": "x"}\n',
            {},
            "line 2: the label 'x' is no list of classes",
        ),
        ("a.json", '[{"text": "a"},\n]', {}, "a.json, line 2: this is not JSON"),
        ("a.csv", b"text,label\ncaf\xe9,x\n", {}, "line 2: 0xe9 is not UTF-8 here; the file may be in latin-1"),
        ("a.parquet", b"no", {}, "a.parquet is not a parquet file"),
        ("a.csv.gz", b"no", {}, "a.csv.gz is not a whole gzip file"),
        ("a.conll", "a O\n", {}, "fine-tune a tagger"),
    ],
)  # fmt: skip
def test_mistakes_of_classification(tmp_path, name, content, options, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        open_classification(LabelledConfig(train_file=str(path), validation_file=str(path), **options))


def test_a_label_that_training_never_had(tmp_path):
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "b.csv").write_text("text,label\na,x\nb,z\n")
    config = LabelledConfig(train_file=str(tmp_path / "a.csv"), validation_file=str(tmp_path / "b.csv"))
    with pytest.raises(UserError, match=r"b\.csv, line 3: the label 'z' never occurs in .*a\.csv"):
        open_classification(config)


SENTENCES = [
    [("EU", "B-ORG"), ("rejects", "O"), ("German", "B-MISC"), ("call", "O")],
    [("Rome", "B-LOC"), ("Paris", "B-LOC"), ("New", "B-LOC"), ("York", "I-LOC")],
]
IOB1 = [["I-ORG", "O", "I-MISC", "O"], ["I-LOC", "B-LOC", "B-LOC", "I-LOC"]]
BIOES = [["S-ORG", "O", "S-MISC", "O"], ["S-LOC", "S-LOC", "B-LOC", "E-LOC"]]


def test_tags_of_every_format_and_scheme_are_one_task(tmp_path):
    words = [[w for w, _ in sentence] for sentence in SENTENCES]
    bio2 = [[t for _, t in sentence] for sentence in SENTENCES]
    rows = [{"tokens": w, "ner": t} for w, t in zip(words, bio2, strict=True)]
    files = [write(tmp_path / f"a.{extension}", rows) for extension in ("json", "jsonl", "jsonl.gz", "parquet")]
    files.append(
        write(tmp_path / "a.csv", [{"tokens": " ".join(r["tokens"]), "ner": " ".join(r["ner"])} for r in rows])
    )
    for i, tags in enumerate((bio2, IOB1, BIOES)):
        pairs = [list(zip(w, t, strict=True)) for w, t in zip(words, tags, strict=True)]
        files.append(write_conll(tmp_path / f"{i}.conll", pairs))
    for file in files:
        data = open_tagging(LabelledConfig(train_file=file, validation_file=file))
        assert data.labels == ["O", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "B-ORG", "I-ORG"]
        assert (data.kind.name, data.text_columns, data.metrics) == ("tagging", ["tokens"], ["entity_f1"])
        assert data.train["tokens"][:] == words
        assert [[data.labels[t] for t in row] for row in data.train["tags"]] == bio2


def test_tags_without_prefixes_are_kept(tmp_path):
    file = write_conll(tmp_path / "pos.conll", [[("a", "DT"), ("dog", "NN")], [("O", "UH")]])
    data = open_tagging(LabelledConfig(train_file=file, validation_file=file))
    assert (data.labels, data.metrics) == (["DT", "NN", "UH"], ["tag_accuracy"])


def test_broken_tag_sequences_are_named_and_mended(tmp_path, capsys):
    file = write_conll(tmp_path / "a.conll", [*SENTENCES, [("in", "O"), ("Bern", "I-LOC")]])
    data = open_tagging(LabelledConfig(train_file=file, validation_file=file))
    assert "a.conll, line 12: I-LOC follows O, which IOB2 does not allow (1 such tags" in capsys.readouterr().err
    assert [data.labels[t] for t in data.train["tags"][2]] == ["O", "B-LOC"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', "a.jsonl, line 1: 2 words but 1 tags"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [3]}', "line 1: the tags are numbers without names"),
        ("a.jsonl", '{"tokens": [["a"]], "tags": ["O"]}', "line 1: column 'tokens' must hold a list of words"),
        ("a.jsonl", '{"words": ["a"]}', "has none of the columns ner_tags, tags, ner, labels, label, tag, only words"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["B-X", "PER"]}', "line 1, word 2: the tag 'PER' is neither O nor"),
        ("a.conll", "a O\n\nb B-X\nc PER\n", "a.conll, line 4: the tag 'PER' is neither O nor"),
        ("a.conll", "a O\nb O\n", "every word of .*a.conll has the tag 'O'"),
    ],
)  # fmt: skip
def test_mistakes_of_tagging(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        open_tagging(LabelledConfig(train_file=str(tmp_path / name), validation_file=str(tmp_path / name)))


def test_a_tag_that_training_never_had(tmp_path):
    train = write_conll(tmp_path / "a.conll", SENTENCES)
    other = write_conll(tmp_path / "b.conll", [[("a", "O")], [("Ann", "B-PER")]])
    with pytest.raises(UserError, match=r"b\.conll, line 3: the label 'B-PER' never occurs in .*a\.conll"):
        open_tagging(LabelledConfig(train_file=train, validation_file=other))


# ---------------------------------------------------------------------------------------------------------------------
# the Hub: a local folder of parquet goes through the same load_dataset


def test_hub_data_sets_keep_their_class_labels_and_lose_hidden_ones(tmp_path, capsys):
    features = Features({"sentence": Value("string"), "idx": Value("int32"), "label": ClassLabel(names=["pos", "neg"])})
    rows = {"sentence": ["a", "b", "c"], "idx": [0, 1, 2], "label": [0, 1, -1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "validation.parquet")
    Dataset.from_dict(rows | {"label": [-1] * 3}, features=features).to_parquet(tmp_path / "test.parquet")
    data = open_classification(LabelledConfig(task=str(tmp_path)))
    assert data.labels == ["pos", "neg"]
    assert (data.train["label"][:], data.train["sentence"][:], data.test) == ([0, 1], ["a", "b"], None)
    assert "1 rows without a label are left out" in capsys.readouterr().out


def test_numbered_tags_of_a_hub_data_set_keep_their_numbers(tmp_path):
    names = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    rows = {"tokens": [["a", "b", "c"], ["d"]], "ner_tags": [[1, 2, 0], [3]]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(UserError, match="none of 2 rows can be held out"):
        open_tagging(LabelledConfig(task=str(tmp_path)))
    (tmp_path / "test.parquet").rename(tmp_path / "validation.parquet")
    data = open_tagging(LabelledConfig(task=str(tmp_path)))
    assert data.labels == names
    assert data.train["tags"][:] == rows["ner_tags"]


def test_short_names_ask_the_hub_for_the_right_ids(monkeypatch):
    asked = []

    def load(path, subset, revision):
        asked.append((path, subset, revision))
        rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
        names = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
        return DatasetDict({name: Dataset.from_dict(rows | {"premise": [name] * 2}) for name in names})

    monkeypatch.setattr(sources, "load_dataset", load)
    data = open_classification(LabelledConfig(task="glue/mnli"))
    assert asked == [("nyu-mll/glue", "mnli", None)]
    assert (data.text_columns, data.name, data.metrics) == (["premise", "hypothesis"], "glue/mnli", ["accuracy"])
    assert set(data.validation["premise"]) == {"validation_matched"}
    assert set(data.test["premise"]) == {"validation_mismatched"}
    assert data.hidden["premise"][:] == ["test_matched"] * 2 + ["test_mismatched"] * 2
    with pytest.raises(UserError, match="did you mean glue/mnli"):
        open_classification(LabelledConfig(task="glue/mnli2"))
    with pytest.raises(UserError, match=r"give it as --data\.train_file"):
        open_classification(LabelledConfig(task="my/train.jsonl.gz"))


def test_no_network_says_what_works_without(monkeypatch):
    def load(path, subset, revision):
        raise ConnectionError("Couldn't reach")

    monkeypatch.setattr(sources, "load_dataset", load)
    with pytest.raises(UserError, match=r"cannot be reached for 'stanfordnlp/imdb'; .*--data.task builtin.*train_file"):
        open_classification(LabelledConfig(task="imdb"))


def test_builtin_tasks_open(monkeypatch):
    docs = [
        PyDoc(f"{i}: frob_{i % 7} is of type Tensor in {p}", p, "f", "function", (f"frob_{i % 7}",), ("Tensor",))
        for i in range(100)
        for p in ("numpy", "pandas")
    ]
    monkeypatch.setattr("nlp_ssl.data.labelled.builtin_tasks.read_pydocs", lambda: docs)
    data = open_classification(LabelledConfig())
    assert (data.labels, data.name) == (["numpy", "pandas"], "builtin-library")
    assert not any("numpy" in text for text in data.train["text"])
    data = open_tagging(LabelledConfig())
    assert data.labels == ["O", "B-PARAM", "I-PARAM", "B-TYPE", "I-TYPE"]
    assert data.name == "builtin-signature"


# ---------------------------------------------------------------------------------------------------------------------
# real data


def test_conll2003_read_from_iob1_columns_equals_someone_elses_bio2(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("no shared data here")
    folder = SHARED / "conll2003"
    columns = open_tagging(
        LabelledConfig(
            train_file=str(folder / "eng.testa.conll.gz"), validation_file=str(folder / "eng.testb.conll.gz")
        )
    )
    rows = open_tagging(
        LabelledConfig(train_file=str(folder / "dev.jsonl.gz"), validation_file=str(folder / "test.jsonl.gz"))
    )
    assert columns.labels == rows.labels
    for split in ("train", "validation"):
        one, other = getattr(columns, split), getattr(rows, split)
        assert len(one) > 3000
        assert one["tokens"][:] == other["tokens"][:]
        assert one["tags"][:] == other["tags"][:]
    found = [entity for row in rows.train["tags"] for entity in entities([rows.labels[tag] for tag in row])]
    assert len(found) == 5942  # entities of testa, Tjong Kim Sang and De Meulder (2003), table 2


def test_real_tables(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("no shared data here")
    sst2 = SHARED / "sst2"
    one = open_classification(
        LabelledConfig(train_file=str(sst2 / "train.tsv.gz"), validation_file=str(sst2 / "dev.tsv.gz"))
    )
    other = open_classification(
        LabelledConfig(train_file=str(sst2 / "train.jsonl.gz"), validation_file=str(sst2 / "dev.jsonl.gz"))
    )
    assert len(one.train) == 67349
    assert one.validation["label"][:] == other.validation["label"][:]
    assert [text.split() for text in one.validation["sentence"]] == [t.split() for t in other.validation["text"]]
    stsb = SHARED / "stsb"
    data = open_classification(
        LabelledConfig(train_file=str(stsb / "train.jsonl.gz"), validation_file=str(stsb / "dev.jsonl.gz"))
    )
    assert (data.kind.name, len(data.train), np.max(data.train["label"])) == ("regression", 5749, 5.0)


def test_a_column_whose_values_all_differ_is_asked_about_as_the_label(tmp_path):
    rows = [{"text": f"review {i}", "label": ("good", "bad")[i % 2], "id": f"r{i}"} for i in range(40)]
    file = write(tmp_path / "reviews.csv", rows)
    with pytest.raises(UserError) as caught:
        open_classification(LabelledConfig(train_file=file, text_columns=["text"], label_column="id"))
    said = str(caught.value)
    assert "reviews.csv has a label of its own in column 'id', so none can be held out" in said
    assert "is it the label column (--data.label_column)? If it is, give --data.validation_file" in said
    with_validation = LabelledConfig(train_file=file, validation_file=file, text_columns=["text"], label_column="id")
    assert len(open_classification(with_validation).labels) == 40
