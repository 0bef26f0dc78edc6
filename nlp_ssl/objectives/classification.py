"""Classification and regression of texts and pairs of texts, with any `AutoModelForSequenceClassification`."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from nlp_ssl.console import UserError, say, warn
from nlp_ssl.files import cache_dir
from nlp_ssl.objectives.objective import digest_of, loss_precision

PAD_TO_MULTIPLE_OF = 8  # tensor cores like it, and there are fewer shapes to compile
IGNORED = -100
RULES = 1  # raise it when the same rows would be tokenised otherwise


class Classification:
    """Cross-entropy over classes, or squared error of one score; one target a row.

    Args:
        tokenizer: the model's.
        labels: names of the classes in the order of their ids; `None` for regression.
        text_columns: one column of the data set, or the two of a pair.
        max_length: longest input in tokens, special ones included; of a pair the longer text is cut first.

    Raises:
        UserError: `max_length` is beyond what the tokenizer announces, or leaves no room for text.
    """

    auto_class = AutoModelForSequenceClassification
    pipeline = "text-classification"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: list[str] | None,
        text_columns: list[str],
        max_length: int = 128,
    ):
        check_max_length(tokenizer, max_length, tokenizer.num_special_tokens_to_add(pair=len(text_columns) == 2))
        self.tokenizer, self.labels, self.text_columns, self.max_length = tokenizer, labels, text_columns, max_length
        self.pad_id = padding_id(tokenizer)
        if len(text_columns) == 2:
            _warn_of_unseparated_pairs(tokenizer)

    def config_kwargs(self) -> dict[str, Any]:
        """What the model's configuration must say about the task, for `from_pretrained` or `from_config`."""
        # decoders read the score at the last token that is not padding, so they must know it
        common = {"pad_token_id": self.pad_id}
        if self.labels is None:
            return common | {"num_labels": 1, "problem_type": "regression"}
        return common | {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def prepare(self, dataset: Dataset) -> Dataset:
        """Tokenise once; the result is kept in the cache and found again.

        Args:
            dataset: the text columns, and `label` (class ids or scores) if it is known.

        Returns:
            `input_ids` (lists of int), `token_type_ids` if the tokenizer yields them, and `labels` (int, or float for
            regression; absent when `label` is).
        """
        with_labels = "label" in dataset.column_names

        def tokenise(batch: dict[str, list]) -> dict[str, list]:
            texts = [batch[column] for column in self.text_columns]
            encoded = self.tokenizer(*texts, truncation=False, verbose=False, return_attention_mask=False)
            too_long = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > self.max_length]
            for i in too_long:
                cut = self.tokenizer(
                    *[column[i] for column in texts],
                    truncation="longest_first",
                    max_length=self.max_length,
                    return_attention_mask=False,
                )
                for key in encoded:
                    encoded[key][i] = cut[key]
            if too_long and self.tokenizer.is_fast:  # or the last cut would be saved with the tokenizer as a rule
                self.tokenizer.backend_tokenizer.no_truncation()
            columns = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
            # a text of characters that the tokenizer drops is still a row
            for key, empty in (("input_ids", self.pad_id), ("token_type_ids", 0)):
                columns |= {key: [ids or [empty] for ids in columns[key]]} if key in columns else {}
            columns["truncated"] = [i in set(too_long) for i in range(len(encoded["input_ids"]))]
            return columns | ({"labels": batch["label"]} if with_labels else {})

        prepared = cached_map(dataset, tokenise, [*self.text_columns, self.max_length, self.tokenizer])
        num_truncated = sum(prepared["truncated"])
        if num_truncated:
            say(f"{num_truncated:,} of {len(prepared):,} texts are cut to {self.max_length} tokens (--max_length)")
        return prepared.remove_columns("truncated")

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad to the longest row, rounded up to a multiple of 8.

        Returns:
            `input_ids`, `attention_mask` and perhaps `token_type_ids`, int64 (B, S); `labels`, int64 or float32 (B,),
            where -100 (classes) and nan (scores) mean "no label": such a row is no target; and its `digest`.
        """
        rows = list(rows)  # read once
        batch = pad_rows([row["input_ids"] for row in rows], self.pad_id)
        if "token_type_ids" in rows[0]:
            length = batch["input_ids"].shape[1]
            batch["token_type_ids"] = torch.tensor(
                [[*row["token_type_ids"], *[0] * (length - len(row["token_type_ids"]))] for row in rows]
            )
        unknown, dtype = (float("nan"), torch.float32) if self.labels is None else (IGNORED, torch.int64)
        labels = [row.get("labels") for row in rows]
        batch["labels"] = torch.tensor([unknown if label is None else label for label in labels], dtype=dtype)
        shown = (batch["input_ids"] + 1) * batch["attention_mask"]
        asked = batch["labels"].double().view(torch.int64)[:, None]
        batch["digest"] = digest_of(*addresses(rows), torch.cat([asked, shown], 1).numpy())
        return batch

    def num_targets(self, batch: dict[str, Tensor]) -> int:
        """Number of rows with a label."""
        return int(self._real(batch["labels"]).sum())

    def loss(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over rows of the cross-entropy in nats, or of the squared error.

        Returns:
            The sum, 0-d, and metrics summed over rows: `correct` (classes) or `squared_error` (scores).
        """
        logits, labels = self._logits(model, batch), batch["labels"]
        if self.labels is None:
            error = torch.where(self._real(labels), logits[:, 0] - labels, 0.0)
            loss_sum = error.square().sum()
            return loss_sum, {"squared_error": loss_sum.detach()}
        loss_sum = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        return loss_sum, {"correct": (logits.argmax(dim=-1) == labels).sum()}

    @torch.no_grad()
    def predictions(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[list, list]:
        """Predicted and true class ids (or scores) of the rows that have a label."""
        logits, real = self._logits(model, batch), self._real(batch["labels"])
        predicted = logits[:, 0] if self.labels is None else logits.argmax(dim=-1)
        return predicted[real].tolist(), batch["labels"][real].tolist()

    def _real(self, labels: Tensor) -> Tensor:
        return ~labels.isnan() if self.labels is None else labels != IGNORED

    def _logits(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        # only where the model learned segments: GPT-2 would take them for words, ModernBERT not at all
        if "token_type_ids" in batch and (getattr(model.config, "type_vocab_size", None) or 0) > 1:
            inputs["token_type_ids"] = batch["token_type_ids"]
        return loss_precision(model(**inputs).logits)


# ---------------------------------------------------------------------------------------------------------------------
# shared with tagging


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, num_special: int) -> None:
    """Refuse a length that the model's positions do not reach, or that special tokens fill."""
    if max_length > tokenizer.model_max_length:
        raise UserError(f"--max_length {max_length} is beyond the model's {tokenizer.model_max_length} positions")
    if max_length <= num_special:
        raise UserError(f"--max_length {max_length} leaves no room for text beside {num_special} special tokens")


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills rows up; the end-of-text token where a tokenizer, as GPT-2's, has none for it."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in ids if i is not None)


def addresses(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """`row` and `epoch` of rows, int64; 0 where they have none."""
    return tuple(np.array([row.get(key, 0) for row in rows], dtype=np.int64) for key in ("row", "epoch"))


def pad_rows(rows: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, int64 (B, S), S the longest row rounded up to a multiple of 8."""
    longest = max(len(row) for row in rows)
    length = -(-longest // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF
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
    folder.mkdir(parents=True, exist_ok=True)
    return dataset.map(
        function,
        batched=True,
        remove_columns=dataset.column_names,
        cache_file_name=str(folder / f"{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        load_from_cache_file=True,
        desc="tokenise",
    )


def _rules(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """A fast tokenizer's vocabulary and rules, without the truncation and padding that the last call left in it."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return [{key: rules[key] for key in rules if key not in ("truncation", "padding")}, tokenizer.model_input_names]


def _warn_of_unseparated_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second, pair = tokenizer("a").input_ids, tokenizer("b").input_ids, tokenizer("a", "b").input_ids
    if pair == first + second and not tokenizer.num_special_tokens_to_add(pair=True):
        warn("this tokenizer writes nothing between the two texts of a pair; the model cannot see where one ends")
