"""Labelled texts among the objectives of a mixture: classes or scores of texts, learnt during pretraining.

The head is this run's; what is published is the body, which knows the task when it is fine-tuned to it (Aghajanyan et
al. 2021, "Muppet"; Raffel et al. 2020, section 3.5.2, multi-task pre-training).
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from nlp_ssl.config.common import plain, to_dict
from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.config.mixture import SupervisedConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.data.labelled.labelled_data import LabelledData, open_classification
from nlp_ssl.data.sequences.batches import Batch
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.classification import Classification, ClassificationCollator
from nlp_ssl.objectives.objective import Metrics, PretrainingObjective, Stream, Sums, loss_precision
from nlp_ssl.publishing.card import CardText


class Supervised(PretrainingObjective):
    """A linear layer on the mean of a text's hidden states; one target per row."""

    model: PackedModel
    Config: ClassVar[Any] = SupervisedConfig
    auto_class = AutoModelForMaskedLM
    is_labelled = True
    metrics: ClassVar[Metrics] = {"held_out_loss": "min", "accuracy": "max"}
    card = CardText(
        pipeline_tag="feature-extraction",
        objective="classification of labelled texts",
        what="an encoder that has seen labelled texts",
        limit="By itself it gives hidden states; use it as a starting point for fine-tuning.",
        recipe="pretrain_mixture",
        example="'A text.'",
        snippet="",
    )

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: SupervisedConfig) -> None:
        super().__init__(model, tokenizer, config)
        data = _data(config)
        self.task = Classification(model.model, _reader(tokenizer, data, config))
        self.head = nn.Linear(model.model.config.hidden_size, len(data.names) if data.labels is not None else 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.rows = fingerprint(data.train._fingerprint, data.names)

    @classmethod
    def completed(cls, config: SupervisedConfig) -> SupervisedConfig:
        """As it is, if a step can have its rows."""
        if config.supervised.batch_size < 1:
            raise UserError(f"--supervised.batch_size is {config.supervised.batch_size}; it must be at least 1")
        return config

    @classmethod
    def streams(
        cls, tokenizer: PreTrainedTokenizerFast, config: SupervisedConfig, *, seed: int, source: int = 0
    ) -> list[Stream]:
        """The labelled rows; nothing is drawn."""
        data, reader = _data(config), _reader(tokenizer, _data(config), config)
        train, held_out = reader.tokenize(data.train, "train"), reader.tokenize(data.validation, "validation")
        return [Stream(reader, rows=train, held_out=held_out, batch_size=config.supervised.batch_size)]

    def identity(self) -> dict[str, str]:
        """The labelled rows."""
        return {"the labelled rows": self.rows}

    def forward(self, batch: Batch) -> Sums:
        """`loss`, summed over rows, as of `Classification.loss`; in evaluation also what that counts."""
        mask = batch["attention_mask"]
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        hidden = self.model.hidden_states(batch["input_ids"], document_ids=mask, position_ids=positions)
        real = mask[..., None].to(hidden.dtype)
        logits = loss_precision(self.head((hidden * real).sum(1) / real.sum(1)))
        sums = self.task.loss(logits, batch)
        return {"loss": sums["loss"]} if self.training else sums

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss per row, and of classes the share that is right."""
        found = super().evaluate(sums, counts, num_bytes)
        return found | ({"accuracy": float(sums["correct"]) / max(1, counts["loss"])} if "correct" in sums else {})

    def headline(self, results: Mapping[str, float], held_out: Any, unigram: float) -> str:
        """The share of rows that is right."""
        right = f", {results['accuracy']:.1%} of the rows right" if "accuracy" in results else ""
        return f"held-out loss {results['held_out_loss']:.3f} per labelled row{right}"


def _data(config: SupervisedConfig) -> LabelledData:
    return _read(json.dumps(plain(to_dict(config.supervised.data)), sort_keys=True))


@lru_cache(maxsize=4)
def _read(options: str) -> LabelledData:
    """The rows, read once."""
    return open_classification(LabelledConfig(**json.loads(options)))


def _reader(tokenizer: PreTrainedTokenizerFast, data: LabelledData, config: SupervisedConfig) -> ClassificationCollator:
    several = data.kind.several
    return ClassificationCollator(tokenizer, data.labels, data.text_columns, config.supervised.max_length, several)


OBJECTIVE = Supervised
