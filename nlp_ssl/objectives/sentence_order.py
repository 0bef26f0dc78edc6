"""Masked language modelling with sentence-order prediction as a second loss (Lan et al. 2019).

Documents are cut in two where a sentence begins, and half of them have their parts exchanged (`sentence_pairs`); from
the last hidden state of CLS a small head says which. The loss is the mean cross-entropy of the masked tokens and
`weight` times that of the pairs, each a mean over its own targets. Label 0 is in order, 1 is not.

`--sentence_order.task nsp` asks whether both parts are of one document instead (Devlin et al. 2018). Telling topics
apart is enough for that: in Lan et al. 2019, table 5, a model trained so tells 90.5 % of these pairs, and the order of
52.0 %. An evaluation says both.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.sentence_order import SentenceOrderConfig, SentenceOrderSection
from nlp_ssl.core.console import warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.packing import stack_rows
from nlp_ssl.data.tokens.sentence_boundaries import sentence_tables
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling
from nlp_ssl.objectives.objective import Batch, Metrics, Sums, compared, loss_precision, packing_of
from nlp_ssl.objectives.score_head import ScoreHead
from nlp_ssl.objectives.sentence_pairs import PairFrame, arrange
from nlp_ssl.publishing.card import CardText

ORDER = "order of "  # begins the names of a batch's second half, by which a next-sentence model is asked for order


class SentencePairsCollator(MaskedCollator):
    """Makes pairs of the documents of packed rows, and masks them.

    A batch is that of `MaskedCollator`, `token_type_ids`, int32 (B, S), where the tokenizer gives them, and in a power
    of two of slots `pair_positions`, int32 (D,), the first token of every pair, and `pair_labels`, int64 (D,): 0 in
    order, 1 not, -100 in spare slots; and `num_left_out`, 0-d: tokens of the rows that are in no pair.

    Args:
        masking: chooses what is hidden.
        section: the task.
        asks_for_order: add the same rows as pairs in order or not, under names that begin with `ORDER`.
    """

    def __init__(self, masking: MaskingCollator, section: SentenceOrderSection, asks_for_order: bool = False) -> None:
        super().__init__(masking)
        self.task, self.asks_for_order = section.task, asks_for_order
        self.pair_frame, self.tables = PairFrame.of(masking.tokenizer), sentence_tables(masking.tokenizer)
        self.has_segments = "token_type_ids" in masking.tokenizer.model_input_names

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as masked pairs."""
        batch = stack_rows(rows, self.masking.tokenizer.pad_token_id)
        made = self.pairs(batch, self.task)
        if self.asks_for_order:
            others = self.pairs(batch, "sop")
            made |= {f"{ORDER}{name}": value for name, value in others.items() if name != "digest"}
        return made

    def pairs(self, batch: dict[str, np.ndarray], task: Any) -> Batch:
        """Stacked rows as masked pairs of a task."""
        keys = self.masking.row_keys(batch["epoch"], batch["row"])
        pad = self.masking.tokenizer.pad_token_id
        arranged, places, labels = arrange(batch, keys, self.pair_frame, self.tables, task, pad)
        made = self.masked(arranged)
        made["num_left_out"] = torch.tensor(int((batch["document_ids"] > 0).sum() - (made["document_ids"] > 0).sum()))
        slots = 1 << max(0, len(places) - 1).bit_length()
        spare = (0, slots - len(places))
        made["pair_positions"] = torch.from_numpy(np.pad(places, spare).astype(np.int32))
        made["pair_labels"] = torch.from_numpy(np.pad(labels, spare, constant_values=IGNORE))
        if self.has_segments:
            made["token_type_ids"] = torch.from_numpy(arranged["token_type_ids"].astype(np.int32))
        return made

    def counts(self, batch: Batch) -> dict[str, int]:
        """Masked tokens, and pairs."""
        return {**super().counts(batch), "order": int((batch["pair_labels"] != IGNORE).sum())}


class SentenceOrder(MaskedLanguageModeling):
    """Predicts hidden tokens, and whether two parts of a text stand in order.

    The model that is published is the masked language model; the head of the order is in checkpoints alone.
    """

    Config: ClassVar[Any] = SentenceOrderConfig
    metrics: ClassVar[Metrics] = {
        "held_out_loss": "min", "mlm_loss": "min", "masked_accuracy": "max", "order_accuracy": "max",
    }  # fmt: skip
    card = CardText(
        pipeline_tag="fill-mask",
        objective="masked language modelling with sentence-order prediction",
        papers=("1909.11942",),
        what="a masked language model that was also trained to tell whether two parts of a text stand in order: a body "
        "to fine-tune",
        limit="It predicts likely words, not true ones; use it as a starting point for fine-tuning.",
        recipe="pretrain_sentence_order",
        results={
            "mlm_loss": "Held-out loss, nats per masked token",
            "masked_accuracy": "Share of masked tokens that are predicted right",
            "order_accuracy": "Share of held-out pairs whose order is recognised (0.5 is chance)",
            "order_accuracy_low": "... lower end of its 95 % interval",
            "order_accuracy_high": "... upper end",
            "next_accuracy": "Share of held-out pairs of which it is recognised whether both parts are of one document",
        },
        example=MaskedLanguageModeling.card.example,
        snippet=MaskedLanguageModeling.card.snippet,
    )

    model: PackedModel

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: SentenceOrderConfig) -> None:
        super().__init__(model, tokenizer, config)
        section = config.sentence_order
        self.weight, self.task = section.weight, section.task
        self.has_segments = (getattr(model.model.config, "type_vocab_size", None) or 0) > 1
        self.head = ScoreHead(model.model.config, torch.tanh)
        if section.task == "nsp":
            warn(
                "--sentence_order.task nsp is solved by telling topics apart, and models without it were as good or "
                "better (Liu et al. 2019); sop asks for more"
            )

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy per masked token, and per pair."""
        return {"mlm": 1.0, "order": self.weight}

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """CLS, and behind a document what stands in and behind a pair, such as two SEP."""
        pair = PairFrame.of(tokenizer)
        return pair.prefix, pair.middle + pair.suffix

    @classmethod
    def completed(cls, config: Any) -> Any:
        """As it is, if it can be done."""
        section = config.sentence_order
        if not 0 < section.weight < math.inf:
            raise UserError(f"--sentence_order.weight is {section.weight}; it must be above 0")
        if section.task == "nsp" and config.tokens.packing == "one_document":
            raise UserError(
                "--sentence_order.task nsp takes the second part of another document of the sequence, and with "
                "--tokens.packing one_document there is none; give sop"
            )
        return super().completed(config)

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0
    ) -> SentencePairsCollator:
        """Pairs for the task; of held-out text for that of order, too."""
        section = cls.completed(config).sentence_order  # by now it is known whether sequences are packed
        masking = MaskingCollator(tokenizer, config.masking, seed=seed, source=source)
        return SentencePairsCollator(masking, section, asks_for_order=section.task == "nsp" and source > 0)

    def forward(self, batch: Batch) -> Sums:
        """`mlm` and `order`, both in nats; in evaluation also what `evaluate` counts."""
        logits, scores = self._read(batch)
        labels, order = batch["labels"], batch["pair_labels"]
        losses = F.binary_cross_entropy_with_logits(scores, order.clamp_min(0).to(scores.dtype), reduction="none")
        sums = {"mlm": summed_cross_entropy(logits, labels), "order": torch.where(order != IGNORE, losses, 0.0).sum()}
        if self.training:
            return sums
        sums["correct"] = (logits.argmax(-1) == labels).sum()
        sums["right"] = ((scores > 0) == order).sum()
        real = batch["document_ids"] > 0
        sums |= {"documents": (real & (batch["position_ids"] == 0)).sum(), "tokens": real.sum()}
        sums["left_out"] = batch["num_left_out"]
        if f"{ORDER}pair_labels" in batch:
            asked = {name.removeprefix(ORDER): value for name, value in batch.items() if name.startswith(ORDER)}
            scores, order = self._read(asked)[1], asked["pair_labels"]
            sums["right_order"], sums["asked"] = ((scores > 0) == order).sum(), (order != IGNORE).sum()
        return sums

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the masked tokens, (C, vocabulary), and scores of the pairs, (D,)."""
        types = {"token_type_ids": batch["token_type_ids"]} if self.has_segments and "token_type_ids" in batch else {}
        logits, hidden = self.model.with_hidden(
            batch["input_ids"], **packing_of(batch), label_positions=batch["label_positions"], **types
        )
        firsts = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch["pair_positions"])
        return logits.view(-1, logits.shape[-1]), loss_precision(self.head(firsts))

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """Both losses, the masked tokens predicted right, and the pairs told right with a 95 % interval."""
        pairs = counts["order"]
        if not pairs:
            raise UserError(
                "no held-out document has two sentences to make a pair of; give running text, or longer sequences"
                if self.task == "sop"
                else "no held-out sequence has two documents of two sentences each; give longer sequences"
            )
        found = super().evaluate(sums, counts, num_bytes)
        found |= {"mlm_loss": float(sums["mlm"]) / max(1, counts["mlm"]), "order_loss": float(sums["order"]) / pairs}
        left_out, tokens = float(sums["left_out"]), float(sums["tokens"])
        found |= {"num_pairs": pairs, "pairs_per_document": pairs / max(1.0, float(sums["documents"]))}
        found["left_out_share"] = left_out / (left_out + tokens)
        right, asked = float(sums["right"]), float(pairs)
        if self.task == "nsp":
            found["next_accuracy"] = right / pairs
            if "asked" not in sums:
                return found
            right, asked = float(sums["right_order"]), float(sums["asked"])
        low, high = wilson_interval(right, asked)
        return found | {"order_accuracy": right / asked, "order_accuracy_low": low, "order_accuracy_high": high}

    def reference(self, unigram: float) -> dict[str, float]:
        """None: the loss is a sum of two."""
        return {}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """The masked loss beside the unigram model's, and the order beside chance."""
        masked = compared("held-out loss", results["mlm_loss"], "nats per masked token", unigram)
        found = (
            f"order of sentences: {results['order_accuracy']:.1%} told right (95 % interval "
            f"{results['order_accuracy_low']:.1%} to {results['order_accuracy_high']:.1%}; 50 % is chance)"
        )
        if self.task == "nsp":
            found = f"next sentence: {results['next_accuracy']:.1%} told right (50 % is chance); asked for the {found}"
        return (
            f"{masked}\n{found}\nmeasured on {results['num_pairs']:.0f} pairs; "
            f"{1 - results['pairs_per_document']:.1%} of the documents made none, and are masked alone; "
            f"{results['left_out_share']:.1%} of the tokens belong to cut sentences, and are left out"
        )


def wilson_interval(right: float, total: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return centre - half, centre + half


OBJECTIVE = SentenceOrder
