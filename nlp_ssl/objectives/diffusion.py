"""Masked diffusion language modelling: predict masked tokens at every mask rate, which bounds the likelihood of a text.

Sahoo et al. 2024 (MDLM), Nie et al. 2025 (LLaDA). Of a document's L tokens each is masked with probability p, and

    NELBO = E_p [ (1 / p) sum over masked tokens of -log P(token | the other tokens that are not masked) ],

with p uniform on (0, 1], is at least -log P(document); the loss divides it by all maskable tokens, also those that are
not masked. `diffusion_noise` says which p and masks are drawn. The mask token is never predicted, tokens that are not
masked are carried over as they are, and the model is not told p ("substitution": Sahoo et al. 2024, section 3.2): it is
an ordinary masked language model. `diffusion_sampling` makes text by it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from nlp_ssl.config.diffusion import DiffusionConfig
from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.order import hash64, places_of
from nlp_ssl.data.sequences.packing import stack_rows
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.cross_entropy import IGNORE, bits_per_byte, summed_cross_entropy
from nlp_ssl.objectives.diffusion_noise import counted_masks, independent_masks, timesteps
from nlp_ssl.objectives.diffusion_sampling import shown_samples
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator
from nlp_ssl.objectives.objective import (
    Batch,
    Metrics,
    PretrainingObjective,
    Sums,
    compared,
    loss_precision,
    packing_of,
)
from nlp_ssl.publishing.card import CardText

BANDS = 4  # of mask rates, of which an evaluation gives the losses apart


class DiffusionCollator(MaskedCollator):
    """Masks packed rows, each document at a rate of its own.

    A batch is that of `MaskedCollator`, and `rates`, float32 (C,), by which the loss of each label is divided, and
    `num_maskable`, int64, 0-d: how many tokens could have been masked.

    Args:
        masking: what is maskable, and the hashes.
        eps: the lowest mask probability.
    """

    def __init__(self, masking: MaskingCollator, eps: float) -> None:
        super().__init__(masking)
        self.eps = eps

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a masked batch."""
        batch = stack_rows(rows, self.masking.tokenizer.pad_token_id)
        ids = batch["input_ids"]
        maskable = self.masking.is_ordinary[ids]
        masked, rates = self.mask(batch, self.places(rows, batch), maskable)
        positions = np.flatnonzero(masked)
        made = self.labelled(batch, np.where(masked, self.masking.tokenizer.mask_token_id, ids), positions)
        slots = np.ones(len(made["labels"]), dtype=np.float32)
        slots[: len(positions)] = rates.ravel()[positions]
        return made | {"rates": torch.from_numpy(slots), "num_maskable": torch.tensor(int(maskable.sum()))}

    def places(self, rows: Sequence[dict[str, Any]], batch: dict[str, np.ndarray]) -> np.ndarray:
        """When each row is visited in its epoch; for rows that are no `Selection` of a data set their numbers."""
        if not isinstance(rows, Selection):
            return batch["row"]
        return places_of(rows.numbers, rows.epochs, len(rows.rows), self.masking.seed)

    def mask(
        self, batch: dict[str, np.ndarray], places: np.ndarray, maskable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens are masked, bool (B, S), and at which rate, float32 (B, S)."""
        return independent_masks(self.times(batch, places), self.hashes(batch), maskable, self.eps)

    def times(self, batch: dict[str, np.ndarray], places: np.ndarray) -> np.ndarray:
        """`timesteps` of a batch."""
        return timesteps(self.masking.seed, self.masking.source, batch["epoch"], places, batch["document_ids"])

    def hashes(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """One for every token, uint64 (B, S): those that `MaskingCollator` masks by."""
        keys = self.masking.row_keys(batch["epoch"], batch["row"])
        return hash64(keys[:, None], np.arange(batch["input_ids"].shape[1]))

    def slots(self, num_tokens: int, num_labels: int) -> int:
        """9/16 of the tokens, as half of them are masked on average; a sixteenth more at a time where need be."""
        parts = max(9, math.ceil(16 * num_labels / num_tokens))
        return math.ceil(num_tokens * parts / 16)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Maskable tokens."""
        return {"diffusion": int(batch["num_maskable"])}


class HeldOutDiffusionCollator(DiffusionCollator):
    """Masks a fixed number of tokens of each held-out document, the same ones every time.

    Args:
        masking: what is maskable, and the hashes.
        max_rows: how many rows an evaluation visits; timesteps are spread evenly over these.
    """

    def __init__(self, masking: MaskingCollator, max_rows: int | None) -> None:
        super().__init__(masking, 0.0)
        self.max_rows = max_rows

    def places(self, rows: Sequence[dict[str, Any]], batch: dict[str, np.ndarray]) -> np.ndarray:
        """Which of the rows that are visited each is (see `batches.held_out_rows`)."""
        if not isinstance(rows, Selection):
            return batch["row"]
        total = len(rows.rows)
        return -(-batch["row"] * min(total, self.max_rows or total) // total)

    def mask(
        self, batch: dict[str, np.ndarray], places: np.ndarray, maskable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `counted_masks` does."""
        return counted_masks(self.times(batch, places), self.hashes(batch), maskable, batch["document_ids"])


class MaskedDiffusion(PretrainingObjective):
    """Predicts masked tokens at every mask rate, each loss over its rate.

    Unknown tokens are read and not predicted, as other special tokens: what they would cost is in no number.
    """

    Config: ClassVar[Any] = DiffusionConfig
    auto_class = AutoModelForMaskedLM
    metrics: ClassVar[Metrics] = {
        "held_out_loss": "min", "bits_per_byte": "min",
        "loss_masked_25": "min", "loss_masked_50": "min", "loss_masked_75": "min", "loss_masked_100": "min",
    }  # fmt: skip
    card = CardText(
        pipeline_tag="fill-mask",
        objective="masked diffusion language modelling",
        papers=("2406.07524", "2502.09992"),
        what="a masked diffusion language model: it fills any number of masks, up to a whole text, and is a body to "
        "fine-tune",
        limit="It makes likely text, not true text. It did not learn to predict special tokens: leave them out.",
        recipe="pretrain_diffusion",
        results={
            "held_out_loss": "Held-out bound on the negative log-likelihood (NELBO), nats per token",
            "bits_per_byte": "The same in bits per byte of held-out text",
            "loss_masked_25": "Nats per masked token where up to a quarter of a document is masked",
            "loss_masked_50": "... a quarter up to a half",
            "loss_masked_75": "... a half up to three quarters",
            "loss_masked_100": "... more than three quarters",
        },
        example='f"The function returns{4 * tokenizer.mask_token}."',
        snippet="""\
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModelForMaskedLM.from_pretrained({model})
ids = tokenizer({example}, return_tensors="pt").input_ids
while (masked := ids[0] == tokenizer.mask_token_id).any():  # the surest one first
    logits = model(ids).logits[0].detach()
    logits[:, tokenizer.all_special_ids] = -float("inf")
    best = logits.softmax(-1).max(-1)
    at = best.values.masked_fill(~masked, -1).argmax()
    ids[0, at] = best.indices[at]
print(tokenizer.decode(ids[0], skip_special_tokens=True))""",
    )

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: Any) -> None:
        super().__init__(model, tokenizer, config)
        self.mask_id = tokenizer.mask_token_id

    @property
    def terms(self) -> dict[str, float]:
        """The bound, per maskable token."""
        return {"diffusion": 1.0}

    @classmethod
    def needs_mask_token(cls) -> bool:
        """It hides tokens behind it."""
        return True

    @classmethod
    def completed(cls, config: DiffusionConfig) -> DiffusionConfig:
        """As it is, if its masks can be made."""
        if not 0 < config.diffusion.eps < 1:
            raise UserError(f"--diffusion.eps is {config.diffusion.eps}; it must lie between 0 and 1")
        return config

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: DiffusionConfig, *, seed: int, source: int = 0
    ) -> DiffusionCollator:
        """Independent masks for training (`source` 0), counted ones for held-out text."""
        cls.completed(config)
        masking = MaskingCollator(tokenizer, MaskingConfig(mask_share=1.0, random_share=0.0), seed=seed, source=source)
        if source:
            return HeldOutDiffusionCollator(masking, config.evaluation.max_rows)
        return DiffusionCollator(masking, config.diffusion.eps)

    @classmethod
    def labels_per_token(cls, config: DiffusionConfig) -> float:
        """Half, with room for chance."""
        return 0.75

    def forward(self, batch: Batch) -> Sums:
        """`diffusion`, in nats; in evaluation also `losses` and `masked` (4,): summed and counted by mask rate."""
        logits = self.model(batch["input_ids"], **packing_of(batch), label_positions=batch["label_positions"])
        logits, labels = logits.view(-1, logits.shape[-1]), batch["labels"]
        if self.training:
            weights = 1 / batch["rates"].to(torch.promote_types(logits.dtype, torch.float32))
            return {"diffusion": summed_cross_entropy(logits, labels, weights, self.mask_id)}
        logits = loss_precision(logits)
        logits[:, self.mask_id] = -math.inf
        rates = batch["rates"].to(logits.dtype)
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        bands = ((BANDS * rates).ceil().long() - 1).clamp(0, BANDS - 1)
        nothing = losses.new_zeros(BANDS)
        return {
            "diffusion": (losses / rates).sum(),
            "losses": nothing.index_add(0, bands, losses),
            "masked": nothing.index_add(0, bands, (labels != IGNORE).to(losses.dtype)),
        }

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The bound per token and per byte, and the loss per masked token by mask rate."""
        found = super().evaluate(sums, counts, num_bytes)
        found["bits_per_byte"] = bits_per_byte(float(sums["diffusion"]), num_bytes)
        means = (sums["losses"] / sums["masked"].clamp(min=1)).tolist()
        return found | {f"loss_masked_{100 * (i + 1) // BANDS}": mean for i, mean in enumerate(means)}

    def reference(self, unigram: float) -> dict[str, float]:
        """What a model without context reaches."""
        return {"unigram entropy": unigram}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """The bound beside the unigram model, in bits per byte, and the losses that it is the mean of."""
        bound = compared("held-out bound (NELBO)", results["held_out_loss"], "nats per token", unigram)
        by_rate = ", ".join(f"{results[name]:.2f}" for name in self.metrics if name.startswith("loss_masked_"))
        return (
            f"{bound}; {results['bits_per_byte']:.3f} bits per byte\n"
            f"nats per masked token where up to 25, 50, 75 and 100 % are masked: {by_rate}"
        )

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Gaps in held-out text filled, and a text from nothing but masks."""
        return shown_samples(folder, held_out, tokenizer)


OBJECTIVE = MaskedDiffusion
