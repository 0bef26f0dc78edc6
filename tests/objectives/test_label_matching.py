"""Heads and data by name: closed cases of the matching, in the orders and writings of published models."""

from importlib.metadata import version

import pytest
from packaging.version import Version
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, BertConfig

from nlp_ssl.objectives.label_matching import head_labels, match_labels

IOB2 = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
NLI = ["contradiction", "entailment", "neutral"]
UNNAMED = ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("head", "labels", "rows"),
    [
        # the three published orders of MNLI, in the writing of some
        (["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], NLI, ["contradiction", "neutral", "entailment"]),
        (["entailment", "neutral", "contradiction"], NLI, ["entailment", "neutral", "contradiction"]),
        (["Contradiction", "Entailment", "Neutral"], NLI, NLI),
        # blanks, hyphens, underscores; a sign is none of them
        (["not entailment", "Entailment"], ["entailment", "not_entailment"], ["not_entailment", "entailment"]),
        (["NOT-ENTAILMENT", "ENTAILMENT"], ["entailment", "not_entailment"], ["not_entailment", "entailment"]),
        (["1", "0", "-1"], ["-1", "0", "1"], ["1", "0", "-1"]),
        (["LABEL_0", "LABEL_1"], ["-1", "0"], None),
        # full-width and composed letters
        (["ＰＯＳ", "ne\u0301g"], ["n\u00e9g", "pos"], ["pos", "n\u00e9g"]),
        # two classes that only their writing tells apart
        (["a", "b", "A"], ["A", "a", "b"], ["a", "b", "A"]),
        (["A", "B"], ["A", "a"], None),
        (["A", "B"], ["a", "A", "b"], None),
        (["A", "a", "B"], ["a", "b"], ["A", "a", "b"]),
        (["A", "a", "B"], ["\uff41", "b"], None),
        (["x-y", "x y"], ["x_y", "z"], None),
        # numbers, and the names that are given to nobody's classes
        (UNNAMED, ["0", "1", "2"], ["0", "1", "2"]),
        (["LABEL_2", "LABEL_0", "LABEL_1"], ["0", "1", "2"], ["2", "0", "1"]),
        (["2", "0", "1"], ["0", "1", "2"], ["2", "0", "1"]),
        (["0", "1", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (UNNAMED, NLI, None),
        (UNNAMED, ["0", "1"], None),
        (["0", "1", "2", "3", "4"], ["0", "1"], None),
        (UNNAMED, ["1", "2", "3"], None),
        (["1", "2", "3"], ["0", "1", "2"], None),
        # a subset in the data keeps the head, a class more does not
        (["c", "B", "a"], ["a", "b"], ["c", "b", "a"]),
        (["5", "4", "3", "2", "1"], ["1", "2", "5"], ["5", "4", "3", "2", "1"]),
        (["a", "b"], ["a", "b", "c"], None),
        # tags: entities with and without prefixes are other tags
        (["B-per", "I-per", "B-loc", "I-loc", "O"], IOB2, ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]),
        (["O", "LOC", "PER"], IOB2, None),
        (IOB2, ["LOC", "O", "PER"], None),
        ([*IOB2, "E-PER", "S-PER"], IOB2, [*IOB2, "E-PER", "S-PER"]),
        # names that stand for two rows
        (["O", "O", "X"], ["O", "X"], None),
        (["O", "X", "PAD", "PAD"], ["O", "X"], None),
    ],
)
def test_names(head, labels, rows):
    match = match_labels(head, labels)
    assert (match.rows, match.by_number) == (rows, False)
    # whatever the order of either side
    turned = match_labels(head[::-1], labels[::-1])
    assert turned.rows == (rows and rows[::-1]) or head == UNNAMED


def test_numbers_on_one_side_are_compared_with_numbers_and_said_to_be():
    hub = ["entailment", "neutral", "contradiction"]
    numbers = ["0", "1", "2"]
    # a data set that numbers its names, and a head without names
    match = match_labels(UNNAMED, hub, numbers)
    assert (match.rows, match.by_number) == (hub, True)
    assert match_labels(["2", "1", "0"], hub, numbers).rows == hub[::-1]
    # ... but the names count where there are any
    match = match_labels(["neutral", "entailment", "contradiction"], hub, numbers)
    assert (match.rows, match.by_number) == (["neutral", "entailment", "contradiction"], False)
    assert match_labels(["a", "b", "c"], hub, numbers).rows is None
    assert match_labels([*UNNAMED, "LABEL_3"], hub, numbers).rows is None
    assert match_labels(UNNAMED[:2], hub, numbers, optional=["contradiction"]).rows is None
    # data of numbers, and a head with names: the head's own numbers
    match = match_labels(["NEG", "POS"], ["0", "1"])
    assert (match.rows, match.by_number) == (["0", "1"], True)
    assert match_labels(["NEG", "NEUTRAL", "POS"], ["0", "1"]).rows is None
    assert match_labels(["NEG", "POS"], ["1", "2"]).rows is None
    # ... unless the source has names for them
    names = ["not_equivalent", "equivalent"]
    match = match_labels(["equivalent", "not equivalent"], ["0", "1"], names)
    assert (match.rows, match.by_number) == (["1", "0"], False)
    assert match_labels(["entailment", "not_entailment"], ["0", "1"], names).rows is None
    assert match_labels(["LABEL_0", "LABEL_1"], ["0", "1"], names).rows == ["0", "1"]


def test_what_is_new_and_what_is_gone():
    match = match_labels(["a", "b", "c"], ["B", "d", "e"])
    assert (match.rows, match.new, match.gone) == (None, ["d", "e"], ["a", "c"])
    match = match_labels(["a", "b", "c"], ["C", "a"])
    assert (match.rows, match.new, match.gone) == (["a", "b", "C"], [], ["b"])


def test_a_head_may_lack_what_no_row_has():
    head = ["I-PER", "B-PER", "B-LOC", "O"]  # as read off a file whose places are all of one word
    assert match_labels(head, IOB2, optional=["I-LOC"]).rows == head
    match = match_labels(head, IOB2)
    assert (match.rows, match.new, match.gone) == (None, ["I-LOC"], [])


def test_what_a_stored_head_calls_its_rows():
    def found(auto_class=AutoModelForSequenceClassification, kind="BertForSequenceClassification", **fields):
        return head_labels(BertConfig(architectures=kind and [kind], **fields), auto_class)

    assert found(id2label={1: "b", 0: "a"}) == ["a", "b"]
    if Version(version("transformers")) >= Version("5.20"):  # an older one refuses them itself
        assert found(id2label={"0": 0, "1": 1}) == ["0", "1"]
    assert found(num_labels=3) == UNNAMED
    assert found(id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={"b": 1, "a": 0}) == ["a", "b"]
    assert found(id2label={0: "a", 1: "b"}, label2id={"b": 0, "a": 1}) == ["a", "b"]  # as `pipeline` prints
    assert found(kind="RobertaForSequenceClassification", id2label={0: "a", 1: "b"}) == ["a", "b"]
    assert found(kind=None, id2label={0: "a", 1: "b"}) == ["a", "b"]
    assert found(kind="BertForMaskedLM") is None
    assert found(kind="BertModel") is None
    assert found(AutoModelForTokenClassification, id2label={0: "a", 1: "b"}) is None
    assert found(AutoModelForTokenClassification, kind="BertForTokenClassification", num_labels=2) == UNNAMED[:2]
