"""Zero-shot similarity of sentences, beside scipy's rank correlation."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from toys import tiny_model, tokenizer
from transformers import AutoModel

from nlp_ssl.core.errors import UserError
from nlp_ssl.evaluation.similarity import nearest_halves, sentence_similarity, word_overlap

FIRST = ["kalo mi ren", "tus va po", "shi dor", "el an qu", "ist ber"]
SECOND = ["kalo mi", "gho", "shi dor", "an el lo", "po va tus ka"]
SCORES = [4.0, 0.5, 5.0, 3.0, 0.5]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_ranks_of_cosines_beside_those_of_people(pooling):
    made = tokenizer("bpe")
    model = tiny_model("bert", vocab_size=len(made), auto_class=AutoModel)

    @torch.no_grad()
    def vector(text):  # a text at a time, nothing padded
        hidden = model(**made(text, return_tensors="pt")).last_hidden_state[0]
        return hidden[0] if pooling == "cls" else hidden.mean(0)

    cosines = [float(torch.cosine_similarity(vector(a), vector(b), dim=0)) for a, b in zip(FIRST, SECOND, strict=True)]
    found = sentence_similarity(model, made, FIRST, SECOND, SCORES, pooling, batch_size=3)
    assert found.spearman == pytest.approx(spearmanr(cosines, SCORES).statistic)
    overlap = [word_overlap(a, b) for a, b in zip(FIRST, SECOND, strict=True)]
    assert overlap == pytest.approx([2 / 3, 0, 1, 0.5, 0])
    assert found.word_overlap == pytest.approx(spearmanr(overlap, SCORES).statistic)
    assert found.pairs == 5


def test_what_cannot_be_ranked():
    made = tokenizer("bpe")
    model = tiny_model("bert", vocab_size=len(made), auto_class=AutoModel)
    with pytest.raises(UserError, match="there are 5, 4, and 5 scores of them"):
        sentence_similarity(model, made, FIRST, SECOND[:4], SCORES)
    with pytest.raises(UserError, match="no two of them have different scores"):
        sentence_similarity(model, made, FIRST, SECOND, np.ones(5))


@pytest.mark.parametrize("count", [5, 300])
def test_a_half_finds_the_nearest_of_its_group(count):
    made = tokenizer("bpe")
    model = tiny_model("bert", vocab_size=len(made), auto_class=AutoModel)
    rng = np.random.default_rng(0)
    words = " ".join(FIRST).split()
    texts = [" ".join(rng.choice(words, 9)) for _ in range(count)]

    @torch.no_grad()
    def vector(text):
        hidden = model(**made(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        return (hidden / hidden.norm()).double().numpy()

    first = np.stack([vector(" ".join(text.split()[:4])) for text in texts])
    second = np.stack([vector(" ".join(text.split()[4:])) for text in texts])
    expected = []
    for begin, end in [(0, 5)] if count == 5 else [(0, 150), (150, 300)]:  # 256 at most, evenly
        expected += [begin + row for row in (first[begin:end] @ second[begin:end].T).argmax(1)]
    found = nearest_halves(model, made, texts, batch_size=7)
    assert np.mean(np.array(found) == expected) > 0.98  # cosines of two may be equal to rounding
    assert nearest_halves(model, made, ["the same two words twice"] * 3) == [1, 0, 0]  # a tie is no hit
