"""What pretraining taught changes slowly: rates that fall from layer to layer, layers that wait, layers that stay."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.config.finetuning import TransferConfig
from nlp_ssl.models.layers import layers_of

UNFROZEN = 0.5  # share of the run after which all layers learn, with `by_layers`


def freeze(model: PreTrainedModel, transfer: TransferConfig) -> None:
    """Fix everything below the head, where it is never to learn."""
    if transfer.unfreeze == "never":
        model.base_model.requires_grad_(False)


def depth_groups(
    model: PreTrainedModel, config: OptimizerConfig, transfer: TransferConfig, weight_decay: float
) -> list[dict]:
    """AdamW's parameter groups with the rate of each depth, the head's last.

    Depth 0 is the head, 1 the top layer (and what stands behind it), and so on down to the embeddings. A depth d > 0
    learns at `lr * layer_decay ** (d - 1)`; with `by_layers` it begins after the share `UNFROZEN * d / deepest` of the
    run. What is trained whole beside adapters, such as BERT's pooler, has the rate of the head. Weight decay touches
    matrices only: not biases, norms and embeddings.

    Args:
        model: with a head; parameters without `requires_grad` are left out.
        config: with `lr` resolved.
        transfer: what the depths are given.
        weight_decay: of the matrices.
    """
    depths = _depths(model)
    deepest = max(depths.values())
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = transfer.lora_rank is not None and ".lora_" not in name
        depth = 0 if whole else depths.get(id(parameter), 0)
        decays = parameter.ndim >= 2 and id(parameter) not in embeddings
        lr = config.lr * transfer.layer_decay ** (depth - 1) if depth else transfer.head_lr or config.lr
        begins = UNFROZEN * depth / deepest if transfer.unfreeze == "by_layers" else 0.0
        decay = weight_decay if decays else 0.0
        new: dict[str, Any] = {"params": [], "lr": lr, "weight_decay": decay, "begins": begins}
        groups.setdefault((depth, decays), new)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def _depths(model: PreTrainedModel) -> dict[int, int]:
    """How far below the head a parameter of the body stands, by its `id`: the top layer 1, embeddings the deepest."""
    body = model.base_model
    layers = layers_of(body)
    depths = {id(p): 1 for p in body.parameters()}  # such as the norm behind the layers
    for number, layer in enumerate(layers):
        depths |= {id(p): len(layers) - number for p in layer.parameters()}
    below = {id(p) for p in _embeddings(body)}
    return depths | dict.fromkeys(below, len(layers) + 1)


def _embeddings(body: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Those of words and positions, and the norm that belongs to them."""
    whole = getattr(body, "embeddings", None)
    parts = [whole] if isinstance(whole, nn.Module) else [m for m in body.children() if isinstance(m, nn.Embedding)]
    return [p for part in parts for p in part.parameters()]
