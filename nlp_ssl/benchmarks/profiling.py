"""Where the time of a training step goes on a GPU: which kernels, and how long it waits for the host."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# by parts of the names that libraries give their kernels, the first that fits
KINDS = {
    "attention": ("flash", "fmha", "attention", "attn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "copies": ("memcpy", "memset"),
    "made by the compiler": ("triton",),
}


def start_profiler() -> profile:
    """Note every kernel from now on."""
    profiler = profile(activities=[ProfilerActivity.CUDA])
    profiler.start()
    return profiler


def stop_profiler(profiler: profile, steps: int) -> dict[str, float]:
    """Milliseconds per step of every kernel since, by its name."""
    torch.cuda.synchronize()
    profiler.stop()
    kernels: dict[str, float] = {}
    for event in profiler.key_averages():
        if event.self_device_time_total:
            kernels[event.key] = kernels.get(event.key, 0.0) + event.self_device_time_total / 1e3 / steps
    return kernels


def profile_rows(contender: dict[str, Any]) -> tuple[list[dict[str, str]], str]:
    """A table of a contender's kernels by what they are for, and a sentence on what they add up to.

    Args:
        contender: what `compare_steps` says of one.
    """
    step, kernels = contender["seconds"] * 1e3, contender["kernels"]
    kinds: dict[str, float] = {}
    for name, spent in kernels.items():
        kinds[kind_of_kernel(name)] = kinds.get(kind_of_kernel(name), 0.0) + spent
    rows = [
        {"kernels": name, "ms per step": f"{spent:.1f}", "share of the step": f"{spent / step:.0%}"}
        for name, spent in sorted(kinds.items(), key=lambda item: -item[1])
    ]
    busy, floor = sum(kinds.values()), contender["floor"]["products"] * 1e3
    return rows, f"a step takes {step:.1f} ms, its kernels {busy:.1f}; its products would take {floor:.1f} at the peak"


def kind_of_kernel(name: str) -> str:
    """What a kernel is for, by its name."""
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")
