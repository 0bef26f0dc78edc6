"""What the objectives of labelled texts share: rows that are tokenised once, padded batches, predictions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.cache import is_whole, seal
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir, make_folder
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.data.sequences.batches import Batch, Collator
from nlp_ssl.data.sequences.length_batching import padded
from nlp_ssl.data.tokens.text_only import read_each
from nlp_ssl.objectives.objective import Objective, Sums
from nlp_ssl.publishing.card import CardText

IGNORED = -100
RULES = 3  # raise it when the same rows would be tokenised otherwise


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one row.

    Attributes:
        predicted: class id; one 0 or 1 per class where a row may have several; score; or tag names, one per word.
        reference: the truth, likewise; `None` where it is not known.
        probabilities: of the classes; none for scores and tags.
    """

    predicted: Any
    reference: Any
    probabilities: list[float] | None = None


class LabelledCollator(Collator, Protocol):
    """Reads the rows of a labelled task.

    Attributes:
        tokenizer: the model's.
        max_length: longest input in tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def config_kwargs(self) -> dict[str, Any]:
        """What the model's configuration must say about the task, for `from_pretrained` or `from_config`."""
        ...

    def tokenize(self, dataset: Dataset, part: str = "") -> Dataset:
        """The rows that batches are made of, tokenized once; the result is kept in the cache and found again.

        Args:
            dataset: the task's rows.
            part: the name of this set, such as `"train"`, for what is said of its rows.
        """
        ...


class LabelledObjective(Objective):
    """An objective for labelled rows: its loss and its predictions are made of the same logits.

    Args:
        model: with a head of `auto_class`.
        collator: made the batches.
    """

    def __init__(self, model: nn.Module, collator: Any) -> None:
        super().__init__(model)
        self.collator = collator

    @classmethod
    def read(cls, config: LabelledConfig) -> LabelledData:
        """Open the labelled data of a run."""
        raise NotImplementedError

    @classmethod
    def reader(cls, tokenizer: PreTrainedTokenizerBase, data: LabelledData, config: Any) -> LabelledCollator:
        """What makes batches of the data's rows.

        Args:
            tokenizer: the model's.
            data: from `read`, its labels in the order of a trained head.
            config: of the run.
        """
        raise NotImplementedError

    @classmethod
    def adapt(cls, model_config: PreTrainedConfig, config: Any) -> None:
        """Write what the run's options ask of the architecture into its configuration."""

    @classmethod
    def over(cls, model: nn.Module, collator: LabelledCollator, data: LabelledData, config: Any) -> Self:
        """The objective of a run."""
        return cls(model, collator)

    @classmethod
    def about(cls, collator: Any) -> CardText:
        """What the card of a run says; `card`, unless it depends on how rows are read."""
        return cls.card

    @classmethod
    def show(cls, predict: Any, data: LabelledData, row: dict[str, Any], collator: Any) -> str:
        """One row, its true label and what a `pipeline` of transformers makes of it, for the eye."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Sums:
        """`loss`, summed over the labels, and what else is counted of them."""
        return self.loss(self.logits(batch), batch)

    def logits(self, batch: Batch) -> Tensor:
        """Of a batch, in the precision of losses."""
        raise NotImplementedError

    def loss(self, logits: Tensor, batch: Batch) -> Sums:
        """Of logits; see `forward`."""
        raise NotImplementedError

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """One for each row of a batch, in their order."""
        raise NotImplementedError


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, num_special: int) -> None:
    """Refuse a length that the model's positions do not reach, or that special tokens fill."""
    if 0 < tokenizer.model_max_length < max_length:
        raise UserError(f"--max_length {max_length} is beyond the model's {tokenizer.model_max_length} positions")
    if max_length <= num_special:
        raise UserError(f"--max_length {max_length} leaves no room for text beside {num_special} special tokens")


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills rows up; the end-of-text token where a tokenizer, as GPT-2's, has none for it."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in ids if i is not None)


def addresses(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """`row` and `epoch` of rows, int64; 0 where they have none."""
    numbers, epochs = (np.array([row.get(key, 0) for row in rows], dtype=np.int64) for key in ("row", "epoch"))
    return numbers, epochs


def pad_rows(rows: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, int64 (B, S), S the longest row rounded up to a multiple of 8."""
    length = int(padded(np.array([len(row) for row in rows])).max())
    return {
        "input_ids": torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
    }


def cached_map(dataset: Dataset, function: Any, decided_by: list[Any]) -> Dataset:
    """`dataset.map(function)` without the old columns, kept in a file of our cache that is named after its input.

    Args:
        dataset: rows; data made in memory are found again too, by their content.
        function: from a batch of old columns to one of new columns.
        decided_by: all that the result depends on besides the rows; a tokenizer counts by its vocabulary and rules.
    """
    key = [_rules(x) if isinstance(x, PreTrainedTokenizerBase) and x.is_fast else x for x in decided_by]
    fingerprint = Hasher.hash([RULES, dataset._fingerprint, function.__qualname__, key])
    folder = cache_dir() / "prepared"
    make_folder(folder)
    file = folder / f"{fingerprint}.arrow"
    whole = is_whole(file)

    def read(batch: Mapping[str, list]) -> Any:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        return read_each(lambda some: function({name: [row[name] for row in some] for name in batch}), rows)

    mapped = dataset.map(
        read,
        batched=True,
        remove_columns=dataset.column_names,
        cache_file_name=str(file),
        new_fingerprint=fingerprint,
        load_from_cache_file=True,
        desc="tokenise",
    )
    if not whole:
        seal(file)
    return mapped


def _rules(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """A fast tokenizer's vocabulary and rules, without the truncation and padding that the last call left in it."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return [{key: rules[key] for key in rules if key not in ("truncation", "padding")}, tokenizer.model_input_names]
