"""Being asked to stop (SIGTERM, SIGINT, a launcher that is gone): finish the step, save the state, then exit."""

import functools
import signal
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from nlp_ssl.console import Interrupted, launcher_gone


class Interrupts:
    """Notices that the run should stop, without stopping it.

    Inside the `with` block the first SIGTERM or SIGINT only sets `requested`; the run looks at it between steps, all
    processes agree, and a checkpoint is written. A second SIGINT ends the process at once, as a person expects.

    Attributes:
        requested: whether to stop.
        at_once: raise `Interrupted` instead of setting `requested`: while nothing was learnt that is not saved, so that
            the minutes in which a model is compiled, or evaluated before its first step, need not be waited for.
    """

    def __init__(self) -> None:
        self.at_once = True
        self._signal: int | None = None
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._signal is not None

    @property
    def reason(self) -> str:
        """What asked for it, such as `"SIGTERM"`."""
        return "the launcher is gone" if launcher_gone() else signal.Signals(self._signal or signal.SIGTERM).name

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self._signal = self._signal is None, number
        if self.at_once and first:
            raise Interrupted(f"stopped by {self.reason}; what was saved is kept: go on with --resume")

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@functools.cache
def host_group() -> dist.ProcessGroup | None:
    """A group of all processes that talks over the host, not the accelerator; `None` where there is one process.

    Made by the first call, which all processes must make.
    """
    many = dist.is_initialized() and dist.get_world_size() > 1
    return dist.new_group(backend="gloo") if many else None


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; all must ask."""
    if (group := host_group()) is None:
        return flag
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX, group)
    return bool(flags)
