"""The masking collator: 15 % of the tokens to predict, of those 80 % masked, 10 % replaced, 10 % kept.

Devlin et al. 2018, section 3.1; whole words as in BERT's later release; spans as in Joshi et al. 2019 (SpanBERT).
"""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.invocation import command_of
from nlp_ssl.core.vocabulary import num_ids, special_ids
from nlp_ssl.data.sequences.order import hash64, uniform
from nlp_ssl.data.tokens.word_boundaries import word_tables
from nlp_ssl.objectives.cross_entropy import IGNORE

SPAN_P, SPAN_MAX = 0.2, 10  # SpanBERT: lengths ~ Geometric(0.2) given that they are at most 10, 3.8 on average
_REPLACE, _DRAW, _LENGTH = range(3)  # what the hash of a position decides besides whether it is chosen


def check_masking(config: MaskingConfig) -> None:
    """Raise a `UserError` for shares that are none."""
    if not 0 < config.probability < 1:
        raise UserError(f"--masking.probability is {config.probability}; it must lie between 0 and 1")
    if min(config.mask_share, config.random_share) < 0 or config.mask_share + config.random_share > 1 + 1e-9:
        raise UserError("--masking.mask_share and --masking.random_share must be shares that add up to at most 1")


class MaskingCollator:
    """Masks rows so that the choice at a position is a hash of (seed, source, epoch, row, position).

    There is no generator and no state: the masks do not depend on the batch, the worker or the process, a resumed run
    makes the same ones, and every epoch makes new ones. Special tokens are neither masked nor drawn as replacements.

    It also works alone, in a `DataLoader` or a `transformers.Trainer`: rows that carry no `row` and `epoch` are masked
    by draws from a torch generator, like those of the stock collator, and padded by the tokenizer.

    Args:
        tokenizer: a fast tokenizer with a mask token.
        config: shares, and what is masked as a whole.
        seed: decides the masks.
        source: tells apart data sets that are masked under one seed, such as training (0) and held-out (1) text.
        generator: for rows without `row` and `epoch`; torch's global one when `None`.
        pad_to_multiple_of: pad the length to a multiple of this (rows that need padding).

    Raises:
        UserError: the tokenizer has no mask token, or the shares are not shares.

    Example:
        >>> collator = MaskingCollator(tokenizer)
        >>> batch = collator([tokenizer("one row"), tokenizer("another")])
        >>> sorted(batch)
        ['attention_mask', 'input_ids', 'labels', 'token_type_ids']
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        config: MaskingConfig | None = None,
        *,
        seed: int = 0,
        source: int = 0,
        generator: torch.Generator | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.config = config = config or MaskingConfig()
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path or ''} has no mask token, which masked pretraining needs; "
                f"train one with `{command_of('train_tokenizer')}`, or pretrain with `{command_of('pretrain_clm')}`"
            )
        check_masking(config)
        self.tokenizer, self.seed, self.source, self.generator = tokenizer, seed, source, generator
        self.pad_to_multiple_of = pad_to_multiple_of
        self.is_ordinary = np.zeros(num_ids(tokenizer), dtype=bool)
        self.ordinary = ordinary_ids(tokenizer)
        self.is_ordinary[self.ordinary] = True
        if config.unit == "word":
            self.words = word_tables(tokenizer)
        if config.unit == "span":
            self.span_rate = _span_rate(config.probability)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad and mask rows.

        Args:
            features: dictionaries with `input_ids` and what else the model takes; `row` and `epoch` where the masks
                shall be a function of them.

        Returns:
            Tensors of shape (rows, length); `labels` holds the original token where one is to be predicted, else -100.
        """
        addresses = [(f.get("epoch"), f.get("row")) for f in features]
        if any(None in address for address in addresses):
            drawn = torch.randint(-(2**63), 2**63 - 1, (len(addresses),), generator=self.generator)
            keys = drawn.numpy().astype(np.uint64)
        else:
            keys = self.row_keys(*np.array(addresses, dtype=np.int64).T)
        model_inputs = [{k: v for k, v in f.items() if k not in ("row", "epoch", "labels")} for f in features]
        batch = self.tokenizer.pad(model_inputs, return_tensors="np", pad_to_multiple_of=self.pad_to_multiple_of)
        protected = batch.pop("special_tokens_mask", None)
        batch["input_ids"], batch["labels"] = self.mask(batch["input_ids"], keys, protected)
        return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in batch.items()}

    def row_keys(self, epochs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What decides the masks of rows: one uint64 a row, from its epoch and number."""
        return hash64(self.seed, self.source, epochs, rows)

    def mask(
        self, input_ids: np.ndarray, keys: np.ndarray, protected: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask rows of tokens.

        Args:
            input_ids: int64, shape (rows, length).
            keys: uint64, shape (rows,), from `row_keys`.
            protected: positions to leave alone besides special tokens, nonzero where so; same shape as `input_ids`.

        Returns:
            `(masked, labels)`, int64, the shape of `input_ids`.
        """
        masked, positions = self.choose(input_ids, keys, protected)
        labels = np.full_like(input_ids, IGNORE)
        labels.ravel()[positions] = input_ids.ravel()[positions]
        return masked, labels

    def choose(
        self, input_ids: np.ndarray, keys: np.ndarray, protected: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Like `mask`, but the second result is where the tokens to predict stand: int64, indices into rows * length.

        Every position has one hash. Whether it is chosen compares that with the probability; how a chosen one is
        replaced, and by what, are hashes of that hash.
        """
        candidates = self.is_ordinary[input_ids]
        if protected is not None:
            candidates &= protected == 0
        hashes = self.hashes(keys, input_ids.shape[1])
        if self.config.unit == "span":
            chosen = self._spans(keys, input_ids.shape) & candidates
        elif self.config.unit == "word":
            first = self._word_beginnings(input_ids, candidates)
            chosen = (np.take_along_axis(hashes, first, 1) < _share(self.config.probability)) & candidates
        else:
            chosen = (hashes < _share(self.config.probability)) & candidates
        positions = np.flatnonzero(chosen)
        hashes = hashes.ravel()
        # a span is replaced as one
        decisive = _run_starts(chosen).ravel()[positions] if self.config.unit == "span" else positions
        masked = input_ids.copy()
        flat = masked.reshape(-1)
        flat[positions] = self.replaced(flat[positions], hashes[positions], hashes[decisive])
        return masked, positions

    def hashes(self, keys: np.ndarray, length: int) -> np.ndarray:
        """Of every position of rows with these `row_keys`: uint64 (rows, length)."""
        return hash64(keys[:, None], np.arange(length))

    def replaced(self, tokens: np.ndarray, hashes: np.ndarray, decisive: np.ndarray | None = None) -> np.ndarray:
        """What stands in the place of chosen tokens: the mask token, a random ordinary one, or the token itself.

        Args:
            tokens: int64, any shape.
            hashes: uint64, of their positions.
            decisive: uint64, decides which of the three; `hashes` when `None`.

        Returns:
            int64, the shape of `tokens`.
        """
        how = hash64(_REPLACE, hashes if decisive is None else decisive)
        mask_share, random_share = self.config.mask_share, self.config.random_share
        hidden = how < _share(mask_share)
        random = (how < _share(mask_share + random_share)) & ~hidden
        replaced = np.where(hidden, self.tokenizer.mask_token_id, tokens)
        replaced[random] = self.ordinary[hash64(_DRAW, hashes[random]) % np.uint64(len(self.ordinary))]
        return replaced

    def _word_beginnings(self, input_ids: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
        """Position at which each position's word begins."""
        words = self.words
        joined = np.pad(words.joins[input_ids] & ordinary, ((0, 0), (1, 0)))[:, :-1]
        begins = words.begins[input_ids] | ~(joined | words.attaches[input_ids])
        return np.maximum.accumulate(np.where(begins, np.arange(input_ids.shape[1]), 0), axis=1)

    def _spans(self, keys: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Union of spans that begin anywhere, also before the row, so that every position is equally likely covered."""
        rows, length = shape
        hashes = hash64(keys[:, None], np.arange(-SPAN_MAX, length))
        starts = hashes < _share(self.span_rate)
        u = uniform(hash64(_LENGTH, hashes))
        tail = (1 - SPAN_P) ** SPAN_MAX
        lengths = np.floor(np.log1p(-u * (1 - tail)) / np.log1p(-SPAN_P)).astype(np.int64) + 1
        edges = np.zeros((rows, length + 2 * SPAN_MAX + 1), dtype=np.int64)
        row, at = np.nonzero(starts)
        np.add.at(edges, (row, at), 1)
        np.add.at(edges, (row, at + lengths[row, at]), -1)
        return np.cumsum(edges, axis=1)[:, SPAN_MAX : SPAN_MAX + length] > 0


def ordinary_ids(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The ids of all tokens but the special ones, ascending; a vocabulary may have holes, which are none."""
    there = np.zeros(num_ids(tokenizer), dtype=bool)
    there[list(tokenizer.get_vocab().values())] = True
    there[special_ids(tokenizer)] = False
    return np.flatnonzero(there)


def _share(share: float) -> np.uint64:
    """Below this lies that share of all 64-bit hashes."""
    return np.uint64(min(int(share * 2**64), 2**64 - 1))


def _run_starts(chosen: np.ndarray) -> np.ndarray:
    """For every position the flat index of the first of its run of chosen ones; bool (rows, length) -> int64."""
    starts = chosen & ~np.pad(chosen, ((0, 0), (1, 0)))[:, :-1]
    first = np.maximum.accumulate(np.where(starts, np.arange(chosen.shape[1]), 0), axis=1)
    return first + np.arange(len(chosen))[:, None] * chosen.shape[1]


def _span_rate(coverage: float) -> float:
    """Probability that a span begins at a position, such that a share `coverage` of the positions is covered.

    A position is free if none of the last SPAN_MAX positions began a span that reaches it:
    1 - coverage = prod_d (1 - rate * P(length > d)), solved by bisection.
    """
    tail = (1 - SPAN_P) ** SPAN_MAX
    reach = ((1 - SPAN_P) ** np.arange(SPAN_MAX) - tail) / (1 - tail)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - np.prod(1 - middle * reach) < coverage else (low, middle)
    return low
