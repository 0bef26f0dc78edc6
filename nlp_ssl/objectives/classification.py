"""Classification and regression of texts and pairs of texts, with any `AutoModelForSequenceClassification`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedTokenizerBase

from nlp_ssl.config.finetuning import ClassificationConfig, LabelledConfig
from nlp_ssl.core.console import say, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.labelled_data import LabelledData, open_classification
from nlp_ssl.data.sequences.batches import Batch
from nlp_ssl.data.tokens.text_only import text_only
from nlp_ssl.objectives.labelled import (
    IGNORED,
    LabelledObjective,
    Prediction,
    addresses,
    cached_map,
    check_max_length,
    pad_rows,
    padding_id,
)
from nlp_ssl.objectives.objective import Sums, digest_of, loss_precision
from nlp_ssl.publishing.card import CardText


class ClassificationCollator:
    """Reads texts, or pairs of texts, each with one target: a class, several, or a score.

    Args:
        tokenizer: the model's; text that spells one of its special tokens is read as text.
        labels: names of the classes in the order of their ids, which is that of a trained head (see `match_labels`);
            `None` for regression.
        text_columns: one column of the data set, or the two of a pair.
        max_length: longest input in tokens, special ones included; of a pair the longer text is cut first.
        several: whether a row may have several classes, or none.

    Raises:
        UserError: `max_length` is beyond what the tokenizer announces, or leaves no room for text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: list[str] | None,
        text_columns: list[str],
        max_length: int = 128,
        several: bool = False,
    ):
        check_max_length(tokenizer, max_length, tokenizer.num_special_tokens_to_add(pair=len(text_columns) == 2))
        self.tokenizer, self.labels, self.text_columns, self.max_length = tokenizer, labels, text_columns, max_length
        self.several = several
        self._reader = text_only(tokenizer)
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
            "problem_type": "multi_label_classification" if self.several else "single_label_classification",
        }

    def tokenize(self, dataset: Dataset, part: str = "") -> Dataset:
        """Tokenise once; the result is kept in the cache and found again.

        Args:
            dataset: the text columns, and `label` (class ids, lists of them, or scores) if it is known.
            part: the name of this set, such as `"train"`, for what is said of its rows.

        Returns:
            `input_ids` (lists of int), `token_type_ids` if the tokenizer yields them, `length` (tokens) and `labels`
            (int, lists of int, or float for regression; absent when `label` is).
        """
        with_labels = "label" in dataset.column_names

        def read(batch: dict[str, list]) -> dict[str, list]:
            texts = [batch[column] for column in self.text_columns]
            encoded = self._reader(*texts, truncation=False, verbose=False, return_attention_mask=False)
            too_long = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > self.max_length]
            for i in too_long:
                cut = self._reader(
                    *[column[i] for column in texts],
                    truncation="longest_first",
                    max_length=self.max_length,
                    return_attention_mask=False,
                )
                for key in encoded:
                    encoded[key][i] = cut[key]
            columns = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
            # a text of characters that the tokenizer drops is still a row
            for key, empty in (("input_ids", self.pad_id), ("token_type_ids", 0)):
                columns |= {key: [ids or [empty] for ids in columns[key]]} if key in columns else {}
            columns["length"] = [len(ids) for ids in columns["input_ids"]]
            columns["truncated"] = [i in set(too_long) for i in range(len(encoded["input_ids"]))]
            return columns | ({"labels": batch["label"]} if with_labels else {})

        prepared = cached_map(dataset, read, [*self.text_columns, self.max_length, self.tokenizer])
        num_truncated = sum(prepared["truncated"])
        if num_truncated:
            said = f"{num_truncated:,} of {len(prepared):,} texts are cut to {self.max_length} tokens (--max_length)"
            say(f"{part}: {said}" if part else said)
        return prepared.remove_columns("truncated")

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Pad to the longest row, rounded up to a multiple of 8.

        Returns:
            `input_ids`, `attention_mask` and perhaps `token_type_ids`, int64 (B, S); `labels`, int64 (B,), or float32
            (B,) for scores and (B, classes) of 0 and 1 where a row may have several, where -100 (classes) and nan (the
            others) mean "no label": such a row is no target; and its `digest`.
        """
        rows = list(rows)  # read once
        batch = pad_rows([row["input_ids"] for row in rows], self.pad_id)
        if "token_type_ids" in rows[0]:
            length = batch["input_ids"].shape[1]
            batch["token_type_ids"] = torch.tensor(
                [[*row["token_type_ids"], *[0] * (length - len(row["token_type_ids"]))] for row in rows]
            )
        batch["labels"] = self._labels([row.get("labels") for row in rows])
        shown = (batch["input_ids"] + 1) * batch["attention_mask"]
        asked = batch["labels"].double().view(torch.int64).reshape(len(rows), -1)
        batch["digest"] = digest_of(*addresses(rows), torch.cat([asked, shown], 1).numpy())
        return batch

    def _labels(self, labels: list[Any]) -> Tensor:
        if self.several:
            ids = range(len(self.labels or ()))
            rows = [[float("nan") if row is None else float(i in row) for i in ids] for row in labels]
            return torch.tensor(rows, dtype=torch.float32)
        unknown, dtype = (float("nan"), torch.float32) if self.labels is None else (IGNORED, torch.int64)
        return torch.tensor([unknown if label is None else label for label in labels], dtype=dtype)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Rows with a label."""
        return {"loss": int(self.known(batch["labels"]).sum())}

    def known(self, labels: Tensor) -> Tensor:
        """Which rows have a label, bool (B,)."""
        if self.several:
            return ~labels.isnan().any(dim=-1)
        return ~labels.isnan() if self.labels is None else labels != IGNORED


class Classification(LabelledObjective):
    """Cross-entropy over classes, or squared error of one score; one target per row.

    Where a row may have several classes, or none, its loss is the mean over classes of the binary cross-entropy.

    Args:
        model: an `AutoModelForSequenceClassification`.
        collator: made the batches.
        class_weights: factor of each class's rows in the loss, of mean 1 over the training rows.
    """

    auto_class = AutoModelForSequenceClassification
    card = CardText(
        pipeline_tag="text-classification",
        what="a text classifier",
        limit="It knows only the labels above and always answers with one of them, also where none fits.",
        recipe="finetune_classification",
        example="'A text to classify.'",
        snippet="""\
from transformers import pipeline

classify = pipeline("text-classification", model={model})
print(classify({example}))""",
    )

    def __init__(
        self, model: nn.Module, collator: ClassificationCollator, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(model, collator)
        self.class_weights = class_weights
        # XLNet's head reads the last position, whatever stands there
        self._pads_left = any(getattr(module, "summary_type", None) == "last" for module in model.modules())
        has_segments = any("seg_embed" in name for name, _ in model.named_parameters())
        self._has_segments = has_segments or (getattr(model.config, "type_vocab_size", None) or 0) > 1

    @classmethod
    def read(cls, config: LabelledConfig) -> LabelledData:
        """Texts, or pairs of texts."""
        return open_classification(config)

    @classmethod
    def reader(
        cls, tokenizer: PreTrainedTokenizerBase, data: LabelledData, config: ClassificationConfig
    ) -> ClassificationCollator:
        """As the data's labels are."""
        return ClassificationCollator(tokenizer, data.labels, data.text_columns, config.max_length, data.kind.several)

    @classmethod
    def adapt(cls, model_config: PreTrainedConfig, config: ClassificationConfig) -> None:
        """How the head reads a text, where the architecture lets one choose."""
        if config.pooling is None:
            return
        if not hasattr(model_config, "classifier_pooling"):
            raise UserError(
                f"--pooling {config.pooling}: {model_config.model_type} has one way to read a text, its own"
            )
        model_config.classifier_pooling = config.pooling

    @classmethod
    def over(cls, model: nn.Module, collator: Any, data: LabelledData, config: ClassificationConfig) -> Self:
        """With the weights of its classes."""
        return cls(model, collator, balanced_weights(data) if config.class_weights else None)

    @classmethod
    def show(cls, predict: Any, data: LabelledData, row: dict[str, Any], collator: Any) -> str:
        """The text, the guess and the truth."""
        texts = [row[column] for column in data.text_columns]
        found = predict({"text": texts[0], "text_pair": texts[1]} if len(texts) == 2 else texts[0], truncation=True)
        found = found[0] if isinstance(found, list) else found
        truth = data.kind.written(row["label"], data.labels)
        truth = (", ".join(truth) or "none") if isinstance(truth, list) else truth
        guess = f"{found['score']:.2f}" if data.labels is None else f"{found['label']} {found['score']:.0%}"
        return f"{' | '.join(t[:100] for t in texts)}  ->  {guess}  (it was: {truth})".replace("\n", " ")

    def logits(self, batch: Batch) -> Tensor:
        """(B, classes)."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        # only where the model learned segments: GPT-2 would take them for words, ModernBERT not at all
        if "token_type_ids" in batch and self._has_segments:
            inputs["token_type_ids"] = batch["token_type_ids"]
        if self._pads_left:
            inputs = padded_left(inputs)
        return loss_precision(self.model(**inputs).logits)

    def loss(self, logits: Tensor, batch: Batch) -> Sums:
        """Sum over rows of the cross-entropy in nats, or of the squared error.

        Returns:
            `loss`, 0-d, and summed over rows `correct` (classes; of several, all of them) or `squared_error`.
        """
        reader, labels = self.collator, batch["labels"]
        known = reader.known(labels)
        if reader.labels is None:
            error = torch.where(known, logits[:, 0] - labels, 0.0)
            loss_sum = error.square().sum()
            return {"loss": loss_sum, "squared_error": loss_sum.detach()}
        if reader.several:
            labels = torch.where(known[:, None], labels, 0.0)
            rows = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=-1)
            right = ((logits > 0) == labels.bool()).all(dim=-1)
            return {"loss": torch.where(known, rows, 0.0).sum(), "correct": (right & known).sum()}
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        loss_sum = F.cross_entropy(logits, labels, weights, reduction="sum", ignore_index=IGNORED)
        return {"loss": loss_sum, "correct": (logits.argmax(dim=-1) == labels).sum()}

    @torch.no_grad()
    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """One per row, in their order; probabilities are the softmax's, or the sigmoid's where several may hold."""
        reader, logits, labels = self.collator, logits.float(), batch["labels"]
        references = [r if k else None for r, k in zip(labels.tolist(), reader.known(labels).tolist(), strict=True)]
        if reader.labels is None:
            return [Prediction(*pair) for pair in zip(logits[:, 0].tolist(), references, strict=True)]
        if reader.several:
            predicted, probabilities = (logits > 0).int(), logits.sigmoid()
            references = [None if row is None else [int(value) for value in row] for row in references]
        else:
            predicted, probabilities = logits.argmax(dim=-1), logits.softmax(dim=-1)
        return list(map(Prediction, predicted.tolist(), references, probabilities.tolist()))


def padded_left(inputs: Batch) -> Batch:
    """A batch that is padded on the right with its padding on the left; tensors of shape (B, S)."""
    mask = inputs["attention_mask"]
    length = mask.shape[1]
    places = (torch.arange(length, device=mask.device) - (length - mask.sum(1, keepdim=True))) % length
    return {name: value.gather(1, places) for name, value in inputs.items()}


def balanced_weights(data: LabelledData) -> list[float]:
    """As many rows as an even split would give a class, over the rows that it has; of mean 1 over the rows."""
    if not data.kind.exclusive:
        raise UserError(f"--class_weights balanced is for one class per row; this is {data.kind.name}")
    counts = Counter(data.train["label"])
    return [len(data.train) / (len(counts) * max(1, counts[i])) for i in range(len(data.names))]


def _warn_of_unseparated_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second, pair = tokenizer("a").input_ids, tokenizer("b").input_ids, tokenizer("a", "b").input_ids
    if pair == first + second and not tokenizer.num_special_tokens_to_add(pair=True):
        warn("this tokenizer writes nothing between the two texts of a pair; the model cannot see where one ends")
