"""Held-out loss: the same rows under the same masks every time, so that two numbers can be compared."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn

from nlp_ssl.core import errors
from nlp_ssl.core.console import progress
from nlp_ssl.core.errors import Interrupted
from nlp_ssl.data.sequences.batches import MicroBatch
from nlp_ssl.data.tokens.token_corpus import TokenCorpus


@dataclass(frozen=True)
class HeldOut:
    """What an evaluation found, over all batches and processes; `Objective.evaluate` makes numbers of it.

    Attributes:
        sums: what the objective's `forward` gave, summed, or put together if it is `collected`; float64, on the host.
        counts: targets of each loss term.
    """

    sums: dict[str, torch.Tensor]
    counts: dict[str, int]


@torch.no_grad()
def evaluate(
    module: nn.Module,
    batches: Iterator[MicroBatch],
    accelerator: Accelerator,
    total: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> HeldOut:
    """Score held-out batches; every process gives its own and gets the result of all.

    Args:
        module: an `Objective`, prepared by `accelerator`.
        batches: this process's batches, on the host.
        accelerator: precision and processes.
        total: number of batches of the process with the most; needed with `stop`.
        stop: asked before each of `total` batches, by every process, also by one that has fewer.

    Raises:
        Interrupted: `stop` said so; the module is in the mode that it was in.
        UserError: there is nothing to predict.
    """
    inner = accelerator.unwrap_model(module, keep_fp32_wrapper=True)  # DDP would wait for the others at every batch
    was_training = inner.training
    inner.eval()
    sums: dict[str, torch.Tensor] = {}
    parts: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}
    try:
        for batch in interruptible(stop, batches, total, desc="evaluate"):
            # kernels would be compiled for evaluation alone, and for its last batch
            with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
                found = inner(send_to_device(batch.inputs, accelerator.device, non_blocking=True))
            for name, value in found.items():
                value = value.cpu().double()
                if name in inner.collected:
                    parts.setdefault(name, []).append(value)
                else:
                    sums[name] = sums.get(name, 0.0) + value
            for name, count in batch.counts.items():
                counts[name] = counts.get(name, 0) + count
    finally:
        inner.train(was_training)
    if accelerator.num_processes > 1:  # as objects: a process that had no batch does not know the names
        everyone = zip(*gather_object([(sums, parts, counts)]), strict=True)
        sums, parts, counts = (_added(each) for each in everyone)
    if not any(counts.values()):
        raise errors.UserError("the held-out sequences hold nothing to predict; give more held-out text")
    return HeldOut(sums | {name: torch.cat(found) for name, found in parts.items()}, counts)


def _added(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sums of what some dictionaries have under each name."""
    names = dict.fromkeys(name for part in parts for name in part)
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(others, first) for name, (first, *others) in found.items()}


def unigram_cross_entropy(
    train: TokenCorpus, held_out: TokenCorpus, vocab_size: int, max_tokens: int = 50_000_000
) -> float:
    """Nats per token that a model without context needs: the training text's frequencies (add one) on held-out text.

    What a language model has to beat before it has learnt anything from context.

    Args:
        train: gives the frequencies, from its first `max_tokens` tokens.
        held_out: is scored.
        vocab_size: the highest token id and one.
        max_tokens: bound on the work.
    """
    counts = np.ones(vocab_size)
    seen = 0
    for shard in train.arrays():
        part = shard[: max_tokens - seen]
        counts += np.bincount(part, minlength=vocab_size)[:vocab_size]
        seen += len(part)
    surprise = -np.log(counts / counts.sum())
    scored = np.zeros(vocab_size, dtype=np.int64)
    for shard in held_out.arrays():
        scored += np.bincount(shard, minlength=vocab_size)[:vocab_size]
    return float((scored * surprise).sum() / scored.sum())


def interruptible(stop: Callable[[], bool], batches: Iterator[Any], total: int | None, desc: str) -> Iterator[Any]:
    """Walk through held-out batches with a progress bar, until all processes agree to stop.

    Args:
        stop: whether to stop; asks all processes, so each must ask equally often.
        batches: of this process.
        total: batches of the process that has the most; `None` asks once for each of this one's.
        desc: what is being done.

    Raises:
        Interrupted: `stop` said so.
    """
    with progress(total=total, desc=desc, unit="batch", leave=False) as bar:
        for _ in count() if total is None else range(total):
            if stop():
                raise Interrupted("stopped while measuring")
            if (batch := next(batches, None)) is not None:
                yield batch
                bar.update()
            elif total is None:
                return
