"""What a person sees in the terminal: lines, progress bars, one-sentence errors, exit codes.

Only rank 0 speaks. A recipe's process exits 0 when it finished, 2 on a user's mistake (one sentence, last, no stack
trace) and 75 when it was stopped and can be resumed; anything else is a bug of ours and keeps its stack trace.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from types import FrameType, TracebackType
from typing import Any, TypeVar

from tqdm.auto import tqdm

from nlp_ssl.core.files import advice

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
LAUNCHED = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
_PARENT = os.getppid()  # as early as possible
_NATIVE = "native work"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
Result = TypeVar("Result")


class UserError(Exception):
    """A user's mistake, in one sentence: what was wrong, where (file, row, key), and what to do."""


class PeerGone(Exception):
    """Another process of the run has ended before its time, so this one ends too; one sentence."""


class Interrupted(BaseException):
    """The run was asked to stop; the text says what is kept, and how to resume it.

    Like `KeyboardInterrupt` it is no `Exception`, which `torch.compile` and `datasets` would swallow or wrap.
    """


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


class Interrupts:
    """What SIGTERM, SIGINT and a launcher that is gone ask of this process: to stop in good order.

    The first of them raises `Interrupted` wherever the process is, or, while `at_once` is false, is only noted, to be
    looked at between steps. Later ones change nothing, but a SIGINT a second after another ends the process at once, as
    a person expects. (Not sooner: `timeout -s INT` and terminals with a launcher in between send one twice.)

    Attributes:
        reason: what asked first, such as `"SIGTERM"`; `None` before.
        at_once: raise `Interrupted`; false while there is something to finish and to save first.
        tell: called with the reason before the process ends.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.at_once = True
        self.tell: Callable[[str | None], Any] = lambda reason: None
        self._launcher_gone = False
        self._ctrl_c: float | None = None
        self._before: list[dict[int, Any]] = []

    def listen(self) -> None:
        """Take the signals from now on; `with` gives them back at its end."""
        self._before.append({number: signal.signal(number, self._note) for number in SIGNALS})

    @property
    def listening(self) -> bool:
        """Whether this process, or the one that it was forked from, takes the signals."""
        return bool(self._before)

    def __enter__(self) -> "Interrupts":
        self.listen()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.pop().items():
            signal.signal(number, handler)
        self.at_once, reason = True, self.reason
        if not self._before:
            self.reason = self._ctrl_c = None
        if reason and kind is None:  # what was to be finished first is finished
            raise self._stopped(reason)

    def watch_launcher(self) -> None:
        """Take a launcher that is gone for a SIGTERM: one that gets the signal itself may end without passing it on."""
        if LAUNCHED:
            threading.Thread(target=self._watch_launcher, daemon=True).start()

    def _watch_launcher(self) -> None:
        while os.getppid() == _PARENT:
            time.sleep(0.5)
        self._launcher_gone = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._ctrl_c is not None and now - self._ctrl_c > 1:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                self.reason = "SIGINT, twice"
                raise KeyboardInterrupt("stopped at once; what was saved before is kept: go on from it with --resume")
            self._ctrl_c = self._ctrl_c or now
        if self.reason is None:
            self.reason = "the launcher is gone" if self._launcher_gone else signal.Signals(number).name
            if self.at_once:
                raise self._stopped(self.reason)

    @staticmethod
    def _stopped(reason: str) -> Interrupted:
        return Interrupted(f"stopped ({reason}); what was finished is kept: go on with --resume")


def _default_signals() -> None:
    """A process that was forked off, as pools do, has nothing to finish: signals end it."""
    if interrupts.listening:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_default_signals)
interrupts = Interrupts()  # signals are a process's, so there is one


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """A signal to the whole process group is the parent's: a process started here does not hear it, from its birth."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interruptibly(work: Callable[[], Result]) -> Result:
    """Do native work of minutes, in which no signal is noticed, on a thread; this one waits, and can be interrupted."""
    future: Future[Result] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, name=_NATIVE, daemon=True).start()
    return future.result()


def run(main: Callable[[Any], Any], parse: Callable[[], Any]) -> None:
    """Run a recipe: parse its configuration, call `main(config)`, and exit with the code its outcome deserves."""
    interrupts.listen()  # to the end: a late signal must not change the exit code
    interrupts.watch_launcher()
    atexit.register(gc.freeze)  # a process that ends need not look for garbage among a million objects: a second less
    try:
        main(parse())
    except PeerGone as error:
        if rank() == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except (Interrupted, KeyboardInterrupt) as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another must not end the interpreter's end with another code
        interrupts.tell(interrupts.reason)
        say(str(stop))
        sys.stderr.flush()
        if isinstance(stop, KeyboardInterrupt) or any(thread.name == _NATIVE for thread in threading.enumerate()):
            os._exit(EXIT_INTERRUPTED)  # at once; native work would hold up the interpreter's end, or crash in it
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else advice(error)
        if sentence is None:
            raise
        if rank() != 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # rank 0 says it; the launcher ends this process meanwhile
            time.sleep(3)
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)
