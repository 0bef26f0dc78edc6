"""The largest micro-batch that a GPU holds, found by trying."""

import math
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import Collator, MicroBatch, Rows
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.objectives.objective import Objective

STATE = 12  # bytes of a parameter besides itself and its gradient: AdamW's two moments, and DDP's copy of the gradient


def find_micro_batch(
    module: Objective,
    rows: Rows,
    collator: Collator,
    share: int,
    accelerator: Accelerator,
) -> int:
    """The largest of a process's share of a batch, its half, its quarter, ... whose forward and backward pass fit.

    Tried with room left for the optimizer, and not compiled, which takes a little more memory than compiled. All
    processes call this, and get the smallest that any of them found.

    Args:
        module: not yet prepared, on the accelerator's device or not; its gradients are gone afterwards.
        rows: to make batches of.
        collator: makes them.
        share: rows of a global batch that one process has.
        accelerator: device and precision.

    Raises:
        UserError: not even one row fits.
    """
    device, was_training = accelerator.device, module.training
    module.to(device).train()
    parameters = [p for p in module.parameters() if p.requires_grad]

    def fits(count: int) -> bool:
        numbers = np.arange(count) % len(rows)
        batch = MicroBatch.of(Selection(rows, numbers, np.zeros_like(numbers)), collator)
        try:
            state: torch.Tensor | None = torch.empty(
                STATE * sum(p.numel() for p in parameters), dtype=torch.uint8, device=device
            )
            with accelerator.autocast():
                loss = sum(value.sum() for value in module(send_to_device(batch.inputs, device)).values())
            loss.backward()
        except torch.OutOfMemoryError:
            return False
        finally:
            state = loss = None  # noqa: F841 - let go of before the next try
            module.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        return True

    found = largest_that_fits(share, fits)
    module.train(was_training)
    found = min(gather_object([found])) if accelerator.num_processes > 1 else found
    if found == 0:
        raise UserError(
            "not even one sequence fits into the GPU's memory; give a smaller --tokens.sequence_length or model"
        )
    return found


def largest_that_fits(rows: int, fits: Callable[[int], bool]) -> int:
    """The first of `rows`, its half, its quarter, ... that fits; 0 if not even one does."""
    while not fits(rows):
        if rows == 1:
            return 0
        rows = math.ceil(rows / 2)
    return rows
