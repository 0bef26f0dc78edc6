"""Checkpoints that are finished Hub model folders, written whole or not at all, while training continues.

`checkpoints/step-00001000/` holds the model, tokenizer, configuration and card as `from_pretrained` wants them, and
`training_state/` and `MANIFEST.json` (sha256 of every file) for resuming. A save copies the state to host memory; a
thread writes and fsyncs it under a temporary name; when every process has finished, rank 0 renames the folder at a step
boundary, and only then are older ones removed.

A checkpoint may come from anybody, so nothing in it is executed: weights are safetensors, the run's state is JSON, and
what else training needs is read by PyTorch's reader of tensors and plain values (`weights_only=True`). The manifest
names every file that is read; it protects against damage, not against malice.
"""

import copy
import json
import math
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from nlp_ssl.config.common import CheckpointConfig
from nlp_ssl.core.console import rank, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import disk_error, make_folder, no_links, remove, replacing, sha256, sync, temporary_name
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training.adapters import merge
from nlp_ssl.training.distributed import any_process
from nlp_ssl.training.objective_state import OBJECTIVE, STATE, load_weights, published_weights, unpublished
from nlp_ssl.training.state_files import read_tensors, rng_state, set_rng_state

MANIFEST = "MANIFEST.json"
RUN_STATE = f"{STATE}/run.json"
OPTIMIZER = f"{STATE}/optimizer.pt"
# of the training state; 1, which had no number, kept NumPy's random state as an array; 2 said `judge` of early
# stopping; 3 kept what adapters train under another name
FORMAT = 4
FORMER = ".former"  # of the same step, until the new one has its name
WEIGHTS = re.compile(r"\.(safetensors|bin)(\.index\.json)?$")
NAME = re.compile(rf"step-(\d{{8,}})({re.escape(FORMER)})?")
READ = re.compile(rf"{STATE}/.*|([^/]+/)?[^/]*\.(safetensors|json|yaml|bin|pt|py)")  # what is read of a checkpoint
Weights = dict[str, torch.Tensor]


def to_host(value: Any, seen: dict[tuple, torch.Tensor] | None = None) -> Any:
    """A copy of nested dictionaries, lists and tensors in host memory; tensors that share memory still share it."""
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


class SaveError(Exception):
    """The checkpoint of a step could not be written; the older ones are all there."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"the checkpoint of step {step:,} could not be written ({why})")
        self.step = step


class Checkpoints:
    """The checkpoints of one run; all its processes must make theirs.

    Args:
        folder: the run's `checkpoints` folder.
        keep: what to keep besides checkpoints that are in use.
        write_model: writes a Hub model folder from host copies of the weights, by the names that the objective gives
            its models: `(folder, weights, facts)`.
        in_use: whether a folder must not be removed yet (it is being pushed).
    """

    def __init__(
        self,
        folder: Path,
        keep: CheckpointConfig,
        write_model: Callable[[Path, dict[str, Weights], dict[str, Any]], None],
        in_use: Callable[[Path], bool] = lambda folder: False,
    ) -> None:
        self.folder, self.keep, self.write_model, self.in_use = folder, keep, write_model, in_use
        self.pending: Path | None = None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.digests: dict[str, str] = {}
        if rank() == 0:
            for unfinished in _unfinished(folder):  # of a run that was killed
                remove(unfinished)
        any_process(False)  # none may begin to save before that: its part would be taken for such a folder

    def save(self, step: int, objective: Objective, optimizer: Any, state: dict[str, Any], facts: dict) -> None:
        """Start saving: returns once the state is copied to host memory.

        Args:
            step: optimizer steps taken.
            objective: not wrapped, so that its names have no prefix.
            optimizer: prepared by accelerate or not.
            state: JSON-serialisable state of the run; its `value`, the lower the better, says which one is the best.
            facts: handed on to `write_model`.
        """
        if self.pending is not None:
            self.finish()
        name = f"step-{step:08d}"
        temporary = self.folder / f".{name}.tmp"
        models = objective.published()
        states: dict[str, Any] = {f"{STATE}/rank-{rank()}.pt": rng_state()}
        weights = {}
        if rank() == 0:
            weights = to_host({name: published_weights(model) for name, model in models.items()})
            if rest := unpublished(objective):
                states[OBJECTIVE] = to_host(rest)
            states[OPTIMIZER] = to_host(optimizer.state_dict())
        self.pending = temporary
        self.thread = threading.Thread(
            target=self._write, args=(temporary, models, weights, states, state, facts), name=f"save {name}"
        )
        self.thread.start()

    def _write(self, folder: Path, models: dict, weights: dict, states: dict, state: dict, facts: dict) -> None:
        try:
            make_folder(folder / STATE)
            for name, value in states.items():
                with open(folder / name, "wb") as f:  # a path would hide what the disk says
                    torch.save(value, f)
            if rank() == 0:
                (folder / RUN_STATE).write_text(json.dumps({"format": FORMAT, **state}, indent=1), encoding="utf-8")
                merged = {name: merge(model, weights[name]) for name, model in models.items()}
                self.write_model(folder, merged, facts)
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
        if self.pending is None or self.thread is None:
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
        self.prune(final)
        for stale in _unfinished(self.folder):  # of a killed run; later steps may be being written
            if stale.name <= temporary.name:
                remove(stale)
        return final

    def _name(self, temporary: Path) -> Path:
        """Write the manifest of a folder that is complete, and give the folder its name."""
        for path in (temporary / STATE).glob("rank-*.pt"):  # a few kB each; the large files were hashed by the thread
            self.digests[str(path.relative_to(temporary))] = _sync_and_hash(path)
        (temporary / MANIFEST).write_text(json.dumps(self.digests, indent=1, sort_keys=True), encoding="utf-8")
        for path in (temporary / MANIFEST, *(p for p in temporary.iterdir() if p.is_dir()), temporary):
            sync(path)
        final = temporary.with_name(temporary.name[1:].removesuffix(".tmp"))
        former = final.with_name(f"{final.name}{FORMER}")  # still listed: at no moment is there no checkpoint
        if final.exists():  # a resumed run saves the same step again
            shutil.rmtree(former, ignore_errors=True)
            os.rename(final, former)
        os.rename(temporary, final)
        sync(self.folder)
        shutil.rmtree(former, ignore_errors=True)
        return final

    def finish(self) -> Path | None:
        """Wait for a pending save of every process, then commit it; all processes must call. Raises as `commit`."""
        if self.pending is None or self.thread is None:
            return None
        self.thread.join()
        failed = any_process(self.error is not None)
        try:
            return self.commit(failed)
        finally:  # none may exit, and have its launcher end the others, before the folder has its name
            any_process(False)

    def prune(self, newest: Path | None = None) -> None:
        """Remove checkpoints that need not be kept; call after the newest, which always is, is on disk."""
        found = self.list()
        kept = {newest, *found[-max(1, self.keep.keep_last) :]}
        if self.keep.keep_every:
            kept |= {path for path in found if _step(path) % self.keep.keep_every == 0}
        if self.keep.keep_best and (best := self.best()):
            kept.add(best)
        for path in found:
            if path not in kept and not self.in_use(path):
                shutil.rmtree(path, ignore_errors=True)

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first; not the copies that a person keeps beside them under other names."""
        return [path for path in _in_order(self.folder) if (path / MANIFEST).exists()]

    def best(self) -> Path | None:
        """The complete checkpoint of the lowest `value`, the earliest of equals; `None` when none was evaluated."""
        return next(iter(self._best_first()), None)

    def _best_first(self) -> Sequence[Path]:
        scored = sorted((value, path) for path in self.list() if (value := _value(path)) is not None)
        return [path for _, path in scored]

    def of(self, step: int) -> Path:
        """The checkpoint of a step, whether it is there or not."""
        return self.folder / f"step-{step:08d}"

    def chosen(self, step: int) -> Path:
        """The checkpoint that becomes the model of a run that ended at a step: its last one, or the best if kept."""
        for path in self._best_first() if self.keep.keep_best else ():
            if not (broken := verify(path)):
                return path
            warn(f"{path}, the best, is damaged ({broken}); the next best becomes the model")
        return self.of(step)

    def newest(self) -> Path | None:
        """The newest checkpoint that verifies; those passed over are named."""
        for path in reversed(_in_order(self.folder)):
            if not (broken := verify(path)):
                return path
            warn(f"{path} is damaged ({broken}); falling back to the checkpoint before it")
        return None

    def pass_over(self, newer_than: Path | None) -> None:
        """Set checkpoints newer than the one that a run continues from aside, so that nobody takes them for its own."""
        for path in _in_order(self.folder):
            if newer_than is None or _step(path) > _step(newer_than):
                aside = path.with_name(f"passed-over-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(path, aside)


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; `None` if all that is read is named and has its sha256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        return f"{MANIFEST} has changed"
    if not isinstance(manifest, dict):
        return f"{MANIFEST} has changed"
    for name, digest in manifest.items():
        inside = folder.resolve() / name
        if Path(name).is_absolute() or inside.resolve() != inside:  # dots, or a link on the way
            return f"{name} lies outside of it"
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != digest:
            return f"{name} has changed"
        if not _is_readable(folder / name):  # it was damaged before its sha256 was taken
            return f"{name} cannot be read, though its sha256 is right"
    there = {str(path.relative_to(folder)) for path in _files(folder)}
    needed = {"config.json", RUN_STATE, OPTIMIZER} | {name for name in there - {MANIFEST} if READ.fullmatch(name)}
    if unnamed := sorted(needed - manifest.keys()):
        return f"{unnamed[0]} is not named in {MANIFEST}"
    return None


def _is_readable(path: Path) -> bool:
    """Whether a file that is read has the form that its name says; of large files the heads are read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return True
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".pt":
            with zipfile.ZipFile(path):
                return True
    except (SafetensorError, ValueError, RecursionError, zipfile.BadZipFile):
        return False
    return True


def load(folder: Path, objective: Objective, optimizer: Any) -> dict[str, Any]:
    """Load weights, optimizer and random state in place.

    Learning rates, decay and the like stay as the optimizer was made with, so that a run can continue with others.

    Args:
        folder: a verified checkpoint.
        objective: not wrapped; as that of the run that wrote it.
        optimizer: prepared by accelerate or not.

    Returns:
        The state that `save` was given.

    Raises:
        UserError: the training state holds something else than numbers, or is of another objective, optimizer or a
            newer format.
    """
    state = read_state(folder)
    load_weights(folder, objective)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    moments, own = read_tensors(folder / OPTIMIZER), folder / STATE / f"rank-{rank()}.pt"
    drawn = read_tensors(own) if own.exists() else None
    try:
        optimizer.load_state_dict(moments)
        if drawn is not None:
            set_rng_state(drawn)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the training state in {folder} does not fit this run ({type(error).__name__}: {str(error)[:200]}); "
            "continue with the options that it was made with, or start anew in another --output_dir"
        ) from None
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """The state that `save` was given.

    Raises:
        UserError: it is of a newer format than this version of nlp_ssl knows.
    """
    state = json.loads((folder / RUN_STATE).read_text(encoding="utf-8"))
    if (number := state.pop("format", 1)) not in range(1, FORMAT + 1):
        raise UserError(
            f"{folder} was made by a newer nlp_ssl (its format is {number}, this version reads up to {FORMAT}); "
            "continue with that version, or start anew in another --output_dir"
        )
    if (judge := state.pop("judge", None)) is not None:
        state["early_stopping"] = {"best": judge["best"], "evaluations_without_improvement": judge["stale"]}
    return state


def publish(checkpoint: Path, folder: Path) -> None:
    """Put a checkpoint's models, without their training state, at the top of a folder.

    At no moment is there a folder that loads as a mixture, one model's configuration and another's weights: all is
    copied first, the weights that were there go before anything new gets its name, and the new ones come last.
    """
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    names = [name for name in manifest if not name.startswith(f"{STATE}/")]
    weights = sorted(name for name in names if WEIGHTS.search(name))
    staged = temporary_name(folder / "model")  # of a killed process, `remove_abandoned` removes it
    try:
        for name in names:
            make_folder((staged / name).parent)
            with open(checkpoint / name, "rb", opener=no_links) as source, replacing(staged / name) as target:
                shutil.copyfileobj(source, target)
        for name in weights:  # from here on until the last has its name, the folder holds no model
            (folder / name).unlink(missing_ok=True)
        sync(folder)
        for name in [*(name for name in names if name not in weights), *weights]:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(staged / name, folder / name)
    except OSError as error:
        if str(error.filename).startswith(f"{staged}/"):  # a name that nobody knows
            error.filename = str(folder / Path(error.filename).relative_to(staged))
        raise
    finally:
        remove(staged)


def _in_order(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_step(path), not path.name.endswith(FORMER)))


def _unfinished(folder: Path) -> list[Path]:
    """What saves are writing, or were when they were killed."""
    return [path for path in folder.glob(".step-*.tmp") if re.fullmatch(r"\.step-\d{8,}\.tmp", path.name)]


def newest_name(folder: Path) -> str:
    """The name of the last checkpoint in a folder, whole or not; empty if there is none."""
    return next((path.name for path in reversed(_in_order(folder))), "")


def _step(checkpoint: Path) -> int:
    found = NAME.fullmatch(checkpoint.name)
    assert found is not None, f"{checkpoint} is no checkpoint"
    return int(found[1])


def _value(checkpoint: Path) -> float | None:
    """What a checkpoint is judged by, if it was evaluated."""
    try:
        state = json.loads((checkpoint / RUN_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # damaged: no reason to keep it
        return None
    value = state.get("value")
    return value if value is not None and math.isfinite(value) else None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _sync_and_hash(path: Path) -> str:
    sync(path)
    return sha256(path)
