"""The weights of an objective in a checkpoint: its published models as Hub folders, and the rest beside them.

What is published is what plain transformers loads: adapters are added to their matrices, a parametrized weight is its
value. What no published model holds goes to `training_state/objective.pt`: other heads, a moving average, a queue, the
parts of such a matrix.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.loading import readable_weights
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training.adapters import is_adapted, merge
from nlp_ssl.training.state_files import read_tensors

STATE = "training_state"
OBJECTIVE = f"{STATE}/objective.pt"
FORMER_ADAPTERS = f"{STATE}/trained.pt"  # of formats up to 3: the trained weights of a model with adapters
PARTS = (".parametrizations.", ".base_layer.", ".lora_")  # in the names of what is not published under its own


def published_weights(model: nn.Module) -> dict[str, Tensor]:
    """The `state_dict` of a model in which every parametrized weight is its value; adapters are as they are."""
    weights = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in name}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for tensor in module.parametrizations:
                weights[f"{name}.{tensor}"] = getattr(module, tensor).detach()
    return weights


def unpublished(objective: Objective) -> dict[str, Tensor]:
    """The part of an objective's `state_dict` that its published models do not hold."""
    there = {
        _identity(value)
        for model in objective.published().values()
        for name, value in model.state_dict().items()
        if not any(part in name for part in PARTS)
    }
    # what stands below adapters does not change, and comes with the model that training began from
    state = {name: value for name, value in objective.state_dict().items() if ".base_layer." not in name}
    never = tuple(f"{name}." for name in objective.unsaved)
    return {n: value for n, value in state.items() if _identity(value) not in there and not n.startswith(never)}


def load_weights(folder: Path, objective: Objective) -> None:
    """Load the weights of a checkpoint in place.

    Args:
        folder: of the checkpoint.
        objective: as it was made for the run that wrote it.

    Raises:
        UserError: it is of another objective, or a model with adapters stands on other weights than it was trained on.
    """
    former, loaded = folder / FORMER_ADAPTERS, {}
    for name, model in objective.published().items():
        if not (folder / name / "config.json").is_file():
            raise UserError(f"{folder} is of another objective: it holds no model {name}/, which this one has")
        stored = loaded[name] = _stored(folder / name, model)
        own = model.state_dict()
        plain = {key for key in own if not any(part in key for part in PARTS)}
        if missing := sorted(plain - stored.keys()):
            raise UserError(f"{folder / name} is of another objective: it has no {missing[0]}")
        model.load_state_dict({key: value for key, value in stored.items() if key in plain}, strict=False)
        if former.exists():
            model.load_state_dict(read_tensors(former), strict=False)
    if not former.exists():
        rest = read_tensors(folder / OBJECTIVE) if (folder / OBJECTIVE).exists() else {}
        if rest.keys() != unpublished(objective).keys():
            raise UserError(
                f"the training state in {folder} is of another objective ({OBJECTIVE} does not hold what this one "
                "keeps); resume with the recipe and options that it was made with"
            )
        objective.load_state_dict(rest, strict=False)
    for name, model in objective.published().items():
        if is_adapted(model):
            _check_base(folder / name, model, loaded[name])


def _stored(folder: Path, model: PreTrainedModel) -> Mapping[str, Tensor]:
    eager = {"use_safetensors": True, "attn_implementation": "eager"}
    with readable_weights(str(folder)):
        plain = type(model).from_pretrained(folder, dtype=model.dtype, **eager)
    return plain.state_dict()


def _check_base(folder: Path, model: PreTrainedModel, stored: Mapping[str, Tensor]) -> None:
    """Refuse adapters on other matrices than those that they were trained on."""
    merged = merge(model, model.state_dict())
    changed = [name for name, value in stored.items() if not torch.allclose(value, merged[name].cpu(), 1e-4, 1e-5)]
    if changed:
        raise UserError(
            f"{folder} was trained from other weights than --model.name now gives (they differ in {changed[0]}); "
            "give the model that the run began from"
        )


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
