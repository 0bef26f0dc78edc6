"""Where the time of a training step goes on the device: which kernels, and how long it waits for the host."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity

from nlp_ssl import preparation, pretraining
from nlp_ssl.benchmarks import contenders
from nlp_ssl.benchmarks.contenders import Parts
from nlp_ssl.benchmarks.settings import BenchmarkConfig
from nlp_ssl.machine import DTYPES, best_precision, training_device
from nlp_ssl.training.throughput import measured_peak

WARM_UP = 5
# by parts of the names that libraries give their kernels, the first that fits
KINDS = {
    "attention": ("flash", "fmha", "attention", "attn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "mm_", "addmm"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "copies": ("memcpy", "memset", "copy"),
    "made by the compiler": ("triton",),
}


def profile_steps(config: BenchmarkConfig, steps: int) -> dict[str, Any]:
    """Take steps under torch's profiler.

    Args:
        config: what is trained.
        steps: that are looked at, behind a few that are not.

    Returns:
        Milliseconds a step of every kind of kernel (`rows`), of the longest kernels, and what they add up to.
    """
    kind = preparation.kind_of(config)
    data = preparation.prepare(config, kind)
    config.train.steps, config.train.minutes = 10**9, None
    pretraining.derive(config, kind, data.model_config, world_size=1)
    device = training_device()
    peak = measured_peak(device, DTYPES[best_precision(device)])
    taken = contenders.ours(config, kind, data, Parts(device))
    for _ in range(WARM_UP):
        next(taken)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if on_gpu else (None, None)
    with torch.profiler.profile(activities=activities) as profiler:
        if on_gpu:
            begin.record()
        seen = [next(taken) for _ in range(steps)]
        if on_gpu:
            end.record()
            torch.cuda.synchronize()
    kernels: dict[str, float] = {}
    for event in profiler.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent:
            kernels[event.key] = kernels.get(event.key, 0.0) + spent / 1e3 / steps
    kinds: dict[str, float] = {}
    for name, spent in kernels.items():
        kinds[kind_of_kernel(name)] = kinds.get(kind_of_kernel(name), 0.0) + spent
    busy = sum(kernels.values())
    step = begin.elapsed_time(end) / steps if on_gpu else busy
    floor = sum(each["operations"] for each in seen) / steps / peak * 1e3
    rows = [
        {"kernels": name, "ms a step": f"{spent:.2f}", "share": f"{spent / step:.0%}"}
        for name, spent in sorted(kinds.items(), key=lambda item: -item[1])
    ]
    notes = [
        f"a step of {config.model.name} takes {step:.1f} ms, of which kernels {busy:.1f}; "
        f"the products that were asked for would take {floor:.1f} at the measured peak"
    ]
    longest = dict(sorted(kernels.items(), key=lambda item: -item[1])[:40])
    return {"rows": rows, "notes": notes, "step_ms": step, "busy_ms": busy, "floor_ms": floor, "longest_ms": longest}


def kind_of_kernel(name: str) -> str:
    """What a kernel is for, by its name."""
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")
