"""How much of the machine other programs took while something was measured."""

import os
import time

import psutil


class Load:
    """Counts from now on; the processes that this one started, and theirs, are not others."""

    def __init__(self) -> None:
        self.begun, self.busy, self.own = time.monotonic(), _busy(), _own()

    def of_others(self) -> float:
        """The share of all cores, 0 to 1, that other programs took since."""
        seconds = max(1e-3, time.monotonic() - self.begun) * (psutil.cpu_count() or 1)
        others = _busy() - self.busy - self.of_ours()
        return min(1.0, max(0.0, others / seconds))

    def of_ours(self) -> float:
        """Seconds of cores that this process and its descendants worked since."""
        return _own() - self.own


def _busy() -> float:
    """Seconds that cores of this machine have worked, for it or, in a virtual machine, for others on its host."""
    times = psutil.cpu_times()._asdict()
    counted = ("user", "nice", "system", "irq", "softirq", "steal")  # Linux counts guests as `user` too
    return sum(times.get(name, 0.0) for name in counted)


def _own() -> float:
    """Seconds that this process and its descendants have worked."""
    seconds = 0.0
    here = psutil.Process(os.getpid())
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile, and its parent has its seconds
        seconds += times.user + times.system
        seconds += times.children_user + times.children_system
    return seconds
