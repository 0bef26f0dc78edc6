"""Mask rates that follow what a model predicts wrong (AMLM: Edman and Fraser 2025).

A row of a batch has as many masked tokens as ever, but an entry of the vocabulary that is mostly predicted right is
masked less often than one that is not. The host draws for every token how soon its turn comes and what would stand in
its place; which tokens are masked is decided where the model is, from the rates as they are at the beginning of a step.
So the number of targets is known beforehand, and the same rows are masked alike under every split of a step.
"""

import math

import numpy as np
import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from nlp_ssl.data.sequences.batches import Batch
from nlp_ssl.data.sequences.order import uniform
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.masking import MaskingCollator, ordinary_ids

_KEPT = 0.2  # of a rate, at an update
_SHOWN = 5  # entries
_FLOOR = 1 / 30  # lowest rate, as a multiple of the mean: .005 beside .15 in the authors' code


class AdaptiveRates(nn.Module):
    """How often each entry of the vocabulary is masked, relative to the mean.

    At an update `rate = 0.2 * rate + 0.8 * (1 - accuracy)`, at least a thirtieth, scaled to a mean of 1; the accuracy
    of an entry is that of its masked tokens since the last update, `(right + 0.5) / (tokens + 1)`.

    All state is parameters without gradient and no buffers, which DDP would send around at every forward pass.

    Args:
        num_entries: of the vocabulary.
        every: steps between updates.
    """

    def __init__(self, num_entries: int, every: int) -> None:
        super().__init__()
        self.every = every
        self.rates = nn.Parameter(torch.ones(num_entries), requires_grad=False)
        self.right = nn.Parameter(torch.zeros(num_entries, dtype=torch.int64), requires_grad=False)
        self.tokens = nn.Parameter(torch.zeros_like(self.right), requires_grad=False)
        # of this process in a step that is not applied yet: right, all
        self.pending = nn.Parameter(torch.zeros(2, num_entries, dtype=torch.int64), requires_grad=False)

    def masked(self, batch: Batch, shift: int) -> Batch:
        """A batch of `draws` with its masks: `input_ids`, `masked_labels` and, for these, the last `label_positions`.

        Weighted draws without replacement: the tokens whose exponential waiting times at their rates end first
        (Efraimidis and Spirakis 2006).

        Args:
            batch: with the entries of `draws`, and empty slots for labels: as many for every row.
            shift: how many tokens before a masked one it is predicted.
        """
        ids = batch["input_ids"]
        count, length = ids.shape
        room = batch["masked_labels"].shape[0] // count
        chosen = (batch["wait"] / self.rates[ids]).topk(room, dim=1, largest=False).indices
        real = torch.arange(room, device=ids.device) < batch["num_masked"][:, None]
        original = ids.gather(1, chosen)
        read = ids.scatter(1, chosen, torch.where(real, batch["replacement"].gather(1, chosen), original))
        positions = chosen - shift + torch.arange(count, device=ids.device)[:, None] * length
        others, slots = batch["label_positions"].split([len(batch["label_positions"]) - count * room, count * room])
        return batch | {
            "input_ids": read,
            "label_positions": torch.cat([others, torch.where(real, positions, 0).flatten().to(slots.dtype)]),
            "masked_labels": torch.where(real, original.long(), IGNORE).flatten(),
        }

    @torch.no_grad()
    def observe(self, labels: Tensor, predicted: Tensor) -> None:
        """Count which masked tokens were predicted right; both (M,), labels -100 in spare slots."""
        at = labels.clamp(min=0)
        real = labels != IGNORE
        self.pending[0].index_add_(0, at, (real & (predicted == labels)).long())
        self.pending[1].index_add_(0, at, real.long())

    @torch.no_grad()
    def forget(self) -> None:
        """What a step that was not applied left."""
        self.pending.zero_()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take in what all processes counted in step `step`, and now and then move the rates."""
        found = reduce(self.pending.data, "sum")
        self.right.add_(found[0])
        self.tokens.add_(found[1])
        self.forget()
        if step % self.every == 0:
            accuracy = (self.right.to(self.rates.dtype) + 0.5) / (self.tokens.to(self.rates.dtype) + 1)
            moved = (_KEPT * self.rates + (1 - _KEPT) * (1 - accuracy)).clamp(min=_FLOOR)
            self.rates.copy_(moved / moved.mean())
            self.right.zero_()
            self.tokens.zero_()

    def shown(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """The entries that are masked most and least, and how often beside the mean."""
        ids = torch.from_numpy(ordinary_ids(tokenizer))
        order = ids[self.rates[ids.to(self.rates.device)].cpu().argsort(descending=True, stable=True)].tolist()
        parts = [f"{tokenizer.decode([i])!r} {self.rates[i].item():.2f}" for i in [*order[:_SHOWN], *order[-_SHOWN:]]]
        most, least = ", ".join(parts[:_SHOWN]), ", ".join(reversed(parts[_SHOWN:]))
        return f"masked most, as a multiple of the mean rate: {most}; least: {least}"


def draws(masking: MaskingCollator, input_ids: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What `AdaptiveRates.masked` needs to mask rows; hashes of (seed, source, epoch, row, position), as masks are.

    Args:
        masking: its shares and hashes.
        input_ids: int64 (B, S).
        keys: uint64 (B,), from `row_keys`.
        rows: bool (B,): those to mask.

    Returns:
        `wait`, float32 (B, S), a draw of the exponential distribution, infinite where nothing may be masked;
        `replacement`, int32 (B, S), what the model reads where a token is masked; `num_masked`, int32 (B,).
    """
    hashes = masking.hashes(keys, input_ids.shape[1])
    maskable = masking.is_ordinary[input_ids] & rows[:, None]
    above_0 = uniform(hashes) + 2.0**-54  # half a step, so that the logarithm is finite
    p = masking.config.probability
    return {
        "wait": np.where(maskable, -np.log(above_0), np.inf).astype(np.float32),
        "replacement": masking.replaced(input_ids, hashes).astype(np.int32),
        "num_masked": np.floor(p * maskable.sum(axis=1) + 0.5).astype(np.int32),
    }


def room(masking: MaskingCollator, length: int) -> int:
    """The largest number of masked tokens that a row of `length` tokens can have."""
    return math.ceil(masking.config.probability * length)
