"""Tagging of words (entities, parts of speech), with any `AutoModelForTokenClassification`."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from nlp_ssl.config.finetuning import FinetuneConfig, LabelledConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.detokenize import as_written
from nlp_ssl.data.labelled.labelled_data import LabelledData, open_tagging
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
from nlp_ssl.objectives.word_tokens import Reading, WordTokens, choose_reading, word_tokens
from nlp_ssl.publishing.card import CardText

RULES = 1  # raise it when the same sentences would get other labels
# What is said of a set of sentences; each is counted in `TaggingCollator.tokenize`.
REMARKS = {
    "split": "{n:,} of {total:,} sentences are longer than {max_length} tokens: read in windows",
    "unseen": "{n:,} words of characters that the tokenizer drops are read as no entity of their own",
    "shared": "{n:,} words begin inside a token of the word before them: they are read as no entity of their own",
    "cut": "{n:,} words longer than {max_length} tokens are read by their beginning",
}


class TaggingCollator:
    """Reads sentences with a tag per word.

    A row of a batch is a sentence. One longer than `max_length` becomes several windows, each a row of the tensors and
    each but the first beginning with a quarter of words that the last has seen, so every word of every sentence is
    labelled exactly once and none is lost; `Tagging.predictions` puts them together again.

    The tokens are those of the sentence as it is written (see `as_written`), not of its words one by one: that is what
    the model saw in pretraining and what `pipeline("token-classification")` will show it, for byte-level tokenizers
    too, whose tokens differ with and without a blank before them. The tokenizer itself is never changed.

    A word's tag stands on its first token with a character of it. `pipeline` reads more than that: with `"first"` also
    a blank that is a token of its own, each part of `U.S.` in WordPiece, each byte of a word's first character; with
    `"simple"` every token. These continue what is around them: `I-` inside an entity, else `O`.

    Args:
        tokenizer: the model's; it must be a fast one, which knows where its tokens stand in the text.
        tags: names of the tags in the order of their ids; for each `B-` the `I-` of the same type.
        max_length: longest window in tokens, special ones included.
        reading: the `aggregation_strategy` with which `pipeline` will read the model (see `choose_reading`).

    Raises:
        UserError: the tokenizer is not a fast one, or `max_length` is beyond what it announces or leaves no room.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tags: list[str],
        max_length: int = 128,
        reading: Reading = "first",
    ):
        if not tokenizer.is_fast:
            raise UserError(f"tagging needs a fast tokenizer (tokenizer.json), not a {type(tokenizer).__name__}")
        self.tokenizer, self.tags, self.max_length, self.reading = tokenizer, tags, max_length, reading
        self._reader = text_only(tokenizer)
        self.pad_id = padding_id(tokenizer)
        # a sentence without any token still needs one
        self.unknown_id = self.pad_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        # the special tokens around a text, as this tokenizer's template writes them
        framed = tokenizer("a", return_special_tokens_mask=True)
        ids, special = framed["input_ids"], framed["special_tokens_mask"]
        ordinary = [i for i, s in enumerate(special) if not s] or [len(ids) - 1]
        self.prefix, self.suffix = ids[: ordinary[0]], ids[ordinary[-1] + 1 :]
        check_max_length(tokenizer, max_length, len(self.prefix) + len(self.suffix))
        # parts of speech and other tags without B- and I- continue as themselves
        ids_of = {tag: i for i, tag in enumerate(tags)}
        self._outside = ids_of.get("O") if any(tag.startswith(("B-", "I-")) for tag in tags) else None
        self._continued = [ids_of.get(f"I-{tag[2:]}", i) if tag[:2] == "B-" else i for i, tag in enumerate(tags)]

    def config_kwargs(self) -> dict[str, Any]:
        """What the model's configuration must say about the task, for `from_pretrained` or `from_config`."""
        return {
            "num_labels": len(self.tags),
            "id2label": dict(enumerate(self.tags)),
            "label2id": {tag: i for i, tag in enumerate(self.tags)},
        }

    def tokenize(self, dataset: Dataset, part: str = "") -> Dataset:
        """Tokenise and cut into windows, once; the result is kept in the cache and found again.

        Args:
            dataset: `tokens` (the words of a sentence) and `tags` (an id per word).
            part: the name of this set, such as `"train"`, for what is said of its rows.

        Returns:
            A row per sentence. `input_ids`, `labels` and `continued` are lists of equally long windows' lists of int,
            -100 where there is nothing to learn and where the window shows again what the one before has shown: a label
            is a word's tag, `continued` the tag of another token that `pipeline` reads. `unread` is a list of int, the
            tag of each word without a token of its own and -100 of the others; `length`, the tokens of all windows.
        """

        def read(batch: dict[str, list]) -> dict[str, list]:
            rows = [
                self._row(found, tags)
                for found, tags in zip(self.word_tokens(batch["tokens"]), batch["tags"], strict=True)
            ]
            return {key: [row[key] for row in rows] for key in rows[0]}

        decided_by = [RULES, self.max_length, self.tokenizer, self.tags, self.reading]
        prepared = cached_map(dataset, read, decided_by)
        for name, remark in REMARKS.items():
            if n := sum(prepared[name]):
                said = remark.format(n=n, total=len(prepared), max_length=self.max_length)
                say(f"{part}: {said}" if part else said)
        return prepared.remove_columns(list(REMARKS))

    def word_tokens(self, sentences: Sequence[Sequence[str]]) -> list[WordTokens]:
        """The tokens of sentences; words that spell a special token are read as text."""
        return word_tokens(self.tokenizer, sentences, self._reader)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Lay the windows of all sentences below each other and pad to the longest, rounded up to a multiple of 8.

        Returns:
            `input_ids`, `attention_mask`, `labels`, `continued`, int64 (windows, S), `sentence`, int64 (windows,): the
            row that a window belongs to, and `unread`, int64 (rows, W), W the most words without a token of their own
            or 0; and its `digest`.
        """
        rows = list(rows)  # read once
        batch = pad_rows([ids for row in rows for ids in row["input_ids"]], self.pad_id)
        for name in ("labels", "continued"):
            batch[name] = _filled(batch["input_ids"].shape, [window for row in rows for window in row[name]])
        unread = [row["unread"] for row in rows]
        batch["unread"] = _filled((len(rows), max(map(len, unread))), unread)
        sentence = [i for i, row in enumerate(rows) for _ in row["labels"]]
        seen = (batch["input_ids"] + 1) * batch["attention_mask"] + (_targets(batch) - IGNORED << 32)
        numbers, epochs = addresses(rows)
        digest = digest_of(numbers[sentence], epochs[sentence], seen.numpy())
        return batch | {"sentence": torch.tensor(sentence), "digest": digest}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Labelled words."""
        return {"loss": int((batch["labels"] != IGNORED).sum())}

    def _row(self, found: WordTokens, tags: list[int]) -> dict[str, Any]:
        """A sentence as `tokenize` returns it, with what is counted of it."""
        capacity = self.max_length - len(self.prefix) - len(self.suffix)
        labels, continued = self._label(found, tags)
        ids, lengths, num_cut, at = [], [], 0, 0
        kept: tuple[list[int], list[int]] = ([], [])
        for _, group in groupby(found.words):
            length = len(list(group))
            piece = slice(at, at + min(length, capacity))
            ids += found.ids[piece]
            for all_of_it, new in zip(kept, (labels, continued), strict=True):
                all_of_it += new[piece]
            lengths.append(piece.stop - at)
            num_cut += length > capacity
            at += length
        if not ids:
            ids, kept, lengths = [self.unknown_id], ([IGNORED], [IGNORED]), [1]
        row = self._windows(ids, kept, lengths)
        is_unread = [first is None for first in found.first]
        unread = [tag if missed else IGNORED for tag, missed in zip(tags, is_unread, strict=True)]
        shared = sum(missed and has_token for missed, has_token in zip(is_unread, found.has_token, strict=True))
        counts = {"split": len(row["labels"]) > 1, "unseen": sum(is_unread) - shared, "shared": shared, "cut": num_cut}
        return row | {"unread": unread if any(is_unread) else []} | counts

    def _label(self, found: WordTokens, tags: list[int]) -> tuple[list[int], list[int]]:
        """The labels of a sentence's tokens, and the tags of the other tokens that `pipeline` reads."""
        said: list[int] = []  # the tag of each word as its tokens can say it
        for tag, first in zip(tags, found.first, strict=True):
            goes_on = bool(said) and self._continued[said[-1]] == tag
            said.append(tag if first is not None or goes_on or self._outside is None else self._outside)
        labels, continued = [IGNORED] * len(found.ids), [IGNORED] * len(found.ids)
        for word, at in enumerate(found.first):
            if at is not None:
                labels[at] = tags[word]
        last = max((at for at, blank in enumerate(found.is_blank) if not blank), default=-1)
        for at, word in enumerate(found.words):
            if labels[at] != IGNORED or not (self.reading == "simple" or found.begins[at]):
                continue
            first, tag = found.first[word], said[word]
            is_before = found.is_blank[at] and (first is None or at < first)
            goes_on = self._continued[tag] == tag  # of a blank before a word that begins an entity nothing is said
            if self._outside is not None and (at > last or (is_before and not goes_on)):
                continued[at] = self._outside
            else:
                continued[at] = self._continued[tag]
        return labels, continued

    def _windows(self, ids: list[int], targets: Sequence[list[int]], lengths: list[int]) -> dict[str, Any]:
        """Cut a sentence into windows of whole words that overlap by a quarter.

        Args:
            ids: its tokens.
            targets: `labels` and `continued` of the tokens.
            lengths: the tokens of each word.
        """
        capacity = self.max_length - len(self.prefix) - len(self.suffix)
        ends = list(accumulate(lengths))  # tokens up to and with each word
        input_ids: list[list[int]] = []
        windows: tuple[list[list[int]], list[list[int]]] = ([], [])
        done = 0
        while done < len(lengths):
            first = done
            # words seen before, as context, while they fill no more than a quarter and leave room for a new one
            room = min(capacity // 4, capacity - lengths[done])
            while first > 0 and ends[done - 1] - ends[first - 1] + lengths[first - 1] <= room:
                first -= 1
            start, new = ends[first] - lengths[first], ends[done] - lengths[done]
            while done < len(lengths) and ends[done] - start <= capacity:
                done += 1
            end = ends[done - 1]
            input_ids.append([*self.prefix, *ids[start:end], *self.suffix])
            for window, row in zip(windows, targets, strict=True):
                before, behind = [IGNORED] * (len(self.prefix) + new - start), [IGNORED] * len(self.suffix)
                window.append([*before, *row[new:end], *behind])
        length = sum(map(len, input_ids))
        return {"input_ids": input_ids, "labels": windows[0], "continued": windows[1], "length": length}


class Tagging(LabelledObjective):
    """Cross-entropy over tags at the first token of every word, and where else `pipeline` reads it; a target per word.

    Args:
        model: an `AutoModelForTokenClassification`.
        collator: made the batches.
    """

    auto_class = AutoModelForTokenClassification
    card = CardText(
        pipeline_tag="token-classification",
        what="a token classifier (NER)",
        limit="It knows only the labels above; words unlike those of its training data are often missed.",
        recipe="finetune_ner",
        example="'A sentence with names.'",
        snippet="""\
from transformers import pipeline

tag = pipeline("token-classification", model={model}, aggregation_strategy="first")
for entity in tag({example}):
    print(entity['entity_group'], entity['word'], f"{{entity['score']:.3f}}")""",
    )

    @classmethod
    def read(cls, config: LabelledConfig) -> LabelledData:
        """Sentences with a tag per word."""
        return open_tagging(config)

    @classmethod
    def reader(cls, tokenizer: PreTrainedTokenizerBase, data: LabelledData, config: FinetuneConfig) -> TaggingCollator:
        """With the reading of `pipeline` that suits tokenizer and words."""
        reading = choose_reading(tokenizer, data.train["tokens"])
        return TaggingCollator(tokenizer, data.names, config.max_length, reading)

    @classmethod
    def about(cls, collator: TaggingCollator) -> CardText:
        """With the reading of `pipeline` in its snippet."""
        return replace(cls.card, snippet=cls.card.snippet.replace('"first"', f'"{collator.reading}"'))

    @classmethod
    def show(cls, predict: Any, data: LabelledData, row: dict[str, Any], collator: Any) -> str:
        """The sentence, the entities that were found and those that are there."""
        text, _ = as_written(row["tokens"])
        found = read_plainly(predict, text, collator.reading)
        listed = ", ".join(f"{text[e['start'] : e['end']].strip()} ({e['entity_group']})" for e in found) or "none"
        tags = [data.names[t] for t in row["tags"]]
        true = [f"{word} ({tag})" for word, tag in zip(row["tokens"], tags, strict=True) if tag != "O"]
        return f"{text[:100]}  ->  {listed}  (it was: {', '.join(true) or 'none'})"

    def logits(self, batch: Batch) -> Tensor:
        """(windows, S, tags)."""
        return loss_precision(self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits)

    def loss(self, logits: Tensor, batch: Batch) -> Sums:
        """Sum over words of the cross-entropy in nats, all that `pipeline` reads of a word together, as `loss`; and
        `correct`, the number of words tagged right."""
        loss_sum = F.cross_entropy(
            logits.flatten(0, 1), _targets(batch).flatten(), reduction="sum", ignore_index=IGNORED
        )
        return {"loss": loss_sum, "correct": (logits.argmax(dim=-1) == batch["labels"]).sum()}

    @torch.no_grad()
    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """Predicted and true tag names, one `Prediction` a whole sentence, in their order.

        A word without a token of its own is predicted as what `pipeline` shows of it: as inside of the entity that goes
        on behind it, else as `O`.
        """
        predicted, labels = logits.argmax(dim=-1).cpu(), batch["labels"].cpu()
        unread = [self._names(row) for row in batch["unread"].cpu()]
        read: list[tuple[list[str], list[str]]] = [([], []) for _ in unread]
        for i, sentence in enumerate(batch["sentence"].tolist()):
            real = labels[i] != IGNORED
            for names, ids in zip(read[sentence], (predicted[i], labels[i]), strict=True):
                names += self._names(ids[real])
        return [
            Prediction(_fill_gaps(_put_back(tags, gaps, [None] * len(gaps))), _put_back(truth, gaps, gaps))
            for (tags, truth), gaps in zip(read, unread, strict=True)
        ]

    def _names(self, ids: Tensor) -> list[str | None]:
        return [None if i == IGNORED else self.collator.tags[i] for i in ids.tolist()]


def _targets(batch: Batch) -> Tensor:
    return torch.where(batch["labels"] == IGNORED, batch["continued"], batch["labels"])


def _filled(shape: Sequence[int], rows: list[list[int]]) -> Tensor:
    """Rows of int, filled up with -100."""
    filled = torch.full(tuple(shape), IGNORED)
    for i, row in enumerate(rows):
        filled[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return filled


def _put_back(read: list[str], unread: list[str | None], tags: list[str | None]) -> list[str | None]:
    """The tags of all words: those of words that were read, and `tags` where `unread` has a name."""
    rest, found = iter(read), []
    for i in range(len(read) + len(unread) - unread.count(None)):
        is_unread = i < len(unread) and unread[i] is not None
        found.append(tags[i] if is_unread else next(rest))
    return found


def _fill_gaps(tags: list[str | None]) -> list[str]:
    """`None` becomes `I-` where the entity before it continues behind it, else `O`."""
    filled: list[str] = []
    for i, tag in enumerate(tags):
        if tag is None:
            behind = next((other for other in tags[i:] if other is not None), "O")
            goes_on = bool(filled) and behind[:2] == "I-" and filled[-1][2:] == behind[2:]
            tag = behind if goes_on else "O"
        filled.append(tag)
    return filled


def read_plainly(predict: Any, text: str, reading: str) -> list[dict[str, Any]]:
    """What a token-classification pipeline finds in a text.

    It warns of every tokenizer but WordPiece that words are found by their blanks: that is what the reading was chosen
    for, and a tagger's run measures it (see `nlp_ssl.evaluation.tagger_readings`).

    Args:
        predict: the pipeline.
        text: to read.
        reading: its `aggregation_strategy`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
        return predict(text, aggregation_strategy=reading)
