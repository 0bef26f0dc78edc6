"""Held-out loss against a plain sum, however it is split; bits per byte and unigram entropy against closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from toys import packed_rows, tiny_model, token_corpus, tokenizer, word_tokenizer

from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import held_out_batches
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus
from nlp_ssl.evaluation.held_out import evaluate, unigram_cross_entropy
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling
from nlp_ssl.objectives.cross_entropy import bits_per_byte
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return packed_rows(tmp_path_factory.mktemp("tokens"))


def masked(dropout=0.0):
    model = PackedModel(tiny_model("bert", isolated=True, vocab_size=len(tokenizer("bpe")), dropout=dropout), True)
    return MaskedLanguageModeling(model, tokenizer("bpe"), None)


def masks():
    return MaskedCollator(MaskingCollator(tokenizer("bpe"), source=1))


def score(module, rows, accelerator, batch_size=4, max_rows=10, collator=None):
    batches = held_out_batches(rows, collator or masks(), batch_size=batch_size, max_rows=max_rows)
    return evaluate(module, batches, accelerator)


def loss(module, found):
    return module.evaluate(found.sums, found.counts, num_bytes=1.0)["held_out_loss"]


def test_token_weighted_and_the_same_whatever_the_batch_size(rows, accelerator):
    module = masked()
    results = [score(module, rows, accelerator, batch_size) for batch_size in (1, 3, 10)]
    assert results[0].counts.keys() == {"mlm"}
    for result in results:
        assert result.counts == results[0].counts
        assert loss(module, result) == pytest.approx(loss(module, results[0]), rel=1e-6)
        assert result.sums["correct"] == results[0].sums["correct"]
        assert result.sums.keys() == {"mlm", "correct"}


def test_against_a_plain_sum(rows, accelerator):
    t = tokenizer("bpe")
    model = PackedModel(tiny_model("gpt2", isolated=True, vocab_size=len(t)), True).eval()
    module, collator = CausalLanguageModeling(model, t, None), CausalCollator(t.pad_token_id)
    result = score(module, rows, accelerator, collator=collator)
    total = count = 0
    with torch.no_grad():
        for micro_batch in held_out_batches(rows, collator, batch_size=1, max_rows=10):
            batch = micro_batch.inputs
            inputs = {key: batch[key] for key in ("document_ids", "position_ids")}
            logits = model(batch["input_ids"], **inputs).flatten(0, 1).double()
            total += F.cross_entropy(logits, batch["labels"].flatten(), reduction="sum").item()
            count += int((batch["labels"] != -100).sum())
    assert result.counts == {"clm": count}
    assert loss(module, result) == pytest.approx(total / count, rel=1e-6)


def test_no_dropout_while_scoring_and_the_mode_comes_back(rows, accelerator):
    module = masked(dropout=0.5)
    module.train()
    assert score(module, rows, accelerator) == score(module, rows, accelerator)
    assert module.training
    assert module.model.model.bert.embeddings.dropout.training
    module.eval()
    score(module, rows, accelerator)
    assert not module.training
    assert all(p.grad is None for p in module.parameters())


def test_scoring_leaves_the_generator_of_dropout_alone(rows, accelerator):
    module, before = masked(), torch.get_rng_state()
    score(module, rows, accelerator)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_processes_results_are_added_up_also_where_one_had_no_batch(rows, accelerator, monkeypatch):
    """Two processes played one after the other; the second one of them has nothing to score."""
    module = masked()
    whole = score(module, rows, accelerator, batch_size=1, max_rows=1)
    told = []

    class Rank:
        num_processes, device = 2, accelerator.device
        unwrap_model, autocast = accelerator.unwrap_model, accelerator.autocast

    def gather(own):
        told.extend(own)
        return told

    monkeypatch.setattr("nlp_ssl.evaluation.held_out.gather_object", gather)
    for rank in range(2):
        batches = held_out_batches(rows, masks(), batch_size=1, max_rows=1, rank=rank, world_size=2)
        result = evaluate(module, batches, Rank())
    assert len(told) == 2
    assert result == whole


def test_nothing_to_predict_is_no_loss_of_zero(rows, accelerator):
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate(masked(), iter([]), accelerator)
    hides_nothing = MaskedCollator(MaskingCollator(tokenizer("bpe"), MaskingConfig(probability=1e-9)))
    with pytest.raises(UserError, match="nothing to predict"):
        score(masked(), rows, accelerator, collator=hides_nothing)


def test_bits_per_byte():
    # 100 bytes, each of 256 equally likely: 8 bits per byte, whatever the tokens were
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8.0)
    assert bits_per_byte(50 * math.log(65536), 100) == pytest.approx(8.0)


def test_the_numbers_of_an_evaluation_by_hand():
    model, sums = PackedModel(tiny_model("gpt2"), False), {"clm": torch.tensor(60.0), "text": torch.tensor(48.0)}
    found = CausalLanguageModeling(model, tokenizer("bpe"), None).evaluate(sums, {"clm": 20}, 24.0)
    assert found == pytest.approx(
        {"held_out_loss": 3.0, "perplexity": math.exp(3.0), "bits_per_byte": 2 / math.log(2)}, rel=1e-9
    )
    found = masked().evaluate({"mlm": torch.tensor(60.0), "correct": torch.tensor(5.0)}, {"mlm": 20}, 24.0)
    assert found == pytest.approx({"held_out_loss": 3.0, "masked_accuracy": 0.25})


def test_unigram_cross_entropy(tmp_path):
    def corpus(name, *texts):
        data = Dataset.from_dict({"text": list(texts)})
        return tokenize_corpus(data, word_tokenizer(10), tmp_path / name, name, num_proc=1)

    train, held_out = corpus("train", "w0 w0 w0", "w1"), corpus("held_out", "w0 w1", "w4")
    # add-one over 10 entries: w0 4/14, w1 2/14, w4 1/14
    expected = -(math.log(4 / 14) + math.log(2 / 14) + math.log(1 / 14)) / 3
    assert unigram_cross_entropy(train, held_out, 10) == pytest.approx(expected)
    bounded = unigram_cross_entropy(train, held_out, 10, max_tokens=3)
    assert bounded == pytest.approx(-(math.log(4 / 13) + 2 * math.log(1 / 13)) / 3)


def test_unigram_cross_entropy_of_a_text_with_itself_is_its_entropy(tmp_path):
    corpus = token_corpus(tmp_path / "t")
    ids = np.concatenate(list(corpus.arrays()))
    share = np.bincount(ids) / len(ids)
    share = share[share > 0]
    entropy = -(share * np.log(share)).sum()
    found = unigram_cross_entropy(corpus, corpus, len(tokenizer("bpe")))
    assert entropy < found < entropy * 1.01  # adding one to every count costs a bit
