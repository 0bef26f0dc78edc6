"""Logits only where there are labels: the same as the full head's, forward and backward."""

import pytest
import torch
from toys import CAUSAL, MASKED, tiny_model

from nlp_ssl.models.label_gather import LabelledPositions

IDS = torch.randint(5, 100, (3, 17), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.tensor([0, 4, 16, 17, 30, 50, 0, 0])  # as MLM gives them: spare slots point at 0


@torch.no_grad()
@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_sparse_logits_are_the_full_ones(name):
    model = tiny_model(name)
    labelled = LabelledPositions(model)
    full = model(IDS).logits
    labelled.positions = POSITIONS
    sparse = model(IDS).logits
    assert sparse.shape == (1, len(POSITIONS), full.shape[-1])
    torch.testing.assert_close(sparse[0], full.flatten(0, 1)[POSITIONS], rtol=1e-5, atol=1e-5)
    labelled.positions = None
    assert torch.equal(model(IDS).logits, full)


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "electra", "gpt2"])
def test_gradients_are_the_full_ones(name):
    gradients = []
    for sparse in (False, True):
        model = tiny_model(name)
        if sparse:
            LabelledPositions(model).positions = POSITIONS[:6]
            logits = model(IDS).logits[0]
        else:
            logits = model(IDS).logits.flatten(0, 1)[POSITIONS[:6]]
        torch.nn.functional.cross_entropy(logits, torch.arange(6), reduction="sum").backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_head_computes_on_labelled_tokens_only():
    model = tiny_model("bert")
    seen = []
    model.cls.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    LabelledPositions(model).positions = POSITIONS
    model(IDS)
    assert seen == [(1, len(POSITIONS), 32)]
