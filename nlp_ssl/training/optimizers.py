"""AdamW, and Muon for the matrices inside the layers."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.config.finetuning import TransferConfig
from nlp_ssl.training.layerwise import depth_groups
from nlp_ssl.training.muon import Muon

# Muon's steps all have the same length, so without decay the weights keep growing, and fine-tuning cannot move them
WEIGHT_DECAY = {"adamw": 0.01, "muon": 0.1}


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, transfer: TransferConfig | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a run, its groups with their peak rates in `group["peak_lr"]`.

    Weight decay touches matrices only: not biases, norms and embeddings.

    Args:
        model: what to train, alone or in an objective; parameters without `requires_grad` are left out.
        config: with `name` and `lr` resolved.
        transfer: rates by depth, for AdamW alone.
    """
    weight_decay = WEIGHT_DECAY[config.name] if config.weight_decay is None else config.weight_decay
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in trained if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for _, p in trained if p.ndim < 2 or id(p) in embeddings]
    if config.name == "muon":
        heads = _heads(model)
        # a single row or column is a vector
        inner = [p for _, p in trained if p.ndim == 2 and min(p.shape) > 1 and id(p) not in embeddings | heads]
        chosen = {id(p) for p in inner}
        matrices = [p for p in matrices if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": config.lr, "weight_decay": weight_decay},
        {"params": others, "lr": config.lr, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if transfer is not None and config.name == "adamw":
        groups = depth_groups(_whole(model), config, transfer, weight_decay)
    if config.scale_parameter:
        groups = [{**g, "params": [p], "lr": g["lr"] * _size(p)} for g in groups for p in g["params"]]
    beta1, beta2 = config.betas
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(beta1, beta2), eps=config.eps, fused=True)
    optimizer: torch.optim.Optimizer = adamw
    if config.name == "muon" and inner:
        muon = Muon(inner, lr=config.muon_lr, weight_decay=weight_decay, module=model)
        optimizer = MuonAdamW(muon, adamw)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def _size(parameter: nn.Parameter) -> float:
    """Its root mean square; of one that begins as zero, what Adafactor takes instead."""
    return max(1e-3, float(parameter.detach().double().square().mean().sqrt()))


def _whole(module: nn.Module) -> PreTrainedModel:
    """The model that rates by depth are for: a module's first."""
    return next(m for m in module.modules() if isinstance(m, PreTrainedModel))


def _heads(module: nn.Module) -> set[int]:
    """Ids of the parameters over the vocabulary, of every model in a module."""
    models = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    heads = [head for m in models if (head := m.get_output_embeddings()) is not None]
    return {id(p) for head in heads for p in head.parameters()}


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices inside the layers and AdamW for the rest, as one optimizer.

    Muon takes matrices only; embeddings, head, norms and biases need AdamW. The two share nothing; this
    class lets a scheduler, a gradient scaler and a checkpoint see one optimizer.

    Args:
        muon: with the matrices.
        adamw: with everything else.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.muon, self.adamw = muon, adamw
        super().__init__([{"params": [p]} for g in (*muon.param_groups, *adamw.param_groups) for p in g["params"]], {})
        self.param_groups = [*muon.param_groups, *adamw.param_groups]  # the same objects: rates set here hold there

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # it calls no closure
        """One step of both."""
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states, under their names."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Both states, under their names."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]
