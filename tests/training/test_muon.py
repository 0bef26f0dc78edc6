"""Muon against its formula by singular values, and against torch's own."""

import pytest
import torch
from toys import tiny_model

from nlp_ssl.training.muon import COEFFICIENTS, ITERATIONS, Muon, layout_of, orthogonal


def by_singular_values(matrix):
    """What the iteration does to every singular value, in closed form."""
    u, s, vt = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vt


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 20)])
def test_the_iteration_is_its_polynomial_of_the_singular_values(shape):
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices, torch.float64)
    for one, expected in zip(found, map(by_singular_values, matrices), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-9)
    values = torch.linalg.svdvals(orthogonal(matrices).float())
    assert 0.5 < values.min() < values.max() < 1.3  # in bfloat16


def test_a_gradient_of_zero_is_no_step():
    assert (orthogonal(torch.zeros(2, 4, 4)) == 0).all()


def weights(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def test_without_fused_projections_it_is_torchs():
    """To the rounding of bfloat16, which the iteration amplifies to a few per cent of a step."""
    ours, theirs = (weights((16, 16), (48, 16), (16, 40), (16, 16)) for _ in range(2))
    before = [w.detach().clone() for w in ours]
    one = Muon(ours, lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        assert float((a - b).detach().norm() / (b.detach() - start).norm()) < 0.05


@pytest.mark.parametrize("name", ["modernbert", "gpt2"])
def test_fused_and_transposed_weights_move_as_their_parts_would(name):
    model = tiny_model(name)
    width = model.config.hidden_size
    layer = model.model.layers[0].attn.Wqkv if name == "modernbert" else model.transformer.h[0].attn.c_attn
    assert layout_of(model)[id(layer.weight)] == (3, name == "gpt2")
    start = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    laid = (lambda t: t.t()) if name == "gpt2" else (lambda t: t)
    apart = [torch.nn.Parameter(part.clone()) for part in laid(start).split(width)]
    for part, gradient in zip(apart, laid(layer.weight.grad).split(width), strict=True):
        part.grad = gradient.clone()
    Muon([layer.weight], module=model).step()
    Muon(apart).step()
    moved = laid(layer.weight.detach() - start)
    expected = torch.cat([part.detach() for part in apart]) - laid(start)
    torch.testing.assert_close(moved, expected)
    assert moved.norm() > 0


def test_projections_of_unequal_size_are_left_whole():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv_proj = torch.nn.Linear(32, 32 + 2 * 8)
            self.gate_up_proj = torch.nn.Linear(32, 2 * 56)
            self.out = torch.nn.Linear(32, 96)

    module = Attention()
    layout = layout_of(module)
    assert layout[id(module.qkv_proj.weight)] == (1, False)
    assert layout[id(module.gate_up_proj.weight)] == (2, False)
    assert layout[id(module.out.weight)] == (1, False)
