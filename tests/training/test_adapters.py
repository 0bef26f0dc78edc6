"""Low-rank adapters: what learns, and that the model which is saved says what the trained one says."""

import copy

import pytest
import torch
from toys import tiny_model
from transformers import AutoModelForSequenceClassification

from nlp_ssl.objectives.classification import Classification
from nlp_ssl.training.adapters import add_adapters, merge
from nlp_ssl.training.objective_state import unpublished

FAMILIES = ["bert", "roberta", "modernbert", "deberta-v2", "distilbert", "electra", "gpt2", "llama"]
RANK = 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_says_the_same(family):
    plain = tiny_model(family, auto_class=AutoModelForSequenceClassification, num_labels=3, pad_token_id=1).double()
    adapted = copy.deepcopy(plain)
    add_adapters(adapted, RANK)
    adapted.double()
    learns = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    body = {name for name in learns if name.startswith(adapted.base_model_prefix) and ".pooler." not in name}
    assert body
    assert all(".lora_" in name for name in body)
    head = {name for name, _ in plain.named_parameters() if not name.startswith(plain.base_model_prefix)}
    assert head <= learns  # whole

    ids = torch.randint(5, 100, (3, 12), generator=torch.Generator().manual_seed(0))
    before = plain(input_ids=ids).logits
    torch.testing.assert_close(adapted(input_ids=ids).logits, before, rtol=0, atol=1e-12)  # they begin as nothing
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in learns:
            parameter = adapted.get_parameter(name)
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
    after = adapted(input_ids=ids).logits
    assert (after - before).abs().max() > 1e-3

    merged = merge(adapted, copy.deepcopy(adapted.state_dict()))
    assert merged.keys() == plain.state_dict().keys()
    for name, matrix in plain.base_model.named_parameters():
        change = merged[f"{plain.base_model_prefix}.{name}"] - matrix
        if change.abs().max() > 0 and not name.startswith("pooler."):
            assert torch.linalg.matrix_rank(change.detach()) == RANK, name
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(input_ids=ids).logits, after, rtol=0, atol=1e-10)
    # all that learns is kept: adapters beside the model, in the objective's names, and the rest in it, in its own
    assert unpublished(Classification(adapted, None)).keys() == {f"model.{name}" for name in body}
    assert learns - body <= merged.keys()
    assert unpublished(Classification(plain, None)) == {}
