"""Signals: a run that is asked to stop finishes its step, wherever it is, and its helpers do not hear them."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any, TypeVar

from nlp_ssl.core.errors import Interrupted

WATCHES_PARENT = "NLP_SSL_WATCHES_PARENT"  # set by a recipe that starts this one
LAUNCHED = not os.environ.keys().isdisjoint(("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION", WATCHES_PARENT))
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)
IGNORABLE = (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)  # SIGINT not: shells ignore it for what they start with &
_PARENT = os.getppid()  # as early as possible
AGAIN = "run the same command again"
NATIVE = "native work"
Result = TypeVar("Result")


class Interrupts:
    """What SIGTERM and its like, and a launcher that is gone, ask of this process: to stop in good order.

    A terminal that closes sends SIGHUP, Slurm SIGUSR1 ahead of a time limit, Ctrl-\\ SIGQUIT. One that this process was
    started to ignore, as `nohup` has it ignore SIGHUP, stays ignored.

    The first of them raises `Interrupted` wherever the process is, or, while `at_once` is false, is only noted, to be
    looked at between steps. Later ones change nothing, but a SIGINT a second after another ends the process at once, as
    a person expects. (Not sooner: `timeout -s INT` and terminals with a launcher in between send one twice.)

    Attributes:
        reason: what asked first, such as `"SIGTERM"`; `None` before.
        at_once: raise `Interrupted`; false while there is something to finish and to save first.
        tell: called with the reason before the process ends.
        again: what continues the program, in words.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.at_once = True
        self.tell: Callable[[str | None], Any] = lambda reason: None
        self.again = AGAIN
        self._launcher_gone = False
        self._ctrl_c: float | None = None
        self._before: list[dict[int, Any]] = []

    def listen(self) -> None:
        """Take the signals from now on; `with` gives them back at its end."""
        ignored = {number for number in IGNORABLE if signal.getsignal(number) is signal.SIG_IGN}
        heard = [number for number in SIGNALS if number not in ignored]
        self._before.append({number: signal.signal(number, self._note) for number in heard})

    @property
    def heard(self) -> list[int]:
        """The signals that this process, or the one that it was forked from, takes."""
        return list(self._before[-1]) if self._before else []

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
                raise KeyboardInterrupt(f"stopped at once; what was saved before is kept: {self.again}")
            self._ctrl_c = self._ctrl_c or now
        if self.reason is None:
            self.reason = "the launcher is gone" if self._launcher_gone else signal.Signals(number).name
            if self.at_once:
                raise self._stopped(self.reason)
            if os.environ.get("RANK", "0") == "0":  # nothing buffered: what was interrupted may be writing
                with contextlib.suppress(OSError):
                    os.write(2, f"\n{self.reason}: finishing this step, then saving\n".encode())

    def _stopped(self, reason: str) -> Interrupted:
        return Interrupted(f"stopped ({reason}); what was finished is kept: {self.again}")


def _default_signals() -> None:
    """A process that was forked off, as pools do, has nothing to finish: signals end it."""
    for number in interrupts.heard:
        signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_default_signals)
interrupts = Interrupts()  # signals are a process's, so there is one


@contextlib.contextmanager
def block_signals_in_children() -> Iterator[None]:
    """A signal to the whole process group is the parent's: a process started here does not hear it, from its birth."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_in_thread(work: Callable[[], Result]) -> Result:
    """Do native work of minutes, in which no signal is noticed, on a thread; this one waits, and can be interrupted."""
    future: Future[Result] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, name=NATIVE, daemon=True).start()
    return future.result()
