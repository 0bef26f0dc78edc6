"""What a person sees in the terminal: lines, warnings, progress bars. Only rank 0 speaks.

A terminal may close, a pipe break, a disk fill up, and no run ends for it: what cannot be printed is lost, `log.jsonl`
is the record.
"""

import contextlib
import errno
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

NOTEBOOK = "ipykernel" in sys.modules
WIDGETS = NOTEBOOK and importlib.util.find_spec("ipywidgets") is not None
if WIDGETS:
    from tqdm.notebook import tqdm
else:
    from tqdm import tqdm


def rank() -> int:
    """Global rank of this process, read from the launcher's environment (0 when there is no launcher)."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes of this run, read from the launcher's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


# what a terminal obeys instead of showing it: control characters, marks that turn text around, halves of pairs
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_GONE = (errno.EPIPE, errno.EIO)  # whoever read is gone, and does not come back


class BestEffort:
    """A stream that takes what it can, in whatever encoding it has, and never raises.

    Args:
        stream: such as `sys.stdout`; `None`, as Python has it where a process was started without one.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write what the stream's encoding has no characters for as `\\u....`; nothing where it cannot be written."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self._attempt(lambda: self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding)))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if anybody takes it."""
        self._attempt(lambda: self.stream.flush())

    def isatty(self) -> bool:
        """Whether a person sits before it."""
        try:
            return bool(self.stream.isatty())
        except (AttributeError, ValueError):  # there is none, or it was closed
            return False

    def _attempt(self, work: Callable[[], Any]) -> None:
        if self.stream is None:
            return
        try:
            work()
        except ValueError:  # closed
            return
        except OSError as error:
            if error.errno in _GONE:  # what is still buffered must not fail again when the interpreter ends
                with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __eq__(self, other: object) -> bool:
        return self.stream == (other.stream if isinstance(other, BestEffort) else other)

    def __hash__(self) -> int:
        return hash(self.stream)


def best_effort(stream: Any) -> BestEffort:
    """A stream, or what is already made of one, as a `BestEffort`."""
    return stream if isinstance(stream, BestEffort) else BestEffort(stream)


def protect() -> None:
    """Make the streams of this whole process such that no line, bar or late flush of any library ends it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, and the next file that is opened would get whatever is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = best_effort(sys.stdout), best_effort(sys.stderr)


def printable(text: str) -> str:
    """A text as a terminal shows it: what it would obey, such as ESC, is written out; lines and tabs stay."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Console(logging.Handler):
    """Prints what is logged: lines on stdout, warnings and errors on stderr, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        serious = record.levelno >= logging.WARNING
        kind = f"{record.levelname.lower()}: " if serious else ""
        stream = best_effort(sys.stderr if serious or hasattr(record, "beside") else sys.stdout)
        tqdm.write(printable(kind + record.getMessage()), file=stream)
        stream.flush()


# everything that a run says; `logging.getLogger("nlp_ssl").setLevel("WARNING")` makes a program of one's own quiet
LOGGER = logging.getLogger("nlp_ssl")
if not LOGGER.handlers:
    LOGGER.addHandler(_Console())
    LOGGER.setLevel(LOGGER.level or logging.INFO)
    LOGGER.propagate = False


def say(text: str = "") -> None:
    """Print one line on rank 0."""
    if rank() == 0:
        LOGGER.info("%s", text)


def write(text: str) -> None:
    """Write on stdout as it stands, control characters too: what others wrote must be `printable` already."""
    stream = best_effort(sys.stdout)
    stream.write(text)
    stream.flush()


def note(text: str) -> None:
    """Print one line on rank 0, on stderr: beside results that are somebody's input."""
    if rank() == 0:
        LOGGER.info("%s", text, extra={"beside": True})


def warn(text: str) -> None:
    """Print one warning line on rank 0."""
    if rank() == 0:
        LOGGER.warning("%s", text)


def fail(text: str) -> None:
    """Print the sentence that a process ends with, on every rank."""
    LOGGER.error("%s", text)


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Around what only decorates a run, such as a picture: whatever fails in it is said, and the run continues.

    Args:
        what: is made, for the warning.
    """
    try:
        yield
    except Exception as error:  # libraries that draw and read have no narrower class
        said = " ".join(str(error).split())[:200]
        warn(f"{what} could not be made ({type(error).__name__}: {said}); the run and its model are whole without it")


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

    A notebook shows it if ipywidgets is installed: text would stand there once for every movement of the bar.

    Args:
        iterable: what to walk through, or `None` to call `.update(n)` by hand.
        total: how many units there will be; `None` when that is not known.
        desc: what is being done, such as `"tokenise"`.
        unit: the name of one unit; a unit of `"B"` is scaled to kB, MB, GB.
        initial: how many units were done before (a resumed job).
        leave: keep the bar on the screen when it is done.
    """
    stream = best_effort(sys.stderr)
    return tqdm(
        iterable,
        file=stream,
        total=total,
        desc=printable(desc),
        unit=unit if unit == "B" else f" {unit}",
        initial=initial,
        delay=0 if total or iterable is not None else 0.1,  # not a bar of nothing, where there is no total yet
        unit_scale=unit == "B",
        dynamic_ncols=True,
        mininterval=0.2 if stream.isatty() or NOTEBOOK else 10.0,
        disable=rank() != 0 or (NOTEBOOK and not WIDGETS),
        leave=leave,
    )


def counted(count: float, noun: str) -> str:
    """`(1, "file")` -> `"1 file"`, `(2000, "entry")` -> `"2,000 entries"`, `(1.5, "minute")` -> `"1.5 minutes"`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        noun += "e"
    elif noun.endswith("y") and noun[-2] not in "aeiou":
        noun = f"{noun[:-1]}ie"
    return f"{count:,} {noun}s" if isinstance(count, int) else f"{count:g} {noun}s"


def human_bytes(count: float) -> str:
    """`1234567` -> `"1.2 MB"`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
