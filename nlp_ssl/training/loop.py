"""THE loop: a generator of optimizer steps, for every objective, from one CPU to many GPUs.

It yields a `Step`; the caller logs, evaluates, saves and stops. It never touches the disk.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import send_to_device

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.objectives.objective import Batch, ObjectiveModule, num_real_tokens
from nlp_ssl.training.distributed import host_group
from nlp_ssl.training.schedules import Horizon
from nlp_ssl.training.step_guard import Incident, StepGuard

SaveState = Literal["idle", "writing", "failed"]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did, over all processes and micro-batches.

    Attributes:
        number: optimizer steps taken, this one included.
        loss: nats a target, before the update.
        grad_norm: global norm of the gradient, before clipping.
        lr: learning rate of AdamW's groups.
        num_targets: predictions that the loss averages over.
        num_tokens: tokens that are not padding.
        seconds: for this step, without what the caller did between steps.
        elapsed: seconds of training on rank 0's clock, those before a resume included.
        digest: of the rows and masks that it learnt from; the same however they were split.
        incident: why the weights were not updated: `"nonfinite"` or `"spike"` (see `StepGuard`), or `"overflow"` where
            the fp16 scaler skipped the update, which is ordinary; `None` when they were.
        saved: no process has an unfinished save.
        save_failed: a process could not write its part of a save.
        stop: `"budget"` after the last step, `"interrupt"` when a process was asked to stop, else `None`.
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


def train(
    module: ObjectiveModule,
    optimizer: torch.optim.Optimizer,
    steps: Iterator[list[Batch]],
    num_targets: Callable[[Batch], int],
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

    The gradient of a step is that of the summed loss over the whole global batch, divided by its number of targets, so
    it does not depend on how the batch is split. A step that the guard finds fault with is not applied, on any process.

    Args:
        module: prepared by `accelerator`; its forward gives the summed loss.
        optimizer: prepared by `accelerator`; groups carry `peak_lr`, and perhaps `begins`, the share of
            the run for which they stand still.
        steps: for every step, this process's micro-batches, on the host.
        num_targets: counts a micro-batch's targets on the host.
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
    feed = _Prefetcher(steps, num_targets, accelerator, stop_requested, save_state, elapsed)
    guard = guard or StepGuard()
    module.train()
    feed.prepare()
    agreed = feed.sync()
    number, before = first_step, time.monotonic()
    while horizon.steps is None or number < horizon.steps:
        factor = horizon.factor(schedule, number)
        for group in optimizer.param_groups:
            begun = number >= group.get("begins", 0.0) * (horizon.steps or 0)
            group["lr"] = lr = group["peak_lr"] * factor * begun
        micro_batches, current = feed.batches, agreed
        loss_sum = 0.0  # from the first micro-batch on a tensor, of its precision
        for i, batch in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(module):
                micro_loss, _ = module(send_to_device(batch, accelerator.device, non_blocking=True))
                accelerator.backward(micro_loss * (accelerator.num_processes / current.num_targets))
            loss_sum += micro_loss.detach()
        feed.prepare()  # the next step's batches and counts, while the accelerator works
        grad_norm = accelerator.clip_grad_norm_(module.parameters(), max_grad_norm or math.inf)
        loss_sum = accelerator.reduce(loss_sum, "sum")
        loss, grad_norm = torch.stack([loss_sum / current.num_targets, grad_norm]).tolist()  # the step's only read
        incident: Incident | Literal["overflow"] | None = guard.judge(loss, grad_norm)
        if incident == "nonfinite" and accelerator.scaler is not None and math.isfinite(loss):
            incident = "overflow"
        if incident in (None, "overflow"):
            optimizer.step()  # at an overflow the scaler skips the update and lowers its scale
        elif accelerator.scaler is not None:
            accelerator.scaler.update()  # clipping has unscaled the gradient: close the step
        optimizer.zero_grad(set_to_none=True)
        number += 1
        agreed = feed.sync()
        horizon.update(number, agreed.elapsed)
        stop = "interrupt" if agreed.stop else "budget" if number == horizon.steps else None
        now = time.monotonic()
        yield Step(
            number, loss, grad_norm, lr, current.num_targets, current.num_tokens, now - before, agreed.elapsed,
            digest=current.digest, incident=incident, saved=agreed.saved, save_failed=agreed.save_failed, stop=stop,
        )  # fmt: skip
        if stop:
            return
        before = time.monotonic()
        module.train()


@dataclass(frozen=True)
class _StepStats:
    """What all processes agree on before a step."""

    num_targets: int
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
        steps: Iterator[list[Batch]],
        num_targets: Callable[[Batch], int],
        accelerator: Accelerator,
        stop_requested: Callable[[], bool],
        save_state: Callable[[], SaveState],
        elapsed: float,
    ) -> None:
        self.steps, self.num_targets = steps, num_targets
        self.stop_requested, self.save_state = stop_requested, save_state
        self.started = time.monotonic() - elapsed
        self.is_main = accelerator.is_main_process
        self.group = host_group()
        self.batches: list[Batch] = []

    def prepare(self) -> None:
        """Fetch the next step's batches and start agreeing on them."""
        self.batches = next(self.steps)
        save = self.save_state()
        self.counts = torch.tensor(
            [
                sum(self.num_targets(batch) for batch in self.batches),
                sum(num_real_tokens(batch) for batch in self.batches),
                sum(int(batch.pop("digest")) for batch in self.batches),
                self.stop_requested(),
                save == "writing",
                save == "failed",
                time.monotonic() - self.started if self.is_main else 0.0,
            ],
            dtype=torch.float64,
        )
        self.work = dist.all_reduce(self.counts, group=self.group, async_op=True) if self.group else None

    def sync(self) -> _StepStats:
        """Wait until the processes have agreed."""
        if self.work is not None:
            self.work.wait()
        targets, tokens, digest, stop, writing, failed, elapsed = self.counts.tolist()
        return _StepStats(max(1, int(targets)), int(tokens), int(digest), stop > 0, writing == 0, failed > 0, elapsed)
