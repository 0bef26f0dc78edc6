"""Where sentences begin, for vocabularies of every kind."""

from itertools import pairwise

import numpy as np
import pytest

from nlp_ssl.data.tokens.sentence_boundaries import sentence_tables, sentences
from nlp_ssl.data.tokens.tokenizer import train_tokenizer

SENTENCES = [
    "He came home.",
    ' "Why?"',
    " She asked it twice!",
    " Pi is 3.14 or so (as they say.)",
    " See numpy.array and b.c for more...",
    " यह एक वाक्य है।",
    " दूसरा वाक्य।",
    " هل هذا سؤال؟",
    " نعم",
]
CHINESE = ["他来了。", "“为什么？”", "她问！", "好吗？！", "是的"]


@pytest.fixture(scope="module", params=["bpe", "unigram", "wordpiece"])
def tokenizer(request):
    # every character is an entry, and no mark is one with what follows it
    text = [*SENTENCES, *"".join(CHINESE)] * 20
    return train_tokenizer(text, request.param, 420, min_frequency=1, exact=False)


def found(tokenizer, text):
    """The text cut where the rule says that a sentence begins."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = sentences(np.array([encoded["input_ids"]]), sentence_tables(tokenizer)).begins[0]
    at = [0, *(encoded["offset_mapping"][i][0] for i in np.flatnonzero(begins)), len(text)]
    return [text[a:b].strip() for a, b in pairwise(at)]


def test_sentences_of_scripts_with_spaces_begin_behind_a_mark_and_a_space(tokenizer):
    expected = [sentence.strip() for sentence in SENTENCES]
    if "##" in "".join(tokenizer.get_vocab()):  # without spaces: opening quotes look like closing ones, and small
        expected[:3] = ['He came home. "', 'Why?"', "She asked it twice!"]  # letters begin none
    assert found(tokenizer, "".join(SENTENCES)) == expected


def test_sentences_of_scripts_without_spaces_begin_behind_a_mark(tokenizer):
    assert found(tokenizer, "".join(CHINESE)) == CHINESE  # also where normalisation makes ASCII marks of them


def test_a_lowercased_vocabulary_has_sentences_too():
    lower = train_tokenizer(
        ["he came. she left. it is 3.14 now."] * 9, "wordpiece", 60, lowercase=True, min_frequency=1, exact=False
    )
    assert found(lower, "He came. She left. It is 3.14 now.") == ["He came.", "She left.", "It is 3.14 now."]


def test_special_tokens_and_abbreviations():
    t = train_tokenizer(["He saw Mr. Smith. Then he left."] * 9, "bpe", 300, min_frequency=1, exact=False)
    assert found(t, "He saw Mr. Smith. Then") == ["He saw Mr.", "Smith.", "Then"]  # as is said
    tables = sentence_tables(t)
    for table in tables[:5]:
        assert not table[t.all_special_ids].any()
