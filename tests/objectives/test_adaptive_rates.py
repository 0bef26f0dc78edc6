"""Masks that follow what is predicted wrong: how many, which, and how their rates move."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from launch import TINY, run, write_corpus
from parity_cases import NUM_ROWS, ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model

from nlp_ssl.config.hybrid import HybridConfig, HybridSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.adaptive_rates import AdaptiveRates, draws, room
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.hybrid import HELD_OUT, HybridLanguageModeling
from nlp_ssl.objectives.masking import MaskingCollator

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]
IDS = torch.tensor(np.stack([row["input_ids"] for row in ROWS]))


def options(share=1.0, predict="same", probability=0.3, every=2):
    config = HybridConfig(hybrid=HybridSection(share=share, predict=predict, adapt_every=every))
    config.masking.probability = probability
    return config


def objective(config, name="bert"):
    model = PackedModel(tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES), True)
    return HybridLanguageModeling(model, TOKENIZER, config).double()


def collator(config, **more):
    return HybridLanguageModeling.collator(TOKENIZER, config, seed=SEED, **more)


def batch_of(config, numbers=range(NUM_ROWS), epoch=0, **more):
    numbers = np.array(numbers)
    batch = collator(config, **more)(Selection(ROWS, numbers, np.full_like(numbers, epoch)))
    return {name: value for name, value in batch.items() if name != "digest"}


@pytest.mark.parametrize("predict", ["same", "previous"])
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_a_masked_row_has_its_share_of_masks_and_their_labels(share, predict):
    config = options(share, predict)
    batch, shift = batch_of(config), int(predict == "previous")
    assert torch.equal(batch["input_ids"].long(), IDS)  # which tokens are masked is not decided yet
    rates = AdaptiveRates(VOCABULARY, 2)
    masked = rates.masked(batch, shift)
    maskable = torch.tensor(MaskingCollator(TOKENIZER, config.masking).is_ordinary[IDS.numpy()])
    expected = (maskable.sum(1) * 0.3 + 0.5).floor() * ~batch["causal"]
    real = masked["masked_labels"] != IGNORE
    rows, columns = (at := masked["label_positions"][-len(real) :][real] + shift) // ROW_LENGTH, at % ROW_LENGTH
    assert torch.equal(rows.bincount(minlength=NUM_ROWS), expected.long())
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows)
    assert maskable[rows, columns].all()
    assert torch.equal(masked["masked_labels"][real], IDS[rows, columns])
    changed = masked["input_ids"] != batch["input_ids"]
    changed[rows, columns] = False
    assert not changed.any()
    assert collator(config).counts(batch)["masked"] == real.sum()


def test_masked_tokens_are_replaced_as_ever():
    config = options(probability=0.5)
    found = [AdaptiveRates(VOCABULARY, 2).masked(batch_of(config, epoch=epoch), 0) for epoch in range(40)]
    labels = torch.cat([batch["masked_labels"] for batch in found])
    at = torch.stack([batch["label_positions"] for batch in found]).long()
    read = torch.stack([batch["input_ids"].flatten() for batch in found]).gather(1, at).flatten()[labels != IGNORE]
    labels, deviation = labels[labels != IGNORE], 0.5 / len(labels) ** 0.5
    assert abs((read == TOKENIZER.mask_token_id).float().mean() - 0.8) < 5 * deviation
    assert abs((read == labels).float().mean() - 0.1) < 5 * deviation


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_a_tokens_masks_are_weighted_draws_without_replacement(factor):
    masking = MaskingCollator(TOKENIZER, options(probability=0.25).masking, seed=SEED)
    often, rarely = masking.ordinary[:2]
    ids, repeats = np.array([[often] * 8 + [rarely] * 24]), 6000
    rates = AdaptiveRates(VOCABULARY, 2)
    with torch.no_grad():
        rates.rates[often] = factor
    rows = np.repeat(ids, repeats, axis=0)
    keys = masking.row_keys(np.zeros(repeats, dtype=np.int64), np.arange(repeats))
    batch = {name: torch.tensor(value) for name, value in draws(masking, rows, keys, np.ones(repeats, bool)).items()}
    assert room(masking, 32) == 8
    empty = torch.full((repeats * 8,), IGNORE)
    batch |= {"input_ids": torch.tensor(rows), "masked_labels": empty, "label_positions": torch.zeros_like(empty)}
    masked = rates.masked(batch, 0)["masked_labels"]
    rng = np.random.default_rng(0)  # NumPy draws one after the other, each by its weight among those that are left
    weights = np.where(ids[0] == often, factor, 1.0)
    theirs = [(rng.choice(32, 8, replace=False, p=weights / weights.sum()) < 8).sum() for _ in range(repeats)]
    ours = (masked.view(repeats, 8) == often).sum(1).numpy()
    assert abs(ours.mean() - np.mean(theirs)) < 5 * np.std(theirs) * (2 / repeats) ** 0.5
    assert abs(ours.std() - np.std(theirs)) < 0.05 * np.std(theirs)


def test_rates_follow_what_is_predicted_wrong():
    rates = AdaptiveRates(4, every=2)
    rates.observe(torch.tensor([1, 1, 1, 2, IGNORE, 0]), torch.tensor([1, 1, 0, 3, 0, 2]))
    rates.after_step(1)
    assert torch.equal(rates.rates, torch.ones(4))
    rates.observe(torch.tensor([1, 3]), torch.tensor([3, 3]))
    rates.forget()  # of a step that was not applied
    rates.observe(torch.tensor([1, 2]), torch.tensor([1, 3]))
    rates.after_step(2)
    accuracy = np.array([0.5 / 2, 3.5 / 5, 0.5 / 3, 0.5])  # the last was not seen
    moved = 0.2 + 0.8 * (1 - accuracy)
    assert rates.rates.numpy() == pytest.approx(moved / moved.mean())
    assert not rates.tokens.any()
    for step in range(3, 200):  # what is always right is still masked now and then
        rates.observe(torch.tensor([1, 0] * 50), torch.tensor([1, 3] * 50))
        rates.after_step(step)
    assert rates.rates.mean().item() == pytest.approx(1)
    assert 1 / 60 < rates.rates.min().item() < 1 / 15


@torch.no_grad()
def test_held_out_masks_do_not_move_and_only_training_is_counted():
    config = options(0.875)
    plain = batch_of(options(0.875, every=0), range(4), source=HELD_OUT)
    batch = batch_of(config, range(4), source=HELD_OUT)
    assert batch.keys() == plain.keys()
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
    module = objective(config).eval()
    module(batch)
    assert not module.rates.pending.any()
    module.train()(copy.deepcopy(batch_of(config, range(4))))
    assert module.rates.pending[1].sum() == collator(config).counts(batch_of(config, range(4)))["masked"]


@pytest.mark.parametrize("name", ["bert", pytest.param("modernbert", marks=pytest.mark.long)])
def test_a_step_is_one_graph(name):
    torch.compiler.reset()
    explained = torch._dynamo.explain(objective(options(0.6), name).float())(batch_of(options(0.6), range(4)))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


@pytest.mark.parametrize(("share", "unit", "every"), [(0.0, "token", 2), (1.0, "word", 2), (1.0, "token", -1)])
def test_what_has_no_rates_is_refused(share, unit, every):
    config = options(share, every=every)
    config.masking.unit = unit
    with pytest.raises(UserError, match=r"--hybrid\.adapt_every"):
        HybridLanguageModeling.completed(config)


def test_a_run_masks_more_of_what_is_hard(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.txt", 200)
    base = ["--data.sources", corpus, *TINY, "--model.name", "modernbert-tiny", "--train.steps", 30]
    options = ["--optimizer.lr", "3e-3", "--hybrid.adapt_every", 10, "--output_dir", tmp_path / "run"]
    printed = run("pretrain_hybrid.py", *base, *options)
    assert "masked most" in printed
    rates = torch.load(next((tmp_path / "run").glob("checkpoints/*30/training_state/objective.pt")))["rates.rates"]
    assert rates.mean().item() == pytest.approx(1, abs=1e-3)
    assert rates.std() > 0.05
