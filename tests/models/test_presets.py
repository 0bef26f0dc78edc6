"""Every preset builds, is as large as its model is known to be, and learns rows of the length it announces."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from nlp_ssl.core.errors import UserError
from nlp_ssl.models import presets
from nlp_ssl.models.loading import max_positions, model_class
from nlp_ssl.objectives.objective import find_objective
from nlp_ssl.runs.pretraining_data import RECIPE_OF

# (vocabulary, millions of parameters) as the papers and the Hub's checkpoints have them
KNOWN = {
    "bert-tiny": (30522, 4.4),
    "bert-mini": (30522, 11.2),
    "bert-small": (30522, 28.8),
    "bert-base": (30522, 109.5),
    "bert-large": (30522, 335.2),
    "roberta-base": (50265, 124.7),
    "roberta-large": (50265, 355.4),
    "modernbert-base": (50368, 149.7),
    "modernbert-large": (50368, 395.9),
    "deberta-v2-base": (128100, 184.4),
    "gpt2-small": (50257, 124.4),
    "gpt2-base": (50257, 354.8),
    "gpt2-large": (50257, 774.0),
    "llama-small": (49152, 134.5),
    "llama-base": (49152, 361.8),
    "t5-small": (32128, 60.5),  # version 1.1, with one table for embeddings and head
    "t5-base": (32128, 222.9),
    "t5-large": (32128, 750.3),
    "bart-base": (50265, 139.4),
    "bart-large": (50265, 406.3),
}
AUTO_CLASS = {
    "encoder": AutoModelForMaskedLM,
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}


def built(name, vocab_size):
    config = presets.preset_config(name, vocab_size, pad_token_id=1)
    kind = presets.FAMILIES[presets.split_name(name)[0]].kind
    auto_class = AUTO_CLASS[kind]
    with torch.device("meta"):
        return auto_class.from_config(config), auto_class


@pytest.mark.parametrize("name", KNOWN)
def test_as_large_as_the_model_it_is_named_after(name):
    vocab_size, millions = KNOWN[name]
    model, _ = built(name, vocab_size)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.012)


@pytest.mark.parametrize("family", presets.FAMILIES)
def test_every_size_builds_grows_isolates_and_holds_its_rows(family):
    sizes = []
    for size in presets.SIZES:
        name = f"{family}-{size}"
        model, auto_class = built(name, 1000)
        sizes.append(sum(p.numel() for p in model.parameters()))
        assert model.config.model_type == presets.FAMILIES[family].model_type
        objective = find_objective(RECIPE_OF[presets.FAMILIES[family].kind])
        assert objective.packed.can_isolate(model_class(model.config, auto_class))
        limit = max_positions(model.config)
        assert limit is None or presets.sequence_length(name) <= limit
    assert sizes == sorted(sizes)
    assert sizes[0] < 3e6
    assert sizes[-1] > 2.5e8


def test_fields_come_before_the_presets_own():
    assert presets.preset_config("gpt2-tiny", 300, num_hidden_layers=7).n_layer == 7
    config = presets.preset_config("modernbert-tiny", 300, num_hidden_layers=3, pad_token_id=1)
    assert config.num_hidden_layers == 3
    assert presets.preset_config("roberta-tiny", 300, pad_token_id=0).max_position_embeddings == 513


def test_names():
    assert presets.split_name("deberta-v2-base") == ("deberta-v2", "base")
    assert presets.split_name("bert-base-uncased") is None
    assert presets.split_name("runs/mlm") is None
    assert len(presets.preset_names()) == len(set(presets.preset_names())) == 45
    with pytest.raises(UserError, match=r"bert-huge.*bert, .*tiny, mini"):
        presets.preset_config("bert-huge", 100)


def test_gpt2s_activation_is_its_own_in_one_kernel():
    from transformers.activations import ACT2FN

    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    ours = ACT2FN[presets.preset_config("gpt2-tiny", 300).activation_function]
    torch.testing.assert_close(ours(x), ACT2FN["gelu_new"](x), rtol=1e-12, atol=1e-12)
