"""Words left out of documents, by hashes: a word is there or not, whatever batch its document is read in."""

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.vocabulary import num_ids, special_ids
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.tokens.word_boundaries import word_tables


class WordDeletion:
    """Chooses the words of packed documents that stay; picklable.

    A word is deleted if the hash of where it begins is below the share. Of every document at least one word stays, the
    one of the highest hash; special tokens always do.

    Args:
        tokenizer: says where words begin.
        share: of the words to delete, from 0 to below 1.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, share: float) -> None:
        self.share = share
        self.words = word_tables(tokenizer)
        self.is_special = np.zeros(num_ids(tokenizer), dtype=bool)
        self.is_special[special_ids(tokenizer)] = True

    def kept(self, input_ids: np.ndarray, document_ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Which tokens stay: bool, (rows, length), false in padding.

        Args:
            input_ids: int64, (rows, length).
            document_ids: the same; 0 is padding.
            keys: uint64, (rows,): decide the choice.
        """
        ordinary = ~self.is_special[input_ids] & (document_ids > 0)
        hashes = hash64(keys[:, None], self._beginnings(input_ids, document_ids, ordinary))
        number = np.arange(len(input_ids))[:, None] * (document_ids.max() + 1) + document_ids
        highest = np.zeros(number.max() + 1, dtype=np.uint64)
        np.maximum.at(highest, number[ordinary], hashes[ordinary])
        threshold = np.uint64(min(int(self.share * 2**64), 2**64 - 1))
        stays = (hashes >= threshold) | (hashes == highest[number])
        return (stays | self.is_special[input_ids]) & (document_ids > 0)

    def _beginnings(self, input_ids: np.ndarray, document_ids: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
        """Position at which each position's word begins."""
        words = self.words
        joined = np.pad(words.joins[input_ids] & ordinary, ((0, 0), (1, 0)))[:, :-1]
        begins = words.begins[input_ids] | ~(joined | words.attaches[input_ids]) | ~ordinary
        begins |= np.diff(document_ids, axis=1, prepend=-1) != 0
        return np.maximum.accumulate(np.where(begins, np.arange(input_ids.shape[1]), 0), axis=1)


def compacted(kept: np.ndarray, *fields: np.ndarray, width: int) -> list[np.ndarray]:
    """The kept entries of each row moved to its front, 0 behind them.

    Args:
        kept: bool, (rows, length).
        fields: (rows, length).
        width: of the result; no row keeps more.

    Returns:
        Of each field (rows, width).
    """
    row, _ = np.nonzero(kept)
    counts = kept.sum(1)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = [np.zeros((len(kept), width), dtype=each.dtype) for each in fields]
    for out, each in zip(found, fields, strict=True):
        out[row, place] = each[kept]
    return found


def positions_of(document_ids: np.ndarray) -> np.ndarray:
    """From 0 in every document: int64, the shape of `document_ids`; 0 in padding."""
    first = np.diff(document_ids, axis=1, prepend=-1) != 0
    at = np.arange(document_ids.shape[1])
    begin = np.maximum.accumulate(np.where(first, at, 0), axis=1)
    return np.where(document_ids > 0, at - begin, 0)
