"""A model that a split of the batch changes says so; one that it does not change is silent."""

import pytest
import torch
from toys import CAUSAL, MASKED, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from nlp_ssl.models.split_caveats import split_caveats


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_dropout_anywhere_is_named_and_none_is_not(name):
    assert split_caveats(tiny_model(name)) == []
    (caveat,) = split_caveats(tiny_model(name, dropout=0.25))
    assert caveat.startswith("dropout 0.25: ")
    # what is named is what happens: two passes over the same tokens differ
    model, ids = tiny_model(name, dropout=0.25).train(), torch.arange(5, 25)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_batch_statistics_are_named():
    model = tiny_model("bert")
    model.bert.encoder.layer[0].output.LayerNorm = torch.nn.BatchNorm1d(32)
    (caveat,) = split_caveats(model)
    assert caveat.startswith("BatchNorm1d: ")


def test_a_balancing_loss_of_experts_is_named_and_experts_without_one_are_not():
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_local_experts": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 100}
    for coefficient in (0.02, 0.0):
        config = AutoConfig.for_model("mixtral", router_aux_loss_coef=coefficient, **shape)
        caveats = split_caveats(AutoModelForCausalLM.from_config(config))
        assert [c.startswith("experts: ") and "0.02" in c for c in caveats] == [True] * (coefficient > 0)


def test_rounding_coarser_than_float32_is_named():
    assert split_caveats(tiny_model("bert").double()) == []
    (weights,) = split_caveats(tiny_model("bert").bfloat16())
    assert "weights in bfloat16" in weights
    (arithmetic,) = split_caveats(tiny_model("bert"), "bf16")
    assert arithmetic.startswith("bf16 arithmetic")
