"""What is kept between runs: found again only if it is, byte for byte, what was put there; private to who made it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from nlp_ssl.core.console import warn
from nlp_ssl.core.files import cache_dir, make_folder, making, remove, sha256, write_atomically

LARGE = 10**9  # bytes; a file above is not read again while its times say that nobody wrote to it


@contextlib.contextmanager
def caching(path: Path) -> Iterator[Path]:
    """`making` for a file or folder of the cache, sealed when the block ends; see `is_whole`."""
    make_private()
    with making(path) as temporary:
        yield temporary
        seal(path, temporary)


def seal(path: Path, source: Path | None = None) -> None:
    """Note what a file or folder holds, or what it will hold once `source` has its name."""
    files = _files(source or path)
    noted = {name: [file.stat().st_size, sha256(file), _times(file)] for name, file in files.items()}
    write_atomically(_seal_of(path), json.dumps(noted).encode())


def is_whole(path: Path) -> bool:
    """Whether a file or folder is there and holds what it was sealed with; what is damaged is removed, and said.

    Files are read for it, those of more than 1 GB only if their times have changed since.
    """
    if not path.exists():
        return False
    try:
        noted = json.loads(_seal_of(path).read_text(encoding="utf-8"))
        there = _files(path)
        if noted.keys() == there.keys() and all(_is_as_noted(there[name], *noted[name]) for name in there):
            if any(size > LARGE and _times(there[name]) != times for name, (size, _, times) in noted.items()):
                seal(path)  # moved or copied as it was
            return True
        warn(f"{path} is damaged (its sha256 is not what it was when it was made); it is made again")
    except (OSError, ValueError, TypeError, AttributeError):  # of an earlier version, or the seal itself is damaged
        pass
    remove(path)
    return False


def _is_as_noted(file: Path, size: int, digest: str, times: list[int]) -> bool:
    if file.stat().st_size != size:
        return False
    return (size > LARGE and _times(file) == times) or sha256(file) == digest


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"": path}
    return {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}


def _times(file: Path) -> list[int]:
    """When a large file was written, and where; nothing of others, which are read again anyway."""
    stat = file.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] if stat.st_size > LARGE else []


def _seal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.seal")


def make_private() -> None:
    """Keep others from what is cached, texts of corpora among it.

    A folder that is there is closed only if it is `~/.cache/nlp_ssl`: `$NLP_SSL_CACHE` may be shared on purpose.
    """
    root = cache_dir()
    with contextlib.suppress(OSError):  # said by who then writes there
        if not root.exists():
            make_folder(root.parent)
            root.mkdir(mode=0o700)
        elif not os.environ.get("NLP_SSL_CACHE") and root.stat().st_uid == os.getuid():
            root.chmod(0o700)
