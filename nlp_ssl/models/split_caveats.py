"""What makes a step depend on how its batch is split over micro-batches and processes."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

_SPLIT = "another split of the batch gives"


def split_caveats(model: PreTrainedModel, precision: str = "no") -> list[str]:
    """Why another number of micro-batches or processes would not give this model the same step to float32's rounding.

    Args:
        model: the model to train.
        precision: Accelerate's `mixed_precision`: "no", "bf16" or "fp16".

    Returns:
        One line a reason; none where a step is the same under every split.
    """
    caveats = []
    if dropout := sorted({p for module in model.modules() for p in _dropouts(module) if p > 0}):
        listed = ", ".join(f"{p:g}" for p in dropout)
        caveats.append(f"dropout {listed}: {_SPLIT} other masks, so other numbers; --model.dropout 0 turns it off")
    for name in sorted({type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm)}):
        caveats.append(f"{name}: means and variances are those of a micro-batch; {_SPLIT} other numbers")
    if coefficient := getattr(model.config, "router_aux_loss_coef", None):
        caveats.append(
            f"experts: their balancing loss (router_aux_loss_coef {coefficient:g}), an average over a micro-batch, "
            "is left out"
        )
    coarse = {p.dtype for p in model.parameters() if torch.finfo(p.dtype).eps > torch.finfo(torch.float32).eps}
    for name in sorted(str(dtype).removeprefix("torch.") for dtype in coarse):
        caveats.append(f"weights in {name}: {_SPLIT} the same numbers only to their rounding")
    if precision != "no":
        caveats.append(f"{precision} arithmetic: {_SPLIT} the same loss and gradient only to its rounding")
    return caveats


def _dropouts(module: nn.Module) -> list[float]:
    """Probabilities with which a module drops something: of dropout layers, attention weights, whole layers."""
    if isinstance(module, _DropoutNd):
        return [module.p]
    return [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
