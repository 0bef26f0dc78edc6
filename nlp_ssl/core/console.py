"""What a person sees in the terminal: lines, warnings, progress bars. Only rank 0 speaks."""

import os
import sys
from typing import Any

from tqdm.auto import tqdm


def rank() -> int:
    """Global rank of this process, read from the launcher's environment (0 when there is no launcher)."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes of this run, read from the launcher's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str = "") -> None:
    """Print one line on rank 0, above any progress bar."""
    if rank() == 0:
        tqdm.write(text)
        sys.stdout.flush()


def warn(text: str) -> None:
    """Print one warning line on rank 0, on stderr."""
    if rank() == 0:
        tqdm.write(f"warning: {text}", file=sys.stderr)


def progress(
    iterable: Any = None,
    *,
    total: float | None = None,
    desc: str = "",
    unit: str = "it",
    initial: float = 0,
    leave: bool = True,
) -> tqdm:
    """A progress bar on rank 0 (silent elsewhere); in a log file it prints a line every 10 seconds at most.

    Args:
        iterable: what to walk through, or `None` to call `.update(n)` by hand.
        total: how many units there will be; `None` when that is not known.
        desc: what is being done, such as `"tokenise"`.
        unit: the name of one unit; a unit of `"B"` is scaled to kB, MB, GB.
        initial: how many units were done before (a resumed job).
        leave: keep the bar on the screen when it is done.
    """
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        unit_scale=unit == "B",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        disable=rank() != 0,
        leave=leave,
    )


def human_bytes(count: float) -> str:
    """`1234567` -> `"1.2 MB"`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
