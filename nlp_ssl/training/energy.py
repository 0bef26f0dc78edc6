"""Joules that training takes, where the machine counts them: processors by RAPL, NVIDIA's GPUs by NVML."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
EVERY = 1.0  # seconds at least between two looks at the counters


class EnergyMeter:
    """Counters of this machine: of all its processors, whoever uses them, and of the GPUs that its processes train on.

    A counter that may not be read is left out; many systems let only root read those of processors. GPUs need the
    package nvidia-ml-py.

    Args:
        powercap: the folder in which Linux shows the counters of processors.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._counters = [*_processors(powercap), *_gpus()]
        self._seen = [read() for read, _ in self._counters]
        self._looked = time.monotonic()

    def take(self) -> float:
        """Joules since the last time; 0 where there was one within a second, or nothing is counted."""
        if not self._counters or time.monotonic() - self._looked < EVERY:
            return 0.0
        before, self._seen = self._seen, [read() for read, _ in self._counters]
        self._looked = time.monotonic()
        used = zip(before, self._seen, self._counters, strict=True)
        return sum((after - first) % most for first, after, (_, most) in used)


def _processors(powercap: Path) -> Iterator[tuple[Callable[[], float], float]]:
    """For each processor what reads its joules, and where they begin again at 0."""
    for domain in sorted(powercap.glob("intel-rapl:[0-9]*")):  # AMD's too; those with a second colon are parts
        if domain.name.count(":") > 1:
            continue
        try:
            most = int((domain / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
            _joules_of_processor(domain)
        except (OSError, ValueError):  # not for us to read
            continue
        yield partial(_joules_of_processor, domain), most


def _joules_of_processor(domain: Path) -> float:
    return int((domain / "energy_uj").read_text(encoding="ascii")) / 1e6


def _gpus() -> Iterator[tuple[Callable[[], float], float]]:
    """The same for the GPUs of this machine's processes."""
    if not torch.cuda.is_available():
        return
    try:
        import pynvml
    except ModuleNotFoundError:
        return
    for number in range(min(torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))):
        try:
            pynvml.nvmlInit()
            name = f"GPU-{torch.cuda.get_device_properties(number).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(name.encode())
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except pynvml.NVMLError:  # older than Volta, or another maker's
            continue
        yield partial(_joules_of_gpu, handle), float("inf")


def _joules_of_gpu(handle: Any) -> float:
    import pynvml

    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
