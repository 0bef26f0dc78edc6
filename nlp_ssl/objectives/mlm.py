"""Masked language modelling: predict the tokens that were hidden (Devlin et al. 2018)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from nlp_ssl.config.pretraining import MLMConfig, PhaseConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.masking import SPAN_MAX, MaskingCollator, check_masking
from nlp_ssl.objectives.objective import (
    Batch,
    Metrics,
    PretrainingObjective,
    Sums,
    compared,
    digest_of,
    narrow,
    packing_of,
    to_tensors,
)
from nlp_ssl.objectives.samples import fill_masks
from nlp_ssl.publishing.card import CardText


class MaskedCollator:
    """Masks packed rows.

    A batch of B rows of S tokens holds, as int32, `input_ids`, `document_ids`, `position_ids` (B, S), `cu_seqlens`,
    where documents begin, and in a fixed capacity of C slots `label_positions` (C,), indices into the B * S tokens;
    `labels` (C,), int64, -100 in spare slots; and its `digest`.

    Args:
        masking: chooses what is hidden.
    """

    def __init__(self, masking: MaskingCollator) -> None:
        self.masking = masking

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a masked batch."""
        return self.masked(stack_rows(rows, self.masking.tokenizer.pad_token_id))

    def masked(self, batch: dict[str, np.ndarray]) -> Batch:
        """Stacked rows (`packing.stack_rows`) as a masked batch."""
        keys = self.masking.row_keys(batch["epoch"], batch["row"])
        return self.labelled(batch, *self.masking.choose(batch["input_ids"], keys))

    def labelled(self, batch: dict[str, np.ndarray], input_ids: np.ndarray, positions: np.ndarray) -> Batch:
        """Stacked rows as a batch.

        Args:
            batch: the rows as they are.
            input_ids: int64, (B, S), as the model is to see them.
            positions: int64; which of the B * S tokens it is to predict.
        """
        targets = batch["input_ids"].ravel()[positions]
        seen = np.where(batch["document_ids"] > 0, input_ids + 1, 0)
        seen.ravel()[positions] += (targets + 1) << 32
        label_positions, slots = self.labels_at(positions, targets, input_ids.size)
        return to_tensors(
            {
                **narrow(batch | {"input_ids": input_ids}),
                "cu_seqlens": cumulative_lengths(batch["document_ids"]),
                "label_positions": label_positions,
                "labels": slots,
            }
        ) | {"digest": digest_of(batch["row"], batch["epoch"], seen)}

    def labels_at(self, positions: np.ndarray, targets: np.ndarray, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the labels of a batch of this many tokens stand, int32, and the labels, int64; each (C,)."""
        capacity = self.slots(num_tokens, len(positions))
        label_positions = np.zeros(capacity, dtype=np.int32)
        label_positions[: len(positions)] = positions
        labels = np.full(capacity, IGNORE, dtype=np.int64)
        labels[: len(positions)] = targets
        return label_positions, labels

    def slots(self, num_tokens: int, num_labels: int) -> int:
        """How many slots this many labels have: `capacity`, and beyond six sigma the second, larger shape."""
        capacity = self.capacity(num_tokens)
        return capacity if num_labels <= capacity else num_tokens

    def capacity(self, num_tokens: int) -> int:
        """Slots for labels: the expected number and six standard deviations, rounded up to a multiple of 64."""
        p = self.masking.config.probability
        together = 1 if self.masking.config.unit == "token" else SPAN_MAX  # chosen together, their variance adds up
        slots = num_tokens * p + 6 * math.sqrt(num_tokens * p * (1 - p) * together)
        return min(num_tokens, math.ceil(slots / 64) * 64)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Masked tokens."""
        return {"mlm": int((batch["labels"] != IGNORE).sum())}


class MaskedLanguageModeling(PretrainingObjective):
    """Predicts hidden tokens; logits are computed only there."""

    Config: ClassVar[Any] = MLMConfig
    auto_class = AutoModelForMaskedLM
    metrics: ClassVar[Metrics] = {"held_out_loss": "min", "masked_accuracy": "max"}
    card = CardText(
        pipeline_tag="fill-mask",
        objective="masked language modelling",
        papers=("1810.04805",),
        what="a masked language model: it fills gaps in text, and is a body to fine-tune",
        limit="It predicts likely words, not true ones; use it as a starting point for fine-tuning.",
        recipe="pretrain_mlm",
        results={"held_out_loss": "Held-out loss, nats per masked token (masks fixed, weighted by token)"},
        example='f"The function returns a {fill.tokenizer.mask_token}."',
        snippet="""\
from transformers import pipeline

fill = pipeline("fill-mask", model={model})
for guess in fill({example}):
    print(f"{{guess['score']:.3f}}  {{guess['sequence']}}")""",
    )

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy of the masked tokens."""
        return {"mlm": 1.0}

    @classmethod
    def needs_mask_token(cls) -> bool:
        """It hides tokens behind it."""
        return True

    @classmethod
    def completed(cls, config: Any) -> Any:
        """As it is, if its masks can be made."""
        check_masking(config.masking)
        return config

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: MLMConfig, *, seed: int, source: int = 0
    ) -> MaskedCollator:
        """Masks as `config.masking` says."""
        return MaskedCollator(MaskingCollator(tokenizer, config.masking, seed=seed, source=source))

    @classmethod
    def in_phase(cls, config: MLMConfig, phase: PhaseConfig) -> MLMConfig:
        """A phase may mask another share of the tokens."""
        if phase.mask_probability is None:
            return config
        masking = dataclasses.replace(config.masking, probability=phase.mask_probability)
        if not 0 < phase.mask_probability < 1:
            raise UserError(f"--phases: mask_probability is {phase.mask_probability}; it must lie between 0 and 1")
        return dataclasses.replace(config, masking=masking)

    @classmethod
    def labels_per_token(cls, config: MLMConfig) -> float:
        """The share that is masked, with room for chance."""
        return 2 * config.masking.probability

    def forward(self, batch: Batch) -> Sums:
        """`mlm`, summed cross-entropy in nats; in evaluation also `correct`, how many tokens were predicted right."""
        logits = self.model(batch["input_ids"], **packing_of(batch), label_positions=batch["label_positions"])
        logits, labels = logits.view(-1, logits.shape[-1]), batch["labels"].view(-1)
        sums = {"mlm": summed_cross_entropy(logits, labels)}
        if not self.training:
            sums["correct"] = (logits.argmax(-1) == labels).sum()
        return sums

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss, and the share of masked tokens that were predicted right."""
        accuracy = float(sums["correct"]) / counts["mlm"]
        return super().evaluate(sums, counts, num_bytes) | {"masked_accuracy": accuracy}

    def reference(self, unigram: float) -> dict[str, float]:
        """What a model without context reaches."""
        return {"unigram entropy": unigram}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Nats per masked token, beside the unigram model's per token."""
        return compared("held-out loss", results["held_out_loss"], "nats per masked token", unigram)

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Masks filled by plain transformers."""
        return fill_masks(folder, held_out, tokenizer)


OBJECTIVE = MaskedLanguageModeling
