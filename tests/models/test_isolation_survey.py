"""Every architecture of the installed transformers: kept apart as plain transformers reads it alone, or refused.

A minute and a half, so by hand: `pytest -m long tests/models/test_isolation_survey.py -s` prints the table.
"""

import copy
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.attention import ISOLATED
from nlp_ssl.models.checks import check_isolation
from nlp_ssl.models.loading import model_class
from nlp_ssl.models.packed import PackedModel

# what families call their sizes; a field that a family does not have is left out
WIDTH, FEED_FORWARD, HEADS, LAYERS = 32, 64, 2, 4
SMALL = dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), WIDTH)
SMALL |= dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner"), FEED_FORWARD)
SMALL |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), FEED_FORWARD)
SMALL |= dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), HEADS)
SMALL |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_experts_per_tok"), HEADS)
SMALL |= dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS)
SMALL |= dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4)
SMALL |= {"encoder_layers": 2, "decoder_layers": 2, "vocab_size": 100, "head_dim": 16, "sliding_window": 5}
SMALL |= {"max_position_embeddings": 64, "n_positions": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def small_model(config_class, auto_class):
    """A tiny model with isolated attention; `None` where it cannot isolate, or these sizes do not make one."""
    try:
        plain = config_class()
        if getattr(plain, "text_config", None) is not None:
            return None
        config = config_class(**{key: value for key, value in SMALL.items() if hasattr(plain, key)})
        for key, value in config.to_dict().items():
            if isinstance(value, float) and ("dropout" in key or key.endswith("_pdrop")):
                setattr(config, key, 0.0)
        if not PackedModel.can_isolate(model_class(config, auto_class)):
            return None
        kind = model_class(config, auto_class)
        extra = {"attn_implementation": ISOLATED} if kind._supports_attention_backend else {}
        torch.manual_seed(0)
        model = kind._from_config(config, dtype=torch.float32, **extra)
    except Exception:  # foreign configurations fail in foreign ways
        return None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@torch.no_grad()
def distance_from_plain(model):
    """A packed document's logits against those of a plain copy of the model that reads it alone."""
    attention = "sdpa" if model._supports_sdpa else "eager"
    plain = type(model)._from_config(copy.deepcopy(model.config), dtype=torch.float32, attn_implementation=attention)
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(3, 100, (1, 21), generator=torch.Generator().manual_seed(2))
    documents = torch.tensor([[1] * 9 + [2] * 12])
    positions = torch.cat([torch.arange(9), torch.arange(12)])[None]
    packed = PackedModel(model, True).eval()
    together = packed(ids, document_ids=documents, position_ids=positions)[:, 9:]
    alone = plain.eval()(input_ids=ids[:, 9:], **({"use_cache": False} if packed.takes_cache else {})).logits
    return float((together - alone).abs().max() / alone.abs().max())


@pytest.mark.long
def test_every_architecture_is_apart_and_right_or_refused():
    outcomes = {}
    for auto_class in (AutoModelForMaskedLM, AutoModelForCausalLM):
        for config_class in auto_class._model_mapping:
            name = f"{auto_class.__name__[12:]} {config_class.model_type}"
            if (model := small_model(config_class, auto_class)) is None:
                outcomes[name] = "one document a row, or not tried"
                continue
            try:
                check_isolation(PackedModel(model, True), 100, sequence_length=48)
            except UserError as refusal:
                outcomes[name] = f"refused: {str(refusal)[:150]}"
            else:
                outcomes[name] = "apart"
                assert distance_from_plain(model) < 1e-4, name
    for name, outcome in sorted(outcomes.items(), key=lambda item: (item[1], item[0])):
        print(f"{outcome}: {name}")
    counts = Counter(outcome.split(":")[0] for outcome in outcomes.values())
    print(counts)
    assert all("give --tokens.packing one_document" in o for o in outcomes.values() if o.startswith("refused"))
    assert counts["apart"] >= 90  # transformers 5.23: 104
