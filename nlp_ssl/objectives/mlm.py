"""Masked language modelling: predict the tokens that were hidden (Devlin et al. 2018)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.masking import SPAN_MAX, MaskingCollator
from nlp_ssl.objectives.objective import Batch, Metrics, digest_of, narrow, to_tensors


class MaskedLanguageModeling:
    """Hides tokens of packed rows and asks for them; logits are computed only there.

    A collated batch of B rows of S tokens holds, as int32, `input_ids`, `document_ids`, `position_ids` (B, S),
    `cu_seqlens`, where documents begin, and in a fixed capacity of C slots `label_positions` (C,), indices into the
    B * S tokens; `labels` (C,), int64, -100 in spare slots; and its `digest`.

    Args:
        masking: the masking collator.
    """

    auto_class = AutoModelForMaskedLM
    pipeline = "fill-mask"

    def __init__(self, masking: MaskingCollator) -> None:
        self.masking = masking

    def collate(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a masked batch."""
        batch = stack_rows(rows, self.masking.tokenizer.pad_token_id)
        keys = self.masking.row_keys(batch["epoch"], batch["row"])
        input_ids, positions = self.masking.choose(batch["input_ids"], keys)
        targets = batch["input_ids"].ravel()[positions]
        seen = np.where(batch["document_ids"] > 0, input_ids + 1, 0)
        seen.ravel()[positions] += (targets + 1) << 32
        capacity = self.capacity(input_ids.size)
        if len(positions) > capacity:  # beyond six sigma: the second, larger shape
            capacity = input_ids.size
        label_positions = np.zeros(capacity, dtype=np.int32)
        label_positions[: len(positions)] = positions
        slots = np.full(capacity, IGNORE, dtype=np.int64)
        slots[: len(positions)] = targets
        return to_tensors(
            {
                **narrow(batch | {"input_ids": input_ids}),
                "cu_seqlens": cumulative_lengths(batch["document_ids"]),
                "label_positions": label_positions,
                "labels": slots,
            }
        ) | {"digest": digest_of(batch["row"], batch["epoch"], seen)}

    def capacity(self, num_tokens: int) -> int:
        """Slots for labels: the expected number and six standard deviations, rounded up to a multiple of 64."""
        p = self.masking.config.probability
        together = 1 if self.masking.config.unit == "token" else SPAN_MAX  # chosen together, their variance adds up
        slots = num_tokens * p + 6 * math.sqrt(num_tokens * p * (1 - p) * together)
        return min(num_tokens, math.ceil(slots / 64) * 64)

    def num_targets(self, batch: Batch) -> int:
        """Masked tokens."""
        return int((batch["labels"] != IGNORE).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Summed cross-entropy in nats; and in evaluation `correct`, how many tokens were predicted right.

        A batch without `label_positions`, from a causal phase, asks every token for the next one.
        """
        positions = batch.get("label_positions")
        logits = model(
            batch["input_ids"],
            document_ids=batch["document_ids"],
            position_ids=batch["position_ids"],
            cu_seqlens=batch["cu_seqlens"],
            label_positions=positions,
            causal=positions is None,
        )
        logits, labels = logits.view(-1, logits.shape[-1]), batch["labels"].view(-1)
        loss_sum = summed_cross_entropy(logits, labels)
        if model.training:
            return loss_sum, {}
        return loss_sum, {"correct": (logits.argmax(-1) == labels).sum()}
