"""Distillation of a causal language model: `distillation.py` with a label at every token."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.cross_entropy import IGNORE, bits_per_byte
from nlp_ssl.objectives.distillation import METRICS, RESULTS, Distillation
from nlp_ssl.objectives.objective import Metrics, Sums, loss_precision
from nlp_ssl.publishing.card import CardText


class CausalDistillation(Distillation, CausalLanguageModeling):
    """Distils a causal language model."""

    metrics: ClassVar[Metrics] = METRICS | {"perplexity": "min", "bits_per_byte": "min"}
    card = CardText(
        pipeline_tag="text-generation",
        objective="distillation of a causal language model",
        papers=("1910.01108",),
        what="a causal language model that learnt from a larger one: it continues text",
        limit="It continues text plausibly, not truthfully, and has the faults of its teacher.",
        recipe="distill",
        results=RESULTS
        | {name: CausalLanguageModeling.card.results[name] for name in ("perplexity", "bits_per_byte")}
        | {"teacher_bits_per_byte": "... of the teacher"},
        example=CausalLanguageModeling.card.example,
        snippet=CausalLanguageModeling.card.snippet,
    )

    def _more(self, logits: Tensor, taught: Tensor, labels: Tensor) -> Sums:
        """`text` and `teacher_text`: the losses of targets that are text."""
        is_text = (labels != IGNORE) & ~torch.isin(labels, self.added_ids.to(labels.device))
        targets = torch.where(is_text, labels, IGNORE)
        losses = (F.cross_entropy(loss_precision(each), targets, reduction="sum") for each in (logits, taught))
        return dict(zip(("text", "teacher_text"), losses, strict=True))

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """Those of every distillation, the student's perplexity, and both models' bits per byte of the text."""
        found = super().evaluate(sums, counts, num_bytes)
        return found | {
            "perplexity": math.exp(min(found["student_loss"], 100)),
            "bits_per_byte": bits_per_byte(float(sums["text"]), num_bytes),
            "teacher_bits_per_byte": bits_per_byte(float(sums["teacher_text"]), num_bytes),
        }


OBJECTIVE = CausalDistillation
