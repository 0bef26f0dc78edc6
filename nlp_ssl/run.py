"""What every training run shares: its folder, devices, log, evaluations, checkpoints, interrupts and publishing.

`pretraining.py` and `finetuning.py` tell what is trained; this file sees it through to the end.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl import console
from nlp_ssl.config import to_dict
from nlp_ssl.console import Interrupted, UserError
from nlp_ssl.data.batches import Batch, Rows, TrainBatches
from nlp_ssl.data.tokens import write_atomically
from nlp_ssl.machine import describe_exactness, describe_hardware, library_versions
from nlp_ssl.models.exactness import split_caveats
from nlp_ssl.objectives.objective import Objective, ObjectiveModule
from nlp_ssl.publishing import report
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.run_settings import CONFIG_FILE, STATUS_FILE, RunConfig, flatten, plain
from nlp_ssl.training.checkpoints import Checkpoints, load, publish
from nlp_ssl.training.interrupts import Interrupts
from nlp_ssl.training.loop import Step, train
from nlp_ssl.training.optimizers import build_optimizer
from nlp_ssl.training.schedules import Horizon
from nlp_ssl.training.tracking import Log, start_trackers

COUNTERS = ("step", "tokens_seen", "elapsed", "step_seconds", "results", "evaluated_at")  # go on in a resumed run
SAVE_SECONDS = 1800  # without --checkpoint.every, no more than this is lost
OVERFLOWS = 20  # so many fp16 overflows in a row are no longer ordinary


def train_batches(
    config: RunConfig, rows: Rows, collate: Callable[[list[dict[str, Any]]], Batch], accelerator: Accelerator
) -> TrainBatches:
    """This process's share of the batches that a run learns from, as its configuration splits them."""
    return TrainBatches(
        rows,
        collate,
        seed=config.seed,
        batch_size=config.train.batch_size,
        micro_batch=config.train.micro_batch,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        workers=config.train.workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def is_due(step: int, every: int | None, total: int | None, parts: int) -> bool:
    """Whether something that happens every so many steps, or `parts` times in the run, happens after this step."""
    if every is not None:
        return step % every == 0
    return total is not None and step * parts // total > (step - 1) * parts // total


@dataclass
class Run:
    """One training run.

    Args:
        config: resolved: nothing that the run needs is `None` any more.
        folder: the run's folder, checked by `check_run`.
        accelerator: from `make_accelerator`.
        model: the inner transformers model, which is saved.
        module: the objective around the model.
        objective: what is asked.
        tokenizer: saved with the model.
        batches: what is learnt from.
        horizon: how long.
        measure: evaluates on held-out data and returns numbers by name; the first one is the headline.
        card: model card from the facts of a moment: `(facts) -> markdown`.
        reference: levels to draw in the curves, by name.
        identity: what a resumed run must share with the one that it goes on with, such as the data's fingerprint.
    """

    config: RunConfig
    folder: Path
    accelerator: Accelerator
    model: PreTrainedModel
    module: ObjectiveModule
    objective: Objective
    tokenizer: PreTrainedTokenizerFast
    batches: TrainBatches
    horizon: Horizon
    measure: Callable[[torch.nn.Module], dict[str, float]]
    card: Callable[[dict[str, Any]], str]
    identity: dict[str, Any]
    reference: dict[str, float] | None = None
    step: int = 0
    tokens_seen: int = 0
    elapsed: float = 0.0
    step_seconds: float = 0.0
    results: dict[str, float] = field(default_factory=dict)
    evaluated_at: int = -1
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
        with Interrupts() as interrupts, self._outcome():
            self._prepare()
            self._resume()
            self._status("running")
            if self.step == 0:
                self._evaluate()  # a broken evaluation is found now, not after an hour
            for step in self._steps(interrupts):
                self.step, self.elapsed = step.number, step.elapsed
                self.tokens_seen += step.num_tokens
                self.step_seconds += step.seconds
                self._log(step)
                self._check(step)
                ends = step.stop is not None
                if step.stop == "budget" or self._due(self.config.evaluation.every, 10):
                    self._evaluate()
                if step.saved:
                    self._committed(self.checkpoints.commit())
                overdue = self.config.checkpoint.every is None and self.elapsed - self.saved_at >= SAVE_SECONDS
                if ends or overdue or self._due(self.config.checkpoint.every, 5):
                    self._save()
                if step.stop == "interrupt":
                    self._stop(interrupts.reason)
            self._finish()
        return self.results

    @contextlib.contextmanager
    def _outcome(self) -> Iterator[None]:
        """Whatever ends the run once it has begun, `run_status.json` says it."""
        try:
            yield
        except Interrupted:
            raise
        except torch.OutOfMemoryError:
            rows = self.config.train.micro_batch
            error = UserError(
                f"out of memory with micro-batches of {rows} rows; give --train.micro_batch {max(1, rows // 2)}, which "
                "does not change the result, or --train.gradient_checkpointing"
            )
            self._status("failed", error=str(error))
            raise error from None
        except BaseException as error:
            if self.begun:
                code = console.EXIT_USER_ERROR if isinstance(error, UserError) else 1
                self._status("failed", error=f"{type(error).__name__}: {error}", exit_code=code)
            raise

    def _prepare(self) -> None:
        config = self.config
        self.inner, self.begun, self.overflows = self.model, False, 0
        torch.manual_seed(config.seed + self.accelerator.process_index)  # dropout differs between processes
        console.say(
            f"on {describe_hardware(self.accelerator)}; stopped and resumed here, the run gives "
            f"{describe_exactness(config, self.accelerator)}"
        )
        for caveat in split_caveats(self.model, self.accelerator.mixed_precision):
            console.say(f"  {caveat}")
        if config.train.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = build_optimizer(self.model, config.optimizer)
        if config.train.compile:
            self.module.compile(dynamic=False)
        self.module, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        if config.hub.repo_id and self.accelerator.is_main_process:
            self.publisher = HubPublisher(config.hub.repo_id, private=config.hub.private)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not config.resume:
            self._status("running")
        in_use = self.publisher.holds if self.publisher else (lambda folder: False)
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints", config.checkpoint.keep_last, self._write_model, in_use
        )
        start_trackers(self.accelerator, config.tracking, self.folder.name, flatten(to_dict(config)))

    def _resume(self) -> None:
        found = self._choose_checkpoint() if self.config.resume else None
        if self.config.resume and found is None:
            console.say(f"resume: {self.folder} has no checkpoint yet, beginning at step 0")
        if found is not None:
            state = json.loads((found / "training_state" / "run.json").read_text())
            for key, value in self.identity.items():
                if state["identity"].get(key) != value:
                    raise UserError(
                        f"cannot resume {found}: its {key} was {state['identity'].get(key)} and is {value} now; "
                        "give the former settings, or another --output_dir"
                    )
            self._name_changes(found)
            load(found, self.inner, self.optimizer, self.accelerator.device)
            for name in COUNTERS:
                setattr(self, name, state[name])
            self.horizon.load_state_dict(state["horizon"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            console.say(f"resume: going on from {found} (step {self.step:,})")
        self.saved_at, self.begun = self.elapsed, True
        self.log = Log(self.folder / "log.jsonl", self.step if found is not None else None)

    def _choose_checkpoint(self) -> Path | None:
        """The newest checkpoint that verifies, chosen by rank 0 for all."""
        names = [None]
        if self.accelerator.is_main_process:
            found = self.checkpoints.newest()
            self.checkpoints.pass_over(found)
            names = [found.name if found else None]
        broadcast_object_list(names)
        if names[0] is None:
            return None
        path = self.folder / "checkpoints" / names[0]
        if not path.exists():
            raise UserError(f"{path} is not here; --output_dir must be on a file system that all processes share")
        return path

    def _name_changes(self, checkpoint: Path) -> None:
        """Say which settings are not those that the checkpoint was made with."""
        before = flatten(yaml.safe_load((checkpoint / CONFIG_FILE).read_text()))
        now = flatten(plain(to_dict(self.config)))
        for key in sorted(now.keys() & before.keys() - {"resume", "output_dir"}):
            if before[key] != now[key]:
                console.warn(f"--{key} was {before[key]} and is {now[key]} from here on")

    def _steps(self, interrupts: Interrupts) -> Iterator[Step]:
        """The loop, with a progress bar that knows the time left."""
        steps = train(
            self.module,
            self.optimizer,
            self.batches.steps(self.step),
            self.objective.num_targets,
            accelerator=self.accelerator,
            schedule=self.config.schedule,
            horizon=self.horizon,
            max_grad_norm=self.config.optimizer.max_grad_norm,
            first_step=self.step,
            elapsed=self.elapsed,
            stop_requested=lambda: interrupts.requested,
            save_finished=lambda: not self.checkpoints.writing,
        )
        loss = None
        with console.progress(total=self.horizon.steps, desc="train", unit="step", initial=self.step) as bar:
            for step in steps:
                if math.isfinite(step.loss):
                    loss = step.loss if loss is None else 0.9 * loss + 0.1 * step.loss
                bar.total = self.horizon.steps
                bar.set_postfix_str(
                    f"loss {loss or step.loss:.3f}, {step.num_tokens / step.seconds:,.0f} tokens/s", refresh=False
                )
                bar.update(step.number - bar.n)
                yield step

    def _due(self, every: int | None, parts: int) -> bool:
        return is_due(self.step, every, self.horizon.steps, parts)

    # -----------------------------------------------------------------------------------------------------------------
    # once in a while

    def _log(self, step: Step) -> None:
        for at, old, new in self.horizon.events:
            self.log.write("horizon", at, steps=new, before=old)
        self.horizon.events.clear()
        if step.number % self.config.train.log_every and step.stop is None:
            return
        values = {
            "loss": step.loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "num_targets": step.num_targets,
            "tokens": self.tokens_seen,
            "tokens_per_second": step.num_tokens / step.seconds,
            "seconds": step.elapsed,
        }
        self.log.write("step", step.number, **values)
        self.accelerator.log({f"train/{key}": value for key, value in values.items()}, step=step.number)

    def _check(self, step: Step) -> None:
        """Name the rows of a step whose loss or gradient was not finite; it was not applied."""
        self.overflows = self.overflows + 1 if step.overflow else 0
        if step.applied or (step.overflow and self.overflows < OVERFLOWS):
            return
        rows = self.batches.step_rows(step.number - 1)[0].tolist()
        self.log.write("nonfinite", step.number, loss=str(step.loss), grad_norm=str(step.grad_norm), rows=rows)
        text = (
            f"step {step.number}: loss {step.loss}, gradient norm {step.grad_norm}; the step was not applied; its rows "
            f"were {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''} (all in {self.log.path})"
        )
        if self.config.train.on_nonfinite == "stop":
            self._committed(self.checkpoints.finish())
            raise UserError(text + "; lower --optimizer.lr and --resume, or go on with --train.on_nonfinite skip")
        console.warn(text)

    def _evaluate(self) -> None:
        before = time.monotonic()
        self.results, self.evaluated_at = self.measure(self.module), self.step
        self.log.write("evaluation", self.step, **self.results, seconds=time.monotonic() - before)
        self.accelerator.log({f"held_out/{key}": value for key, value in self.results.items()}, step=self.step)
        listed = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in self.results.items())
        console.say(f"step {self.step:,}: {listed}")

    def _save(self) -> None:
        self.saved_at = self.elapsed
        state = {name: getattr(self, name) for name in COUNTERS}
        state |= {"horizon": self.horizon.state_dict(), "identity": self.identity}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        self._committed(self.checkpoints.finish())
        self.checkpoints.save(self.step, self.inner, self.optimizer, state, self._facts())

    def _write_model(self, folder: Path, weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Everything that makes a folder a model of the Hub; called on a thread."""
        self.inner.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)
        settings = plain(to_dict(self.config)) | {"resume": False}
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "README.md").write_text(self.card(facts))

    def _committed(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        step = int(checkpoint.name.removeprefix("step-"))
        self.log.write("checkpoint", step, folder=checkpoint.name)
        if self.publisher and self.config.hub.push_checkpoints:
            self.publisher.push(checkpoint, revision=f"step-{step}", message=f"Step {step}")

    def _facts(self) -> dict[str, Any]:
        """What the card tells of this moment."""
        return {
            "parameters": f"{sum(p.numel() for p in self.inner.parameters()) / 1e6:.1f} M",
            "steps": self.step,
            "tokens_seen": self.tokens_seen,
            "minutes": round(self.elapsed / 60, 1),
            "tokens_per_second": round(self.tokens_seen / self.step_seconds) if self.step_seconds else None,
            "hardware": describe_hardware(self.accelerator),
            "processes": self.accelerator.num_processes,
            "versions": library_versions(),
            **self.results,
        }

    # -----------------------------------------------------------------------------------------------------------------
    # the end

    def _stop(self, reason: str) -> None:
        self._committed(self.checkpoints.finish())
        self._status("interrupted", reason=reason)
        self._end_publishing()
        self.accelerator.wait_for_everyone()  # the first to exit has the launcher end the others
        self.close()
        raise Interrupted(f"stopped by {reason} after step {self.step:,}; everything is saved: go on with --resume")

    def _finish(self) -> None:
        if self.evaluated_at != self.step:  # stopped at the last step, before it was evaluated
            self._evaluate()
            self._save()
        self._committed(self.checkpoints.finish())
        if self.accelerator.is_main_process:
            publish(self.checkpoints.list()[-1], self.folder)
            if (curves := report.plot_curves(self.log.path, self.folder / "curves.png", self.reference)) is not None:
                console.say(f"curves: {curves}")
                (self.folder / "README.md").write_text(self.card(self._facts() | {"curves": curves.name}))
            self._status("finished")
            if self.publisher:
                self.publisher.push(self.folder, message=f"Trained for {self.step:,} steps")
        self._end_publishing()

    def close(self) -> None:
        """End the trackers and the process group; the last thing that a run does."""
        self.accelerator.end_training()

    def _end_publishing(self) -> None:
        if self.publisher:
            self.publisher.finish()

    def _status(self, status: str, **more: Any) -> None:
        if self.accelerator.is_main_process:
            record = {"status": status, "step": self.step, "exit_code": EXIT_CODES.get(status), **more}
            write_atomically(self.folder / STATUS_FILE, json.dumps(record, indent=1).encode())


EXIT_CODES = {"finished": 0, "failed": console.EXIT_USER_ERROR, "interrupted": console.EXIT_INTERRUPTED}
