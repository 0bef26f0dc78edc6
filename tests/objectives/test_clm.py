"""Causal language modelling: labels inside documents only, and the loss that transformers computes."""

import math

import numpy as np
import pytest
import torch
from toys import packed_rows, texts, tiny_model, token_corpus, tokenizer, word_tokenizer

from nlp_ssl.data.sequences.packing import pack
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling
from nlp_ssl.objectives.masking import IGNORE


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return packed_rows(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def reader():
    return CausalCollator(tokenizer("bpe").pad_token_id)


def num_targets(batch):
    return CausalCollator(0).counts(batch)["clm"]


def take(rows, numbers):
    return [{**rows[i], "row": i, "epoch": 0} for i in numbers]


def expected_labels(rows, number):
    """From the pieces themselves: every token asks for the next one of its piece, but for an end that is none."""
    t, labels = tokenizer("bpe"), []
    for document, start, length in rows.row_pieces(number).tolist():
        body = t(texts()[document], add_special_tokens=False)["input_ids"]
        ends = start + length == len(body)
        labels += [*body[start : start + length], t.eos_token_id if ends else IGNORE, IGNORE]
    return labels + [IGNORE] * (rows.sequence_length - len(labels))


def test_labels_never_cross_documents_and_a_cut_teaches_no_end(rows, reader):
    assert rows.stats.cut_long > 3
    batch = reader(take(rows, range(len(rows))))
    assert batch["labels"].tolist() == [expected_labels(rows, i) for i in range(len(rows))]
    assert num_targets(batch) == int((batch["labels"] != IGNORE).sum())
    # every token of every text is predicted once, and so is the end of every document
    total = sum(len(tokenizer("bpe")(text, add_special_tokens=False)["input_ids"]) for text in texts())
    assert num_targets(batch) == total + sum(1 for text in texts() if text)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_loss_of_a_row_is_the_sum_of_transformers_losses_of_its_documents(rows, reader, name):
    model = tiny_model(name, isolated=True, vocab_size=len(tokenizer("bpe")))
    plain = tiny_model(name, vocab_size=len(tokenizer("bpe")))
    plain.load_state_dict(model.state_dict())
    clm = CausalLanguageModeling(PackedModel(model, True), tokenizer("bpe"), None).eval()
    for number in range(len(rows)):
        whole = all(
            len(tokenizer("bpe")(texts()[d])["input_ids"]) - 2 == n for d, _, n in rows.row_pieces(number).tolist()
        )
        if whole and len(rows.row_pieces(number)) > 2:
            break
    batch = reader(take(rows, [number]))
    theirs = count = 0
    for document, _, _ in rows.row_pieces(number).tolist():
        ids = torch.tensor([tokenizer("bpe")(texts()[document])["input_ids"]])
        theirs += plain(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert num_targets(batch) == count
    sums = clm(batch)
    assert sums["clm"].item() == pytest.approx(theirs, rel=1e-5)
    assert 0 < sums["text"].item() < sums["clm"].item()
    trained = clm.train()(batch)
    assert trained["clm"].item() == pytest.approx(theirs, rel=1e-5)
    assert trained.keys() == {"clm"}


def test_text_loss_counts_every_predicted_byte(rows, reader, tmp_path):
    """A model of equal logits needs log2(vocabulary) bits for every token of text, unknown words included."""

    class Uniform(torch.nn.Module):
        def forward(self, input_ids, **kwargs):
            return torch.zeros(*input_ids.shape, len(tokenizer("bpe")))

    batch = reader(take(rows, range(len(rows))))
    num_tokens = sum(len(tokenizer("bpe")(text, add_special_tokens=False)["input_ids"]) for text in texts())
    sums = CausalLanguageModeling(Uniform(), tokenizer("bpe"), None).eval()(batch)
    assert sums["text"].item() == pytest.approx(num_tokens * math.log(len(tokenizer("bpe"))), rel=1e-4)
    with_unknown = CausalLanguageModeling(Uniform(), word_tokenizer(50), None)
    assert word_tokenizer(50).unk_token_id not in with_unknown.added_ids
    assert with_unknown.added_ids.tolist() == [1, 2]


def test_one_document_a_row_is_padded_and_padding_is_no_target(reader, tmp_path):
    t = tokenizer("bpe")
    rows = pack(
        token_corpus(tmp_path / "t"), 64, (t.bos_token_id,), (t.eos_token_id,), t.pad_token_id, one_document=True
    )
    numbers = range(0, len(rows), len(rows) // 19)[:20]
    lengths = [len(rows[i]["input_ids"]) for i in numbers]
    batch = reader(take(rows, numbers))
    assert batch["input_ids"].shape == (20, -(-max(lengths) // 8) * 8)
    cut = [bool(rows[i]["cut_ends"].any()) for i in numbers]
    for i, length in enumerate(lengths):
        assert int((batch["labels"][i] != IGNORE).sum()) == length - 1 - cut[i]
        assert (batch["input_ids"][i, length:] == t.pad_token_id).all()
    assert np.unique(batch["document_ids"]).tolist() == [0, 1]
