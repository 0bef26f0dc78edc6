"""What is checked before a run begins, and what must stay the same when it is resumed."""

import fcntl
import os
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

from transformers import PreTrainedModel

from nlp_ssl.config.common import PretrainConfig
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.core import console, signals
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import link_out_of, no_links, remove_abandoned
from nlp_ssl.data.tokens.token_corpus import fingerprint
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.runs.status import STATUS_FILE, note_interrupt
from nlp_ssl.training.tracking import check_trackers

CONFIG_FILE = "nlp_ssl_config.yaml"
LOG_FILE = "log.jsonl"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
POSITIVE: tuple[str, ...]
POSITIVE = ("train.batch_size", "train.micro_batch", "train.log_every", "evaluation.every", "evaluation.batch_size")
POSITIVE += (
    "evaluation.max_rows",
    "evaluation.patience",
    "checkpoint.every",
    "checkpoint.keep_last",
    "checkpoint.keep_every",
)
RunConfig = PretrainConfig | FinetuneConfig


def check_run(config: RunConfig) -> None:
    """Find out before any work what would stop the run at its end: its folder, its trackers, the Hub.

    Raises:
        UserError: the folder holds another run or something else, a tracker is not installed, the Hub refuses.
    """
    for key in POSITIVE:
        value = attrgetter(key)(config)
        if value not in (None, "auto") and value < 1:
            raise UserError(f"--{key} is {value}; it must be at least 1")
    if config.evaluation.patience is not None:
        config.checkpoint.keep_best = True
    if config.resume.allow_changed:
        config.resume.enabled = True
    if config.train.spike_factor is not None and config.train.spike_factor <= 1:
        raise UserError(f"--train.spike_factor is {config.train.spike_factor}; it must be above 1, such as 10")
    if "RANK" not in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise UserError("start processes with accelerate launch or torchrun; mpirun alone does not say who is who")
    _check_output_dir(config)
    signals.interrupts.tell = lambda reason: note_interrupt(Path(config.output_dir), reason)
    check_trackers(config.tracking)
    if config.hub.repo_id and console.rank() == 0:
        HubPublisher(config.hub.repo_id, private=config.hub.private, overwrite=config.hub.overwrite).check()


def _check_output_dir(config: RunConfig) -> None:
    folder = Path(config.output_dir)
    if folder.is_file():
        raise UserError(f"--output_dir {folder} is a file; give a folder")
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"--output_dir {folder} is a link to {folder.readlink()}, which is not there; make that folder")
    check_links(folder)
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(existing, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"--output_dir {folder}: {existing} cannot be written to; give another folder")
    if console.rank() == 0 and (folder / LOCK_FILE).exists():
        lock_folder(folder).close()  # another run there is found now, not after hours of tokenising
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if LOG_FILE in found or any((folder / CHECKPOINTS).glob("step-*")):
        if not config.resume.enabled:
            raise UserError(f"{folder} holds a run already; give --resume to go on with it, or another --output_dir")
    elif found - {STATUS_FILE, CHECKPOINTS}:  # a run that was interrupted before it learnt anything leaves no more
        raise UserError(f"--output_dir {folder} holds other files; give a new or empty folder")


def check_links(folder: Path) -> None:
    """Refuse an output folder in which whoever prepared it chose what a run would overwrite.

    Raises:
        UserError: a link in it leads out of it.
    """
    if (link := link_out_of(folder)) is not None:
        raise UserError(
            f"{link} is a link to {link.readlink()}, outside of --output_dir, and nothing is written through such a "
            "link: remove it, or give another folder (which may be a link itself)"
        )


def lock_folder(folder: Path) -> TextIO:
    """Claim a run's folder for this process, for as long as it lives and keeps what is returned open.

    What a killed run was writing there is removed.

    Raises:
        UserError: another process has it.
    """
    lock = open(folder / LOCK_FILE, "a+", opener=no_links)  # noqa: SIM115 - open as long as the run is
    try:
        # not flock, which loader workers inherit and would keep for a while when this process is killed
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise UserError(
            f"{owner} is training in {folder}; wait for it, stop it, or give another --output_dir"
        ) from None
    except OSError as error:  # some network file systems
        console.warn(f"{folder} cannot be locked ({error.strerror}): see to it that no other run uses it")
    else:
        remove_abandoned(folder)
    if os.fstat(lock.fileno()).st_nlink == 1:  # a file of two names may be somebody's under the other
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}")
        lock.flush()
    return lock


def run_identity(
    config: RunConfig, model: PreTrainedModel, data: str, tokenizer: str, files: dict[str, str] | None = None
) -> dict[str, Any]:
    """What makes a run that run: nothing of it may change when it is resumed, but the data if that is allowed.

    The sha256 of the data's `files`, by name, is there to say which of them changed.
    """
    elsewhere = ("transformers_version", "_name_or_path")  # a model may be moved
    return {
        "files": files or {},
        "data": data,
        "tokenizer": tokenizer,
        "model": fingerprint({k: v for k, v in model.config.to_dict().items() if k not in elsewhere}),
        "optimizer": config.optimizer.name,
        "lora_rank": getattr(getattr(config, "transfer", None), "lora_rank", None),
    }


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML that `--config` reads again."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
