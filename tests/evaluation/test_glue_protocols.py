"""GLUE: the protocols' averages are the published ones, and the files are those of the benchmark."""

import pytest

from nlp_ssl.data.labelled.glue import submission
from nlp_ssl.evaluation.glue_protocols import PROTOCOLS, TASKS

# per cent by entry, and the average that the paper prints beside them
PUBLISHED = {
    # Devlin et al. 2018, table 1, BERT-base
    "devlin": (
        {"MNLI-m": 84.6, "MNLI-mm": 83.4, "QQP": 71.2, "QNLI": 90.5, "SST-2": 93.5, "CoLA": 52.1, "STS-B": 85.8}
        | {"MRPC": 88.9, "RTE": 66.4},
        79.6,
    ),
    # Geiping and Goldstein 2022, table 4, crammed BERT
    "cramming": (
        {"MNLI-m": 83.9, "MNLI-mm": 84.1, "SST-2": 92.2, "STS-B": 84.6, "RTE": 53.8, "QNLI": 89.5, "QQP": 87.3}
        | {"MRPC": 87.5, "CoLA": 44.5},
        78.6,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_average_of_published_entries_is_the_published_average(name):
    scores, average = PUBLISHED[name]
    protocol = PROTOCOLS[name]
    assert scores.keys() == protocol.entries.keys()
    assert protocol.average(scores) == pytest.approx(average, abs=0.05)
    # one number a task makes these entries
    numbers = {parts[0]: scores[entry] / 100 for entry, parts in protocol.entries.items()}
    assert protocol.entry_scores(numbers) == pytest.approx(scores)


def test_an_entry_of_two_numbers_is_their_mean_and_an_average_of_some_is_none():
    protocol = PROTOCOLS["mosaic"]
    numbers = {("glue/mnli", "validation", "accuracy"): 0.85, ("glue/mnli", "test", "accuracy"): 0.83}
    numbers |= {("glue/mrpc", "validation", "accuracy"): 0.8, ("glue/mrpc", "validation", "f1"): 0.9}
    numbers |= {("glue/qqp", "validation", "accuracy"): 0.9}
    scores = protocol.entry_scores(numbers)
    assert scores == pytest.approx({"MNLI": 84, "MRPC": 85})  # QQP lacks its F1
    assert protocol.average(scores) is None
    assert len(protocol.entries) == 8


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_entry_is_learnt_and_nobody_averages_wnli(name):
    protocol = PROTOCOLS[name]
    measured = {task for parts in protocol.entries.values() for task, _, _ in parts}
    assert measured <= set(protocol.tasks) <= set(TASKS)
    assert "glue/wnli" not in measured
    assert TASKS.index("glue/mnli") == 0  # from which others may begin


def test_submission_files_are_what_the_server_takes():
    assert submission("glue/cola", ["1", "0"], ["0", "1"]) == {"CoLA.tsv": "index\tprediction\n0\t1\n1\t0\n"}
    named = submission("glue/rte", ["not_entailment", "entailment"], ["entailment", "not_entailment"])
    assert named == {"RTE.tsv": "index\tprediction\n0\tnot_entailment\n1\tentailment\n"}
    assert submission("glue/stsb", [5.3, -0.1, 2.5], None)["STS-B.tsv"].splitlines()[1:] == [
        "0\t5.000",
        "1\t0.000",
        "2\t2.500",
    ]
    assert submission("glue/mnli", ["neutral"] * 9796, ["contradiction", "entailment", "neutral"]) == {}
    mnli = submission(
        "glue/mnli", ["neutral"] * 9796 + ["entailment"] * 9847, ["contradiction", "entailment", "neutral"]
    )
    assert {name: (len(text.splitlines()) - 1, text.splitlines()[-1]) for name, text in mnli.items()} == {
        "MNLI-m.tsv": (9796, "9795\tneutral"),
        "MNLI-mm.tsv": (9847, "9846\tentailment"),
    }
