"""What the processes of a run agree on between steps, on the host; and what it looks like when one of them is gone."""

import functools

import torch
import torch.distributed as dist


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


def peer_is_gone(error: BaseException) -> bool:
    """Whether an error says no more than that another process could not be reached."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))
