"""The gradient of a step, added up over its micro-batches: one pass, or two for losses over all vectors of the step."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from nlp_ssl.data.sequences.batches import Batch, MicroBatch
from nlp_ssl.objectives.gathering import gather_rows
from nlp_ssl.objectives.objective import Objective


def accumulate(
    module: nn.Module, batches: Sequence[MicroBatch], factors: Mapping[str, float], accelerator: Accelerator
) -> dict[str, Tensor]:
    """Backward passes of a step's micro-batches.

    Args:
        module: an `Objective`, prepared by `accelerator`.
        batches: this process's micro-batches.
        factors: weight of each loss term over its targets in the whole step.
        accelerator: precision and processes.

    Returns:
        For each term this process's sum, detached, 0-d.
    """
    objective: Objective = accelerator.unwrap_model(module, keep_fp32_wrapper=True)
    objective.before_step()
    if objective.two_pass:
        return _in_two_passes(module, objective, batches, factors, accelerator)
    totals: dict[str, Tensor] = {}
    for batch in _synchronized_at_the_end(module, batches, accelerator):
        sums = module(_on_device(batch, accelerator))
        # DDP takes the mean over processes
        here = {name: factor for name, factor in factors.items() if name in sums}
        accelerator.backward(_weighted(sums, {k: f * accelerator.num_processes for k, f in here.items()}))
        for name in here:
            totals[name] = sums[name].detach() + totals.get(name, 0.0)
    return totals


def _in_two_passes(
    module: nn.Module,
    objective: Objective,
    batches: Sequence[MicroBatch],
    factors: Mapping[str, float],
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """The gradient of a loss that is no sum over micro-batches (GradCache: Gao et al. 2021).

    All vectors of the step are made without gradient and gathered over micro-batches and processes; the loss of all of
    them is computed once, on every process alike, with its gradient for each vector; and each micro-batch is read again
    and given that of its own. It costs one forward pass more, and is the same for every split.
    """
    states, parts = [], []
    with torch.no_grad(), accelerator.autocast():
        for batch in batches:
            states.append(_random_state(accelerator.device))
            parts.append(objective(_on_device(batch, accelerator))["vectors"])
    everyones, sizes = gather_rows(torch.cat(parts))
    vectors = everyones.detach().requires_grad_()
    sums = objective.loss_of_vectors(vectors)
    (gradient,) = torch.autograd.grad(_weighted(sums, factors), vectors)
    begin = sum(sizes[: accelerator.process_index])
    after = _random_state(accelerator.device)
    for i, batch in enumerate(_synchronized_at_the_end(module, batches, accelerator)):
        _restore(states[i], accelerator.device)  # the same dropout
        found = module(_on_device(batch, accelerator))["vectors"]
        end = begin + len(found)
        accelerator.backward((found * gradient[begin:end]).sum() * accelerator.num_processes)
        begin = end
    _restore(after, accelerator.device)
    return {name: sums[name].detach() / accelerator.num_processes for name in factors}  # every process has all of it


def _weighted(sums: Mapping[str, Tensor], factors: Mapping[str, float]) -> Tensor:
    first, *others = (sums[name] * factor for name, factor in factors.items())
    return sum(others, first)


def _on_device(batch: MicroBatch, accelerator: Accelerator) -> Batch:
    return send_to_device(batch.inputs, accelerator.device, non_blocking=True)


def _synchronized_at_the_end(
    module: nn.Module, batches: Sequence[MicroBatch], accelerator: Accelerator
) -> Iterator[MicroBatch]:
    """The micro-batches; gradients are added up over processes with the last one."""
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(module):
            yield batch


def _random_state(device: torch.device) -> tuple[Any, ...]:
    """What dropout will be drawn from."""
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []))


def _restore(state: tuple[Any, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
