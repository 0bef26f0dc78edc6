"""Masked and causal language modelling in one body (GPT-BERT: Charpentier and Samuel 2024).

A sequence is masked and read from both sides, or every token of it predicts the next one of its document and sees only
its past; a hash of the sequence decides. The loss is the mean over masked tokens times the share of masked sequences,
and the mean over predicted next tokens times the share of the others, as in the paper's code, where a share of the
processes reads causally and the mean is taken over processes. A masked token is predicted at its own place, or by the
token before it (masked next-token prediction), so that the head always names the next token.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.hybrid import HybridConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.data.sequences.order import hash64, uniform
from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.adaptive_rates import AdaptiveRates, draws, room
from nlp_ssl.objectives.clm import next_tokens
from nlp_ssl.objectives.cross_entropy import IGNORE, bits_per_byte, summed_cross_entropy
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling
from nlp_ssl.objectives.objective import (
    Batch,
    Metrics,
    PretrainingObjective,
    Sums,
    compared,
    digest_of,
    loss_precision,
    narrow,
    packing_of,
    to_tensors,
)
from nlp_ssl.objectives.samples import continue_causally, fill_masks, fill_masks_before
from nlp_ssl.publishing.card import CardText

_DIRECTION = 4  # tells the hash that decides how a sequence is read from those that choose masks
HELD_OUT = 1  # the source of held-out text
_NEEDS_PACKED = (
    "causal sequences need packed rows and an architecture that keeps documents apart (--tokens.packing packed); "
    "--hybrid.share 1 has none"
)
_READ_BEFORE: dict[str, Any] = {
    "limit": "It predicts likely words, not true ones. The guess at a masked token stands at the token before it, so "
    '`pipeline("fill-mask")` reads it in the wrong place.',
    "example": 'f"The function returns a {tokenizer.mask_token}."',
    "snippet": """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModelForMaskedLM.from_pretrained({model})
inputs = tokenizer({example}, return_tensors="pt")
mask = (inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
scores, guesses = model(**inputs).logits[0, mask - 1].softmax(-1).topk(5)  # by the token before the mask
for score, guess in zip(scores, guesses):
    print(f"{{score:.3f}}  {{tokenizer.decode(guess)}}")""",
}
_CAUSAL_ONLY: dict[str, Any] = {
    "what": "an encoder that has learnt to predict the next token from the past: a body to fine-tune",
    "limit": "It has filled no gaps; plain transformers reads it from both sides, as it never did while it learnt.",
    "example": "'A text to encode.'",
    "snippet": """\
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModel.from_pretrained({model})
print(model(**tokenizer({example}, return_tensors="pt")).last_hidden_state.shape)""",
}


class HybridCollator(MaskedCollator):
    """Masks packed rows, or labels their tokens with the next ones; held-out rows are read both ways.

    A batch of B rows of S tokens holds what `MaskedCollator` gives but `labels`; instead of these `causal`, bool (B,),
    the rows that are read causally, `causal_labels` (K,) and `masked_labels` (M,), int64, -100 in spare slots;
    `label_positions` are those of the former, and behind them those of the latter. K has room for whole rows, of which
    a quarter, half, three quarters or all of the batch are enough; M is that of `MaskedCollator`.

    Args:
        masking: chooses what is hidden.
        share: of the rows that are masked, 0 to 1.
        shift: how many tokens before a masked one it is predicted, 0 or 1; with 1 every document must begin with a
            special token, which no mask hides.
        adaptive: leave it to the objective which tokens are masked, in training: rows are as they are, there are the
            entries of `adaptive_rates.draws`, and the slots for masked tokens are empty.
    """

    def __init__(self, masking: MaskingCollator, share: float, shift: int, adaptive: bool = False) -> None:
        super().__init__(masking)
        self.share, self.shift = share, shift
        self.adaptive = adaptive and masking.source != HELD_OUT
        self.both = masking.source == HELD_OUT and 0 < share < 1

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a batch; with `both` first all of them causal, then all of them masked."""
        batch = stack_rows(rows, self.masking.tokenizer.pad_token_id)
        if self.both:
            batch = {name: np.concatenate([values, values]) for name, values in batch.items()}
        keys = self.masking.row_keys(batch["epoch"], batch["row"])
        length = batch["input_ids"].shape[1]
        causal = self.is_causal(keys)
        masked = np.flatnonzero(~causal)
        original, read = batch["input_ids"], batch["input_ids"].copy()
        if self.adaptive:
            chosen = np.zeros(0, dtype=np.int64)
        else:
            read[masked], chosen = self.masking.choose(original[masked], keys[masked])
            chosen = masked[chosen // length] * length + chosen % length  # among the tokens of the whole batch
        targets = original.ravel()[chosen]
        positions, masked_labels = self.masked_slots(chosen - self.shift, targets, original.shape)
        nexts = np.where(causal[:, None], next_tokens(batch), IGNORE)
        next_positions, causal_labels = self.causal_slots(nexts, np.flatnonzero(causal))
        seen = np.where(batch["document_ids"] > 0, read + 1, 0) + ((nexts != IGNORE).astype(np.int64) << 32)
        seen.ravel()[chosen] += (targets + 1) << 32
        return to_tensors(
            {
                **narrow(batch | {"input_ids": read}),
                "cu_seqlens": cumulative_lengths(batch["document_ids"]),
                "causal": causal,
                "label_positions": np.concatenate([next_positions, positions]),
                "causal_labels": causal_labels,
                "masked_labels": masked_labels,
                **(draws(self.masking, original, keys, ~causal) if self.adaptive else {}),
            }
        ) | {"digest": digest_of(batch["row"], batch["epoch"], seen)}

    def is_causal(self, keys: np.ndarray) -> np.ndarray:
        """Which rows are read causally: bool (B,), from their `row_keys`."""
        if self.both:
            return np.arange(len(keys)) < len(keys) // 2
        return uniform(hash64(_DIRECTION, keys)) >= self.share

    def masked_slots(
        self, positions: np.ndarray, targets: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Those of `MaskedCollator`; none where no row is masked, and of adaptive masks as many for every row."""
        count, length = shape
        if self.adaptive:
            slots = count * room(self.masking, length)
            return np.zeros(slots, dtype=np.int32), np.full(slots, IGNORE, dtype=np.int64)
        return self.labels_at(positions, targets, count * length if self.share > 0 else 0)

    def causal_slots(self, labels: np.ndarray, causal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions, int32, and labels of the rows that are read causally, and spare ones: each (K,)."""
        count, length = labels.shape
        quarter = math.ceil(count / 4)
        room = 0 if self.share == 1 else min(count, max(1, math.ceil(len(causal) / quarter)) * quarter)
        positions = np.zeros((room, length), dtype=np.int32)
        positions[: len(causal)] = causal[:, None] * length + np.arange(length)
        slots = np.full((room, length), IGNORE, dtype=np.int64)
        slots[: len(causal)] = labels[causal]
        return positions.ravel(), slots.ravel()

    def counts(self, batch: Batch) -> dict[str, int]:
        """Next tokens, and masked tokens, as far as there are to be any."""
        labels = {name: batch[f"{name}_labels"] for name in weights(self.share)}
        found = {name: int((each != IGNORE).sum()) for name, each in labels.items()}
        return found | ({"masked": int(batch["num_masked"].sum())} if self.adaptive else {})


def weights(share: float) -> dict[str, float]:
    """Of the two losses, by the share of masked sequences; a loss of weight 0 is left out."""
    return {name: weight for name, weight in (("causal", 1 - share), ("masked", share)) if weight > 0}


class HybridLanguageModeling(MaskedLanguageModeling):
    """Predicts hidden tokens in some sequences, and next tokens in the others; logits are computed only there."""

    Config: ClassVar[Any] = HybridConfig
    metrics: ClassVar[Metrics] = {
        "held_out_loss": "min", "causal_loss": "min", "bits_per_byte": "min", "masked_loss": "min",
        "masked_accuracy": "max",
    }  # fmt: skip
    card = dataclasses.replace(
        MaskedLanguageModeling.card,
        objective="masked and causal language modelling",
        papers=("2410.24159",),
        what="a masked language model that has learnt to predict the next token too: it fills gaps in text, and is a "
        "body to fine-tune",
        limit="It predicts likely words, not true ones. Plain transformers reads it from both sides; it predicts next "
        "tokens only where a mask lets every token see nothing but its past.",
        recipe="pretrain_hybrid",
        results={
            "held_out_loss": "Held-out loss, the two below weighted as in training",
            "masked_loss": "Held-out loss of masked tokens, nats per masked token (masks fixed, weighted by token)",
            "causal_loss": "Held-out loss of next tokens, nats per predicted token (weighted by token)",
            "bits_per_byte": "Bits per byte of held-out text, read causally (predicted bytes only)",
        },
    )

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: HybridConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.share, self.predict = config.hybrid.share, config.hybrid.predict
        self.shift = int(self.predict == "previous")
        if self.share < 1 and not getattr(model, "isolated", True):
            raise UserError(_NEEDS_PACKED)
        every = config.hybrid.adapt_every
        self.rates = AdaptiveRates(num_ids(tokenizer), every) if every else None
        framing = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
        self.added_ids = torch.tensor([i for i in framing if i is not None])

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy of next tokens and of masked tokens, each weighted by its share of the sequences."""
        return weights(self.share)

    @classmethod
    def completed(cls, config: Any) -> Any:
        """As it is, if it can be done."""
        if not 0 <= config.hybrid.share <= 1:
            raise UserError(f"--hybrid.share is {config.hybrid.share}; it must lie between 0 and 1")
        if config.hybrid.adapt_every < 0:
            raise UserError(f"--hybrid.adapt_every is {config.hybrid.adapt_every}; it must be a number of steps, or 0")
        if config.hybrid.adapt_every and (config.hybrid.share == 0 or config.masking.unit != "token"):
            raise UserError(
                "--hybrid.adapt_every needs masked sequences (--hybrid.share above 0) whose tokens are masked one by "
                "one (--masking.unit token)"
            )
        if config.hybrid.share < 1 and config.tokens.packing == "one_document":
            raise UserError(_NEEDS_PACKED)
        return super().completed(config)

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokenizer's own, which must begin with a token that predicts the first one of the text."""
        cls.completed(config)  # by now it is known whether sequences are packed
        prefix, suffix = super().frame(tokenizer, config)
        if not prefix:
            raise UserError(
                "the tokenizer puts no token before a text, such as CLS, which hybrid pretraining needs to predict the "
                "first token; give --tokenizer.path another one"
            )
        return prefix, suffix

    @classmethod
    def collator(cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0) -> HybridCollator:
        """Masks as `config.masking` says, in the sequences that are masked."""
        masking = MaskingCollator(tokenizer, config.masking, seed=seed, source=source)
        shift = int(config.hybrid.predict == "previous")
        return HybridCollator(masking, config.hybrid.share, shift, adaptive=config.hybrid.adapt_every > 0)

    @classmethod
    def labels_per_token(cls, config: Any) -> float:
        """Those of both, with room for chance."""
        return min(1.0, super().labels_per_token(config) + 2 * (1 - config.hybrid.share))

    def forward(self, batch: Batch) -> Sums:
        """`causal` and `masked`, summed cross-entropy in nats.

        In evaluation also `text`, that of next tokens that are text, and `correct`, masked tokens predicted right.
        """
        if self.rates is not None and "wait" in batch:
            batch = self.rates.masked(batch, self.shift)
        causal = batch["causal"] if 0 < self.share < 1 else self.share == 0
        logits = self.model(
            batch["input_ids"], **packing_of(batch), label_positions=batch["label_positions"], causal=causal
        )
        nexts, masked = batch["causal_labels"], batch["masked_labels"]
        of_nexts, of_masked = logits.view(-1, logits.shape[-1]).split([len(nexts), len(masked)])
        sums = {"causal": summed_cross_entropy(of_nexts, nexts), "masked": summed_cross_entropy(of_masked, masked)}
        if self.training:
            if self.rates is not None:
                self.rates.observe(masked, of_masked.detach().argmax(-1))
            return sums
        losses = F.cross_entropy(loss_precision(of_nexts), nexts, ignore_index=IGNORE, reduction="none")
        is_text = ~torch.isin(nexts, self.added_ids.to(nexts.device))
        return sums | {"text": (losses * is_text).sum(), "correct": (of_masked.argmax(-1) == masked).sum()}

    def before_step(self) -> None:
        """Forget which tokens were predicted in a step that was not applied."""
        if self.rates is not None:
            self.rates.forget()

    def after_step(self, step: int) -> None:
        """Move the mask rates, where they adapt."""
        if self.rates is not None:
            self.rates.after_step(step)

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The weighted loss, and what is known of each way of reading; held-out sequences are read both ways."""
        found = PretrainingObjective.evaluate(self, sums, counts, num_bytes)
        found |= {f"{name}_loss": float(sums[name]) / max(1, counts[name]) for name in self.terms}
        if "causal" in self.terms:
            found["bits_per_byte"] = bits_per_byte(float(sums["text"]), num_bytes)
        if "masked" in self.terms:
            found["masked_accuracy"] = float(sums["correct"]) / max(1, counts["masked"])
        return found

    @classmethod
    def about(cls, config: HybridConfig) -> CardText:
        """Where the published model predicts a masked token decides how it is read."""
        if config.hybrid.share == 0:
            return dataclasses.replace(cls.card, pipeline_tag="feature-extraction", **_CAUSAL_ONLY)
        if config.hybrid.predict == "previous":
            return dataclasses.replace(cls.card, pipeline_tag="feature-extraction", **_READ_BEFORE)
        return cls.card

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Both losses, each beside that of a model without context."""
        lines, manifest = [], held_out.manifest
        if "causal" in self.terms:
            reference = bits_per_byte(unigram * manifest["tokens"], manifest["bytes"])
            lines.append(compared("causal: held-out loss", results["bits_per_byte"], "bits per byte", reference))
        if "masked" in self.terms:
            lines.append(compared("masked: held-out loss", results["masked_loss"], "nats per masked token", unigram))
        return "\n".join(lines)

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Masks filled by plain transformers; texts continued, by our attention: transformers' goes both ways."""
        if self.rates is not None:
            yield self.rates.shown(tokenizer)
        if "masked" in self.terms:
            fill = fill_masks if self.predict == "same" else fill_masks_before
            yield from fill(folder, held_out, tokenizer)
        if "causal" in self.terms:
            yield from continue_causally(folder, held_out, tokenizer, *super().frame(tokenizer, None))


OBJECTIVE = HybridLanguageModeling
