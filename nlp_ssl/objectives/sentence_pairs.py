"""Documents of packed rows as pairs: cut where a sentence begins, in order or not, in place.

A document that was packed as `[CLS] text [SEP] [SEP]` becomes `[CLS] A [SEP] B [SEP]`. One without a second sentence
becomes `[CLS] text [SEP]`, and is no pair. What is drawn is a hash of (seed, source, epoch, row, document).

A and B are whole sentences, and the first word of each is written as behind a space. Else a sentence that packing cut,
a line's end or a space would tell which was first, without reading: a small model then told 96 % of the orders after
400 steps. The rest of a sentence that packing cut, at either end of a pair, is left out, and the row's padding grows.

Sentence order (Lan et al. 2019): half of the pairs are `[CLS] B [SEP] A [SEP]`. Next sentence (Devlin et al. 2018): the
pairs of a row are taken two by two, and half of the twos exchange their Bs, which leaves the row as long as it was; one
that is left over is no pair. Neither makes up for a text with one sentence by another text.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.errors import UserError
from nlp_ssl.core.invocation import command_of
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.tokens.sentence_boundaries import SentenceTables, sentences

_CUT, _SWAP, _MEET = 5, 6, 7  # what the hash of a document decides


@dataclass(frozen=True)
class PairFrame:
    """The special tokens of a pair of texts, as a tokenizer sets them.

    Attributes:
        prefix: such as CLS.
        middle: between the texts, such as SEP; RoBERTa has two.
        suffix: such as SEP.
        types: segment of the prefix, the first text, the middle, the second text and the suffix.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "PairFrame":
        """That of a tokenizer.

        Raises:
            UserError: it sets nothing before a pair or between its texts.
        """
        body = tokenizer.encode("a", add_special_tokens=False)
        found = tokenizer("a", "a", return_token_type_ids=True)
        ids, types, size = found["input_ids"], found["token_type_ids"], len(body)
        first, second = (at for at in range(len(ids)) if ids[at : at + size] == body)
        prefix, middle, suffix = ids[:first], ids[first + size : second], ids[second + size :]
        if not prefix or not middle:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path or ''} sets no tokens before a pair of texts and between them, "
                "which sentence order needs; take one of BERT's or RoBERTa's kind, as "
                f"`{command_of('train_tokenizer')}` makes them"
            )
        at = (0, first, first + size, second, len(ids) - 1)
        return cls(tuple(prefix), tuple(middle), tuple(suffix), tuple(types[place] for place in at))


@dataclass(frozen=True)
class _Documents:
    """The D documents of some rows, in their order; arrays of shape (D,). Places are indices into the B * S tokens.

    Attributes:
        row: which of the rows.
        number: its id there, from 1.
        whole: begin and length of its text, (2, D).
        first: begin and length of its first part, (2, D).
        second: of its second part.
        has_parts: whether it has both.
    """

    row: np.ndarray
    number: np.ndarray
    whole: np.ndarray
    first: np.ndarray
    second: np.ndarray
    has_parts: np.ndarray


def arrange(
    batch: dict[str, np.ndarray],
    keys: np.ndarray,
    frame: PairFrame,
    tables: SentenceTables,
    task: Literal["sop", "nsp"],
    pad: int,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Rows of documents as rows of pairs.

    Args:
        batch: of `packing.stack_rows`; every document has the frame's prefix, and its middle and suffix at its end.
        keys: uint64, (B,); decide what is drawn.
        frame: special tokens.
        tables: where sentences begin.
        task: what the pairs are made for.
        pad: token of empty positions.

    Returns:
        `(rows, places, labels)`: the rows with `token_type_ids`; for every pair its first token, an index into the
        B * S tokens, and 0 where it is in order (or of one text), 1 where not; int64, (pairs,).
    """
    documents = _cut(batch, keys, frame, tables)
    first, second, is_pair = documents.first, documents.second, documents.has_parts
    if task == "sop":
        moved = is_pair & _coin(documents, keys, np.arange(len(is_pair)))
        first, second = np.where(moved, second, first), np.where(moved, first, second)
    else:
        partner, moved = _meet(documents, keys)
        is_pair = partner >= 0
        second = np.where(moved, second[:, partner], second)
    first = np.where(is_pair, first, documents.whole)
    made, places = _lay_out(batch, documents, first, second, is_pair, frame, tables, pad)
    return batch | made, places[is_pair], moved[is_pair].astype(np.int64)


def _cut(batch: dict[str, np.ndarray], keys: np.ndarray, frame: PairFrame, tables: SentenceTables) -> _Documents:
    """Find the documents, and cut each where one of its whole sentences begins, any but the first."""
    ids, document_ids = batch["input_ids"], batch["document_ids"]
    flat, cut_begins = ids.ravel(), batch.get("cut_begins", np.zeros(ids.shape, dtype=bool))
    is_first = (document_ids > 0) & (np.diff(document_ids, axis=1, prepend=0) != 0)
    which = np.cumsum(is_first) - 1  # the document of every token of one
    starts = np.flatnonzero(is_first)
    row, number = starts // ids.shape[1], document_ids.ravel()[starts]
    lengths = np.bincount(which[document_ids.ravel() > 0], minlength=len(starts))
    begin = starts + len(frame.prefix)
    length = lengths - len(frame.prefix) - len(frame.middle) - len(frame.suffix)

    # from the beginning of the text, or where packing cut it from the first sentence, to the last that ends
    found = sentences(ids, tables)
    blank = tables.blank[flat]
    upto = np.maximum.accumulate(np.where(found.ends.ravel(), np.arange(1, flat.size + 1), 0))  # behind the last end
    end = np.maximum(upto[begin + length - 1], begin)
    place = np.flatnonzero(found.begins & (document_ids > 0))
    owner = which[place]
    inside = (place > begin[owner]) & (place < end[owner])
    place, owner = place[inside], owner[inside]
    solid = np.minimum.accumulate(np.where(blank, flat.size, np.arange(flat.size))[::-1])[::-1]  # the next that is not
    head = np.minimum(solid[begin], begin + np.maximum(length, 1) - 1)
    is_whole = (tables.first[flat[head]] >= 0) & ~cut_begins.ravel()[starts]
    count = np.bincount(owner, minlength=len(starts))
    at = np.cumsum(count) - count
    choices = np.maximum(count - ~is_whole, 0)
    place = np.append(place, 0)  # read where there is no choice
    head = np.where(is_whole, head, place[np.minimum(at, len(place) - 1)])
    drawn = (hash64(_CUT, keys[row], number) % np.maximum(choices, 1).astype(np.uint64)).astype(np.int64)
    cut = place[np.minimum(at + drawn + ~is_whole, len(place) - 1)]
    first, second = np.stack([head, upto[cut - 1] - head]), np.stack([cut, end - cut])
    return _Documents(row, number, np.stack([begin, length]), first, second, choices > 0)


def _meet(documents: _Documents, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pair of its row each meets, int64 (D,), -1 for none; and whether the two exchange their Bs, bool (D,)."""
    partner = np.full(len(documents.row), -1)
    there = np.flatnonzero(documents.has_parts)
    row, hashes = documents.row[there], hash64(_MEET, keys[documents.row[there]], documents.number[there])
    there = there[np.lexsort((hashes, row))]
    row = documents.row[there]
    rank = np.arange(len(there)) - np.searchsorted(row, row)
    ones = np.flatnonzero((rank[:-1] % 2 == 0) & (row[:-1] == row[1:]))
    one, other = there[ones], there[ones + 1]
    partner[one], partner[other] = other, one
    moved = np.zeros(len(documents.row), dtype=bool)
    moved[one] = moved[other] = _coin(documents, keys, one)
    return partner, moved


def _coin(documents: _Documents, keys: np.ndarray, which: np.ndarray) -> np.ndarray:
    """True for half of some documents; bool, (N,)."""
    return hash64(_SWAP, keys[documents.row[which]], documents.number[which]) >> np.uint64(63) == 1


def _lay_out(
    batch: dict[str, np.ndarray],
    documents: _Documents,
    first: np.ndarray,
    second: np.ndarray,
    is_pair: np.ndarray,
    frame: PairFrame,
    tables: SentenceTables,
    pad: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows, by begin and length, (2, D), of what stands first and second; and where each document begins."""
    shape, size = batch["input_ids"].shape, batch["input_ids"].size
    source = np.concatenate([batch["input_ids"].ravel(), frame.prefix, frame.middle, frame.suffix]).astype(np.int64)
    for begins_at, _ in (first[:, is_pair], second[:, is_pair]):
        source[begins_at] = tables.first[source[begins_at]]
    count, row = len(is_pair), documents.row
    ends = size + np.cumsum([0, len(frame.prefix), len(frame.middle)])  # where these stand in `source`
    begins = np.stack([np.full(count, ends[0]), first[0], np.full(count, ends[1]), second[0], np.full(count, ends[2])])
    lengths = np.stack(
        [
            np.full(count, len(frame.prefix)),
            first[1],
            np.where(is_pair, len(frame.middle), 0),
            np.where(is_pair, second[1], 0),
            np.full(count, len(frame.suffix)),
        ]
    )
    begins, parts, whole = begins.T.ravel(), lengths.T.ravel(), lengths.sum(0)
    before = np.cumsum(whole) - whole
    in_row = before - before[np.searchsorted(row, row)]
    at = row * shape[1] + in_row
    within = np.arange(whole.sum()) - np.repeat(before, whole)
    places = np.repeat(at, whole) + within
    read = np.repeat(begins - (np.cumsum(parts) - parts), parts) + np.arange(whole.sum())
    made = {name: np.zeros(size, dtype=np.int64) for name in ("document_ids", "position_ids", "token_type_ids")}
    made["input_ids"] = np.full(size, pad, dtype=np.int64)
    made["input_ids"][places] = source[read]
    made["document_ids"][places] = np.repeat(documents.number, whole)
    made["position_ids"][places] = within
    types = np.where(is_pair[:, None], frame.types, frame.types[1])
    made["token_type_ids"][places] = np.repeat(types.ravel(), parts)
    return {name: values.reshape(shape) for name, values in made.items()}, at
