"""Masked language modelling: fixed slots, and the loss that transformers would compute."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import packed_rows, tiny_model, tokenizer

from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.masking import IGNORE, MaskingCollator
from nlp_ssl.objectives.mlm import MaskedLanguageModeling


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return packed_rows(tmp_path_factory.mktemp("tokens"))


def objective(**config):
    return MaskedLanguageModeling(MaskingCollator(tokenizer("bpe"), MaskingConfig(**config), seed=1))


def take(rows, *numbers):
    return [{**rows[i], "row": i, "epoch": 0} for i in numbers]


def test_slots_hold_the_labels_and_the_row_can_be_restored(rows):
    mlm, some = objective(), take(rows, 0, 5, 9, 30)
    batch = mlm.collate(some)
    labels, positions = batch["labels"], batch["label_positions"].long()
    used = labels != IGNORE
    assert mlm.num_targets(batch) == int(used.sum()) > 0
    assert {batch[key].dtype for key in ("input_ids", "document_ids", "position_ids")} == {torch.int32}
    restored = batch["input_ids"].flatten().clone()
    restored[positions[used]] = labels[used].int()
    assert torch.equal(restored, torch.from_numpy(np.concatenate([row["input_ids"] for row in some])).int())
    assert not set(labels[used].tolist()) & set(tokenizer("bpe").all_special_ids)
    assert len(positions) == len(labels) == mlm.capacity(batch["input_ids"].numel())


def test_the_same_targets_however_the_batch_is_split(rows):
    mlm = objective()
    whole = mlm.num_targets(mlm.collate(take(rows, *range(8))))
    assert whole == sum(mlm.num_targets(mlm.collate(take(rows, i))) for i in range(8))


def test_loss_is_that_of_full_logits(rows):
    torch.manual_seed(0)
    model = tiny_model("bert", isolated=True, vocab_size=len(tokenizer("bpe")))
    packed, mlm = PackedModel(model, True), objective()
    batch = mlm.collate(take(rows, 1, 2, 3))
    assert mlm.loss(packed.train(), batch)[1] == {}  # an argmax over the vocabulary that nobody reads
    loss, metrics = mlm.loss(packed.eval(), batch)
    full = packed(batch["input_ids"], document_ids=batch["document_ids"], position_ids=batch["position_ids"])
    labels = torch.full(batch["input_ids"].shape, IGNORE).flatten()
    used = batch["labels"] != IGNORE
    labels[batch["label_positions"][used]] = batch["labels"][used]
    expected = F.cross_entropy(full.flatten(0, 1), labels, ignore_index=IGNORE, reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert int(metrics["correct"]) == int((full.flatten(0, 1).argmax(-1) == labels).sum())


def test_more_labels_than_slots_take_the_larger_shape_with_the_same_loss(rows, monkeypatch):
    model = PackedModel(tiny_model("bert", isolated=True, vocab_size=len(tokenizer("bpe"))), True)
    mlm, some = objective(), take(rows, 1, 2, 3)
    loss, _ = mlm.loss(model, mlm.collate(some))
    monkeypatch.setattr(mlm, "capacity", lambda num_tokens: 3)
    batch = mlm.collate(some)
    assert len(batch["labels"]) == batch["input_ids"].numel()
    torch.testing.assert_close(mlm.loss(model, batch)[0], loss)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_six_sigma_is_hardly_ever_exceeded(unit):
    mlm = objective(unit=unit)
    masking = mlm.masking
    # words of one to four pieces, as in text
    t = tokenizer("bpe")
    from toys import texts

    ids = np.array([i for text in texts() for i in t(text, add_special_tokens=False)["input_ids"]])
    ids = np.resize(ids, (2000, 256))
    labels = masking.mask(ids, masking.row_keys(np.zeros(2000, dtype=int), np.arange(2000)))[1]
    counts = (labels != IGNORE).reshape(500, -1).sum(1)  # batches of 4 rows
    assert counts.max() <= mlm.capacity(4 * 256)
    assert mlm.capacity(4 * 256) < 4 * 256  # and the slots do spare work
    assert mlm.capacity(10**6) % 64 == 0
    assert mlm.capacity(10) <= 10


def test_a_batch_with_nothing_masked_has_no_targets_and_no_loss(rows):
    model = PackedModel(tiny_model("bert", isolated=True, vocab_size=len(tokenizer("bpe"))), True)
    mlm = objective(probability=1e-9)
    batch = mlm.collate(take(rows, 0))
    assert mlm.num_targets(batch) == 0
    assert mlm.loss(model, batch)[0].item() == 0.0


def test_a_causal_batch_asks_every_token_for_the_next_one(rows):
    """The same sum as a loop over documents, each alone under a triangular mask of transformers' own."""
    t = tokenizer("bpe")
    model = tiny_model("bert", isolated=True, vocab_size=len(t))
    packed, mlm = PackedModel(model, True).train(), objective()
    batch = CausalLanguageModeling(t, t.pad_token_id).collate(take(rows, 1, 2))
    loss, metrics = mlm.loss(packed, batch)
    assert metrics == {}
    plain = tiny_model("bert", vocab_size=len(t)).eval()
    plain.load_state_dict(model.state_dict())
    expected = count = 0
    for ids, documents, labels in zip(batch["input_ids"], batch["document_ids"], batch["labels"], strict=True):
        for number in documents.unique().tolist():
            if number == 0:
                continue
            here = documents == number
            triangle = torch.ones(here.sum(), here.sum()).tril()[None, None].bool()
            logits = plain(ids[here][None], attention_mask=triangle).logits[0]
            expected += F.cross_entropy(logits, labels[here], ignore_index=IGNORE, reduction="sum").item()
            count += int((labels[here] != IGNORE).sum())
    assert mlm.num_targets(batch) == count
    assert loss.item() == pytest.approx(expected, rel=1e-5)
