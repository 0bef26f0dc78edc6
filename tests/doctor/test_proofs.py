"""The proofs find nothing where nothing is wrong, and finds what was put there."""

import math

import pytest
import torch
from accelerate import Accelerator
from toys import packed_rows, tiny_model, tokenizer

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.doctor.proofs import Trajectory, difference, isolation, parity, stock_copy
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling
from nlp_ssl.training.optimizers import build_optimizer

ROW_LENGTH = 64


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return packed_rows(tmp_path_factory.mktemp("tokens"), sequence_length=ROW_LENGTH)


@pytest.fixture(scope="module")
def numbers(rows):
    """Some rows of several documents, of which one is long."""
    pieces = {i: rows.row_pieces(i)["length"] for i in range(len(rows))}
    return [i for i, lengths in pieces.items() if len(lengths) > 2 and lengths.max() > 20][:4]


def packed_model(name, *, isolated=True, dropout=0.0):
    t = tokenizer("bpe")
    roles = {f"{role}_token_id": getattr(t, f"{role}_token_id") for role in ("pad", "bos", "eos", "cls", "sep")}
    roles["max_position_embeddings"] = ROW_LENGTH + 1 + t.pad_token_id  # RoBERTa's begin behind its padding index
    if name == "gpt2":
        roles["n_positions"] = roles.pop("max_position_embeddings")
    model = tiny_model(name, isolated=isolated, vocab_size=len(t), dropout=dropout, **roles)
    return PackedModel(model.double(), isolated)


# ---------------------------------------------------------------------------------------------------------------------
# parity


def test_differences_by_hand():
    def made(losses, gradient, parameters):
        return Trajectory(
            losses, [1.0], *({"a": torch.tensor(v[:1]), "b": torch.tensor(v[1:])} for v in (gradient, parameters))
        )

    true = made([2.0, 4.0], [3.0, 4.0], [0.0, 1.0])
    found = difference(made([2.0, 5.0], [3.0, 4.5], [0.25, 1.0]), true)
    assert (found.loss, found.gradient, found.parameters) == pytest.approx((0.25, 0.1, 0.25))
    assert difference(true, true) == difference(found=true, expected=true)
    assert difference(true, true).parameters == 0
    assert math.isnan(difference(made([2.0, math.nan], [3.0, 4.0], [0.0, 1.0]), true).loss)


class MeansOfRows(MaskedLanguageModeling):
    """Its loss is no sum."""

    def forward(self, batch):
        return {"mlm": super().forward(batch)["mlm"] / len(batch["input_ids"])}


class CountsTokens(MaskedCollator):
    """Not what the loss is a sum over."""

    def counts(self, batch):
        return {"mlm": batch["input_ids"].numel()}


def split_matters(rows, dropout=0.0, objective=MaskedLanguageModeling, collator=MaskedCollator):
    """What `parity` says of BERT on 8 rows per step, in micro-batches of 3 against one of 8."""

    def make(micro_batch):
        module = objective(packed_model("bert", dropout=dropout), tokenizer("bpe"), None)
        optimizer = build_optimizer(module, OptimizerConfig(name="adamw", lr=1e-3))
        reader = collator(MaskingCollator(tokenizer("bpe")))
        return module, optimizer, TrainBatches(Phases([Phase(rows, 8, micro_batch)]), reader, seed=0)

    return parity(make, (8, 3), Accelerator(cpu=True))[3]


def test_parity_is_rounding_where_it_holds(rows):
    found = split_matters(rows)
    assert max(found.loss, found.gradient, found.parameters) < 1e-12


MISTAKES = {"means": {"objective": MeansOfRows, "collator": CountsTokens}, "dropout": {"dropout": 0.1}}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_parity_shows_a_loss_that_is_no_sum_and_masks_that_follow_the_split(rows, mistake):
    found = split_matters(rows, **mistake)
    assert min(found.loss, found.gradient, found.parameters) > 1e-4


# ---------------------------------------------------------------------------------------------------------------------
# isolation


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "deberta-v2", "gpt2", "llama", "mistral"])
def test_isolated_documents_are_alone(rows, numbers, name):
    packed = packed_model(name).train()
    found = isolation(packed, rows, numbers)
    assert found.num_documents == sum(len(rows.row_pieces(i)) for i in numbers)
    assert found.longest > 20  # beyond the windows of ModernBERT and Mistral here
    assert found.num_pairs >= 6 * len(numbers) > 0
    assert found.leaks == 0
    assert found.alone < 1e-12
    assert packed.training


def test_documents_that_see_each_other_are_found(rows, numbers):
    """Stock attention with a mask of ones, as anyone's packing has it."""
    packed = packed_model("bert", isolated=False)
    found = isolation(packed, rows, numbers)
    counts = [len(rows.row_pieces(i)) for i in numbers]
    assert found.leaks == found.num_pairs == sum(n * (n - 1) for n in counts)  # everyone sees everyone
    assert found.alone > 1e-3


def test_a_window_that_is_one_too_wide_is_found(rows, numbers):
    packed = packed_model("modernbert")
    for layer in packed.model.model.layers:
        if layer.attn.sliding_window is not None:
            layer.attn.sliding_window += 1
    found = isolation(packed, rows, numbers)
    assert found.leaks == 0
    assert found.alone > 1e-3


def test_a_lost_causality_is_found(rows, numbers):
    packed = packed_model("llama")
    for layer in packed.model.model.layers:
        layer.self_attn.is_causal = False
    found = isolation(packed, rows, numbers)
    assert found.leaks == 0
    assert found.alone > 1e-3


def test_the_witness_has_stock_attention_and_the_same_weights():
    packed = packed_model("bert")
    plain = stock_copy(packed.model)
    assert plain.config._attn_implementation == "sdpa"
    assert packed.model.config._attn_implementation == "isolated"
    for a, b in zip(plain.parameters(), packed.model.parameters(), strict=True):
        assert a is not b
        assert torch.equal(a, b)
