"""Tagging of words (entities, parts of speech), with any `AutoModelForTokenClassification`."""

from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from nlp_ssl.console import UserError, say
from nlp_ssl.objectives.labelled import (
    IGNORED,
    Prediction,
    addresses,
    cached_map,
    check_max_length,
    pad_rows,
    padding_id,
)
from nlp_ssl.objectives.objective import digest_of, loss_precision

COUNTS = ["split", "unseen_words", "cut_words"]


class Tagging:
    """Cross-entropy over tags at the first sub-word of every word; one target a word.

    A row of a batch is a sentence. One longer than `max_length` becomes several windows, each a row of the tensors and
    each but the first beginning with a quarter of words that the last has seen, so every word of every sentence is
    labelled exactly once and none is lost; `predictions` puts them together again.

    Sub-words are those of the sentence written with single blanks, not of its words one by one: that is what the model
    saw in pretraining and what `pipeline("token-classification")` will show it, for byte-level tokenizers too, whose
    words differ with and without a blank before them. The tokenizer itself is never changed.

    Args:
        tokenizer: the model's; it must be a fast one, which knows where its tokens stand in the text.
        tags: names of the tags in the order of their ids.
        max_length: longest window in tokens, special ones included.

    Raises:
        UserError: the tokenizer is not a fast one, or `max_length` is beyond what it announces or leaves no room.
    """

    auto_class = AutoModelForTokenClassification
    pipeline = "token-classification"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tags: list[str], max_length: int = 128):
        if not tokenizer.is_fast:
            raise UserError(f"tagging needs a fast tokenizer (tokenizer.json), not a {type(tokenizer).__name__}")
        self.tokenizer, self.tags, self.max_length = tokenizer, tags, max_length
        self.pad_id = padding_id(tokenizer)
        self.unknown_id = self.pad_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        # the special tokens around a text, as this tokenizer's template writes them
        framed = tokenizer("a", return_special_tokens_mask=True)
        ids, special = framed["input_ids"], framed["special_tokens_mask"]
        ordinary = [i for i, s in enumerate(special) if not s] or [len(ids) - 1]
        self.prefix, self.suffix = ids[: ordinary[0]], ids[ordinary[-1] + 1 :]
        check_max_length(tokenizer, max_length, len(self.prefix) + len(self.suffix))

    def config_kwargs(self) -> dict[str, Any]:
        """What the model's configuration must say about the task, for `from_pretrained` or `from_config`."""
        return {
            "num_labels": len(self.tags),
            "id2label": dict(enumerate(self.tags)),
            "label2id": {tag: i for i, tag in enumerate(self.tags)},
        }

    def prepare(self, dataset: Dataset) -> Dataset:
        """Tokenise and cut into windows, once; the result is kept in the cache and found again.

        Args:
            dataset: `tokens` (the words of a sentence) and `tags` (an id a word).

        Returns:
            A row a sentence: `input_ids` and `labels`, lists of equally long windows' lists of int; a label is the
            tag's id on the first sub-word of a word that the window is the first to show, -100 elsewhere; and `length`,
            the tokens of all its windows.
        """

        def tokenise(batch: dict[str, list]) -> dict[str, list]:
            rows = [
                self._windows(pieces, tags)
                for pieces, tags in zip(self._pieces(batch["tokens"]), batch["tags"], strict=True)
            ]
            return {key: [row[key] for row in rows] for key in rows[0]}

        prepared = cached_map(dataset, tokenise, [self.max_length, self.tokenizer])
        split, unseen, cut = (sum(prepared[column]) for column in COUNTS)
        if split:
            say(f"{split:,} of {len(prepared):,} sentences are longer than {self.max_length} tokens: read in windows")
        if unseen:
            say(f"{unseen:,} words of characters that the tokenizer drops are read as its unknown token")
        if cut:
            say(f"{cut:,} words longer than {self.max_length} tokens are read by their beginning")
        return prepared.remove_columns(COUNTS)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Lay the windows of all sentences below each other and pad to the longest, rounded up to a multiple of 8.

        Returns:
            `input_ids`, `attention_mask`, `labels`, int64 (windows, S), and `sentence`, int64 (windows,): the row that
            a window belongs to; and its `digest`.
        """
        rows = list(rows)  # read once
        batch = pad_rows([ids for row in rows for ids in row["input_ids"]], self.pad_id)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        windows = [window for row in rows for window in row["labels"]]
        for i, window in enumerate(windows):
            labels[i, : len(window)] = torch.tensor(window)
        sentence = [i for i, row in enumerate(rows) for _ in row["labels"]]
        seen = (batch["input_ids"] + 1) * batch["attention_mask"] + (labels - IGNORED << 32)
        digest = digest_of(*(each[sentence] for each in addresses(rows)), seen.numpy())
        return batch | {"labels": labels, "sentence": torch.tensor(sentence), "digest": digest}

    def num_targets(self, batch: dict[str, Tensor]) -> int:
        """Number of labelled words."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over words of the cross-entropy in nats, and `correct`, the number of words tagged right."""
        logits, labels = self._logits(model, batch), batch["labels"]
        loss_sum = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED)
        return loss_sum, {"correct": (logits.argmax(dim=-1) == labels).sum()}

    @torch.no_grad()
    def predictions(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> list[Prediction]:
        """Predicted and true tag names, one `Prediction` a whole sentence, in their order."""
        predicted, labels = self._logits(model, batch).argmax(dim=-1).cpu(), batch["labels"].cpu()
        sentences = batch["sentence"].tolist()
        results = [Prediction([], []) for _ in set(sentences)]
        for i, sentence in enumerate(sentences):
            real = labels[i] != IGNORED
            for tags, ids in ((results[sentence].predicted, predicted[i]), (results[sentence].reference, labels[i])):
                tags += [self.tags[tag] for tag in ids[real].tolist()]
        return results

    def _logits(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return loss_precision(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits)

    def _pieces(self, sentences: list[list[str]]) -> list[list[list[int]]]:
        """The sub-word ids of every word of every sentence; an empty list for a word that the tokenizer drops."""
        encoded = self.tokenizer(
            [" ".join(words) for words in sentences],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        results = []
        for words, ids, offsets in zip(sentences, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            # the word of every character; a blank belongs to the word behind it, as in `Ġword`
            owner = np.repeat(np.arange(len(words)), [len(word) + (i > 0) for i, word in enumerate(words)])
            pieces: list[list[int]] = [[] for _ in words]
            for token, (start, _) in zip(ids, offsets, strict=True):
                pieces[owner[min(start, len(owner) - 1)]].append(token)
            results.append(pieces)
        return results

    def _windows(self, pieces: list[list[int]], tags: list[int]) -> dict[str, Any]:
        """Cut a sentence into windows of whole words that overlap by a quarter."""
        capacity = self.max_length - len(self.prefix) - len(self.suffix)
        unseen, cut = sum(not p for p in pieces), sum(len(p) > capacity for p in pieces)
        pieces = [(p or [self.unknown_id])[:capacity] for p in pieces]
        ends = list(accumulate(map(len, pieces)))  # tokens up to and with each word
        input_ids, labels, done = [], [], 0
        while done < len(pieces):
            first = done
            # words seen before, as context, while they fill no more than a quarter and leave room for a new one
            room = min(capacity // 4, capacity - len(pieces[done]))
            while first > 0 and ends[done - 1] - ends[first - 1] + len(pieces[first - 1]) <= room:
                first -= 1
            start = ends[first] - len(pieces[first])
            end = done
            while end < len(pieces) and ends[end] - start <= capacity:
                end += 1
            ids = [token for p in pieces[first:end] for token in p]
            row = [IGNORED] * len(ids)
            for word in range(done, end):
                row[ends[word] - len(pieces[word]) - start] = tags[word]
            input_ids.append([*self.prefix, *ids, *self.suffix])
            labels.append([*[IGNORED] * len(self.prefix), *row, *[IGNORED] * len(self.suffix)])
            done = end
        return {
            "input_ids": input_ids,
            "labels": labels,
            "length": sum(map(len, input_ids)),
            **dict(zip(COUNTS, (len(labels) > 1, unseen, cut), strict=True)),
        }
