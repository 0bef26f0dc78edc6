"""Documents of packed rows rearranged so that a causal model learns to fill in their middle (Bavarian et al. 2022).

A document's text of n tokens is cut at two places, drawn from 0 to n, into prefix, middle and suffix, and becomes

    BOS <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|fim_end|>        (PSM), or
    BOS <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle <|fim_end|>        (SPM),

each in half of the cases: the second is what the paper trains jointly with the first (its "variant 2"). A document that
stays as it is keeps its end-of-text token; one that is rearranged ends in `<|fim_end|>`. Both take their place in a row
that has room for the longer one, without gaps between documents.
"""

from dataclasses import dataclass

import numpy as np

from nlp_ssl.data.sequences.order import hash64, uniform

SENTINELS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_end|>")
ROOM = 3  # positions that a rearranged document takes more than a plain one, whose end-of-text token it has not
_WHETHER, _ORDER, _FIRST, _SECOND = range(4)  # what the hash of a document decides
_SEGMENTS = 8


@dataclass(frozen=True)
class Documents:
    """The documents of packed rows, in their order; arrays of shape (D,), int64 where nothing else is said.

    Attributes:
        row: which row each is in.
        begin: where it begins among the tokens of all rows.
        text: tokens of its text.
        rearranged: bool; whether it is.
        psm: bool; whether prefix, suffix, middle is its order then.
        first: tokens before the middle.
        second: tokens before the suffix.
    """

    row: np.ndarray
    begin: np.ndarray
    text: np.ndarray
    rearranged: np.ndarray
    psm: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, document_ids: np.ndarray, keys: np.ndarray, rate: float) -> "Documents":
        """Those of rows that were packed with `ROOM` positions at the end of every document.

        Args:
            document_ids: int64, (B, S).
            keys: uint64, (B,); what decides the draws of a row.
            rate: share of the documents that are rearranged.
        """
        padded = np.pad(document_ids, ((0, 0), (1, 1)))
        is_first = (document_ids > 0) & (padded[:, :-2] != document_ids)
        is_last = (document_ids > 0) & (padded[:, 2:] != document_ids)
        begin, end = np.flatnonzero(is_first), np.flatnonzero(is_last) + 1
        row = begin // document_ids.shape[1]
        text = end - begin - 2 - ROOM
        drawn = hash64(keys[row], document_ids.ravel()[begin])
        is_cut = uniform(hash64(_WHETHER, drawn)) < rate
        cuts = [(hash64(which, drawn) % (text + 1).astype(np.uint64)).astype(np.int64) for which in (_FIRST, _SECOND)]
        psm = hash64(_ORDER, drawn) < np.uint64(2**63)
        return cls(row, begin, text, is_cut, psm, np.minimum(*cuts), np.maximum(*cuts))


def rearrange(
    rows: dict[str, np.ndarray], documents: Documents, sentinels: tuple[int, ...], pad: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows laid anew, with the documents that are to be rearranged.

    Args:
        rows: as `stack_rows` gives them, packed with `ROOM` positions at the end of every document.
        documents: theirs.
        sentinels: ids of `SENTINELS`.
        pad: token of empty positions.

    Returns:
        The fields of `rows`; and bool (B, S), the places whose next token is one of a middle, in a rearranged document
        or, at the same words, in a plain one.
    """
    d, length = documents, rows["input_ids"].shape[1]
    size = d.text + 2 + ROOM * d.rearranged
    starts_row = np.flatnonzero(np.diff(d.row, prepend=-1))
    before = np.cumsum(size) - size
    begin = d.row * length + before - np.repeat(before[starts_row], np.diff(starts_row, append=len(size)))

    # every document in eight segments, some of them empty: where each is taken from, and how long it is
    ahead = np.where(d.psm, d.first, 0)  # of the prefix, before its sentinel or with the middle
    body, special = d.begin + 1, rows["input_ids"].size
    source = np.empty((len(size), _SEGMENTS), dtype=np.int64)
    source[:, 0], source[:, 1::2] = d.begin, special + np.arange(len(sentinels))
    source[:, 2] = body
    source[:, 4] = body + d.second
    source[:, 6] = body + ahead
    source[~d.rearranged, 7] = (body + d.text)[~d.rearranged]  # the end of the text
    lengths = np.ones_like(source)
    lengths[:, [1, 3, 5]] = d.rearranged[:, None]
    lengths[:, 2] = np.where(d.rearranged, ahead, d.text)
    lengths[:, 4] = np.where(d.rearranged, d.text - d.second, 0)
    lengths[:, 6] = np.where(d.rearranged, d.second - ahead, 0)

    taken = _ranges(source.ravel(), lengths.ravel())
    placed = _ranges(begin, size)
    found = {}
    for name, more in (("input_ids", list(sentinels)), ("cut_ends", [False] * len(sentinels))):
        values = np.concatenate([rows[name].ravel(), np.array(more, dtype=rows[name].dtype)])
        found[name] = np.full(special, pad if name == "input_ids" else False, dtype=rows[name].dtype)
        found[name][placed] = values[taken]
    found["document_ids"] = np.zeros(special, dtype=np.int64)
    found["document_ids"][placed] = np.repeat(rows["document_ids"].ravel()[d.begin], size)
    found["position_ids"] = np.zeros(special, dtype=np.int64)
    found["position_ids"][placed] = placed - np.repeat(begin, size)
    middle = np.zeros(special, dtype=bool)
    middle_begin = np.where(d.rearranged, begin + size - 1 - (d.second - d.first), begin + 1 + d.first)
    middle[_ranges(middle_begin - 1, d.second - d.first)] = True
    shape = rows["input_ids"].shape
    return {**rows, **{name: values.reshape(shape) for name, values in found.items()}}, middle.reshape(shape)


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of several ranges, one after the other."""
    return np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
