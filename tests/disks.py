"""What a power cut would take: the disk keeps for certain only what was synced, as it was then."""

import os
from pathlib import Path
from typing import Any


class Disk:
    """Takes note of what this process syncs, and of files that get their name before they are on disk.

    Attributes:
        named: what got its name by being renamed.
        lost: files that a power cut right after a rename might have left empty or cut off under a final name.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.synced: set[tuple[int, ...]] = set()
        self.named: list[Path] = []
        self.lost: list[Path] = []
        fsync = os.fsync

        def noted(descriptor: int) -> None:
            fsync(descriptor)
            self.synced.add(_state(os.stat(descriptor)))

        monkeypatch.setattr(os, "fsync", noted)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._checked(getattr(os, name)))

    def has(self, path: Path) -> bool:
        """Whether a file, or a folder's list of names, was synced as it is now."""
        return _state(path.stat()) in self.synced

    def _checked(self, rename: Any) -> Any:
        def checked(source: Any, target: Any) -> None:
            source = Path(source)
            self.lost += [p for p in (source, *source.rglob("*")) if p.is_file() and not self.has(p)]
            rename(source, target)
            self.named.append(Path(target))

        return checked


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
