"""What every training run shares: its folder, devices, log, evaluations, checkpoints, interrupts and publishing.

`pretraining.py` and `finetuning.py` tell what is trained; this file sees it through to the end.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl import console
from nlp_ssl.config import FinetuneConfig, PretrainConfig, to_dict
from nlp_ssl.console import Interrupted, UserError
from nlp_ssl.data.batches import TrainBatches
from nlp_ssl.data.tokens import fingerprint, write_atomically
from nlp_ssl.machine import describe_hardware, library_versions
from nlp_ssl.objectives.objective import Objective, ObjectiveModule
from nlp_ssl.publishing import report
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.training.checkpoints import Checkpoints, load, publish
from nlp_ssl.training.interrupts import Interrupts
from nlp_ssl.training.loop import Step, train
from nlp_ssl.training.optimizers import build_optimizer
from nlp_ssl.training.schedules import Horizon
from nlp_ssl.training.tracking import Log, check_trackers, start_trackers

CONFIG_FILE = "nlp_ssl_config.yaml"
STATUS_FILE = "run_status.json"
COUNTERS = ("step", "tokens_seen", "elapsed", "step_seconds", "results")  # what goes on in a resumed run
RunConfig = PretrainConfig | FinetuneConfig


def check_run(config: RunConfig) -> None:
    """Find out before any work what would stop the run at its end: its folder, its trackers, the Hub.

    Raises:
        UserError: the folder holds another run or something else, a tracker is not installed, the Hub refuses.
    """
    _check_output_dir(config)
    check_trackers(config.tracking)
    if config.hub.repo_id and console.rank() == 0:
        HubPublisher(config.hub.repo_id, private=config.hub.private).check()


def _check_output_dir(config: RunConfig) -> None:
    folder = Path(config.output_dir)
    if folder.is_file():
        raise UserError(f"--output_dir {folder} is a file; give a folder")
    if (folder / STATUS_FILE).exists():
        if not config.resume:
            raise UserError(f"{folder} holds a run already; give --resume to go on with it, or another --output_dir")
    elif folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise UserError(f"--output_dir {folder} holds other files; give a new or empty folder")


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
        folder: the run's folder.
        accelerator: from `make_accelerator`.
        model: the inner transformers model, which is saved.
        module: the objective around the model.
        objective: what is asked.
        tokenizer: saved with the model.
        batches: what is learnt from.
        horizon: how long.
        measure: evaluates on held-out data and returns numbers by name; the first one is the headline.
        card: model card from the facts of a moment: `(facts) -> markdown`.
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
    step: int = 0
    tokens_seen: int = 0
    elapsed: float = 0.0
    step_seconds: float = 0.0
    results: dict[str, float] = field(default_factory=dict)
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
        with Interrupts() as interrupts:
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
                if ends or self._due(self.config.checkpoint.every, 5):
                    self._save()
                if step.stop == "interrupt":
                    self._stop(interrupts.reason)
            self._finish()
        return self.results

    def _prepare(self) -> None:
        config = self.config
        self.inner = self.model
        if config.train.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = build_optimizer(self.model, config.optimizer)
        if config.train.compile:
            self.module.compile(dynamic=False)
        self.module, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        if config.hub.repo_id and self.accelerator.is_main_process:
            self.publisher = HubPublisher(config.hub.repo_id, private=config.hub.private)
        self.folder.mkdir(parents=True, exist_ok=True)
        in_use = self.publisher.holds if self.publisher else (lambda folder: False)
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints", config.checkpoint.keep_last, self._write_model, in_use
        )
        start_trackers(self.accelerator, config.tracking, self.folder.name, _flatten(to_dict(config)))

    def _resume(self) -> None:
        found = self.checkpoints.newest() if self.config.resume else None
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
            load(found, self.inner, self.optimizer, self.accelerator.device)
            for name in COUNTERS:
                setattr(self, name, state[name])
            self.horizon.load_state_dict(state["horizon"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            console.say(f"resume: going on from {found} (step {self.step:,})")
        self.log = Log(self.folder / "log.jsonl", self.step if found is not None else None)

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
                loss = step.loss if loss is None else 0.9 * loss + 0.1 * step.loss
                bar.total = self.horizon.steps
                bar.set_postfix_str(f"loss {loss:.3f}, {step.num_tokens / step.seconds:,.0f} tokens/s", refresh=False)
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
        if step.applied or step.overflow:
            return
        rows = self.batches.step_rows(step.number - 1)[0].tolist()
        self.log.write("nonfinite", step.number, loss=str(step.loss), grad_norm=str(step.grad_norm), rows=rows)
        text = (
            f"step {step.number}: loss {step.loss}, gradient norm {step.grad_norm}; the step was not applied; its rows "
            f"were {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''} (all in {self.log.path})"
        )
        if self.config.train.on_nonfinite == "stop":
            self.checkpoints.finish()
            self._status("failed", error=text)
            raise UserError(text + "; lower --optimizer.lr and --resume, or go on with --train.on_nonfinite skip")
        console.warn(text)

    def _evaluate(self) -> None:
        before = time.monotonic()
        self.results = self.measure(self.module)
        self.log.write("evaluation", self.step, **self.results, seconds=time.monotonic() - before)
        self.accelerator.log({f"held_out/{key}": value for key, value in self.results.items()}, step=self.step)
        listed = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in self.results.items())
        console.say(f"step {self.step:,}: {listed}")

    def _save(self) -> None:
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
        settings = _plain(to_dict(self.config)) | {"resume": False}
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
        raise Interrupted(f"stopped by {reason} after step {self.step:,}; everything is saved: go on with --resume")

    def _finish(self) -> None:
        self._committed(self.checkpoints.finish())
        if self.accelerator.is_main_process:
            publish(self.checkpoints.list()[-1], self.folder)
            self._status("finished")
            if self.publisher:
                self.publisher.push(self.folder, message=f"Trained for {self.step:,} steps")
        self._end_publishing()
        self.accelerator.end_training()

    def _end_publishing(self) -> None:
        if self.publisher:
            self.publisher.finish()

    def _status(self, status: str, **more: Any) -> None:
        if self.accelerator.is_main_process:
            record = {"status": status, "step": self.step, "exit_code": _EXIT_CODES.get(status), **more}
            write_atomically(self.folder / STATUS_FILE, json.dumps(record, indent=1).encode())

    def plot(self, reference: dict[str, float] | None = None) -> Path | None:
        """Draw the curves into the run's folder, where matplotlib is installed."""
        if not self.accelerator.is_main_process:
            return None
        return report.plot_curves(self.log.path, self.folder / "curves.png", reference)


_EXIT_CODES = {"finished": 0, "failed": console.EXIT_USER_ERROR, "interrupted": console.EXIT_INTERRUPTED}


def run_identity(config: RunConfig, data_fingerprint: str, model: PreTrainedModel, world: dict[str, Any]) -> dict:
    """What must not change between the parts of a run: its data and order, its model, and how it learns."""
    learning = _plain(to_dict(config))
    return {
        "data": data_fingerprint,
        "model": fingerprint({k: v for k, v in model.config.to_dict().items() if k != "transformers_version"}),
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "optimizer": learning["optimizer"],
        "schedule": learning["schedule"],
        **world,
    }


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in nested.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML that `--config` reads again."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
