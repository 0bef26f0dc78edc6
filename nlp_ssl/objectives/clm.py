"""Causal language modelling: predict the next token of the same document (Radford et al. 2018)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.objective import Batch, Metrics, digest_of, loss_precision, narrow, to_tensors


class CausalLanguageModeling:
    """Asks every token of a packed row for the next one of its document.

    A label never crosses documents, and where a document was cut at the end of a row no end is taught. A collated batch
    holds `input_ids`, `document_ids`, `position_ids` (int32) and `labels` (int64), all (B, S); `cu_seqlens`, where
    documents begin; and its `digest`. `labels` are already shifted.

    Args:
        tokenizer: the begin and end that packing adds are targets, but no text: bits per byte leave them out (and
            nothing else: the bytes of an unknown word count, so its loss does too).
        pad: token of empty positions.
    """

    auto_class = AutoModelForCausalLM
    pipeline = "text-generation"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, pad: int) -> None:
        self.added_ids = torch.tensor([i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None])
        self.pad = pad

    def collate(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a batch with shifted labels."""
        batch = stack_rows(rows, self.pad)
        ids, documents = batch["input_ids"], batch["document_ids"]
        follows = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] > 0) & ~batch["cut_ends"][:, 1:]
        labels = np.full_like(ids, IGNORE)
        labels[:, :-1] = np.where(follows, ids[:, 1:], IGNORE)
        seen = np.where(documents > 0, ids + 1, 0)
        seen[:, :-1] += follows.astype(np.int64) << 32
        return to_tensors(
            {
                **narrow(batch),
                "cu_seqlens": cumulative_lengths(documents),
                "labels": labels,
            }
        ) | {"digest": digest_of(batch["row"], batch["epoch"], seen)}

    def num_targets(self, batch: Batch) -> int:
        """Tokens that have a predecessor in their document."""
        return int((batch["labels"] != IGNORE).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Summed cross-entropy in nats; and in evaluation `text_loss_sum`, that of targets that are text."""
        logits = model(
            batch["input_ids"],
            document_ids=batch["document_ids"],
            position_ids=batch["position_ids"],
            cu_seqlens=batch["cu_seqlens"],
        )
        logits, labels = logits.view(-1, logits.shape[-1]), batch["labels"].view(-1)
        if model.training:
            return summed_cross_entropy(logits, labels), {}
        logits = loss_precision(logits)
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        is_text = ~torch.isin(labels, self.added_ids.to(labels.device))
        return losses.sum(), {"text_loss_sum": (losses * is_text).sum()}
