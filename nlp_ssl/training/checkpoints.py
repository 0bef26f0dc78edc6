"""Checkpoints that are finished Hub model folders, written whole or not at all, while training goes on.

`checkpoints/step-00001000/` holds the model, tokenizer, configuration and card as `from_pretrained` wants them, and
`training_state/` and `MANIFEST.json` (sha256 of every file) for resuming. A save copies the state to host memory; a
thread writes and fsyncs it under a temporary name; when every process has finished, rank 0 renames the folder at a step
boundary, and only then are older ones removed.
"""

import copy
import json
import math
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from nlp_ssl.config import CheckpointConfig
from nlp_ssl.console import UserError, rank, warn
from nlp_ssl.files import disk_error, sha256, sync
from nlp_ssl.training.adapters import merge, trained_weights
from nlp_ssl.training.interrupts import any_process

MANIFEST = "MANIFEST.json"
STATE = "training_state"
TRAINED = "trained.pt"  # weights with adapters, which the model folder holds merged


def to_host(value: Any, seen: dict[tuple, torch.Tensor] | None = None) -> Any:
    """A copy of nested dictionaries, lists and tensors in host memory; tensors that share memory go on sharing it."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in seen:
            seen[key] = value.detach().to("cpu", copy=True)
        return seen[key]
    if isinstance(value, dict):
        return {k: to_host(v, seen) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(v, seen) for v in value)
    return copy.copy(value)


def rng_state() -> dict[str, Any]:
    """State of every random generator of this process (dropout is all that uses them)."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None  # of this process's device
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Undo `rng_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class SaveError(Exception):
    """The checkpoint of a step could not be written; the older ones are all there."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"the checkpoint of step {step:,} could not be written ({why})")
        self.step = step


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's `checkpoints` folder.
        keep: what to keep besides checkpoints that are in use.
        write_model: writes the Hub model folder from a host copy of the weights: `(folder, state_dict, facts)`.
        in_use: whether a folder must not be removed yet (it is being pushed).
    """

    def __init__(
        self,
        folder: Path,
        keep: CheckpointConfig,
        write_model: Callable[[Path, dict[str, torch.Tensor], dict[str, Any]], None],
        in_use: Callable[[Path], bool] = lambda folder: False,
    ) -> None:
        self.folder, self.keep, self.write_model, self.in_use = folder, keep, write_model, in_use
        self.pending: Path | None = None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.digests: dict[str, str] = {}
        if rank() == 0:
            for unfinished in folder.glob(".step-*.tmp"):  # of a run that was killed
                shutil.rmtree(unfinished)

    def save(self, step: int, model: PreTrainedModel, optimizer: Any, state: dict[str, Any], facts: dict) -> None:
        """Start saving: returns once the state is copied to host memory.

        Args:
            step: optimizer steps taken.
            model: the inner model, its names without any prefix.
            optimizer: prepared by accelerate or not.
            state: JSON-serialisable state of the run; its `value`, the lower the better, says which one is the best.
            facts: handed on to `write_model`.
        """
        if self.pending is not None:
            self.finish()
        name = f"step-{step:08d}"
        temporary = self.folder / f".{name}.tmp"
        weights = to_host(model.state_dict()) if rank() == 0 else {}
        states = {f"rank-{rank()}.pt": rng_state()}
        if rank() == 0 and (trained := trained_weights(model)) is not None:
            states[TRAINED] = {name: weights[name] for name in trained}
        if rank() == 0:
            states["optimizer.pt"] = to_host(optimizer.state_dict())
        self.pending = temporary
        self.thread = threading.Thread(
            target=self._write, args=(temporary, model, weights, states, state, facts), name=f"save {name}"
        )
        self.thread.start()

    def _write(
        self, folder: Path, model: PreTrainedModel, weights: dict, states: dict, state: dict, facts: dict
    ) -> None:
        try:
            (folder / STATE).mkdir(parents=True, exist_ok=True)
            for name, value in states.items():
                with open(folder / STATE / name, "wb") as f:  # a path would hide what the disk says
                    torch.save(value, f)
            if rank() == 0:
                (folder / STATE / "run.json").write_text(json.dumps(state, indent=1))
                self.write_model(folder, merge(model, weights), facts)
                others = [p for p in _files(folder) if not p.name.startswith("rank-")]
                self.digests = {str(p.relative_to(folder)): _sync_and_hash(p) for p in others}
        except BaseException as error:  # handed to the main thread, which raises it
            self.error = disk_error(error) or error

    @property
    def state(self) -> Literal["idle", "writing", "failed"]:
        """How far this process's part of a save is."""
        if self.thread is not None and self.thread.is_alive():
            return "writing"
        return "failed" if self.error is not None else "idle"

    def commit(self, failed: bool = False) -> Path | None:
        """Make the finished save a checkpoint and prune older ones; call when no process is writing any more.

        Args:
            failed: whether a process could not write its part.

        Returns:
            The new checkpoint, on rank 0, or `None` if none was pending.

        Raises:
            SaveError: the save failed on some process; nothing is left of it.
        """
        if self.pending is None:
            return None
        self.thread.join()
        self.thread, temporary, self.pending = None, self.pending, None
        error, self.error = self.error, None
        if error is not None and not isinstance(error, OSError):
            raise error
        step = int(temporary.name.removeprefix(".step-").removesuffix(".tmp"))
        if failed or error is not None:
            if rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise SaveError(step, str(error or "on another process"))
        if rank() != 0:
            return None
        try:
            final = self._name(temporary)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise SaveError(step, str(error)) from None
        self.prune()
        for stale in self.folder.glob(".step-*.tmp"):  # of a killed run; later steps may be being written
            if stale.name <= temporary.name:
                shutil.rmtree(stale, ignore_errors=True)
        return final

    def _name(self, temporary: Path) -> Path:
        """Write the manifest of a folder that is complete, and give the folder its name."""
        for path in (temporary / STATE).glob("rank-*.pt"):  # a few kB each; the large files were hashed by the thread
            self.digests[str(path.relative_to(temporary))] = _sync_and_hash(path)
        (temporary / MANIFEST).write_text(json.dumps(self.digests, indent=1, sort_keys=True))
        for path in (temporary / MANIFEST, temporary / STATE, temporary):
            sync(path)
        final = temporary.with_name(temporary.name[1:].removesuffix(".tmp"))
        former = final.with_name(f"{final.name}.former")  # still listed: at no moment is there no checkpoint
        if final.exists():  # a resumed run saves the same step again
            shutil.rmtree(former, ignore_errors=True)
            os.rename(final, former)
        os.rename(temporary, final)
        sync(self.folder)
        shutil.rmtree(former, ignore_errors=True)
        return final

    def finish(self) -> Path | None:
        """Wait for a pending save of every process, then commit it; all processes must call. Raises as `commit`."""
        if self.pending is None:
            return None
        self.thread.join()
        failed = any_process(self.error is not None)
        try:
            return self.commit(failed)
        finally:  # none may exit, and have its launcher end the others, before the folder has its name
            any_process(False)

    def prune(self) -> None:
        """Remove checkpoints that need not be kept; call after the newest is on disk."""
        found = self.list()
        kept = set(found[-max(1, self.keep.keep_last) :])
        if self.keep.keep_every:
            kept |= {path for path in found if int(path.name.split("-")[1].split(".")[0]) % self.keep.keep_every == 0}
        if self.keep.keep_best and (best := self.best()):
            kept.add(best)
        for path in found:
            if path not in kept and not self.in_use(path):
                shutil.rmtree(path, ignore_errors=True)

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("step-*") if (p / MANIFEST).exists())

    def best(self) -> Path | None:
        """The complete checkpoint of the lowest `value`, the earliest of equals; `None` when none was evaluated."""
        scored = [(value, path) for path in self.list() if (value := _value(path)) is not None]
        return min(scored)[1] if scored else None

    def chosen(self) -> Path:
        """The checkpoint that becomes the model of the run: the last one, or the best where that is kept."""
        return (self.best() if self.keep.keep_best else None) or self.list()[-1]

    def newest(self) -> Path | None:
        """The newest checkpoint that verifies; those passed over are named."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if not (broken := verify(path)):
                return path
            warn(f"{path} is damaged ({broken}); falling back to the checkpoint before it")
        return None

    def pass_over(self, newer_than: Path | None) -> None:
        """Set checkpoints newer than the one that a run goes on from aside, so that nobody takes them for its own."""
        for path in self.folder.glob("step-*"):
            if newer_than is None or path.name > newer_than.name:
                aside = path.with_name(f"passed-over-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(path, aside)


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; `None` when every file has its sha256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except ValueError:  # no JSON, or no UTF-8
        return f"{MANIFEST} has changed"
    for name, digest in manifest.items():
        if not (folder / name).exists():
            return f"{name} is missing"
        if sha256(folder / name) != digest:
            return f"{name} has changed"
    return None


def load(folder: Path, model: PreTrainedModel, optimizer: Any) -> dict[str, Any]:
    """Load weights, optimizer and random state in place.

    Learning rates, decay and the like stay as the optimizer was made with, so that a run can go on with others.

    Args:
        folder: a verified checkpoint.
        model: the inner model; same architecture.
        optimizer: prepared by accelerate or not.

    Returns:
        The state that `save` was given.
    """
    state = load_weights(folder, model)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(torch.load(folder / STATE / "optimizer.pt", map_location="cpu", weights_only=False))
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)
    own = folder / STATE / f"rank-{rank()}.pt"
    if own.exists():
        set_rng_state(torch.load(own, weights_only=False))
    return state


def load_weights(folder: Path, model: PreTrainedModel) -> dict[str, Any]:
    """Load the weights of a checkpoint in place; returns the state that `save` was given.

    Raises:
        UserError: a model with adapters stands on other weights than it was trained on.
    """
    stored = type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    if not (folder / STATE / TRAINED).exists():
        model.load_state_dict(stored)
    else:  # the rest is the model's that training began from
        model.load_state_dict(torch.load(folder / STATE / TRAINED), strict=False)
        merged = merge(model, to_host(model.state_dict()))
        changed = [name for name, value in stored.items() if not torch.allclose(value, merged[name], 1e-4, 1e-5)]
        if changed:
            raise UserError(
                f"{folder} was trained from other weights than --model.name now gives (they differ in {changed[0]}); "
                "give the model that the run began from"
            )
    return json.loads((folder / STATE / "run.json").read_text())


def publish(checkpoint: Path, folder: Path) -> None:
    """Put a checkpoint's model, without its training state, at the top of a folder, file by file, each whole."""
    for path in checkpoint.iterdir():
        if path.is_file() and path.name != MANIFEST:
            temporary = folder / f".{path.name}.tmp"
            shutil.copyfile(path, temporary)
            os.replace(temporary, folder / path.name)


def _value(checkpoint: Path) -> float | None:
    """What a checkpoint is judged by, if it was evaluated."""
    try:
        state = json.loads((checkpoint / STATE / "run.json").read_text())
    except (OSError, ValueError):  # damaged: no reason to keep it
        return None
    value = state.get("value")
    return value if value is not None and math.isfinite(value) else None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _sync_and_hash(path: Path) -> str:
    sync(path)
    return sha256(path)
