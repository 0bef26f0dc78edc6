"""What a model says about labelled rows, each once, over all processes; and what its metrics make of that."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset
from torch import nn

from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.data.sequences.batches import MicroBatch, held_out_rows, selections
from nlp_ssl.evaluation.held_out import interruptible
from nlp_ssl.evaluation.metrics import METRICS
from nlp_ssl.objectives.labelled import LabelledObjective, Prediction


@torch.no_grad()
def predict(
    module: nn.Module,
    rows: Dataset,
    accelerator: Accelerator,
    *,
    batch_size: int,
    max_rows: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    desc: str = "predict",
) -> tuple[list[Prediction], float]:
    """Every row once; rows of like length share a batch.

    Args:
        module: a `LabelledObjective`, prepared by `accelerator`.
        rows: from its collator's `tokenize`.
        accelerator: precision and processes; each process scores its share and gets the result of all.
        batch_size: rows in a forward pass.
        max_rows: score at most this many, spread evenly.
        stop: asked before each batch, by every process.
        desc: what the progress bar says.

    Returns:
        The predictions in the order of the rows, and the mean loss of those that have a label (nan without any).

    Raises:
        Interrupted: `stop` said so.
    """
    objective: LabelledObjective = accelerator.unwrap_model(module, keep_fp32_wrapper=True)
    was_training = objective.training
    objective.eval()
    chosen = held_out_rows(len(rows), max_rows)
    order = np.argsort(-np.asarray(rows["length"][:])[chosen], kind="stable")
    own = order[accelerator.process_index :: accelerator.num_processes]
    found: list[Prediction] = []
    loss_sum, count = 0.0, 0
    batches = (MicroBatch.of(some, objective.collator) for some in selections(rows, chosen[own], batch_size))
    total = math.ceil(len(order) / accelerator.num_processes / batch_size)
    try:
        for batch in interruptible(stop, batches, total, desc=desc):
            count += batch.counts["loss"]
            inputs = send_to_device(batch.inputs, accelerator.device, non_blocking=True)
            with accelerator.autocast():
                logits = objective.logits(inputs)
                loss_sum += objective.loss(logits, inputs)["loss"].item()
                found += objective.predictions(logits, inputs)
    finally:
        objective.train(was_training)
    part = (list(zip(own.tolist(), found, strict=True)), loss_sum, count)
    parts = gather_object([part]) if accelerator.num_processes > 1 else [part]
    ordered = sorted((pair for part in parts for pair in part[0]), key=lambda pair: pair[0])
    count = sum(part[2] for part in parts)
    loss = sum(part[1] for part in parts) / count if count else math.nan
    return [prediction for _, prediction in ordered], loss


def in_own_order(data: LabelledData, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
    """Predictions as metrics take them, however the head orders its classes; see `LabelledData.numbered`."""
    if data.order is None:
        return predictions
    own = [[data.numbered(data.named(label)) for label in (p.predicted, p.reference)] for p in predictions]
    return [Prediction(*labels) for labels in own]


def measure(metrics: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The numbers of some metrics (keys of `METRICS`) over the rows that have a label; by entity type, dictionaries."""
    known = [p for p in predictions if p.reference is not None]
    both = {"predictions": [p.predicted for p in known], "references": [p.reference for p in known]}
    results: dict[str, Any] = {}
    for name in metrics:
        results |= METRICS[name]().compute(**both)
    return {key.removeprefix("overall_"): value for key, value in results.items()}
