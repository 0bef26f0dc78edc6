"""Files that are whole under their name or not there, what killed processes leave of them, and what disks answer."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from nlp_ssl.core.errors import UserError

# what the person at the machine can mend, and how
REMEDIES = {errno.ENOSPC: "make room there", errno.EDQUOT: "make room there"}
REMEDIES |= {errno.EFBIG: "give a place that takes larger files"}
REMEDIES |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "give a place that can be written to")
REMEDIES |= {errno.EIO: "its disk may be failing: give another place"}
REMEDIES |= {errno.ENAMETOOLONG: "give a shorter name", errno.ENOTDIR: "a part of it is a file: give another place"}
REMEDIES |= {errno.ELOOP: "it is a link, and nothing is written through one: remove it"}
ABANDONED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # the names that `temporary_name` gives


def cache_dir() -> Path:
    """Where corpora, tokenizers and tokens are kept between runs: `$NLP_SSL_CACHE`, or `~/.cache/nlp_ssl`."""
    root = os.environ.get("NLP_SSL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "nlp_ssl"
    try:
        return Path(root).expanduser()
    except RuntimeError:
        raise UserError(
            "this user has no home folder ($HOME), where the cache would be; set NLP_SSL_CACHE to a folder"
        ) from None


@contextlib.contextmanager
def making(path: Path) -> Iterator[Path]:
    """Make a file or folder under a temporary name beside its own, which it gets, on disk, when the block ends.

    For places that several runs share, such as the cache. A killed process leaves the temporary; the next one that
    makes something there, at a moment when nobody else does, removes it: everybody at work holds a lock on the folder,
    which the system takes back from the dead, on whatever machine they lived.

    Args:
        path: of the file or folder. A folder that another process has made meanwhile stays as it is.

    Yields:
        The temporary name, at which nothing is yet.
    """
    make_folder(path.parent)
    with open(path.parent / ".lock", "ab", opener=no_links) as lock:
        with contextlib.suppress(OSError):  # others are at work, or the file system has no locks: nothing is removed
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_abandoned(path.parent)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        temporary = temporary_name(path)
        try:
            yield temporary
            for file in [temporary, *temporary.rglob("*")]:
                if file.is_file():
                    sync(file)
            try:
                os.replace(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
        except Exception as error:
            said = disk_error(error)
            if said is None:
                raise
            said.filename = said.filename or str(path)
            raise said from None
        finally:
            remove(temporary)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        OSError: in words that `advice` knows.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # so /proc and /sys say that they take no folders
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete under its name, on disk, or not there at all."""
    with making(path) as temporary:
        temporary.write_bytes(data)


def replace(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file whole or not at all, in a folder that is this run's alone; each of its processes may."""
    with replacing(path, mode) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Write a file that gets its name, on disk, when the block ends; what had the name before, a link too, is replaced.

    For a folder that is this run's alone: what a killed process leaves there, `remove_abandoned` removes.

    Args:
        path: of the file.
        mode: its permissions, of which the process's umask takes away.

    Yields:
        The open file.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb", opener=lambda name, flags: no_links(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename if error.filename not in (None, str(temporary)) else str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside a path's that nobody can foresee, and so cannot prepare a link at."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left under temporary names; call while nobody else writes there."""
    for path in folder.glob(".*.tmp"):
        if ABANDONED.fullmatch(path.name):
            remove(path)


def no_links(path: str, flags: int, mode: int = 0o666) -> int:
    """An `opener` for `open`: a file whose name turns out to be a link is not opened (`OSError`, ELOOP)."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def common_mode(sources: Iterable[str]) -> int:
    """Permissions for a file with texts of some sources: reading it takes leave to read all that are files here.

    Args:
        sources: files, folders, globs; what is none of these, such as the id of a Hub data set, anybody may read.
    """
    mode = 0o666
    for source in sources:
        path = str(Path(source).expanduser())
        for found in [path] if os.path.exists(path) else glob.glob(path, recursive=True):
            below = Path(found).rglob("*") if os.path.isdir(found) else [Path(found)]
            for file in (file for file in below if file.is_file()):
                readable = file.stat().st_mode & 0o444
                mode &= readable | readable >> 1 | 0o600
    return mode


def link_out_of(folder: Path) -> Path | None:
    """The first link in a folder (not in those below it) that leads out of it; `None` if there is none."""
    inside = folder.resolve()
    links = sorted(path for path in folder.iterdir() if path.is_symlink()) if folder.is_dir() else []
    return next((path for path in links if not path.resolve().is_relative_to(inside)), None)


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def disk_error(error: BaseException | None) -> OSError | None:
    """What the system said, where a library raises something of its own for it: torch's and Rust's do."""
    if error is None or isinstance(error, OSError):
        return error
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return disk_error(error.__context__) if isinstance(error, RuntimeError) else None


def advice(error: BaseException) -> str | None:
    """A sentence for a full disk, a folder that cannot be written to and the like; `None` for anything else."""
    said = disk_error(error)
    if said is None or said.errno not in REMEDIES:
        return None
    where = f"{said.filename}: " if said.filename else ""
    cached = bool(said.filename) and Path(said.filename).absolute().is_relative_to(cache_dir().absolute())
    remedy = REMEDIES[said.errno] + (" (NLP_SSL_CACHE says where the cache is)" if cached else "")
    return f"{where}{os.strerror(said.errno)}; {remedy} and start again: what was finished before is kept (--resume)"


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
