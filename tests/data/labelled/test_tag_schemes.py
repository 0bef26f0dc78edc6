"""Tag schemes: one set of entities written in each of them reads back the same."""

import numpy as np
import pytest

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.conll import read_conll
from nlp_ssl.data.labelled.tag_schemes import Entity, entities, find_scheme, tag_set, to_bio2


def write(spans, length, scheme):
    """An independent writer of the schemes, from (type, start, end)."""
    tags = ["O"] * length
    ends = {}
    for kind, start, end in spans:
        for i in range(start, end):
            first, last = i == start, i == end - 1
            tags[i] = {
                "IOB2": "B" if first else "I",
                "IOB1": "B" if first and ends.get(start) == kind else "I",
                "BIOES": "S" if first and last else "B" if first else "E" if last else "I",
                "BILOU": "U" if first and last else "B" if first else "L" if last else "I",
            }[scheme] + f"-{kind}"
        ends[end] = kind
    return tags


def random_sentences(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        spans, at = [], 0
        while at < 12:
            length = int(rng.integers(1, 4))
            if rng.random() < 0.6:
                spans.append((str(rng.choice(["PER", "LOC"])), at, at + length))
            at += length
        yield spans, at


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
def test_every_scheme_reads_back_the_same_entities(scheme):
    sentences = list(random_sentences(100))
    written = [write(spans, length, scheme) for spans, length in sentences]
    assert [entities(tags) for tags in written] == [[Entity(*span) for span in spans] for spans, _ in sentences]
    assert [to_bio2(tags) for tags in written] == [write(spans, length, "IOB2") for spans, length in sentences]
    assert find_scheme(written) == ("BIOES" if scheme == "BILOU" else scheme, [])


def test_broken_sequences_are_found_and_named():
    good = ["B-PER", "I-PER", "O"]
    scheme, misfits = find_scheme([good, good, ["O", "I-PER"], ["B-LOC", "I-PER"]])
    assert scheme == "IOB2"
    assert misfits == [(2, 1, "I-PER follows O"), (3, 1, "I-PER follows B-LOC")]
    assert to_bio2(["B-LOC", "I-PER"]) == ["B-LOC", "B-PER"]
    assert find_scheme([["B-PER", "O"], ["S-PER"]]) == ("BIOES", [(0, 0, "B-PER is not closed by an E-")])
    assert find_scheme([["NN", "VB-X"]])[0] == "plain"
    with pytest.raises(ValueError, match="'PER'") as error:
        find_scheme([["O"], ["B-PER", "PER"]])
    assert error.value.args[1] == (1, 1)


def test_tag_set():
    assert tag_set(["PER", "LOC", "PER"]) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_a_file_without_blank_lines_is_no_sentence():
    words = [f"word{i} O" for i in range(251)]
    with pytest.raises(UserError, match=r"x\.conll has no blank line between its words, so its 251 words would be one"):
        read_conll("\n".join(words), "x.conll")
    assert len(read_conll("\n".join(words[:250]), "x.conll")) == 1  # a long sentence, such as of a test by hand
    for blank in (" ", "\t", "\u00a0", " \u3000\r"):
        assert len(read_conll(f"\n{blank}\n".join(["\n".join(words[:200])] * 2), "x.conll")) == 2


def test_conll_columns():
    text = "-DOCSTART- -X- O\n\nEU NNP I-ORG\r\nsays VB O\n \nthe\u00a0end NN O\n-DOCSTART- -X- O\na\tb c\tB-X"
    rows = read_conll(text, "x.conll")
    assert rows.column("tokens") == [["EU", "says"], ["the\u00a0end"], ["a"]]
    assert rows.column("tags") == [["I-ORG", "O"], ["O"], ["B-X"]]
    assert list(rows.places) == [3, 6, 8]
    with pytest.raises(UserError, match=r"x\.conll, line 2: the word 'alone' has no tag"):
        read_conll("a O\nalone\n", "x.conll")
    with pytest.raises(UserError, match=r"line 2: 3 columns, but the first word has 2"):
        read_conll("a O\nb c O\n", "x.conll")
