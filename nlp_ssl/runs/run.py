"""What every training run shares: its folder, devices, log, evaluations, checkpoints, interrupts and publishing.

`pretraining.py` and `finetuning.py` tell what is trained; this file sees it through to the end.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.common import flatten, to_dict
from nlp_ssl.config.finetuning import TransferConfig
from nlp_ssl.core import console, signals
from nlp_ssl.core.errors import Interrupted
from nlp_ssl.core.files import make_folder
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.reports.record import RunFacts
from nlp_ssl.runs.card_facts import moment
from nlp_ssl.runs.ending import finish, stop
from nlp_ssl.runs.folder import CHECKPOINTS, LOG_FILE, RunConfig, lock_folder
from nlp_ssl.runs.model_folder import ModelFolder
from nlp_ssl.runs.recovery import Recovery, Stateful, setup_of
from nlp_ssl.runs.reporting import Reporter
from nlp_ssl.runs.saving import Saver, is_due
from nlp_ssl.runs.skipped_steps import SkippedSteps
from nlp_ssl.runs.state import RunState
from nlp_ssl.runs.status import outcome, write_status
from nlp_ssl.training.checkpoints import Checkpoints
from nlp_ssl.training.device import describe_exactness, end_run, make_ready
from nlp_ssl.training.distributed import any_process, host_group
from nlp_ssl.training.early_stopping import EarlyStopping
from nlp_ssl.training.energy import EnergyMeter
from nlp_ssl.training.loop import Step, train
from nlp_ssl.training.optimizers import build_optimizer
from nlp_ssl.training.schedules import Horizon
from nlp_ssl.training.step_guard import StepGuard
from nlp_ssl.training.tracking import Log, start_trackers


@dataclass
class Run:
    """One training run.

    Args:
        config: resolved: nothing that the run needs is `None` any more.
        folder: the run's folder, checked by `check_run`.
        accelerator: from `make_accelerator`.
        objective: with the model; its published models are saved.
        tokenizer: saved with the models.
        batches: the training batches.
        horizon: number of optimizer steps.
        measure: evaluates on held-out data and returns numbers by name, `held_out_loss` among them; given a question
            that all processes ask before every batch, whose "yes" makes it raise `Interrupted`.
        card: arguments of `model_card` from the facts of a moment.
        transfer: learning rates by depth, in fine-tuning.
        look: further facts for the card, from the module and the finished model's folder, on every process; see `seen`.
        about: what the report says of the run besides what the log has.
        samples: lines on what the model in a folder makes of held-out text.
        identity: what a resumed run must share with the run that it continues, such as the data's fingerprint.
    """

    config: RunConfig
    folder: Path
    accelerator: Accelerator
    objective: Objective
    tokenizer: PreTrainedTokenizerFast
    batches: TrainBatches
    horizon: Horizon
    measure: Callable[[torch.nn.Module, Callable[[], bool]], dict[str, float]]
    card: Callable[[dict[str, Any]], dict[str, Any]]
    identity: dict[str, Any]
    transfer: TransferConfig | None = None
    look: Callable[[torch.nn.Module, Path], dict[str, Any]] = lambda module, folder: {}
    seen: dict[str, Any] = field(default_factory=dict)
    about: RunFacts = field(default_factory=RunFacts)
    samples: Callable[[Path], Iterator[str]] = lambda folder: iter(())
    state: RunState = field(default_factory=RunState)
    energy: EnergyMeter = field(default_factory=EnergyMeter)
    begun: bool = False
    publisher: HubPublisher | None = None

    # -----------------------------------------------------------------------------------------------------------------
    # the story

    def train(self) -> dict[str, float]:
        """Train to the end of the budget; the finished model lies at the top of the run's folder.

        Returns:
            The last evaluation's numbers.

        Raises:
            Interrupted: the run was asked to stop; its state is saved.
            UserError: a loss that is not finite (with `on_nonfinite` stop), a checkpoint that does not fit.
        """
        state = self.state
        micro_batch = self.config.train.micro_batch_size
        with signals.interrupts, outcome(self.folder, micro_batch, lambda: state.step if self.begun else None):
            self._prepare()
            self._resume()
            due = state.step == 0 or self._evaluation_is_due()
            if due and state.evaluated_at != state.step:
                self.evaluate()  # a broken evaluation is found now, not after an hour
            rewinds = "rewind" in (self.config.train.on_nonfinite, self.config.train.on_spike)
            if (state.step == 0 and rewinds) or (state.step > 0 and due and self.early_stopping.is_best):
                self.save()  # to go back to; or the evaluation that the interrupted part of the run owes
            while self._take_steps():
                self._rewind()
            finish(self)
        return state.results

    def _take_steps(self) -> bool:
        """Take steps to the end of the run, and return False; or to one that asks to go back, and return True."""
        state = self.state
        if self.early_stopping.should_stop:  # and it was stopped before it could end
            return False
        for step in self._steps():
            signals.interrupts.at_once = False  # now there is something to save first
            state.count(step, self.energy.take())
            self._log(step)
            if self.skipped.handle(step, state):
                return True
            if step.saved:
                self.saver.commit(step.save_failed)
            stopped = step.stop == "interrupt"
            due = step.stop == "budget" or self._evaluation_is_due()
            if due and not stopped:
                stopped = not self.evaluate()
            best = self.early_stopping.is_best and state.evaluated_at == state.step
            ends = step.stop or self.early_stopping.should_stop
            if stopped or ends or self.saver.is_due(state.step, self.horizon.steps, state.elapsed, best):
                self.save()
            if stopped:
                stop(self)
            if ends:
                return False
        return False

    def _prepare(self) -> None:
        config = self.config
        self.early_stopping = EarlyStopping(config.evaluation, self.objective.metrics)
        self.guard = StepGuard(config.train.spike_factor)
        host_group()  # all processes make it now
        torch.manual_seed(config.seed + self.accelerator.process_index)  # dropout differs between processes
        console.say("\n".join(describe_exactness(config, self.accelerator, *self.objective.published().values())))
        optimizer = build_optimizer(self.objective, config.optimizer, self.transfer)
        make_ready(self.objective, config.train, self.accelerator.device)
        self.module, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        if (hub := config.hub).repo_id and self.accelerator.is_main_process:
            self.publisher = HubPublisher(hub.repo_id, private=hub.private, overwrite=hub.overwrite)
        model = ModelFolder(self.objective, self.tokenizer, config, self.card)
        if self.accelerator.is_main_process:
            make_folder(self.folder)
            self.lock = lock_folder(self.folder)
            model.rehearse(self.folder, self._moment())
        in_use = self.publisher.holds if self.publisher else (lambda folder: False)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, config.checkpoint, model.write, in_use)

    def _resume(self) -> None:
        own: dict[str, Stateful] = {"horizon": self.horizon, "guard": self.guard, "early_stopping": self.early_stopping}
        if self.accelerator.scaler is not None:
            own["scaler"] = self.accelerator.scaler
        self.recovery = Recovery(
            self.config, self.checkpoints, self.objective, self.optimizer, self.state, own, self.identity,
            setup_of(self.config, self.accelerator.num_processes, self.accelerator.device),
        )  # fmt: skip
        found = self.recovery.resume() if self.config.resume.enabled else None
        write_status(self.folder, "running", self.state.step)
        step = None if found is None else self.state.step
        self.reporter = Reporter(self.folder, self.about, lambda: self.card(self.seen | self._moment()), step)
        self.begun = True
        self.log = Log(self.folder / LOG_FILE, step)
        self.saver = Saver(self.checkpoints, self.config.checkpoint, self.log, self._committed, self.state.elapsed)
        self.skipped = SkippedSteps(self.config, self.batches, self.folder, self.log, self.saver, self.tokenizer)
        if found is not None:
            self.log.ensure("checkpoint", self.state.step, folder=found.name)  # killed between the two
        start_trackers(self.accelerator, self.config.tracking, self.folder.name, flatten(to_dict(self.config)))

    def _rewind(self) -> None:
        self.saver.finish()
        bad, passed_over = self.recovery.rewind()
        self.saver.elapsed, step = self.state.elapsed, self.state.step
        self.log.cut(step)
        self.log.write("rewind", step, after=bad, passed_over=passed_over)
        rows = f"the rows of {console.counted(passed_over, 'step')} are passed over"
        console.warn(f"went back from step {bad:,} to {step:,}; {rows}")
        self.save()  # a resumed run must pass them over too

    def _steps(self) -> Iterator[Step]:
        """The loop, with a progress bar that knows the time left."""
        state = self.state
        steps = train(
            self.module,
            self.optimizer,
            self.batches.steps(state.step + state.data_offset),
            accelerator=self.accelerator,
            schedule=self.config.schedule,
            horizon=self.horizon,
            max_grad_norm=self.config.optimizer.max_grad_norm,
            first_step=state.step,
            elapsed=state.elapsed,
            guard=self.guard,
            stop_requested=lambda: signals.interrupts.reason is not None,
            save_state=lambda: self.checkpoints.state,
        )
        return with_progress(steps, self.horizon, self.state.step)

    def _evaluation_is_due(self) -> bool:
        return is_due(self.state.step, self.config.evaluation.every, self.horizon.steps, 10, self.state.evaluated_at)

    # -----------------------------------------------------------------------------------------------------------------
    # once in a while

    def _log(self, step: Step) -> None:
        for at, old, new in self.horizon.events:
            self.log.write("horizon", at, steps=new, before=old)
        self.horizon.events.clear()
        if step.number % self.config.train.log_every and step.stop is None:
            return
        values = values_of(step, self.state.tokens_seen)
        self.log.write("step", step.number, **values)
        self.accelerator.log({f"train/{k}": value for k, value in values.items() if k != "digest"}, step=step.number)

    def evaluate(self) -> bool:
        """Measure on held-out data; returns False if that was interrupted: the resumed run then begins with it."""
        state, before = self.state, time.monotonic()
        try:
            state.results = self.measure(self.module, lambda: any_process(signals.interrupts.reason is not None))
        except Interrupted:
            if signals.interrupts.at_once:
                raise
            return False
        state.evaluated_at = state.step
        self.early_stopping.update(state.results)
        self.log.write("evaluation", state.step, **state.results, seconds=time.monotonic() - before)
        self.accelerator.log({f"held_out/{key}": value for key, value in state.results.items()}, step=state.step)
        listed = (f"{key.replace('_', ' ')} {shown(value)}" for key, value in state.results.items())
        console.say(f"step {state.step:,}: {', '.join(listed)}")
        self.reporter.write(self.horizon.steps)
        return True

    def save(self) -> None:
        """Save this moment, with the card that it would have."""
        value = self.early_stopping.value if self.state.evaluated_at == self.state.step else None
        state = self.recovery.snapshot() | {"value": value}
        self.saver.save(self.state.step, self.objective, self.optimizer, state, self._moment())

    def _moment(self) -> dict[str, Any]:
        return moment(self.state, self.objective.published()[""], self.accelerator)

    def _committed(self, checkpoint: Path, step: int) -> None:
        self.reporter.look(checkpoint, step, self.samples)
        if self.publisher and self.config.hub.push_checkpoints:
            self.publisher.push(checkpoint, revision=f"step-{step}", message=f"Step {step}")

    def close(self, *, last: bool = True) -> None:
        """Write the last page, end the trackers, and with the last run of a process the process group too."""
        self.reporter.close(self.horizon.steps)
        end_run(self.accelerator, last)


def shown(value: float) -> str:
    """A number of an evaluation: a count whole, all else with four decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def with_progress(steps: Iterator[Step], horizon: Horizon, start: int) -> Iterator[Step]:
    """The steps of a run, with a bar that shows their loss, their speed and the time left."""
    loss = None
    with console.progress(total=horizon.steps, desc="train", unit="step", initial=start) as bar:
        for step in steps:
            if math.isfinite(step.loss):
                loss = step.loss if loss is None else 0.9 * loss + 0.1 * step.loss
            bar.total = horizon.steps
            shown = f"loss {loss or step.loss:.3f}, {step.num_tokens / step.seconds:,.0f} tokens/s"
            bar.set_postfix_str(shown, refresh=False)
            bar.update(step.number - bar.n)
            if step.stop == "budget" and (became := horizon.outcome(step.number)) is not None:
                console.say(became)
            yield step


def values_of(step: Step, tokens_seen: int) -> dict[str, Any]:
    """What the log tells of a step; of several loss terms each."""
    return {
        "loss": step.loss,
        **({f"{name}_loss": value for name, value in step.losses.items()} if len(step.losses) > 1 else {}),
        "lr": step.lr,
        "grad_norm": step.grad_norm,
        "num_targets": step.num_targets,
        **({f"{name}_targets": count for name, count in step.targets.items()} if len(step.targets) > 1 else {}),
        "tokens": tokens_seen,
        "tokens_per_second": step.num_tokens / step.seconds,
        "digest": f"{step.digest:x}",
        "seconds": step.elapsed,
    }
