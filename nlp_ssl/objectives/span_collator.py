"""The collator of span corruption: packed rows of documents -> packed rows of what is read, and of what is written."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.span_corruption import NoiseSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.sequences.packing import stack_rows
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.objective import Batch, digest_of, to_tensors
from nlp_ssl.objectives.span_noise import (
    Bodies,
    SpanNoise,
    Spans,
    before,
    blank,
    blanks_of,
    ragged,
    sentence_ends,
    share_of,
)

Frame = tuple[tuple[int, ...], tuple[int, ...]]
_ROOM = 1.25  # documents of a row, whose ends and whose rounding up come on top of the shares


class CorruptingCollator:
    """Takes spans out of packed rows; sources and targets of the documents of a row make a row each.

    A batch of B rows holds, as int32, `input_ids`, `document_ids`, `position_ids` (B, S) of the sources; those of the
    targets, `target_ids`, `target_document_ids`, `target_position_ids` (B, T), not shifted; and in C slots
    `label_positions` (C,), indices into the B * T tokens, `labels` (C,), int64, -100 in spare slots, and `spans` (C,):
    the number of the span that a token was in, counted from 1 over the batch, 0 for tokens that the source shows and
    for blanks and ends. S, T and C take few values: what a document as long as a row needs, or twice, four times ... as
    much where many short ones need more.

    A document of a single token has nothing to be read by, and no target.

    Args:
        tokenizer: the run's.
        noise: which.
        frame: the special tokens before and after every document.
        seed: decides what is drawn, with `source`, a row's epoch and number, and where in it a document begins.
        source: tells apart data sets under one seed.

    Raises:
        UserError: the tokenizer has no blanks, or no mask for infilling.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, noise: NoiseSection, frame: Frame, *, seed: int = 0, source: int = 0
    ) -> None:
        self.blanks = stand_ins(tokenizer, noise)
        self.pad, self.end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self.prefix, self.suffix = frame
        self.seed, self.source = seed, source
        ends = sentence_ends(tokenizer, num_ids(tokenizer)) if noise.permute_sentences else None
        self.noise = SpanNoise(noise, len(self.blanks), ends)
        self.whole = noise.kind == "infilling"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as sources and targets."""
        batch = stack_rows(rows, self.pad)
        width = batch["input_ids"].shape[1]
        row, number, bodies = self._bodies(batch)
        spans, order = self.noise.spans(bodies), self.noise.order(bodies)
        usual = self.usual(width)
        read = _Rows(row, number, *self._read(bodies, spans, order), len(batch["row"]), usual[0], width, self.pad)
        written = _Rows(row, number, *self._written(bodies, spans, order), len(batch["row"]), usual[1], width, self.pad)
        positions = np.flatnonzero(written.document_ids)
        slots = _fitting(len(positions), _multiple(usual[2] * len(batch["row"]), 64), written.ids.size)
        spare = (0, slots - len(positions))
        labels = {
            "label_positions": np.pad(positions.astype(np.int32), spare),
            "labels": np.pad(written.ids[positions], spare, constant_values=IGNORE),
            "spans": np.pad(written.marks[positions].astype(np.int32), spare),
        }
        seen = np.zeros((len(batch["row"]), max(read.width, written.width)), dtype=np.int64)
        seen[:, : read.width] += np.where(read.document_ids > 0, read.ids + 1, 0).reshape(-1, read.width)
        targets = np.where(written.document_ids > 0, written.ids + 1, 0) << 32
        seen[:, : written.width] += targets.reshape(-1, written.width)
        return to_tensors({**read.fields(""), **written.fields("target_"), **labels}) | {
            "digest": digest_of(batch["row"], batch["epoch"], seen)
        }

    def counts(self, batch: Batch) -> dict[str, int]:
        """Tokens to write."""
        return {"seq2seq": int((batch["labels"] != IGNORE).sum())}

    def usual(self, width: int) -> tuple[int, int, int]:
        """Tokens that a row of this width has in its source, its target, and its labels, if it is one document."""
        body = max(1, width - len(self.prefix) - len(self.suffix))
        hidden = math.ceil(share_of(self.noise.config) * body)
        spans = min(len(self.blanks), math.ceil(hidden / self.noise.config.mean_span))
        if self.whole:
            return _multiple(width - hidden + spans * _ROOM, 8), width, width
        written = (hidden + spans + 1) * _ROOM
        return _multiple(width - hidden + spans * _ROOM, 8), _multiple(written, 8), math.ceil(written)

    def _bodies(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, Bodies]:
        """Each document's row and number in it, and the documents without their frame."""
        width = batch["input_ids"].shape[1]
        flat = batch["document_ids"].ravel()
        begins = np.flatnonzero((flat > 0) & (batch["position_ids"].ravel() == 0))
        row, column = begins // width, begins % width
        of_token = np.cumsum((flat > 0) & (batch["position_ids"].ravel() == 0)) - 1
        sizes = np.bincount(of_token[flat > 0], minlength=len(begins)) - len(self.prefix) - len(self.suffix)
        document, place = ragged(sizes)
        tokens = batch["input_ids"].ravel()[begins[document] + len(self.prefix) + place]
        keys = hash64(self.seed, self.source, batch["epoch"][row], batch["row"][row], column)
        return row, flat[begins], Bodies(keys, sizes, tokens)

    def _read(self, bodies: Bodies, spans: Spans, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sizes of the sources, their tokens, and zeros."""
        stays = bodies.sizes - spans.hidden
        sizes = stays + spans.counts + len(self.prefix) + len(self.suffix)
        # at every place, also the one behind the last token that stays: spans and their tokens up to it
        document, place = ragged(stays + 1)
        first = np.cumsum(stays + 1) - stays - 1
        at, taken = (np.zeros(len(document), dtype=np.int64) for _ in range(2))
        at[first[spans.documents] + spans.places] = 1
        taken[first[spans.documents] + spans.places] = spans.sizes
        at, taken = (before(each, stays + 1) + each for each in (at, taken))
        stands = place < stays[document]
        document, place, at, taken = (each[stands] for each in (document, place, at, taken))

        starts, body = np.cumsum(sizes) - sizes, np.cumsum(bodies.sizes) - bodies.sizes
        tokens = np.zeros(sizes.sum(), dtype=np.int64)
        for i, token in enumerate(self.prefix):
            tokens[starts + i] = token
        for i, token in enumerate(self.suffix):
            tokens[starts + sizes - len(self.suffix) + i] = token
        inside = starts + len(self.prefix)
        tokens[inside[document] + place + at] = bodies.tokens[order[body[document] + place + taken]]
        _, number = ragged(spans.counts)
        tokens[inside[spans.documents] + spans.places + number] = self.blanks[number % len(self.blanks)]
        return sizes, tokens, np.zeros_like(tokens)

    def _written(self, bodies: Bodies, spans: Spans, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sizes of the targets, their tokens, and for each the number of the span that it was in, or 0."""
        span, within = ragged(spans.sizes)
        document = spans.documents[span]
        body = np.cumsum(bodies.sizes) - bodies.sizes
        hidden = order[body[document] + spans.begins[span] + within]  # in the bodies
        has_target = spans.counts > 0
        if self.whole:
            sizes = np.where(has_target, bodies.sizes + len(self.prefix) + 1, 0)
        else:
            sizes = np.where(has_target, spans.hidden + spans.counts + 1, 0)
        starts = np.cumsum(sizes) - sizes
        tokens, marks = (np.zeros(sizes.sum(), dtype=np.int64) for _ in range(2))
        tokens[(starts + sizes - 1)[has_target]] = self.end
        if self.whole:
            for i, token in enumerate(self.prefix):
                tokens[starts[has_target] + i] = token
            every, place = ragged(np.where(has_target, bodies.sizes, 0))
            inside = starts + len(self.prefix)
            tokens[inside[every] + place] = bodies.tokens[body[every] + place]
            at = inside[document] + hidden - body[document]
        else:
            _, number = ragged(spans.counts)
            blanks = starts[spans.documents] + before(spans.sizes, spans.counts) + number
            tokens[blanks] = self.blanks[number]
            at = blanks[span] + 1 + within
            tokens[at] = bodies.tokens[hidden]
        marks[at] = span + 1
        return sizes, tokens, marks


class _Rows:
    """Parts of documents laid into rows, in their order.

    Args:
        row: (D,), which each is in; ascending.
        number: (D,), what each is called there.
        sizes: (D,), tokens of each.
        tokens: (sum of sizes,).
        marks: the same.
        num_rows: rows.
        usual: width, unless the longest row needs more.
        most: width at most, as far as the longest row allows.
        pad: token for positions that stay empty.
    """

    def __init__(
        self,
        row: np.ndarray,
        number: np.ndarray,
        sizes: np.ndarray,
        tokens: np.ndarray,
        marks: np.ndarray,
        num_rows: int,
        usual: int,
        most: int,
        pad: int,
    ) -> None:
        used = np.bincount(row, weights=sizes, minlength=num_rows).astype(np.int64)
        self.width = width = _fitting(int(used.max()), usual, most)
        starts = np.cumsum(sizes) - sizes + (np.arange(num_rows) * width - np.cumsum(used) + used)[row]
        document, place = ragged(sizes)
        at = starts[document] + place
        self.ids = np.full(num_rows * width, pad, dtype=np.int64)
        zeros = np.zeros(num_rows * width, dtype=np.int64)
        self.document_ids, self.position_ids, self.marks = zeros, zeros.copy(), zeros.copy()
        self.ids[at], self.document_ids[at] = tokens, number[document]
        self.position_ids[at], self.marks[at] = place, marks

    def fields(self, prefix: str) -> dict[str, np.ndarray]:
        """Of a batch, int32 (B, width)."""
        ids = "input_ids" if not prefix else f"{prefix}ids"
        arrays = {ids: self.ids, f"{prefix}document_ids": self.document_ids, f"{prefix}position_ids": self.position_ids}
        return {name: array.astype(np.int32).reshape(-1, self.width) for name, array in arrays.items()}


def _multiple(value: float, of: int) -> int:
    return math.ceil(value / of) * of


def _fitting(needed: int, usual: int, most: int) -> int:
    """The first of `usual`, its double, ... that holds what is needed; not more than `most` if that holds it."""
    size = usual
    while size < needed:
        size *= 2
    return max(needed, min(size, most))


def stand_ins(tokenizer: PreTrainedTokenizerFast, noise: NoiseSection) -> np.ndarray:
    """The tokens that stand for the spans of a document, in their order; for infilling one for all."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-text token, without which nothing that is written ends")
    if noise.kind == "infilling":
        if tokenizer.mask_token_id is None:
            raise UserError(
                "the tokenizer has no mask token, which --noise.kind infilling needs; take --noise.kind spans"
            )
        return np.array([tokenizer.mask_token_id])
    found = blanks_of(tokenizer)
    if not len(found):
        raise UserError(f"the tokenizer has no {blank(0)}, which stands for a span; give --noise.kind infilling")
    return found
