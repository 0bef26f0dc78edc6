"""The protocol that every objective keeps: batch -> summed loss, and targets that are counted on the host."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nlp_ssl.data.sequences.order import hash64

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


class Objective(Protocol):
    """What is asked of a model.

    An objective never averages: the loop divides the sum by the number of targets of the whole step, over all
    micro-batches and processes, which is what makes one batch of 64 equal to eight of 8.

    Attributes:
        auto_class: the `transformers.AutoModelFor...` whose head it needs.
    """

    auto_class: Any

    def collate(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows as the data set gives them, each with its `row` and `epoch`, as a batch of CPU tensors.

        The batch also holds `digest`, from `digest_of`.
        """
        ...

    def num_targets(self, batch: Batch) -> int:
        """How many predictions the batch asks for, counted on the host before anything is computed."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss summed over the batch's targets (0-d), and 0-d tensors that can be summed over batches.

        It is float32 whatever the precision of the model, but for a float64 model, whose loss is float64.
        """
        ...


class ObjectiveModule(nn.Module):
    """A model together with what is asked of it, so that DDP, FSDP and `torch.compile` wrap the whole.

    Args:
        model: takes what the objective gives it.
        objective: what is asked.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """`(loss_sum, metrics)` of a batch."""
        return self.objective.loss(self.model, batch)


def loss_precision(logits: Tensor) -> Tensor:
    """Logits as losses are made of them: half precision becomes float32, and float64, as proofs use it, stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def num_real_tokens(batch: Batch) -> int:
    """Tokens of a collated batch that are not padding."""
    for key in ("document_ids", "attention_mask"):
        if key in batch:
            return int((batch[key] > 0).sum())
    return batch["input_ids"].numel()


def digest_of(rows: np.ndarray, epochs: np.ndarray, seen: np.ndarray) -> Tensor:
    """What a batch teaches, as one number: the sum over its rows of a 32-bit hash of each.

    A sum does not depend on how the rows are ordered, or split over micro-batches and processes. Two steps of equal
    digest learnt from the same rows under the same masks. A row is hashed by a sum of its entries, each times a random
    odd number of its position, modulo 2^64 (multilinear hashing: Carter and Wegman 1979).

    Args:
        rows: numbers of the rows, (B,).
        epochs: theirs, (B,).
        seen: int64 (B, S): what the model sees and what it is asked for; 0 where padded.

    Returns:
        int64, 0-d; below 2^53 for any batch of fewer than two million rows, so exact in float64.
    """
    sums = (seen.view(np.uint64) * _odd_numbers(seen.shape[1])).sum(axis=1)
    return torch.tensor(int((hash64(rows, epochs, sums) >> np.uint64(32)).sum()))


@lru_cache(maxsize=64)
def _odd_numbers(count: int) -> np.ndarray:
    return hash64(np.arange(count)) | np.uint64(1)


def narrow(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model reads of packed rows, as int32: half the bytes on their way to a device."""
    return {key: rows[key].astype(np.int32) for key in ("input_ids", "document_ids", "position_ids")}


def to_tensors(arrays: dict[str, Any]) -> Batch:
    """NumPy arrays as CPU tensors that share their memory."""
    return {key: torch.from_numpy(value) for key, value in arrays.items()}
