"""How much of a text a tokenizer loses: one unknown token may stand for a whole word."""

import pytest
from datasets import Dataset
from published_tokenizers import PUBLISHED

from nlp_ssl.data.tokens.tokenizer_audit import UnknownText, audit, format_audit, sample_of

KNOWN = "the lazy fox"
TEXTS = [KNOWN] * 60
MIXED = "the ДОБРОЕУТРО fox"  # one word of three is lost, and 10 of its 18 characters


def test_the_share_of_characters_is_not_that_of_tokens():
    measured = audit(PUBLISHED["bert"](TEXTS), [MIXED])
    assert measured.unknown_characters == pytest.approx(10 / 18)
    assert measured.unknown_rate < 0.4
    assert "55.5556%" in format_audit({"bert": measured})


@pytest.mark.parametrize("streaming", [False, True])
def test_a_corpus_is_told_how_much_of_it_is_lost_and_warned_above_one_percent(capsys, streaming):
    bert = PUBLISHED["bert"](TEXTS)
    cases = ((TEXTS, 0, False), ([MIXED] * 20, 10 / 18, True), ([*[KNOWN] * 400, MIXED], 0.002, False))
    for texts, share, warned in cases:
        documents = Dataset.from_dict({"text": texts})
        sample = sample_of(documents.to_iterable_dataset() if streaming else documents)
        found = UnknownText.of(bert, [row["text"] for row in sample])
        assert found.share == pytest.approx(share, abs=1e-3)
        found.say()
        printed = "".join(capsys.readouterr())
        assert f"{found.share:.2%} of the characters are inside unknown tokens" in printed
        assert ("take a tokenizer made for this text" in printed) == warned


@pytest.mark.parametrize("name", ["gpt2", "our bpe", "our unigram", "llama-3"])
def test_tokenizers_of_bytes_lose_nothing(name):
    texts = ["the quick brown fox jumps over the lazy dog and packs my box with five dozen liquor jugs"] * 60
    assert UnknownText.of(PUBLISHED[name](texts), [MIXED]).share == 0
