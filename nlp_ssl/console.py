"""What a person sees in the terminal: lines, progress bars, one-sentence errors, exit codes.

Only rank 0 speaks. A recipe's process exits 0 when it finished, 2 on a user's mistake (one sentence, last, no stack
trace) and 75 when it was stopped and can be resumed; anything else is a bug of ours and keeps its stack trace.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType
from typing import Any

from tqdm.auto import tqdm

from nlp_ssl.files import advice

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
LAUNCHED = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
_PARENT = os.getppid()  # as early as possible


class UserError(Exception):
    """A user's mistake, in one sentence: what was wrong, where (file, row, key), and what to do."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; the text says how to resume it."""


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


def until(stop: Callable[[], bool], batches: Iterator[Any], total: int | None, desc: str) -> Iterator[Any]:
    """Walk through held-out batches with a progress bar, until all processes agree to stop.

    Args:
        stop: whether to stop; asks all processes, so each must ask equally often.
        batches: of this process.
        total: batches of the process that has the most; `None` asks once for each of this one's.
        desc: what is being done.

    Raises:
        Interrupted: `stop` said so.
    """
    with progress(total=total, desc=desc, unit="batch", leave=False) as bar:
        for _ in count() if total is None else range(total):
            if stop():
                raise Interrupted("stopped while measuring")
            if (batch := next(batches, None)) is not None:
                yield batch
                bar.update()
            elif total is None:
                return


def human_bytes(count: float) -> str:
    """`1234567` -> `"1.2 MB"`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def launcher_gone() -> bool:
    """Whether the launcher that started this process has ended without it."""
    return LAUNCHED and os.getppid() != _PARENT


def run(main: Callable[[Any], Any], parse: Callable[[], Any]) -> None:
    """Run a recipe: parse its configuration, call `main(config)`, and exit with the code its outcome deserves.

    SIGTERM and SIGINT raise `Interrupted` wherever the recipe is; training handles them itself, between steps. A
    launcher that is gone counts as a SIGTERM: one that gets the signal itself may end without passing it on.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_now)
    if LAUNCHED:
        threading.Thread(target=_watch_launcher, daemon=True).start()
    try:
        main(parse())
    except Interrupted as stop:
        say(str(stop))
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else advice(error)
        if sentence is None:
            raise
        if rank() != 0:
            time.sleep(3)  # rank 0 says it; the launcher ends this process meanwhile
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        say("stopped at once; what was saved before is still there (--resume goes on from it)")
        sys.exit(EXIT_INTERRUPTED)


def _stop_now(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one ends the process at once
    raise Interrupted(f"stopped by {signal.Signals(number).name}; what was finished is kept: go on with --resume")


def _watch_launcher() -> None:
    while not launcher_gone():
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
