"""Held-out loss: the same rows under the same masks every time, so that two numbers can be compared."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device

from nlp_ssl.core import errors
from nlp_ssl.core.console import progress
from nlp_ssl.core.errors import Interrupted
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.objective import Batch, ObjectiveModule


@dataclass(frozen=True)
class HeldOut:
    """What an evaluation found.

    Attributes:
        loss: nats a target.
        num_targets: predictions that were scored.
        metrics: sums of the objective's other metrics, over all targets.
    """

    loss: float
    num_targets: int
    metrics: dict[str, float]


@torch.no_grad()
def evaluate(
    module: ObjectiveModule,
    batches: Iterator[Batch],
    num_targets: Callable[[Batch], int],
    accelerator: Accelerator,
    total: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> HeldOut:
    """Score held-out batches; every process gives its own and gets the result of all.

    Args:
        module: prepared by `accelerator`.
        batches: this process's batches, on the host.
        num_targets: counts a batch's targets on the host.
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
    loss_sum, count = torch.zeros((), dtype=torch.float64), 0
    sums: dict[str, torch.Tensor] = {}
    try:
        for batch in interruptible(stop, batches, total, desc="evaluate"):
            count += num_targets(batch)
            # kernels would be compiled for evaluation alone, and for its last batch
            with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
                batch_loss, metrics = inner(send_to_device(batch, accelerator.device, non_blocking=True))
            loss_sum += batch_loss.cpu().double()
            for key, value in metrics.items():
                sums[key] = sums.get(key, 0.0) + value.cpu().double()
    finally:
        inner.train(was_training)
    own = {"loss": float(loss_sum), "count": count, **{name: float(value) for name, value in sums.items()}}
    # as objects: a process that had no batch does not know the metrics' names
    parts = gather_object([own]) if accelerator.num_processes > 1 else [own]
    totals = {name: sum(part.get(name, 0) for part in parts) for name in sorted(set().union(*parts))}
    loss, count = totals.pop("loss"), int(totals.pop("count"))
    if not count:
        raise errors.UserError("the held-out rows hold nothing to predict; give more held-out text")
    return HeldOut(loss / count, count, totals)


def bits_per_byte(text_loss_sum: float, num_bytes: float) -> float:
    """Bits to encode a byte of text: summed loss of the text's tokens, in nats, over ln 2 and the bytes they spell.

    It does not depend on the tokenizer, so models with different vocabularies can be compared.
    """
    return text_loss_sum / math.log(2) / num_bytes


def unigram_cross_entropy(
    train: TokenCorpus, held_out: TokenCorpus, vocab_size: int, max_tokens: int = 50_000_000
) -> float:
    """Nats a token that a model without context needs: the training text's frequencies (add one) on held-out text.

    What a language model has to beat before it has learnt anything from context.

    Args:
        train: gives the frequencies, from its first `max_tokens` tokens.
        held_out: is scored.
        vocab_size: entries of the vocabulary.
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
