"""Masked language modelling: fixed slots, and the loss that transformers would compute."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import packed_rows, tiny_model, tokenizer

from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling
from nlp_ssl.objectives.masking import IGNORE, MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return packed_rows(tmp_path_factory.mktemp("tokens"))


def collator(**config):
    return MaskedCollator(MaskingCollator(tokenizer("bpe"), MaskingConfig(**config), seed=1))


def objective():
    model = tiny_model("bert", isolated=True, vocab_size=len(tokenizer("bpe")))
    return MaskedLanguageModeling(PackedModel(model, True), tokenizer("bpe"), None).eval()


def num_targets(batch):
    return collator().counts(batch)["mlm"]


def take(rows, *numbers):
    return [{**rows[i], "row": i, "epoch": 0} for i in numbers]


def test_slots_hold_the_labels_and_the_row_can_be_restored(rows):
    reader, some = collator(), take(rows, 0, 5, 9, 30)
    batch = reader(some)
    labels, positions = batch["labels"], batch["label_positions"].long()
    used = labels != IGNORE
    assert reader.counts(batch) == {"mlm": int(used.sum())}
    assert used.any()
    assert {batch[key].dtype for key in ("input_ids", "document_ids", "position_ids")} == {torch.int32}
    restored = batch["input_ids"].flatten().clone()
    restored[positions[used]] = labels[used].int()
    assert torch.equal(restored, torch.from_numpy(np.concatenate([row["input_ids"] for row in some])).int())
    assert not set(labels[used].tolist()) & set(tokenizer("bpe").all_special_ids)
    assert len(positions) == len(labels) == reader.capacity(batch["input_ids"].numel())


def test_the_same_targets_however_the_batch_is_split(rows):
    reader = collator()
    whole = num_targets(reader(take(rows, *range(8))))
    assert whole == sum(num_targets(reader(take(rows, i))) for i in range(8))


def test_loss_is_that_of_full_logits(rows):
    mlm, batch = objective(), collator()(take(rows, 1, 2, 3))
    assert mlm.train()(batch).keys() == {"mlm"}  # no argmax over the vocabulary that nobody reads
    sums = mlm.eval()(batch)
    full = mlm.model(batch["input_ids"], document_ids=batch["document_ids"], position_ids=batch["position_ids"])
    labels = torch.full(batch["input_ids"].shape, IGNORE).flatten()
    used = batch["labels"] != IGNORE
    labels[batch["label_positions"][used]] = batch["labels"][used]
    expected = F.cross_entropy(full.flatten(0, 1), labels, ignore_index=IGNORE, reduction="sum")
    assert sums["mlm"].dtype == torch.float32
    torch.testing.assert_close(sums["mlm"], expected)
    assert int(sums["correct"]) == int((full.flatten(0, 1).argmax(-1) == labels).sum())


def test_more_labels_than_slots_take_the_larger_shape_with_the_same_loss(rows, monkeypatch):
    mlm, reader, some = objective(), collator(), take(rows, 1, 2, 3)
    loss = mlm(reader(some))["mlm"]
    monkeypatch.setattr(reader, "capacity", lambda num_tokens: 3)
    batch = reader(some)
    assert len(batch["labels"]) == batch["input_ids"].numel()
    torch.testing.assert_close(mlm(batch)["mlm"], loss)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_six_sigma_is_hardly_ever_exceeded(unit):
    reader = collator(unit=unit)
    masking = reader.masking
    # words of one to four pieces, as in text
    t = tokenizer("bpe")
    from toys import texts

    ids = np.array([i for text in texts() for i in t(text, add_special_tokens=False)["input_ids"]])
    ids = np.resize(ids, (2000, 256))
    labels = masking.mask(ids, masking.row_keys(np.zeros(2000, dtype=int), np.arange(2000)))[1]
    counts = (labels != IGNORE).reshape(500, -1).sum(1)  # batches of 4 rows
    assert counts.max() <= reader.capacity(4 * 256)
    assert reader.capacity(4 * 256) < 4 * 256  # and the slots do spare work
    assert reader.capacity(10**6) % 64 == 0
    assert reader.capacity(10) <= 10


def test_a_batch_with_nothing_masked_has_no_targets_and_no_loss(rows):
    batch = collator(probability=1e-9)(take(rows, 0))
    assert num_targets(batch) == 0
    assert objective()(batch)["mlm"].item() == 0.0


def test_a_causal_phase_of_an_encoder_asks_every_token_for_the_next_one(rows):
    """The same sum as a loop over documents, each alone under a triangular mask of transformers' own."""
    t = tokenizer("bpe")
    model = tiny_model("bert", isolated=True, vocab_size=len(t))
    reader = CausalCollator(t.pad_token_id)
    batch = reader(take(rows, 1, 2))
    sums = CausalLanguageModeling(PackedModel(model, True), t, None).train()(batch)
    assert sums.keys() == {"clm"}
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
    assert reader.counts(batch) == {"clm": count}
    assert sums["clm"].item() == pytest.approx(expected, rel=1e-5)
