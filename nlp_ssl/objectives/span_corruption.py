"""Span corruption: write the spans that were taken out of a text (T5), or the text that they were taken out of (BART).

Raffel et al. 2020: 15 % of the tokens in spans of 3 on average, each replaced by a blank (`<extra_id_0>`, ...); the
decoder writes every blank and its span, and the end. Lewis et al. 2020: 30 % in spans whose lengths are drawn from
Poisson's law of mean 3, each replaced by the mask; the decoder writes the whole text. The loss is the cross-entropy of
the tokens to write, each after the true ones before it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from nlp_ssl.config.span_corruption import NoiseSection, SpanCorruptionConfig
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.packed_seq2seq import PackedSeq2Seq
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.objective import (
    Batch,
    Metrics,
    PretrainingObjective,
    Sums,
    compared,
)
from nlp_ssl.objectives.samples import held_out_paragraphs
from nlp_ssl.objectives.span_collator import CorruptingCollator, Frame, stand_ins
from nlp_ssl.objectives.span_noise import (
    MOST_BLANKS,
    blank,
    blanks_of,
    check_noise,
    share_of,
)
from nlp_ssl.publishing.card import CardText


class SpanCorruption(PretrainingObjective):
    """An encoder reads a text without some of its spans, and a decoder writes what is missing."""

    Config: ClassVar[Any] = SpanCorruptionConfig
    auto_class = AutoModelForSeq2SeqLM
    trains = "encoder-decoder"
    packed = PackedSeq2Seq
    default_models: ClassVar[dict[str, str]] = {"cpu": "t5-tiny", "gpu": "t5-base"}
    metrics: ClassVar[Metrics] = {"held_out_loss": "min", "hidden_loss": "min", "span_accuracy": "max"}
    card = CardText(
        pipeline_tag="text2text-generation",
        objective="span corruption",
        papers=("1910.10683",),
        what="an encoder-decoder that writes what is missing in a text: a body to fine-tune",
        limit="It fills gaps plausibly, not truthfully, and follows no instructions; fine-tune it for a task.",
        recipe="pretrain_seq2seq",
        results={
            "held_out_loss": "Held-out loss, nats per token to write (blanks and ends are among them)",
            "hidden_loss": "Held-out loss, nats per token that was taken out",
            "span_accuracy": "Spans of which every token is the likeliest one after the true ones before it",
        },
        example="'The function <extra_id_0> the value of its argument.'",
        snippet="""\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModelForSeq2SeqLM.from_pretrained({model})
written = model.generate(**tokenizer({example}, return_tensors="pt"), max_new_tokens=32)
print(tokenizer.decode(written[0]))""",
    )

    def __init__(self, model: PackedSeq2Seq, tokenizer: PreTrainedTokenizerFast, config: SpanCorruptionConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.noise = config.noise
        start = model.model.config.decoder_start_token_id
        self.start: int = tokenizer.pad_token_id if start is None else start

    @classmethod
    def about(cls, config: SpanCorruptionConfig) -> CardText:
        """The card's words; infilling has another name and another example."""
        if config.noise.kind == "spans":
            return cls.card
        example = "f'The function {tokenizer.mask_token} the value of its argument.'"
        return dataclasses.replace(cls.card, objective="text infilling", example=example)

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy of the tokens to write."""
        return {"seq2seq": 1.0}

    @classmethod
    def special_tokens(cls, config: SpanCorruptionConfig) -> list[str]:
        """The blanks, as many as T5's tokenizers have; a document with more spans has longer ones instead."""
        return [blank(i) for i in range(MOST_BLANKS)] if config.noise.kind == "spans" else []

    @classmethod
    def completed(cls, config: SpanCorruptionConfig) -> SpanCorruptionConfig:
        """As it is, if its noise can be made."""
        check_noise(config.noise)
        return config

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: SpanCorruptionConfig) -> Frame:
        """The tokenizer's own, if it has what the noise needs."""
        stand_ins(tokenizer, config.noise)
        return super().frame(tokenizer, config)

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: SpanCorruptionConfig, *, seed: int, source: int = 0
    ) -> CorruptingCollator:
        """Noise as `config.noise` says."""
        frame = cls.frame(tokenizer, config)
        return CorruptingCollator(tokenizer, config.noise, frame, seed=seed, source=source)

    @classmethod
    def labels_per_token(cls, config: SpanCorruptionConfig) -> float:
        """What is written, for every token of the text."""
        share = share_of(config.noise)
        return 1.0 if config.noise.kind == "infilling" else 2 * share * (1 + 1 / config.noise.mean_span)

    def forward(self, batch: Batch) -> Sums:
        """`seq2seq`, summed cross-entropy in nats; in evaluation also what `evaluate` counts."""
        targets, positions = batch["target_ids"], batch["target_position_ids"]
        logits = self.model(
            batch["input_ids"],
            document_ids=batch["document_ids"],
            position_ids=batch["position_ids"],
            target_ids=torch.where(positions == 0, self.start, targets.roll(1, 1)),
            target_document_ids=batch["target_document_ids"],
            target_position_ids=positions,
            label_positions=batch["label_positions"],
        )
        logits, labels, spans = logits.view(-1, logits.shape[-1]), batch["labels"], batch["spans"].long()
        sums = {"seq2seq": summed_cross_entropy(logits, labels)}
        if self.training:
            return sums
        wrong = torch.zeros(len(spans) + 1, dtype=torch.bool, device=spans.device)
        there = wrong.clone()
        there[spans] = True
        wrong[spans[logits.argmax(-1) != labels]] = True
        is_hidden = spans > 0
        return sums | {
            "hidden": summed_cross_entropy(logits, torch.where(is_hidden, labels, IGNORE)),
            "num_hidden": is_hidden.sum(),
            "right": (there & ~wrong)[1:].sum(),
            "num_spans": there[1:].sum(),
        }

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss per token to write; that of tokens that were taken out; the share of spans that are right."""
        return super().evaluate(sums, counts, num_bytes) | {
            "hidden_loss": float(sums["hidden"]) / max(1.0, float(sums["num_hidden"])),
            "span_accuracy": float(sums["right"]) / max(1.0, float(sums["num_spans"])),
        }

    def reference(self, unigram: float) -> dict[str, float]:
        """What a model without context reaches on tokens that were taken out."""
        return {"unigram entropy": unigram}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Nats per token that was taken out, beside the unigram model's per token; and spans."""
        loss = compared("held-out loss", results["hidden_loss"], "nats per token that was taken out", unigram)
        every = f"{results['held_out_loss']:.3f} nats per token to write, with blanks and ends"
        return f"{loss}; {every}\n{results['span_accuracy']:.1%} of the spans right, given the true tokens before each"

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Gaps filled by plain transformers."""
        return fill_spans(folder, held_out, tokenizer, self.noise)


def fill_spans(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, noise: NoiseSection, count: int = 3
) -> Iterator[str]:
    """Take two words out of held-out sentences and let the model in a folder write what is missing; one line each."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=False).eval()
    token = blank(0) if noise.kind == "spans" else tokenizer.mask_token
    for text in held_out_paragraphs(tokens, tokenizer, count):
        words = list(re.finditer(r"(?<= )\S+ \S+(?= )", text[: len(text) // 2 + 40]))
        if not words or token in text:
            continue
        gap = words[-1]
        shown = f"{text[: gap.start()]}{token}{text[gap.end() :]}"
        read = tokenizer(shown, return_tensors="pt", verbose=False)
        room = 16 + (0 if noise.kind == "spans" else read["input_ids"].shape[1])
        written = model.generate(**read, max_new_tokens=room, do_sample=False)[0]
        yield f"{' '.join(shown.split())}  ->  {_first_span(written.tolist(), tokenizer)}  (it was: {gap[0]})"


def _first_span(written: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    """What was written for the first blank; the whole of it where there are no blanks."""
    ids = blanks_of(tokenizer).tolist()
    parts: list[list[int]] = [[]]
    for token in written:
        if token in ids:
            parts.append([])
        else:
            parts[-1].append(token)
    return " ".join(tokenizer.decode(parts[min(1, len(parts) - 1)], skip_special_tokens=True).split())


OBJECTIVE = SpanCorruption
