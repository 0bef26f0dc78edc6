"""Rates by depth: every parameter once, falling from the head to the embeddings; what is to wait, waits."""

import pytest
import torch
from toys import tiny_config
from transformers import AutoModelForSequenceClassification

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.config.finetuning import TransferConfig
from nlp_ssl.training.layerwise import freeze
from nlp_ssl.training.optimizers import build_optimizer

FAMILIES = ["bert", "roberta", "modernbert", "deberta-v2", "distilbert", "electra", "gpt2", "llama"]
LAYERS = {"distilbert": "n_layers"}


def model(family, layers=3):
    config = tiny_config(family, **{LAYERS.get(family, "num_hidden_layers"): layers})
    config.update({"num_labels": 3, "pad_token_id": 0})
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_the_rate_of_its_depth(family):
    net = model(family)
    transfer = TransferConfig(layer_decay=0.5, head_lr=8.0, unfreeze="by_layers")
    optimizer = build_optimizer(net, OptimizerConfig(name="adamw", lr=1.0, weight_decay=0.1), transfer)
    rates = {id(p): (g["peak_lr"], g["begins"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(rates) == len(list(net.parameters()))
    body = {id(p) for p in net.base_model.parameters()}
    assert {rates[id(p)] for p in net.parameters() if id(p) not in body} == {(8.0, 0.0)}
    for name, parameter in net.base_model.named_parameters():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if numbers:
            assert rates[id(parameter)][0] == 0.5 ** (2 - numbers[0]), name
    words = net.get_input_embeddings().weight
    assert rates[id(words)] == (0.5**3, 0.5)
    begins = sorted({begin for _, begin in rates.values()})
    assert begins == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    assert optimizer.param_groups[-1]["peak_lr"] == 8.0  # the rate that the log shows
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            assert all(p.ndim >= 2 and p is not words for p in group["params"])


def test_without_wishes_the_groups_learn_as_before():
    net = model("bert")
    config = OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.1)
    expected = {
        id(p): (g["lr"], g["weight_decay"]) for g in build_optimizer(net, config).param_groups for p in g["params"]
    }
    found = build_optimizer(net, config, TransferConfig())
    assert {id(p): (g["lr"], g["weight_decay"]) for g in found.param_groups for p in g["params"]} == expected


def test_a_frozen_body_stands_still():
    net = model("modernbert")
    freeze(net, TransferConfig(unfreeze="never"))
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimizer = build_optimizer(net, OptimizerConfig(name="adamw", lr=0.1), TransferConfig(unfreeze="never"))
    net(torch.ones(2, 5, dtype=torch.long), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, _ in net.named_parameters() if not name.startswith("model.")}
