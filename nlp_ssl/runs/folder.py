"""A run's folder: its files, whether it may be used, and the claim on it."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import common_mode, link_out_of, no_links, remove_abandoned
from nlp_ssl.reports.record import LOG_FILE, STATUS_FILE

CONFIG_FILE = "nlp_ssl_config.yaml"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
SOURCES = ("sources", "train_file", "validation_file", "test_file", "glue_dir", "task")  # of `data`
RunConfig = PretrainConfig | FinetuneConfig


def check_output_dir(config: RunConfig) -> None:
    """Refuse a folder that cannot be written to, or that holds something else.

    Raises:
        UserError: why, and what to give instead.
    """
    folder = Path(config.output_dir)
    if file := next((path for path in (folder, *folder.parents) if path.is_file()), None):
        raise UserError(f"--output_dir {folder}: {file} is a file; give a folder")
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"--output_dir {folder} is a link to {folder.readlink()}, which is not there; make that folder")
    check_links(folder)
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(existing, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"--output_dir {folder}: {existing} cannot be written to; give another folder")
    if console.rank() == 0 and (folder / LOCK_FILE).exists():
        lock_folder(folder).close()  # another run there is found now, not after hours of tokenising
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if LOG_FILE in found or _holds_checkpoints(folder):
        if not (config.resume.enabled or config.resume.allow_changed):
            raise UserError(f"{folder} holds a run already; give --resume to continue it, or another --output_dir")
    elif found - {STATUS_FILE, CHECKPOINTS}:  # a run that was interrupted before it learnt anything leaves no more
        raise UserError(f"--output_dir {folder} holds other files; give a new or empty folder")


def say_where_it_begins(config: RunConfig, folders: Sequence[Path]) -> None:
    """Say of a run that is to be resumed, before its data are made, that there is nothing to resume.

    Args:
        config: of the run.
        folders: its own, or those of its seeds.
    """
    if not (config.resume.enabled or config.resume.allow_changed) or any(map(_holds_checkpoints, folders)):
        return
    folder = Path(config.output_dir)
    beside = [path for path in folder.parent.iterdir() if path != folder] if folder.parent.is_dir() else []
    others = sorted(path for path in beside if _holds_checkpoints(path) or any(path.glob(f"seed-*/{CHECKPOINTS}")))
    listed = ", ".join(map(str, others[:3])) + (", ..." if len(others) > 3 else "")
    there = f" (other runs there: {listed})" if others else ""
    console.say(f"resume: {folder} holds no checkpoint yet: this run begins at step 0{there}")


def _holds_checkpoints(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("step-*"))


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


def text_mode(config: RunConfig) -> int:
    """Permissions of files with texts of a run's data (predictions, errors, incidents): those of the data."""
    values = [vars(config.data).get(name) for name in SOURCES]
    return common_mode(source for value in values if value for source in ([value] if isinstance(value, str) else value))


def lock_folder(folder: Path) -> TextIO:
    """Claim a run's folder for this process, for as long as it lives and keeps what is returned open.

    What a killed run was writing there is removed.

    Raises:
        UserError: another process has it.
    """
    lock = open(folder / LOCK_FILE, "a+", opener=no_links, encoding="utf-8")  # noqa: SIM115 - open as long as the run is
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
