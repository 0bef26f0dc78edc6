"""Which files a name, a glob or a folder stands for, and their contents as one number."""

import glob
import hashlib
import os
import re
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from nlp_ssl.core.console import counted, progress, say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir, write_atomically
from nlp_ssl.data.files.forms import extensions_of

# what ends like this and is not there is a missing file, not the id of a Hub data set
_FILE_EXTENSIONS = {".zip", ".xz", ".bz2", ".tar", ".xml", ".html", ".md", ".arrow"}


def find_files(source: str, formats: Collection[str], option: str, anything: bool = False) -> list[Path]:
    """The files that a path, a glob or a folder names, sorted; none when it can only be the id of a Hub data set.

    In a folder, and in those below it, they are the files of a known format; if there are none, all but hidden and
    empty ones.

    Args:
        source: the name.
        formats: that can be read, such as `"txt"`.
        option: which named it, such as `"data.sources"`.
        anything: a format is given, so that a folder's files may be called as they like.

    Raises:
        UserError: a folder without files, a glob without a match, what looks like a file and is not there.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        return _files_in(path, formats, anything)
    if glob.has_magic(source):
        paths = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if os.path.isfile(match))
        if not paths:
            raise UserError(f"no file matches {source}{looked_in(path)}; --{option} names it")
        return paths
    looks_like_one = path.suffix.lower() in _FILE_EXTENSIONS or extensions_of(path) != (None, None)
    if looks_like_one or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise UserError(not_there(source, option))
    return []


def not_there(source: str, option: str) -> str:
    """The sentence for a name of nothing.

    Args:
        source: the name.
        option: which gave it.
    """
    return f"there is no file or folder {source}{looked_in(Path(source).expanduser())}; --{option} names it"


def looked_in(path: Path) -> str:
    """Where a relative path was looked for, in brackets."""
    return "" if path.is_absolute() else f" (looked in {Path.cwd()})"


def _files_in(folder: Path, formats: Collection[str], anything: bool) -> list[Path]:
    inside = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    found = sorted(path for path in inside if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    if not found:
        raise UserError(f"{folder} is a folder without files; name a file, a glob or another folder")
    known = found if anything else [path for path in found if extensions_of(path)[0] in formats] or found
    if left_out := sorted(set(found) - set(known)):
        names = ", ".join(path.name for path in left_out[:3]) + (" ..." if len(left_out) > 3 else "")
        say(f"{folder}: {counted(len(known), 'file')}; {len(left_out):,} of other formats left out ({names})")
    return known


def state_of(path: Path) -> str:
    """What changes with the contents of a file, as far as that can be known without reading it."""
    stat = path.stat()
    return f"{path.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\t{stat.st_ino}"


def content_hashes(paths: list[Path]) -> list[str]:
    """SHA-256 of every file, remembered in the cache for as long as its path, size and times stay the same.

    Raises:
        UserError: a file changes while it is read.
    """
    memory = cache_dir() / "hashes"
    states = [state_of(path) for path in paths]
    names = (hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()[:32] for state in states)
    notes = [memory / name for name in names]
    known = [_noted(note) for note in notes]
    new = [i for i, digest in enumerate(known) if digest is None]
    total = sum(paths[i].stat().st_size for i in new)
    with progress(total=total, desc="fingerprint", unit="B") if total > 1e9 else nullcontext() as bar:
        for i in new:
            digest = hashlib.sha256()
            with open(paths[i], "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
                    if bar is not None:
                        bar.update(len(block))
            check_unchanged(paths[i], states[i])
            known[i] = found = digest.hexdigest()
            write_atomically(notes[i], f"{found}\n{found}\n".encode())
    return [digest for digest in known if digest is not None]


def _noted(note: Path) -> str | None:
    """What was noted, written twice, so that damage is seen."""
    text = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else ""
    found = re.fullmatch(r"([0-9a-f]{64})\n\1\n", text)
    return found and found[1]


def check_unchanged(path: Path, state: str) -> None:
    """Refuse a file that is not as it was; see `state_of`.

    Raises:
        UserError: it changed.
    """
    if not path.exists() or state_of(path) != state:
        raise UserError(f"{path} changed while it was read (is it still being written?); run the same command again")
