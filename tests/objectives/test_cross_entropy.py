"""The summed cross-entropy against torch's own, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from nlp_ssl.objectives import cross_entropy
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy


def case(rows, vocabulary, dtype, ignored=0.2):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(rows, vocabulary, generator=generator) * 4).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < ignored] = IGNORE
    return logits, labels


def both(logits, labels, factor=0.37):
    """((loss, gradient) of ours, and of torch's in float64)."""
    ours = summed_cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(ours * factor, logits)
    exact = logits.detach().double().requires_grad_()
    theirs = F.cross_entropy(exact, labels, ignore_index=IGNORE, reduction="sum")
    (expected,) = torch.autograd.grad(theirs * factor, exact)
    return (ours, gradient), (theirs, expected)


@pytest.mark.parametrize("block", [1, 40, 10**6])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_value_and_gradient_are_torchs(dtype, rounding, block, monkeypatch):
    monkeypatch.setitem(cross_entropy._BLOCK, "cpu", block)
    logits, labels = case(53, 17, dtype)
    (ours, gradient), (theirs, expected) = both(logits, labels)
    assert ours.dtype == torch.promote_types(dtype, torch.float32)
    assert gradient.dtype == dtype
    assert ours.item() == pytest.approx(theirs.item(), rel=min(rounding, 1e-6))  # the sum is never half precision
    torch.testing.assert_close(gradient.double(), expected, rtol=rounding, atol=rounding / 5)  # p - 1
    assert (gradient[labels == IGNORE] == 0).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_weights_multiply_and_an_id_that_never_comes_has_no_probability(compiled, monkeypatch):
    monkeypatch.setitem(cross_entropy._BLOCK, "cpu", 40)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    logits, labels = case(53, 17, torch.float64)
    labels[labels == 3] = 4
    weights = torch.rand(53, dtype=torch.float64) * 9
    ours = summed_cross_entropy(logits, labels, weights, never=3)
    (gradient,) = torch.autograd.grad(ours * 0.37, logits)
    exact = logits.detach().requires_grad_()
    without = torch.cat([exact[:, :3], exact[:, 4:]], dim=1)
    theirs = F.cross_entropy(without, labels - (labels > 3).long(), ignore_index=IGNORE, reduction="none")
    (expected,) = torch.autograd.grad((theirs * weights).sum() * 0.37, exact)
    assert ours.item() == pytest.approx((theirs * weights).sum().item(), rel=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-15)
    assert (gradient[:, 3] == 0).all()


def test_nothing_asked_is_no_loss_and_no_gradient():
    logits, labels = case(8, 5, torch.float32, ignored=1.1)
    (ours, gradient), _ = both(logits, labels)
    assert ours.item() == 0
    assert (gradient == 0).all()


def test_improbable_labels_and_infinities():
    logits = torch.tensor([[0.0, 200.0], [0.0, 90.0]], requires_grad=True)
    (ours, _), (theirs, _) = both(logits, torch.tensor([0, 1]))
    assert ours.item() == pytest.approx(theirs.item()) == pytest.approx(200)
    for bad in (float("inf"), float("nan")):
        loss = summed_cross_entropy(torch.tensor([[bad, 0.0], [1.0, 2.0]]), torch.tensor([0, 1]))
        assert loss.isnan()  # and not averaged away
    ignored = summed_cross_entropy(torch.tensor([[float("nan"), 0.0], [1.0, 2.0]]), torch.tensor([IGNORE, 1]))
    assert ignored.isfinite()  # nothing was asked there


def test_only_the_precision_of_the_logits_is_kept():
    """Nothing of the vocabulary's size is kept for the backward pass but the gradient."""
    logits, labels = case(64, 1000, torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        summed_cross_entropy(logits, labels)
    assert sum(t.numel() * t.element_size() for t in kept) == logits.numel() * 2
    with torch.no_grad():
        assert summed_cross_entropy(logits, labels).item() > 0
