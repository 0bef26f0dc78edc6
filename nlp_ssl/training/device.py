"""What a run stands on: its device, its threads and their arithmetic."""

import contextlib
import ctypes
import datetime
import importlib.util
import os
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from nlp_ssl.config.common import TrainConfig
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.memory import is_out_of_memory
from nlp_ssl.core.restarts import warn_of_restarts
from nlp_ssl.data.sequences.batches import Collator, TrainBatches
from nlp_ssl.data.sequences.phases import Phases
from nlp_ssl.models.split_caveats import split_caveats
from nlp_ssl.objectives.objective import Objective

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def training_device() -> torch.device:
    """The device that Accelerate will choose: a GPU where there is one, unless the CPU was asked for."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}  # of products, by `mixed_precision`


def best_precision(device: torch.device) -> str:
    """The arithmetic that this hardware multiplies fast: bf16, fp16 on older GPUs, else float32 (`"no"`)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = capability.get("avx512_bf16") or capability.get("amx_bf16") or torch.cpu._is_avx512_bf16_supported()
        return "bf16" if fast else "no"
    return "no"


def why_not_compiled(device: torch.device) -> str | None:
    """Why pretraining does not use `torch.compile` by itself; `None` on a CUDA GPU where Triton has what it needs."""
    if device.type != "cuda":
        return "it pays on a CUDA GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "Triton needs a GPU of compute capability 7.0"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (install gcc)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Triton needs Python's headers (install python3-dev)"
    return None


def compile_module(module: torch.nn.Module) -> None:
    """Have `torch.compile` make kernels of a module's forward and backward pass, anew for every shape of a batch.

    They are kept on disk, so that the next run of the same shapes begins at once.
    """
    torch._dynamo.config.recompile_limit = 32  # shapes: two of labels, a few of documents, a last micro-batch
    module.compile(dynamic=False)


def make_ready(objective: Objective, config: TrainConfig, device: torch.device) -> None:
    """What a run's proofs are better without, so behind these: recomputed activations, products in TF32 on a GPU, and
    a compiled module.
    """
    if config.gradient_checkpointing:
        for model in objective.published().values():
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if device.type == "cuda" and config.mixed_precision == "no":
        torch.set_float32_matmul_precision("high")
        console.say("arithmetic: products of float32 are in TF32 (a mantissa of 10 bits)")
    if config.compile:
        compile_module(objective)
        console.say("compile: the first step takes a minute or so, as every new shape of a batch (--train.compile)")


def use_cores(threads: int | None) -> None:
    """Have this process compute on so many cores; `None`: its share, of which launchers leave one alone."""
    torch.set_num_threads(threads or _cpu_share())


def make_accelerator(config: PretrainConfig | FinetuneConfig) -> Accelerator:
    """The accelerator of a run; of its configuration the precision is resolved."""
    disable_progress_bar()  # transformers' own bars, which would fight with the run's
    warn_of_restarts()
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if training_device().type == "cpu":
        use_cores(config.train.cpu_threads)
        keep_freed_memory()
    return Accelerator(
        mixed_precision=config.train.mixed_precision,
        log_with=config.tracking.trackers or None,
        project_dir=config.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=datetime.timedelta(hours=1))],
    )


def train_batches(
    config: PretrainConfig | FinetuneConfig,
    phases: Phases,
    collator: Collator,
    accelerator: Accelerator,
    **more: Any,
) -> TrainBatches:
    """This process's share of the batches that a run learns from, as its configuration splits them."""
    return TrainBatches(
        phases,
        collator,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        workers=config.train.workers,
        pin_memory=accelerator.device.type == "cuda",
        **more,
    )


def _cpu_share() -> int:
    """Cores for each of this machine's processes."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step instead of giving it back to the kernel.

    A step frees and allocates the same activations as the last one. By default those above 32 MB and the top of the
    heap go back in between, and every page is faulted in and zeroed anew: a tenth to a fifth of a step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def end_run(accelerator: Accelerator, last: bool) -> None:
    """End a run's trackers, and the process group too where no other run follows in this process."""
    if last:
        accelerator.end_training()
    else:
        for tracker in accelerator.trackers:
            tracker.finish()


def describe_hardware(accelerator: Accelerator) -> str:
    """Such as `"2 processes on AMD EPYC (2 threads each), bf16"`."""
    if accelerator.device.type == "cuda":
        name = torch.cuda.get_device_name(accelerator.device)
    else:
        name = f"{platform.machine()} {accelerator.device.type} ({console.counted(torch.get_num_threads(), 'thread')})"
    many = f"{accelerator.num_processes} processes on " if accelerator.num_processes > 1 else ""
    return f"{many}{name}, {describe_precision(accelerator)}"


def describe_precision(accelerator: Accelerator) -> str:
    """Of the matrix products: `"bf16"`, `"fp16"`, or for `no` what it is on this device."""
    single = "float32 (TF32)" if accelerator.device.type == "cuda" else "float32"
    return str(accelerator.mixed_precision).replace("no", single)


def describe_exactness(
    config: PretrainConfig | FinetuneConfig, accelerator: Accelerator, *models: PreTrainedModel
) -> list[str]:
    """What the run stands on; whether stopped and resumed there it gives the same bits, or the same to rounding; and
    what makes its steps depend on how the batch is split, one line a reason.
    """
    device = accelerator.device.type
    if (device == "cpu" and accelerator.num_processes <= 2) or (device == "cuda" and config.train.deterministic):
        same = "the same bits"
    else:
        hint = "; --train.deterministic gives the same bits" if device == "cuda" else ""
        same = f"the same numbers to rounding{hint}"
    return [
        f"on {describe_hardware(accelerator)}; stopped and resumed here, the run gives {same}",
        *dict.fromkeys(f"  {c}" for model in models for c in split_caveats(model, accelerator.mixed_precision)),
    ]


def out_of_memory_advice(micro_batch: int) -> str:
    """What to do when micro-batches of this many rows do not fit."""
    if micro_batch == 1:
        return (
            "out of memory with micro-batches of one row; give --train.gradient_checkpointing, shorter sequences or a "
            "smaller model"
        )
    return (
        f"out of memory with micro-batches of {console.counted(micro_batch, 'row')}; give --train.micro_batch_size "
        f"{micro_batch // 2}, which does not change the result, or --train.gradient_checkpointing"
    )


@contextlib.contextmanager
def evaluating(config: PretrainConfig | FinetuneConfig) -> Iterator[None]:
    """Around an evaluation in batches of `evaluation.batch_size`: a sentence where they do not fit into memory.

    Raises:
        UserError: that.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows, micro_batch = config.evaluation.batch_size, config.train.micro_batch_size
        if rows in (1, micro_batch):  # as is derived: the evaluation's goes down with it
            raise UserError(out_of_memory_advice(rows)) from None
        raise UserError(
            f"out of memory in an evaluation of {console.counted(rows, 'row')} at once; give --evaluation.batch_size "
            f"{rows // 2}, which does not change the result"
        ) from None
