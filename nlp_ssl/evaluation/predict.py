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
from nlp_ssl.data.sequences.batches import held_out_rows, selections
from nlp_ssl.evaluation.held_out import interruptible
from nlp_ssl.evaluation.metrics import METRICS
from nlp_ssl.objectives.labelled import Prediction


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
        module: an `ObjectiveModule` of a labelled objective, prepared by `accelerator`.
        rows: from the objective's `prepare`.
        accelerator: precision and processes; each process scores its share and gets the result of all.
        batch_size: rows in a forward pass.
        max_rows: score at most so many, spread evenly.
        stop: asked before each batch, by every process.
        desc: what the progress bar says.

    Returns:
        The predictions in the order of the rows, and the mean loss of those that have a label (nan without any).

    Raises:
        Interrupted: `stop` said so.
    """
    inner = accelerator.unwrap_model(module, keep_fp32_wrapper=True)
    objective, model = inner.objective, _Once(inner.model)
    was_training = inner.training
    inner.eval()
    chosen = held_out_rows(len(rows), max_rows)
    order = np.argsort(-np.asarray(rows["length"][:])[chosen], kind="stable")
    own = order[accelerator.process_index :: accelerator.num_processes]
    found: list[Prediction] = []
    loss_sum, count = 0.0, 0
    batches = map(objective.collate, selections(rows, chosen[own], batch_size))
    total = math.ceil(len(order) / accelerator.num_processes / batch_size)
    try:
        for batch in interruptible(stop, batches, total, desc=desc):
            count += objective.num_targets(batch)
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            with accelerator.autocast():
                loss_sum += objective.loss(model, batch)[0].item()
                found += objective.predictions(model, batch)
    finally:
        inner.train(was_training)
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


class _Once(nn.Module):
    """Calls a model once a batch, though both its loss and its predictions are asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.last: tuple[torch.Tensor | None, Any] = (None, None)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if self.last[0] is not input_ids:
            self.last = (input_ids, self.model(input_ids=input_ids, **kwargs))
        return self.last[1]
