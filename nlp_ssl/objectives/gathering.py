"""Rows of all processes in one tensor, where processes may have different numbers of them."""

import torch
import torch.distributed as dist
from accelerate.utils import gather
from torch import Tensor


@torch.no_grad()
def gather_rows(own: Tensor) -> tuple[Tensor, list[int]]:
    """The rows of all processes, those of the first one first; every process must call this.

    Args:
        own: (N, ...), this process's; N may differ between processes.

    Returns:
        All of them, without gradient, and how many each process has.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own, [len(own)]
    sizes = gather(torch.tensor([len(own)], device=own.device)).tolist()
    padded = own.new_zeros((max(sizes), *own.shape[1:]))
    padded[: len(own)] = own
    everyones = gather(padded).split(max(sizes))
    return torch.cat([each[:size] for each, size in zip(everyones, sizes, strict=True)]), sizes
