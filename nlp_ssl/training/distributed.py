"""The processes of a run: their turns, what they agree on over the host, and what it looks like when one is gone."""

import datetime
import functools
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from nlp_ssl.core import console


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


_turns = itertools.count()  # every process takes the same turns in the same order


def rank_zero_first(work: Callable[[], Any]) -> Any:
    """Do what leaves its result on disk: first rank 0, then one process per machine, then the others, who find it.

    The others wait on the launcher's key-value store, outside any process group, so no collective times out however
    long it takes. If rank 0 fails, the launcher ends them.
    """
    if console.world_size() == 1:
        return work()
    store, rank = _store()
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    node = os.environ.get("GROUP_RANK", "0")
    key = f"nlp_ssl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_turns)}"
    if rank != 0:
        while not store.check([f"{key}/rank0" if first_here else f"{key}/node{node}"]):
            time.sleep(0.1)  # not store.wait, in which no signal is noticed
    result = work()
    if rank == 0:
        store.set(f"{key}/rank0", "done")
    if first_here:
        store.set(f"{key}/node{node}", "done")
    return result


@functools.cache  # without a launcher's agent rank 0 serves it, so it must live as long as the process
def _store() -> tuple[dist.Store, int]:
    return next(dist.rendezvous("env://", timeout=datetime.timedelta(days=30)))[:2]
