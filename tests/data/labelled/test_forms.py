"""Labelled files as other programs write them: each form is read back as what was written, or refused."""

import csv
import json
import random
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.labelled_data import open_classification, open_tagging
from nlp_ssl.data.labelled.written_lists import parse_list


def open_file(path, content, opener=open_classification, **options):
    """Open a file with this content as training and validation rows."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return opener(LabelledConfig(train_file=str(path), validation_file=str(path), **options))


def open_rows(path, rows, opener=open_classification, **options):
    """Open a JSON lines file with these rows."""
    return open_file(path, "".join(json.dumps(row) + "\n" for row in rows), opener, **options)


def written(data):
    """The labels of the training rows, by name."""
    column = data.kind.column
    return [data.kind.written(label, data.labels) for label in data.train[column]]


# ---------------------------------------------------------------------------------------------------------------------
# columns: one word a line

SENTENCES = [
    [("#", "O"), ("Carla", "B-PER"), ("Smith", "I-PER"), ("went", "O"), ("to", "O"), ("Rome", "B-LOC")],
    [("7", "O"), ("of", "O"), ("Anna's", "B-PER")],
]
ONE_BASED = "\n\n".join("\n".join(f"{i} {w} {t}" for i, (w, t) in enumerate(s, start=1)) for s in SENTENCES)
COLUMNS = {
    "plain": "\n\n".join("\n".join(f"{w}\t{t}" for w, t in s) for s in SENTENCES),
    "a number in each line": ONE_BASED,
    "numbers from 0, tabs": "\n\n".join("\n".join(f"{i}\t{w}\t{t}" for i, (w, t) in enumerate(s)) for s in SENTENCES),
    "numbers that run on": """
1 # O\n2 Carla B-PER\n3 Smith I-PER\n4 went O\n5 to O\n6 Rome B-LOC

7 7 O\n8 of O\n9 Anna's B-PER
""",
    "other ends of lines": "\r\n\r\n".join("\r\n".join(f"{w} _ _ {t} \t" for w, t in s) for s in SENTENCES),
    "comments": "# id 1\tdomain=en\n"
    + "\n\n# id 2\n# text = 7 of\n".join("\n".join(f"{w} _ _ {t}" for w, t in s) for s in SENTENCES),
    "documents": """#begin document (a); part 0
-DOCSTART- -X- O

# O\nCarla B-PER\nSmith I-PER\nwent O\nto O\nRome B-LOC

#end document
-DOCSTART- O
7 O\nof O\nAnna's B-PER
""",
    "CoNLL-U with tags behind": """# sent_id = 1
1\t#\tX\tO
2-3\tCarlaSmith\t_\t_
2\tCarla\tX\tB-PER\n3\tSmith\tX\tI-PER\n4\twent\tX\tO
4.1\tout\t_\t_
5\tto\tX\tO\n6\tRome\tX\tB-LOC

# sent_id = 2
1\t7\tX\tO\n2\tof\tX\tO\n3\tAnna's\tX\tB-PER
""",
    "underscores": "# O\nCarla B_PER\nSmith I_PER\nwent O\nto O\nRome B_LOC\n\n7 O\nof O\nAnna's B_PER\n",
    "BMES": "# O\nCarla B-PER\nSmith E-PER\nwent O\nto O\nRome S-LOC\n\n7 O\nof O\nAnna's W-PER\n",
}


@pytest.mark.parametrize("form", COLUMNS)
def test_columns_of_every_form_are_the_same_sentences(tmp_path, form):
    data = open_file(tmp_path / "a.conll", COLUMNS[form], open_tagging)
    assert data.train["tokens"][:] == [[w for w, _ in s] for s in SENTENCES]
    assert written(data) == [[t for _, t in s] for s in SENTENCES]


def test_the_columns_that_were_read_are_said_and_others_can_be_named(tmp_path, capsys):
    content = "O it\nB-ACTOR Carla\nI-ACTOR Smith\n\nO in\nB-PLACE Rome\n"  # the tag first
    with pytest.raises(UserError, match=r"a\.conll has none of the columns ner_tags, .*only tokens, 1, 2; .*label_col"):
        open_file(tmp_path / "a.conll", content, open_tagging)
    data = open_file(tmp_path / "a.conll", content, open_tagging, tokens_column="2", label_column="1")
    assert data.train["tokens"][:] == [["it", "Carla", "Smith"], ["in", "Rome"]]
    said = capsys.readouterr().out
    assert "words from column 2 of 2, tags from column 1 of 2: 2 sentences, 2 types of entities (ACTOR, PLACE)" in said
    assert "such as 'it Carla Smith'; --data.tokens_column and --data.label_column decide otherwise" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 a O\n2 b B-X\n4 c O\n", "none of the columns tokens, words, .*only 1, 2, 3, tags; .*tokens_column"),
        ("1\ta\tNOUN\t_\n2\tb\tVERB\tSpaceAfter=No\n", "none of the columns ner_tags, .*only tokens, 1, 2, 3, 4"),
        ("1 O\n2 B-X\n", "none of the columns tokens"),
        ("a O\nb B-X\n\n#id 7\nc O\n", "line 4: '#id' may be a word or a comment, as no other line has the tag '7'"),
        ("a X O\n# note\nb X B-X\n", "line 2: 2 columns, but the first word has 3; write comments before a sentence"),
        ("a O\n\nb B-X\n\nc O\n", r"every sentence of .*a\.conll has one word; number the sentences"),
        ("a O\n\tB-X\n", "line 2: column 'tokens' has nothing for a word"),
        ("a 0\nb 3\n", "line 1: the tags are numbers without names"),
        ("# one\n\n-DOCSTART- O\n", "holds no rows"),
        ("1 a O\n1-2 ab _\n2 b PER\n3 c B-X\n", "line 3: the tag 'PER' is neither O nor"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        open_file(tmp_path / "a.conll", content, open_tagging)


def test_tags_without_types_are_entities_of_one_type(tmp_path, capsys):
    data = open_file(tmp_path / "a.conll", "a B\nb I\nc O\n\nd S\ne E\n", open_tagging)
    assert data.labels == ["O", "B-ENTITY", "I-ENTITY"]
    assert written(data) == [["B-ENTITY", "I-ENTITY", "O"], ["B-ENTITY", "B-ENTITY"]]
    assert "tags without a type, such as B, are read as B-ENTITY" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# lists written as text, one word a row


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('["a", "\\u00e9\\"", null, 1.5]', ["a", 'é"', None, 1.5]),
        ("""['a', "it's", 'b\\\\']""", ["a", "it's", "b\\"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        ("[0. 1. 0.]", [0, 1, 0]),
        ("[ True False]", [True, False]),
        ("[np.str_('a'), np.str_(\"it's\")]", ["a", "it's"]),
        ("('a',)", ["a"]),
        ("[]", []),
        ("['a''b']", None),
        ("['a' 'b', 'c']", None),
        ("['a' ... 'b']", None),
        ("[O, B-PER]", None),
        ("[__import__('os').getpid()]", None),
        ("[['a']]", None),
        ("[" * 100_000 + "]" * 100_000, None),
        ("a", None),
        ("(1)", None),
    ],
)
def test_lists_written_as_text(text, found):
    assert parse_list(text) == found


def test_lists_in_cells_are_read_or_refused(tmp_path):
    rows = "\"['a', 'b']\",\"['O', 'B-X']\"\n"
    data = open_file(tmp_path / "a.csv", f'tokens,tags\n{rows}"[""c""]",[\'O\']\n', open_tagging)
    assert (data.train["tokens"][:], written(data)) == ([["a", "b"], ["c"]], [["O", "B-X"], ["O"]])
    with pytest.raises(UserError, match=r"a\.csv, line 3: column 'tags' holds lists written as text, but 'O' is none"):
        open_file(tmp_path / "a.csv", f"tokens,tags\n{rows}['c'],O\n", open_tagging)
    with pytest.raises(UserError, match=r"line 2: column 'tags' holds lists written as text, but '\[O, B-X\]' is none"):
        open_file(tmp_path / "a.csv", 'tokens,tags\na b,"[O, B-X]"\nc,"[O, O]"\n', open_tagging)
    data = open_file(tmp_path / "b.csv", "tokens,tags\n[ laughter ],O B-X O\nc d,O O\n", open_tagging)
    assert data.train["tokens"][0] == ["[", "laughter", "]"]
    data = open_file(tmp_path / "c.csv", "text,label\na,\"['x', 'y']\"\nb,[]\n")
    assert (data.kind.name, written(data)) == ("multilabel", [["x", "y"], []])
    with pytest.raises(UserError, match="line 3 has no label"):
        open_file(tmp_path / "c.csv", "text,label\na,\"['x', 'y']\"\nb,\n")


def test_words_a_row_are_joined_to_sentences_by_their_column(tmp_path, capsys):
    head, words = "Sentence #,Word,POS,Tag\n", [(i, w, t) for i, s in enumerate(SENTENCES) for w, t in s]
    first = [(("" if b and a[0] == b[0] else f"Sentence: {a[0]}"), *a[1:]) for b, a in pairwise([(), *words])]
    for name, rows in {"all.csv": words, "first.csv": first}.items():
        data = open_file(tmp_path / name, head + "".join(f"{i},{w},X,{t}\n" for i, w, t in rows), open_tagging)
        assert data.train["tokens"][:] == [[w for w, _ in s] for s in SENTENCES]
        assert written(data) == [[t for _, t in s] for s in SENTENCES]
        assert "9 rows of one word are joined by column 'Sentence #' to 2 sentences" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"line 5, word|line 5: the tag 'PER' is neither"):
        open_file(tmp_path / "a.csv", "id,token,tag\n1,a,O\n1,b,B-X\n2,c,O\n2,d,PER\n", open_tagging)
    with pytest.raises(UserError, match=r"line 4: the rows of sentence '1' \(column 'id'\) are not together"):
        open_file(tmp_path / "a.csv", "id,token,tag\n1,a,O\n2,b,B-X\n1,c,O\n", open_tagging)
    with pytest.raises(UserError, match="line 2: column 'sentence_id' does not say which sentence"):
        open_file(tmp_path / "a.csv", "sentence_id,token,tag\n,a,O\n2,b,B-X\n", open_tagging)
    with pytest.raises(UserError, match=r"every sentence of .*a\.csv has one word; number .* column sentence_id"):
        open_file(tmp_path / "a.csv", "token,tag\na,O\nb,B-X\n", open_tagging)


# ---------------------------------------------------------------------------------------------------------------------
# labels of texts


@pytest.mark.parametrize(
    ("labels", "kind", "found"),
    [
        ([0.0, 1.0, 2.0, 1.0], None, ["0", "1", "2", "1"]),
        ([0.0, 1.0, 2.0, 1.0], "regression", [0, 1, 2, 1]),
        ([0, 1, 2, 1], "regression", [0, 1, 2, 1]),
        ([0.5, 1.0, 2.0, 1.0], None, [0.5, 1, 2, 1]),
        ([0.5, 1.0, 2.0, 1.0], "classification", ["0.5", "1", "2", "1"]),
        ([float(i) for i in range(21)], None, list(range(21))),
        (["1_2", "3_4", "1_2"], None, ["1_2", "3_4", "1_2"]),
        (["007", "7", "12"], None, ["007", "7", "12"]),
        ([True, False, True], None, ["True", "False", "True"]),
        (["a ", "\tb", "a"], None, ["a", "b", "a"]),
        (["None", "a", "nan"], "classification", ["None", "a", "nan"]),
        ([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], None, [["1", "3"], [], ["0"]]),
        ([[0.0, 1.0], [1.0, 0.0]], None, [["1"], ["0"]]),
        ([[True, False], [True, True]], None, [["0"], ["0", "1"]]),
        ([[0], [1], [0]], None, [["0"], ["1"], ["0"]]),
        ([[3.0, 1.0], [1.0]], None, [["1", "3"], ["1"]]),
    ],
)
def test_labels_are_what_their_column_says_or_the_user(tmp_path, labels, kind, found):
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    assert written(open_rows(tmp_path / "a.jsonl", rows, kind=kind)) == found
    pd.DataFrame(rows).to_csv(tmp_path / "b.csv", index=False)
    assert written(open_file(tmp_path / "b.csv", (tmp_path / "b.csv").read_bytes(), kind=kind)) == found


def test_what_was_read_is_said_in_one_line_with_the_option_that_decides(tmp_path, capsys):
    for labels, line in {
        (0.0, 1.0): "2 classes (0, 1); such as 'text 0': '0'; --data.text_columns and --data.label_column decide "
        "otherwise, --data.kind regression reads them as scores",
        (0.5, 1.0): "scores from 0.5 to 1 (regression); such as 'text 0': 0.5; --data.text_columns and "
        "--data.label_column decide otherwise, --data.kind classification reads them as classes",
        (" a", "b"): "2 classes (a, b); such as 'text 0': 'a'; --data.text_columns and --data.label_column decide",
    }.items():
        open_rows(tmp_path / "a.jsonl", [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
        assert f"a.jsonl: text from 'text', label from 'label': {line}" in capsys.readouterr().out
    open_rows(tmp_path / "a.jsonl", [{"text": "a", "label": i} for i in (-1, 0, 1)])
    assert "-1 is a class like others; if it means that there is no label" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), None, "", " ", "nan", "NaN", "None", "<NA>"])
@pytest.mark.parametrize("others", [[0, 1], [0.0, 1.0], [0.5, 1.5], ["a", "b"]])
def test_no_label_is_no_class(tmp_path, value, others):
    rows = [{"text": "a", "label": label} for label in [*others, value]]
    with pytest.raises(UserError, match=r"a\.jsonl, line 3.* no label"):
        open_rows(tmp_path / "a.jsonl", rows)
    test = [{"text": "a", "label": value}] * 2
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    data = open_rows(tmp_path / "a.jsonl", rows[:2], test_file=str(tmp_path / "test.jsonl"))
    assert data.hidden["text"][:] == ["a", "a"]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[0, 1, 0], [1, 0]], {}, r"line 1: the label \[0, 1, 0\] has a class twice; lists of 0 and 1 must be as long"),
        ([["a"], [None]], {}, r"line 2: the label \[None\] is no list of classes"),
        ([[0.5, 1], [1, 0]], {}, r"line 1: the label \[0.5, 1\] is no list of classes"),
        (["a", "b"], {"kind": "multilabel"}, "line 1: the label 'a' is no list of classes"),
        (["a", "b"], {"kind": "regression"}, "line 1: the score 'a' is no finite number"),
        ([["a"], ["b"]], {"kind": "classification"}, "line 1: column 'label' holds a list, not one label"),
        (["a", "b"], {"text_columns": ["label"]}, "column 'label' is named twice"),
        (["a", "b"], {"text_columns": ["label"], "label_column": "text"}, "of text cannot be called 'label'"),
        (["a", "b\ud83d"], {}, r"line 2: a lone surrogate, \\ud83d, which UTF-8 cannot hold"),
        (["1,5", "2,25", "3"], {}, "line 1: the label '1,5' may be a score or a list of classes; write a score with a"),
        ([["a"], ["b\ud83d"]], {}, r"line 2: a lone surrogate"),
    ],
)
def test_labels_that_are_refused(tmp_path, labels, options, message):
    with pytest.raises(UserError, match=message):
        open_rows(tmp_path / "a.jsonl", [{"text": "a", "label": label} for label in labels], **options)


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_a_comma_in_every_sentence_separates_no_fields(tmp_path, separator):
    rows = [(f"a good film, number {i}", "good") if i % 2 else (f"a long film, number {i}", "bad") for i in range(40)]
    content = "".join(f"{text}{separator}{label}\n" for text, label in rows)
    found = open_file(tmp_path / "rows.csv", content, column_names=["text", "label"])
    assert [(row["text"], found.names[row["label"]]) for row in found.train] == rows


def test_half_a_character_is_refused_in_every_format(tmp_path):
    rows = [{"text": "a", "label": "x"}, {"text": "b \ud83d", "label": "y"}]
    place = r"(line|row) 2: a lone surrogate, \\ud83d"
    with pytest.raises(UserError, match=place):
        open_file(tmp_path / "a.json", json.dumps(rows))
    good = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    with pytest.raises(UserError, match=place):
        open_rows(tmp_path / "a.jsonl", good, test_file=str(tmp_path / "test.jsonl"))
    tagged = [{"tokens": [row["text"], "c"], "tags": ["O", "B-X"]} for row in rows]
    with pytest.raises(UserError, match=place):
        open_rows(tmp_path / "a.jsonl", tagged, open_tagging)
    cells = 'tokens,tags\n"[""a"", ""b""]","[\'O\', \'B-X\']"\n"[""\\ud83d"", ""b""]","[\'O\', \'B-X\']"\n'
    with pytest.raises(UserError, match="line 3: a lone surrogate"):
        open_file(tmp_path / "a.csv", cells, open_tagging)


def test_bytes_that_are_no_text_are_refused_with_their_row(tmp_path):
    bad = pa.array([b"good", b"half \xed\xa0\xbd"], pa.binary())  # as programs write it that do not check
    texts = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    pq.write_table(pa.table({"text": texts, "label": ["x", "y"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 2: column 'text' holds bytes that are not UTF-8"):
        open_file(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes())
    with pytest.raises(UserError, match=r"the name of column 'a\\ud83d' has a lone surrogate"):
        open_rows(tmp_path / "a.jsonl", [{"a\ud83d": "a", "label": label} for label in "xy"])


def test_a_row_behind_rows_without_text_is_named_by_its_own_file(tmp_path):
    for name, rows in {"a": "text,label\n,x\n,y\n", "b": "text,label\na,x\nb,y\n"}.items():
        (tmp_path / f"{name}.csv").write_text(rows)
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,z\n")
    both = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    with pytest.raises(UserError, match=r"b\.csv, line 3: the label 'y' never occurs in .*train\.csv"):
        open_classification(LabelledConfig(train_file=str(tmp_path / "train.csv"), validation_file=both))


def test_numbers_of_no_class_are_refused(tmp_path):
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["x", "y"]))})
    Dataset.from_dict({"text": ["a", "b"], "label": [[0, 1], [0]]}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert written(open_file(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes())) == [["x", "y"], ["x"]]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    rows = Dataset.from_dict({"tokens": [["a", "b"]] * 2, "ner_tags": [[0, 1]] * 2}, features=features)
    bad = rows.data.table.set_column(1, rows.data.table.schema.field(1), [[[0, 1], [1, -100]]])
    Dataset(bad).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"row 2: -100 is no class; the classes are numbered from 0 to 1"):
        open_file(tmp_path / "b.parquet", (tmp_path / "b.parquet").read_bytes(), open_tagging)
    assert len(table) == 2


# ---------------------------------------------------------------------------------------------------------------------
# random tables, by the writers that people use

WORDS = [
    "a",
    "it's",
    '"',
    "'",
    ",",
    "[",
    "]",
    "#",
    "#x",
    "1",
    "2",
    "007",
    "NA",
    "nan",
    "None",
    "é",
    "😀",
    "\\",
    "\\n",
    "(",
    "B",
    "O",
]
CLASSES = [
    "pos",
    "neg ",
    " x y",
    "[a]",
    "007",
    "7",
    "1_0",
    "a,b",
    '"q"',
    "None",
    "nan",
    "#",
    "ü",
    "1.0",
    "1",
    "[]",
    "NA",
]


def tables(path, rows, rng):
    """Files of the same rows, by pandas, csv, json and datasets."""
    frame, names = pd.DataFrame(rows), list(rows[0])
    frame.to_csv(path / "pandas.csv", index=False)
    frame.to_csv(path / "tabs.tsv", index=False, sep="\t", quoting=csv.QUOTE_NONE, escapechar=None, quotechar="\0")
    with open(path / "module.csv", "w", newline="") as file:
        csv.writer(file, quoting=rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])).writerows(
            [names, *([row[n] for n in names] for row in rows)]
        )
    (path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows))
    (path / "a.json").write_text(json.dumps(rows, indent=1))
    frame.to_parquet(path / "pandas.parquet", index=False)
    dataset = Dataset.from_dict({name: [row[name] for row in rows] for name in names})
    dataset.to_parquet(path / "datasets.parquet")
    if rng.random() < 0.3:
        dataset.to_csv(path / "datasets.csv")
        dataset.to_json(path / "datasets.jsonl")
    if any(isinstance(value, list) for value in rows[0].values()):
        arrays = [{n: str(np.array(v)) if isinstance(v, list) else v for n, v in row.items()} for row in rows]
        pd.DataFrame(arrays).to_csv(path / "numpy.csv", index=False)
        scalars = [{n: str(list(np.array(v))) if isinstance(v, list) else v for n, v in row.items()} for row in rows]
        pd.DataFrame(scalars).to_csv(path / "numpy_2.csv", index=False)
        texts = [{n: json.dumps(v) if isinstance(v, list) else v for n, v in row.items()} for row in rows]
        pd.DataFrame(texts).to_csv(path / "json.csv", index=False)
    return sorted(file for file in path.iterdir() if file.suffix != ".conll")


def random_labels(rng, count):
    """(labels, whether each is a score or what its classes are called)."""
    form = rng.choice(["names", "numbers", "floats", "bools", "scores", "lists", "ones", "float ones"])
    if form in ("ones", "float ones"):
        width, one = rng.randint(2, 5), int if form == "ones" else float
        labels = [[one(rng.random() < 0.5) for _ in range(width)] for _ in range(count)]
        return labels, [[str(i) for i, item in enumerate(label) if item] for label in labels]
    if form == "lists":
        names = rng.sample(CLASSES, 4)
        labels = [rng.sample(names, rng.randint(0, 4)) for _ in range(count)]
        return labels, [sorted({name.strip() for name in label}) for label in labels]
    if form == "names":
        names = rng.sample(CLASSES, rng.randint(2, 4))
        labels = [rng.choice(names) for _ in range(count)]
        numeric = all(name.strip().replace(".", "").isdigit() for name in labels)
        return labels, [name.strip().removesuffix(".0") if numeric else name.strip() for name in labels]
    if form == "scores":
        labels = [rng.choice([0.25, 1.0, 2.5, 3.0]) for _ in range(count - 1)] + [0.5]
        return labels, labels
    labels = [rng.randint(-1, 3) for _ in range(count)]
    labels = [float(i) if form == "floats" else i > 0 if form == "bools" else i for i in labels]
    return labels, [str(label).removesuffix(".0") for label in labels]


@pytest.mark.parametrize("seed", range(20))
def test_random_labels_are_read_back_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=3)) for _ in range(rng.randint(4, 9))]
    labels, expected = random_labels(rng, len(texts))
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    refused = {}
    for file in tables(tmp_path, rows, rng):
        try:
            data = open_classification(LabelledConfig(train_file=str(file), validation_file=str(file)))
        except UserError as error:
            refused[file.name] = str(error)
            continue
        assert data.train["text"][:] == texts, file.name
        assert written(data) == expected, file.name
    if "None" not in str(labels) and "nan" not in str(labels):
        assert not refused or len(set(map(str, expected))) == 1, refused


def random_sentences(rng):
    types = ["B-PER", "I-PER", "B-LOC"]
    return [
        [(rng.choice(WORDS), rng.choice(["O", *types])) for _ in range(rng.randint(1, 6))]
        for _ in range(rng.randint(2, 5))
    ] + [[("a", "O"), ("b", "B-PER"), ("c", "I-PER"), ("d", "B-LOC")]]


def columns(path, sentences, rng):
    """The sentences as .conll files, and as tables of one word a row."""
    for name, separator in {"tab": "\t", "blank": " "}.items():
        start = rng.choice([0, 1])
        for more in ("", "_index"):
            lines = []
            for number, sentence in enumerate(sentences):
                lines += [f"# sent_id = {number}"] * rng.choice([0, 1])
                for i, (word, tag) in enumerate(sentence):
                    lines.append(separator.join([str(i + start), word, "_", tag] if more else [word, tag]))
                lines.append("")
            (path / f"{name}{more}.conll").write_text(rng.choice(["\n", "\r\n"]).join(lines))
    rows = [(i, w, t) for i, s in enumerate(sentences) for w, t in s]
    frame = pd.DataFrame(rows, columns=["sentence_id", "word", "tag"])
    frame.to_csv(path / "rows.csv", index=False)
    frame["sentence_id"] = frame["sentence_id"].where(~frame["sentence_id"].duplicated())
    frame.to_csv(path / "first_rows.csv", index=False)
    frame.to_parquet(path / "first_rows.parquet")


@pytest.mark.parametrize("seed", range(20))
def test_random_sentences_are_read_back_or_refused(tmp_path, seed, capsys):
    rng = random.Random(seed)
    sentences = random_sentences(rng)
    words, tags = ([[pair[i] for pair in s] for s in sentences] for i in (0, 1))
    columns(tmp_path, sentences, rng)
    tables(tmp_path, [{"tokens": w, "tags": t} for w, t in zip(words, tags, strict=True)], rng)
    joined = [{"tokens": " ".join(w), "tags": " ".join(t)} for w, t in zip(words, tags, strict=True)]
    pd.DataFrame(joined).to_csv(tmp_path / "joined.csv", index=False)
    refused, mended = (
        [],
        [["B" + t[1:] if t[0] == "I" and not _goes_on(r, i) else t for i, t in enumerate(r)] for r in tags],
    )
    files = sorted(tmp_path.iterdir())
    for file in files:
        try:
            data = open_tagging(LabelledConfig(train_file=str(file), validation_file=str(file)))
        except UserError as error:
            refused.append(f"{file.name}: {error}")
            continue
        assert data.train["tokens"][:] == words, file.name
        assert written(data) == mended, file.name
    assert not refused


def _goes_on(tags, i):
    return i > 0 and tags[i - 1][1:] == tags[i][1:] and tags[i - 1] != "O"
