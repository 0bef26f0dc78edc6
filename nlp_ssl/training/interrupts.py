"""Being asked to stop (SIGTERM, SIGINT, a launcher that is gone): finish the step, save the state, then exit."""

import os
import signal
from types import FrameType, TracebackType

_PARENT = os.getppid()  # as early as possible
_LAUNCHED = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


class Interrupts:
    """Notices that the run should stop, without stopping it.

    Inside the `with` block the first SIGTERM or SIGINT only sets `requested`; the run looks at it between steps, all
    processes agree, and a checkpoint is written. A second SIGINT ends the process at once, as a person expects.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop: a signal came, or the launcher that started this process is gone."""
        return self._signal is not None or (_LAUNCHED and os.getppid() != _PARENT)

    @property
    def reason(self) -> str:
        """What asked for it, such as `"SIGTERM"`."""
        return signal.Signals(self._signal).name if self._signal is not None else "the launcher is gone"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
