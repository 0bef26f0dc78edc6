"""Causal language modelling: predict the next token of the same document (Radford et al. 2018)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nlp_ssl.config.pretraining import CLMConfig, PretrainConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.cross_entropy import IGNORE, bits_per_byte, summed_cross_entropy
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
from nlp_ssl.objectives.samples import continue_texts
from nlp_ssl.publishing.card import CardText


def next_tokens(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The next token of its document for every token of packed rows, or -100: int64, (B, S).

    Args:
        rows: as `stack_rows` gives them.
    """
    ids, documents = rows["input_ids"], rows["document_ids"]
    follows = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] > 0) & ~rows["cut_ends"][:, 1:]
    labels = np.full_like(ids, IGNORE)
    labels[:, :-1] = np.where(follows, ids[:, 1:], IGNORE)
    return labels


class CausalCollator:
    """Labels every token of packed rows with the next one of its document.

    A label never crosses documents, and where a document was cut at the end of a row no end is taught. A batch holds
    `input_ids`, `document_ids`, `position_ids` (int32) and `labels` (int64), all (B, S); `cu_seqlens`, where documents
    begin; and its `digest`. `labels` are already shifted.

    Args:
        pad: token of empty positions.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a batch with shifted labels."""
        return self.labelled(stack_rows(rows, self.pad))

    def labelled(self, rows: dict[str, np.ndarray]) -> Batch:
        """The same of rows as `stack_rows` gives them."""
        documents, labels = rows["document_ids"], self.labels(rows)
        seen = np.where(documents > 0, rows["input_ids"] + 1, 0) + ((labels != IGNORE).astype(np.int64) << 32)
        return to_tensors(
            {
                **narrow(rows),
                "cu_seqlens": cumulative_lengths(documents),
                "labels": labels,
            }
        ) | {"digest": digest_of(rows["row"], rows["epoch"], seen)}

    def labels(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        """What every token is to predict, or -100: int64, (B, S)."""
        return next_tokens(rows)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Tokens that have a predecessor in their document."""
        return {"clm": int((batch["labels"] != IGNORE).sum())}


class CausalLanguageModeling(PretrainingObjective):
    """Predicts the next token, with a decoder, or in a phase with an encoder whose tokens then see only their past.

    The begin and end that packing adds are targets, but no text: bits per byte leave them out (and nothing else: the
    bytes of an unknown word count, so its loss does too).
    """

    Config: ClassVar[Any] = CLMConfig
    auto_class = AutoModelForCausalLM
    metrics: ClassVar[Metrics] = {"held_out_loss": "min", "perplexity": "min", "bits_per_byte": "min"}
    trains = "decoder"
    default_models: ClassVar[dict[str, str]] = {"cpu": "llama-tiny", "gpu": "llama-small"}
    card = CardText(
        pipeline_tag="text-generation",
        objective="causal language modelling",
        what="a causal language model: it continues text",
        limit="It continues text plausibly, not truthfully, and was not trained to follow instructions.",
        recipe="pretrain_clm",
        results={
            "held_out_loss": "Held-out loss, nats per predicted token (weighted by token)",
            "perplexity": "Held-out perplexity, per predicted token of this tokenizer",
            "bits_per_byte": "Bits per byte of held-out text (predicted bytes only)",
        },
        example="'The function returns'",
        snippet="""\
from transformers import pipeline

generate = pipeline("text-generation", model={model})
print(generate({example}, max_new_tokens=40)[0]["generated_text"])""",
    )

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.added_ids = torch.tensor([i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None])

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy of the next tokens."""
        return {"clm": 1.0}

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """BOS, or EOS where there is none, and EOS."""
        end = tokenizer.eos_token_id
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
        if end is None:
            raise UserError("the tokenizer has no end-of-text token, which causal pretraining needs between documents")
        return (start,), (end,)

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, *, seed: int, source: int = 0
    ) -> CausalCollator:
        """Nothing is drawn."""
        return CausalCollator(tokenizer.pad_token_id)

    def forward(self, batch: Batch) -> Sums:
        """`clm`, summed cross-entropy in nats; in evaluation also `text`, that of targets that are text."""
        if self.training:
            logits = self.model(batch["input_ids"], **packing_of(batch), causal=True)
            return {"clm": summed_cross_entropy(logits.view(-1, logits.shape[-1]), batch["labels"].view(-1))}
        losses = self.token_losses(batch)
        is_text = ~torch.isin(batch["labels"].view(-1), self.added_ids.to(losses.device))
        return {"clm": losses.sum(), "text": (losses * is_text).sum()}

    def token_losses(self, batch: Batch) -> Tensor:
        """Nats to name each label, (B * S,); 0 where there is none."""
        logits = loss_precision(self.model(batch["input_ids"], **packing_of(batch), causal=True))
        labels = batch["labels"].view(-1)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels, ignore_index=IGNORE, reduction="none")

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss, its exponential, and bits per byte of the text."""
        found = super().evaluate(sums, counts, num_bytes)
        perplexity = math.exp(min(found["held_out_loss"], 100))
        bits = bits_per_byte(float(sums["text"]), num_bytes)
        return found | {"perplexity": perplexity, "bits_per_byte": bits}

    def reference(self, unigram: float) -> dict[str, float]:
        """What a model without context reaches."""
        return {"unigram entropy": unigram}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Bits per byte."""
        manifest = held_out.manifest
        reference = bits_per_byte(unigram * manifest["tokens"], manifest["bytes"])
        return compared("held-out loss", results["bits_per_byte"], "bits per byte", reference)

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Texts continued by plain transformers."""
        return continue_texts(folder, held_out, tokenizer)


OBJECTIVE = CausalLanguageModeling
