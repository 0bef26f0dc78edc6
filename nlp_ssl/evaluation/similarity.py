"""What the cosine of two vectors knows, before anything is fine-tuned: of how alike two sentences are (STS), and of
which halves belong to one text (retrieval)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.core.errors import UserError
from nlp_ssl.evaluation.metrics import spearman
from nlp_ssl.objectives.text_vectors import Pooling, text_vectors
from nlp_ssl.objectives.vector_numbers import CANDIDATES, TIE

HALF = 4  # words of half a text, at least


@dataclass(frozen=True)
class Similarity:
    """How people's scores of pairs of sentences go along with those of a model.

    Attributes:
        spearman: rank correlation of the cosines of the vectors with the scores.
        word_overlap: that of the share of common words, for comparison: what needs no model.
        pairs: how many.
    """

    spearman: float
    word_overlap: float
    pairs: int


def sentence_similarity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    first: Sequence[str],
    second: Sequence[str],
    scores: Sequence[float],
    pooling: Pooling = "mean",
    *,
    max_length: int | None = None,
    batch_size: int = 64,
) -> Similarity:
    """Score a model on pairs of sentences, such as STS-B's, without training it on them.

    Args:
        model: without a head, such as `AutoModel` gives.
        tokenizer: its.
        first: a sentence of each pair.
        second: the other one.
        scores: how alike people find them; any scale, high is alike.
        pooling: the mean over a sentence's tokens, or the first token's vector.
        max_length: tokens that are read of a sentence; what the tokenizer announces when `None`.
        batch_size: sentences in a forward pass.

    Raises:
        UserError: they are not as many, or too few, or all of the same score.
    """
    if not len(first) == len(second) == len(scores):
        raise UserError(f"pairs of sentences: there are {len(first)}, {len(second)}, and {len(scores)} scores of them")
    if len(set(scores)) < 2:
        raise UserError("pairs of sentences: no two of them have different scores, so there is nothing to rank")
    cosines = pair_cosines(
        model, tokenizer, first, second, pooling, max_length=max_length, batch_size=batch_size
    ).numpy()
    gold = np.asarray(scores, dtype=np.float64)
    common = np.array([word_overlap(a, b) for a, b in zip(first, second, strict=True)])
    return Similarity(spearman(cosines, gold), spearman(common, gold), len(scores))


def pair_cosines(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    first: Sequence[str],
    second: Sequence[str],
    pooling: Pooling = "mean",
    *,
    max_length: int | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Cosines of the vectors of pairs of texts: float64 (N,). Every text is read once; arguments are those above."""
    texts = list(dict.fromkeys([*first, *second]))
    vectors = text_vectors(model, tokenizer, texts, pooling, max_length=max_length, batch_size=batch_size)
    where = {text: i for i, text in enumerate(texts)}
    one, other = (vectors[[where[text] for text in each]].double() for each in (first, second))
    return F.cosine_similarity(one, other)


def nearest_halves(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    pooling: Pooling = "mean",
    *,
    max_length: int | None = None,
    batch_size: int = 64,
) -> list[int]:
    """For the first half of each text, the text whose second half has the nearest vector.

    Candidates are the second halves of up to 256 texts that stand beside each other, its own among them; groups are as
    many as there must be, of sizes that differ by one at most.

    Args:
        model: without a head, such as `AutoModel` gives.
        tokenizer: its.
        texts: of two words at least; cut after half of their words.
        pooling: the mean over a half's tokens, or the first token's vector.
        max_length: tokens that are read of a half; what the tokenizer announces when `None`.
        batch_size: halves in a forward pass.

    Returns:
        (N,) numbers of texts; another than its own where that one is as near, to rounding.
    """
    words = [text.split() for text in texts]
    halves = [" ".join(each[: len(each) // 2]) for each in words] + [" ".join(each[len(each) // 2 :]) for each in words]
    vectors = text_vectors(model, tokenizer, halves, pooling, max_length=max_length, batch_size=batch_size)
    first, second = F.normalize(vectors.double(), dim=-1).chunk(2)
    found: list[int] = []
    for group in np.array_split(np.arange(len(texts)), -(-len(texts) // CANDIDATES)):
        cosines = first[group] @ second[group].T
        cosines.diagonal().sub_(TIE)
        found += group[cosines.argmax(dim=1).numpy()].tolist()
    return found


def word_overlap(first: str, second: str) -> float:
    """Words that two texts share, of all that either has, whatever their case (Jaccard)."""
    one, other = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(one & other) / max(1, len(one | other))
