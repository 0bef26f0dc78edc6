"""GLUE as it was published: nine folders of tables without quoting, some without a header, tests without labels."""

import csv
import gzip

import pytest
from glue_layout import LAYOUTS, QUOTE, write_glue
from launch import ROOT

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.labelled_data import open_classification


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("task", LAYOUTS)
def test_every_task_is_read_as_it_was_published(task, compress, tmp_path):
    write_glue(tmp_path, task, compress=compress)
    data = open_classification(LabelledConfig(task=f"glue/{task}", glue_dir=str(tmp_path)))
    _, _, _, texts, labels = LAYOUTS[task]
    assert data.name == f"glue/{task}"
    assert (len(data.train), len(data.validation)) == (12, 12)
    assert len(data.hidden) == (24 if task == "mnli" else 12)
    if task == "stsb":
        assert data.labels is None
        assert data.train["label"][:] == [1.0, 4.5] * 6
    else:
        assert data.labels == labels
        assert [data.labels[i] for i in data.train["label"]] == [labels[i % len(labels)] for i in range(12)]
    assert all(text.startswith(f"{QUOTE} train {i}") for i, text in enumerate(data.train[data.text_columns[0]]))
    assert len(data.text_columns) == len(texts)
    if task == "mnli":
        assert (len(data.test), data.text_columns) == (12, ["premise", "hypothesis"])
        assert data.hidden["premise"][12].startswith(f"{QUOTE} test_mismatched 0")


def test_broken_lines_are_counted_and_what_is_not_there_is_named(tmp_path, capsys):
    write_glue(tmp_path, "qqp")
    with open(tmp_path / "QQP" / "train.tsv", "a") as file:
        file.write("1\t2\ttoo few\n")
    data = open_classification(LabelledConfig(task="glue/qqp", glue_dir=str(tmp_path)))
    assert len(data.train) == 12
    assert "1 lines with another number of fields are left out" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"glue/rte: there is no .*RTE/train\.tsv"):
        open_classification(LabelledConfig(task="glue/rte", glue_dir=str(tmp_path)))
    with pytest.raises(UserError, match="with a task of GLUE, such as glue/sst2, not imdb"):
        open_classification(LabelledConfig(task="imdb", glue_dir=str(tmp_path)))


def test_the_real_files_equal_someone_elses_reading(tmp_path):
    shared = ROOT.parent / "shared" / "data"
    if not shared.exists():
        pytest.skip("no shared data here")
    for task, folder in (("cola", "CoLA"), ("sst2", "SST-2")):
        (tmp_path / folder).mkdir()
        for file, original in (("train", "train"), ("dev", "dev"), ("test", "test_nolabel")):
            (tmp_path / folder / f"{file}.tsv.gz").symlink_to(shared / task / f"{original}.tsv.gz")
        data = open_classification(LabelledConfig(task=f"glue/{task}", glue_dir=str(tmp_path)))
        names = ["source", "label", "star", "sentence"] if task == "cola" else None
        with gzip.open(shared / task / "dev.tsv.gz", "rt", encoding="utf-8", newline="\n") as f:
            expected = list(csv.DictReader(f, names, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert data.validation["sentence"][:] == [row["sentence"] for row in expected]
        assert [data.labels[i] for i in data.validation["label"]] == [row["label"] for row in expected]
        assert len(data.train) == {"cola": 8551, "sst2": 67349}[task]
        assert len(data.hidden) == {"cola": 1063, "sst2": 1821}[task]
