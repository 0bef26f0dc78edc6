"""What is decayed, what Muon takes, and a state that goes on bit by bit."""

import pytest
import torch
from toys import tiny_model

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training.optimizers import MuonAdamW, build_optimizer

NAMES = ["bert", "roberta", "modernbert", "deberta-v2", "albert", "gpt2", "llama"]


def make(model, name, **more):
    return build_optimizer(model, OptimizerConfig(name=name, lr=1e-2, weight_decay=0.1, **more))


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_once_and_no_decay_on_norms_biases_embeddings(name, optimizer_name):
    model = tiny_model(name)
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = make(model, optimizer_name)
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(found) == sorted(names)
    decayed = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for n in names.values():
        plain = n.endswith("bias") or "norm" in n.lower() or ".ln_" in n or "embed" in n or n.endswith(("wte.weight",))
        plain = plain and "embedding_hidden_mapping_in.weight" not in n  # ALBERT's projection is a matrix
        plain = plain or n.endswith("wpe.weight")
        assert (n in decayed) != plain, n


def test_decay_is_what_the_group_says():
    model = tiny_model("bert")
    optimizer = make(model, "adamw")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for n, p in model.named_parameters():
        factor = 1 - 1e-2 * 0.1 if p.ndim == 2 and "embeddings" not in n else 1.0
        torch.testing.assert_close(p.detach(), before[n] * factor, msg=n)


@pytest.mark.parametrize("name", NAMES)
def test_muon_takes_the_matrices_inside_the_layers(name):
    model = tiny_model(name)
    optimizer = make(model, "muon")
    assert isinstance(optimizer, MuonAdamW)
    muon = {id(p) for g in optimizer.muon.param_groups for p in g["params"]}
    head = {id(p) for p in model.get_output_embeddings().parameters()}
    embedded = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    assert muon
    assert not muon & (head | embedded)
    for n, p in model.named_parameters():
        if p.ndim == 2 and ("layer" in n or ".h." in n) and id(p) not in embedded:
            assert id(p) in muon, n
        assert p.ndim == 2 or id(p) not in muon


def test_an_objective_has_the_groups_of_its_models_and_heads_of_none_are_muons():
    asked = Objective(PackedModel(tiny_model("modernbert"), False))
    asked.generator, asked.own = tiny_model("bert"), torch.nn.Linear(8, 4)
    muon = {id(p) for g in make(asked, "muon").muon.param_groups for p in g["params"]}
    expected = {id(asked.own.weight)}
    for model in (asked.model.model, asked.generator):
        expected |= {id(p) for g in make(model, "muon").muon.param_groups for p in g["params"]}
        assert not muon & {id(p) for p in model.get_output_embeddings().parameters()}
    assert muon == expected
    decayed = {id(p) for g in make(asked, "adamw").param_groups if g["weight_decay"] for p in g["params"]}
    alone = (make(model, "adamw") for model in (asked.model.model, asked.generator))
    of_models = {id(p) for each in alone for g in each.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == of_models | {id(asked.own.weight)}


def test_frozen_parameters_are_left_out():
    model = tiny_model("bert")
    model.bert.embeddings.requires_grad_(False)
    frozen = {id(p) for p in model.bert.embeddings.parameters()}
    for name in ("adamw", "muon"):
        found = {id(p) for g in make(model, name).param_groups for p in g["params"]}
        assert found
        assert not found & frozen


def test_rates_set_on_the_groups_hold():
    model = tiny_model("modernbert")
    optimizer = make(model, "muon", muon_lr=0.05)
    assert sorted({g["peak_lr"] for g in optimizer.param_groups}) == [1e-2, 0.05]
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    gradients(model, 0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_stored_state_goes_on_bit_by_bit(name, tmp_path):
    def run(model, optimizer, steps):
        for step in steps:
            gradients(model, step)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * (1 - step / 10)
            optimizer.step()

    whole = tiny_model("modernbert")
    run(whole, make(whole, name), range(6))
    first = tiny_model("modernbert")
    optimizer = make(first, name)
    run(first, optimizer, range(3))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second = tiny_model("modernbert")
    second.load_state_dict(first.state_dict())
    optimizer = make(second, name)
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt"))
    run(second, optimizer, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_parts_are_torchs_own_muon_and_adamw():
    ours, theirs = tiny_model("bert"), tiny_model("bert")
    optimizer = make(ours, "muon")
    chosen = {id(p) for g in optimizer.muon.param_groups for p in g["params"]}
    matrices, rest, plain = [], [], []
    for (n, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        (matrices if id(a) in chosen else plain if a.ndim < 2 or "embeddings" in n else rest).append(b)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95)
    groups = [{"params": rest, "weight_decay": 0.1}] if rest else []
    adamw = torch.optim.AdamW([*groups, {"params": plain, "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.98))
    for step in range(3):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        muon.step()
        adamw.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
def test_with_scaled_rates_every_weight_moves_by_the_same_share_of_its_size(optimizer_name):
    model = tiny_model("bert")
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.fill_(0.0) if n.endswith("bias") else p.mul_(1 + len(n))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(
        model, OptimizerConfig(name=optimizer_name, lr=1e-2, weight_decay=0, scale_parameter=True)
    )
    by_adamw = {id(p) for g in optimizer.param_groups for p in g["params"] if "betas" in g}
    gradients(model, 1)
    optimizer.step()  # AdamW's first one moves every entry by its rate
    for n, p in model.named_parameters():
        if id(p) in by_adamw:
            size = max(1e-3, float(before[n].square().mean().sqrt()))
            moved = (p.detach() - before[n]).abs()
            torch.testing.assert_close(moved, torch.full_like(moved, 1e-2 * size), rtol=1e-3, atol=1e-6, msg=n)
    assert len(by_adamw) > 10
