"""THE loop: a generator of optimizer steps, for every objective, from one CPU to many GPUs.

It yields a `Step`; the caller logs, evaluates, saves and stops. It never touches the disk.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.core.console import warn
from nlp_ssl.data.sequences.batches import MicroBatch
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training.distributed import host_group
from nlp_ssl.training.gradients import accumulate
from nlp_ssl.training.schedules import Horizon, TrainedTime
from nlp_ssl.training.step_guard import Incident, StepGuard

SaveState = Literal["idle", "writing", "failed"]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did, over all processes and micro-batches.

    Attributes:
        number: optimizer steps taken, this one included.
        loss: nats per target, before the update; of several terms their weighted sum.
        grad_norm: global norm of the gradient, before clipping.
        lr: learning rate of AdamW's groups.
        num_targets: predictions that the loss averages over, of all terms.
        num_tokens: tokens that are not padding.
        seconds: for this step, without what the caller did between steps.
        elapsed: seconds of training on rank 0's clock, those before a resume included.
        digest: of the rows and masks that it learnt from; the same however they were split.
        incident: why the weights were not updated: `"nonfinite"` or `"spike"` (see `StepGuard`), or `"overflow"` where
            the fp16 scaler skipped the update, which is ordinary; `None` when they were.
        saved: no process has an unfinished save.
        save_failed: a process could not write its part of a save.
        stop: `"budget"` after the last step, `"interrupt"` when a process was asked to stop, else `None`.
        losses: of each loss term, per target.
        targets: of each loss term.
    """

    number: int
    loss: float
    grad_norm: float
    lr: float
    num_targets: int
    num_tokens: int
    seconds: float
    elapsed: float
    digest: int
    incident: str | None
    saved: bool
    save_failed: bool
    stop: str | None
    losses: dict[str, float] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)


def train(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterator[list[MicroBatch]],
    *,
    accelerator: Accelerator,
    schedule: ScheduleConfig,
    horizon: Horizon,
    max_grad_norm: float,
    first_step: int = 0,
    elapsed: float = 0.0,
    guard: StepGuard | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    save_state: Callable[[], SaveState] = lambda: "idle",
) -> Iterator[Step]:
    """Take steps until the horizon or until asked to stop.

    The gradient of a step is that of the loss of the whole global batch: of every term the sum over its targets divided
    by their number, times the term's weight. So it does not depend on how the batch is split. A step that the guard
    finds fault with is not applied, on any process.

    Args:
        module: an `Objective`, prepared by `accelerator`.
        optimizer: prepared by `accelerator`; groups carry `peak_lr`, and perhaps `begins`, the share of
            the run for which they stand still.
        steps: for every step, this process's micro-batches.
        accelerator: precision and processes; its `gradient_accumulation_steps` must be 1.
        schedule: shape of the learning rate.
        horizon: number of steps.
        max_grad_norm: clip to this; 0 does not clip.
        first_step: steps taken before (a resumed run).
        elapsed: seconds of training before.
        guard: judges whether a step is applied; by default whether its numbers are finite.
        stop_requested: whether this process was asked to stop.
        save_state: how far this process's save is.

    Yields:
        One `Step` an optimizer step.
    """
    objective: Objective = accelerator.unwrap_model(module, keep_fp32_wrapper=True)
    weights = objective.terms
    feed = _Prefetcher(steps, list(weights), accelerator, stop_requested, save_state, elapsed)
    guard = guard or StepGuard()
    module.train()
    feed.prepare()
    agreed = feed.sync()
    number, before = first_step, feed.clock.seconds()
    while horizon.steps is None or number < horizon.steps:
        factor = horizon.factor(schedule, number)
        for group in optimizer.param_groups:
            begun = number >= group.get("begins", 0.0) * (horizon.steps or 0)
            group["lr"] = lr = group["peak_lr"] * factor * begun
        current, targets = agreed, agreed.targets
        factors = {name: weights[name] / max(1, count) for name, count in targets.items()}
        sums = accumulate(module, feed.batches, factors, accelerator)
        feed.prepare()  # the next step's batches and counts, while the accelerator works
        grad_norm = accelerator.clip_grad_norm_(module.parameters(), max_grad_norm or math.inf)
        losses, grad_norm = _read(sums, targets, grad_norm, accelerator)
        loss = sum(weights[name] * mean for name, mean in losses.items())
        incident: Incident | Literal["overflow"] | None = guard.judge(loss, grad_norm)
        if incident == "nonfinite" and accelerator.scaler is not None and math.isfinite(loss):
            incident = "overflow"
        if incident in (None, "overflow"):
            optimizer.step()  # at an overflow the scaler skips the update and lowers its scale
            if incident is None:
                objective.after_step(number + 1)
        elif accelerator.scaler is not None:
            accelerator.scaler.update()  # clipping has unscaled the gradient: close the step
        optimizer.zero_grad(set_to_none=True)
        number += 1
        agreed = feed.sync()
        horizon.update(number, agreed.elapsed)
        stop = "interrupt" if agreed.stop else "budget" if number == horizon.steps else None
        now = feed.clock.seconds()
        yield Step(
            number, loss, grad_norm, lr, sum(targets.values()), current.num_tokens, now - before, agreed.elapsed,
            digest=current.digest, incident=incident, saved=agreed.saved, save_failed=agreed.save_failed, stop=stop,
            losses=losses, targets=targets,
        )  # fmt: skip
        if stop:
            return
        before = feed.clock.seconds()
        module.train()


def _read(
    sums: dict[str, torch.Tensor], targets: dict[str, int], grad_norm: torch.Tensor, accelerator: Accelerator
) -> tuple[dict[str, float], float]:
    """The losses of a step, per target and over all processes, and its gradient norm: its only read of the device."""
    reduced = accelerator.reduce(torch.stack([sums[name] for name in targets]), "sum").unbind()
    means = [total / max(1, count) for total, count in zip(reduced, targets.values(), strict=True)]
    *read, norm = torch.stack([*means, grad_norm]).tolist()
    return dict(zip(targets, read, strict=True)), norm


@dataclass(frozen=True)
class _StepStats:
    """What all processes agree on before a step; `targets` has the terms of the step's objective."""

    targets: dict[str, int]
    num_tokens: int
    digest: int
    stop: bool
    saved: bool
    save_failed: bool
    elapsed: float


class _Prefetcher:
    """Fetches the micro-batches of the next step, and adds its counts up over the processes on the host meanwhile."""

    def __init__(
        self,
        steps: Iterator[list[MicroBatch]],
        terms: list[str],
        accelerator: Accelerator,
        stop_requested: Callable[[], bool],
        save_state: Callable[[], SaveState],
        elapsed: float,
    ) -> None:
        self.steps, self.terms = steps, terms
        self.empty: set[str] = set()  # terms without targets in some step, which was said
        self.stop_requested, self.save_state = stop_requested, save_state
        self.clock = TrainedTime(elapsed)
        self.is_main = accelerator.is_main_process
        self.group = host_group()
        self.batches: list[MicroBatch] = []

    def prepare(self) -> None:
        """Fetch the next step's batches and start agreeing on them."""
        self.batches = next(self.steps)
        save = self.save_state()
        self.counts = torch.tensor(
            [
                *(sum(batch.counts.get(name, 0) for batch in self.batches) for name in self.terms),
                sum(batch.num_tokens for batch in self.batches),
                sum(batch.digest for batch in self.batches),
                self.stop_requested(),
                save == "writing",
                save == "failed",
                self.clock.seconds() if self.is_main else 0.0,
            ],
            dtype=torch.float64,
        )
        self.work = dist.all_reduce(self.counts, group=self.group, async_op=True) if self.group else None

    def sync(self) -> _StepStats:
        """Wait until the processes have agreed."""
        if self.work is not None:
            self.work.wait()
        *counted, tokens, digest, stop, writing, failed, elapsed = self.counts.tolist()
        asked = {name for batch in self.batches for name in batch.counts}
        counts = {n: int(count) for n, count in zip(self.terms, counted, strict=True) if n in asked}
        for name in counts.keys() - self.empty:
            if not counts[name]:
                self.empty.add(name)
                warn(f"a step has no targets for the loss term '{name}', so it learns nothing from it")
        return _StepStats(counts, int(tokens), int(digest), stop > 0, writing == 0, failed > 0, elapsed)
