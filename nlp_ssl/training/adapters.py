"""LoRA through peft: the matrices of the layers stay as they are, each with a product of two thin ones beside it.

Only the thin ones and the head are trained (Hu et al. 2021). What is saved is an ordinary model: the products are added
to the matrices that they stand beside.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nlp_ssl.core.errors import UserError

# the best rate is so much higher than without (Schulman et al. 2025, "LoRA without regret")
LR_FACTOR = 10
HIGHEST_LR = 2e-3  # ten times the rate of a model of 128 is too much: it learns nothing at 5e-3
ALPHA = 2  # of the rank: the factor of the products, as is customary


def check_peft() -> None:
    """Refuse adapters where peft cannot be imported.

    Raises:
        UserError: it is not installed, or too old for this transformers.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError(f"--transfer.lora_rank needs peft ({error}): pip install -U peft") from None


def add_adapters(model: PreTrainedModel, rank: int) -> None:
    """Put a low-rank product beside every linear map of the layers, and fix everything else below the head.

    A pooler, which is part of BERT's base but not of what it was pretrained for, is trained whole.

    Args:
        model: with a head; changed in place.
        rank: inner size of the products.

    Raises:
        UserError: peft cannot adapt this architecture.
    """
    from peft import LoraConfig, inject_adapter_in_model

    body = model.base_model
    names = [name for name, module in body.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    names = [name for name in names if name.split(".")[0] != "pooler"]
    transposed = any(isinstance(body.get_submodule(name), Conv1D) for name in names)
    lora = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=names, fan_in_fan_out=transposed)
    try:
        inject_adapter_in_model(lora, body)
    except ValueError as error:  # such as Mamba's, whose kernels read the matrices past any adapter
        raise UserError(
            f"--transfer.lora_rank: {type(body).__name__} takes no adapters ({' '.join(str(error).split())[:150]})"
        ) from None
    if getattr(body, "pooler", None) is not None:
        body.pooler.requires_grad_(True)


def _adapted(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def is_adapted(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return bool(_adapted(model))


@torch.no_grad()
def merge(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model with adapters, as the model without them has them.

    Args:
        model: says where there are adapters; without any, nothing changes.
        weights: a copy of its `state_dict`.
    """
    merged = {name.replace(".base_layer.", "."): value for name, value in weights.items() if ".lora_" not in name}
    for name, module in _adapted(model).items():
        down, up = (weights[f"{name}.lora_{which}.default.weight"] for which in "AB")
        product = module.scaling["default"] * (up @ down)
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + (product.T if module.fan_in_fan_out else product)
    return merged
