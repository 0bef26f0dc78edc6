"""Spans taken out of documents, by hashes, for an encoder-decoder to write them or the whole text.

As in T5 (Raffel et al. 2020, `random_spans_noise_mask`), how many tokens of a document are taken out, and in how many
spans, follows from its length alone: of n tokens round(share n), but at least one and not all, in round(that / mean)
spans, but at least one. Which ones is drawn: all ways to divide the tokens among the spans are equally likely, and so
are all ways to put the spans apart. T5's masks always begin with a token that stays and end with one that does not.
Here a span may also begin a document, and the last one need not end it.

BART's infilling (Lewis et al. 2020) draws the lengths of spans from a Poisson distribution, until the share is reached;
the last one is cut to it. A span of no token is a mask that stands for nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.span_corruption import NoiseSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.order import hash64, uniform

MOST_BLANKS = 100  # as T5's tokenizers have
SHARE = {"spans": 0.15, "infilling": 0.3}
_PLACE, _CUT, _LENGTH, _SENTENCE = range(4)  # what a hash decides
_SENTENCE_ENDS = (".", "!", "?", "\n", "\u3002", "\uff01", "\uff1f")


def blank(number: int) -> str:
    """The token that stands for a span, counted from 0."""
    return f"<extra_id_{number}>"


def blanks_of(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The ids of a tokenizer's blanks, int64, by their names: their order among the ids is not the same everywhere."""
    there = tokenizer.get_vocab()
    found: list[int] = []
    while (token := blank(len(found))) in there:
        found.append(there[token])
    return np.array(found, dtype=np.int64)


def share_of(noise: NoiseSection) -> float:
    """The share of the tokens to take out."""
    return SHARE[noise.kind] if noise.share is None else noise.share


def check_noise(noise: NoiseSection) -> None:
    """Raise a `UserError` for noise that cannot be made."""
    if not 0 < share_of(noise) < 1:
        raise UserError(f"--noise.share is {noise.share}; it must lie between 0 and 1")
    if not 1 <= noise.mean_span <= 100:
        raise UserError(f"--noise.mean_span is {noise.mean_span}; it must lie between 1 and 100 tokens")
    if noise.permute_sentences and noise.kind != "infilling":
        raise UserError("--noise.permute_sentences is for --noise.kind infilling, which writes the whole text")


@dataclass(frozen=True)
class Bodies:
    """The documents of some rows, without the special tokens around them.

    Attributes:
        keys: uint64 (D,); decide what is drawn for each.
        sizes: int64 (D,); their tokens.
        tokens: int64 (sum of sizes,); one document after the other.
    """

    keys: np.ndarray
    sizes: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Spans:
    """Spans of documents, in their order.

    Attributes:
        documents: int64 (K,); number of the document that each is of.
        sizes: int64 (K,); tokens in it.
        places: int64 (K,); tokens of its document before it that stay. No two spans of a document have the same.
        counts: int64 (D,); spans in each document.
        hidden: int64 (D,); tokens in these.
    """

    documents: np.ndarray
    sizes: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    hidden: np.ndarray

    @property
    def begins(self) -> np.ndarray:
        """Tokens of its document before each, int64 (K,)."""
        return self.places + before(self.sizes, self.counts)


class SpanNoise:
    """Chooses spans of documents; pure and picklable.

    Args:
        config: which noise.
        most: spans that a document may have, as far as the tokenizer has tokens for them.
        ends: whether an id ends a sentence, bool, for every id; where sentences are shuffled.

    Raises:
        UserError: the options contradict themselves.
    """

    def __init__(self, config: NoiseSection, most: int = MOST_BLANKS, ends: np.ndarray | None = None) -> None:
        check_noise(config)
        self.config, self.most, self.ends = config, most, ends

    def spans(self, bodies: Bodies) -> Spans:
        """The spans of every document that has at least two tokens."""
        share, mean = share_of(self.config), self.config.mean_span
        sizes = bodies.sizes
        hidden = np.where(sizes > 1, np.clip(np.rint(sizes * share).astype(np.int64), 1, np.maximum(1, sizes - 1)), 0)
        if self.config.kind == "infilling":
            counts, lengths = self._poisson(bodies.keys, sizes, hidden)
        else:
            wanted = np.maximum(1, np.rint(hidden / mean).astype(np.int64))
            counts = np.minimum(np.minimum(wanted, self.most), np.minimum(hidden, sizes - hidden + 1))
            lengths = _composition(bodies.keys, hidden, counts)
        # spans go to different ones of the places before, between and behind the tokens that stay
        documents, places = _subset(_PLACE, bodies.keys, np.where(counts > 0, sizes - hidden + 1, 0), counts)
        return Spans(documents, lengths, places, counts, hidden)

    def _poisson(self, keys: np.ndarray, sizes: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of spans, and their lengths: draws until a document's share is reached."""
        draws = np.where(hidden > 0, sizes - hidden + 1, 0)  # there are not more places
        document, number = ragged(draws)
        u = uniform(hash64(_LENGTH, keys[document], number))
        lengths = np.searchsorted(_poisson_table(self.config.mean_span), u, side="right")
        reached = before(lengths, draws)
        left = hidden[document] - reached
        lengths = np.where(number == draws[document] - 1, left, np.minimum(lengths, left))
        kept = left > 0
        return np.bincount(document[kept], minlength=len(sizes)), lengths[kept]

    def order(self, bodies: Bodies) -> np.ndarray:
        """Where the tokens of what is read come from: int64 (sum of sizes,), indices into the tokens of the bodies."""
        document, number = ragged(bodies.sizes)
        everywhere = np.arange(len(document))
        if not self.config.permute_sentences:
            return everywhere
        assert self.ends is not None
        ends = self.ends[bodies.tokens]
        begins = (number == 0) | np.pad(ends & ~np.pad(ends, (0, 1))[1:], (1, 0))[:-1]  # "?!" ends one sentence
        first = np.maximum.accumulate(np.where(begins, everywhere, 0))
        return np.lexsort((everywhere, hash64(_SENTENCE, bodies.keys[document], number[first]), document))


def sentence_ends(tokenizer: PreTrainedTokenizerFast, num_ids: int) -> np.ndarray:
    """Whether the text of an id ends a sentence or a line: bool (num_ids,)."""
    ends = np.zeros(num_ids, dtype=bool)
    for token in tokenizer.get_vocab().values():
        ends[token] = tokenizer.decode([token]).rstrip(" ").endswith(_SENTENCE_ENDS)
    return ends


# ---------------------------------------------------------------------------------------------------------------------
# ragged arrays: parts of different sizes, one after the other


def ragged(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every entry of parts of these sizes the part that it is of, and its number in that part; int64."""
    return np.repeat(np.arange(len(sizes)), sizes), np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def before(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """For every entry of parts of these sizes the sum of the entries before it in its part."""
    sums = np.concatenate([[0], np.cumsum(values)])
    return sums[:-1] - sums[np.repeat(np.cumsum(sizes) - sizes, sizes)]


def _subset(purpose: int, keys: np.ndarray, sizes: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """So many of each part's entries as are wanted, every choice equally likely: the smallest hashes.

    Returns:
        (part, number in it) of each, in ascending order.
    """
    part, number = ragged(sizes)
    order = np.lexsort((hash64(purpose, keys[part], number), part))
    chosen = np.zeros(len(part), dtype=bool)
    chosen[order] = number < wanted[part]  # the order is by parts, so ranks are numbers
    return part[chosen], number[chosen]


def _composition(keys: np.ndarray, totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Each total as an ordered sum of this many positive integers, every one equally likely: int64 (sum of counts,)."""
    cut = np.maximum(counts, 1) - 1
    _, number = _subset(_CUT, keys, np.maximum(totals, 1) - 1, cut)
    ends = np.zeros(counts.sum(), dtype=np.int64)
    index = ragged(counts)
    is_last = index[1] == counts[index[0]] - 1
    ends[~is_last] = number + 1
    ends[is_last] = totals[counts > 0]
    return ends - np.where(index[1] > 0, np.concatenate([[0], ends])[:-1], 0)


def _poisson_table(mean: float) -> np.ndarray:
    """The distribution function of Poisson's law from 0 on, until what is left is nothing in float64."""
    logs = [n * math.log(mean) - mean - math.lgamma(n + 1) for n in range(int(mean + 12 * math.sqrt(mean) + 24))]
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)
