"""Processes that help: they end with the one that started them, and a killed one ends it with a sentence."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any, Literal

from nlp_ssl.core.errors import UserError
from nlp_ssl.core.signals import block_signals_in_children


class WorkerPool(ProcessPoolExecutor):
    """A pool whose workers leave signals to this process, and end when it does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with block_signals_in_children():  # Python's resource tracker begins with the pool's semaphores
            super().__init__(*args, **kwargs)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """As `ProcessPoolExecutor`, which starts its processes here."""
        with block_signals_in_children():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def worker_pool(
    num_proc: int,
    what: str,
    advice: str,
    method: Literal["fork", "spawn"],
    initializer: Callable[..., None] | None = None,
    arguments: tuple = (),
) -> Iterator[WorkerPool]:
    """A pool whose processes are killed when an error or interrupt ends the block.

    Args:
        num_proc: processes.
        what: they are for, for the sentence.
        advice: what to do when one was killed.
        method: how they start.
        initializer: called in each of them, with `arguments`.

    Raises:
        UserError: the system has killed one, or has no memory for it.
    """
    others = set(active_children())
    with WorkerPool(num_proc, get_context(method), _begin, (initializer, arguments)) as pool:
        try:
            yield pool
        except BaseException as error:
            for process in set(active_children()) - others:
                process.kill()
            if isinstance(error, BrokenProcessPool | MemoryError):
                raise UserError(
                    f"a worker process of {what} was killed, out of memory? Run the same command again: {advice}"
                ) from None
            raise


def _begin(initializer: Callable[..., None] | None, arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
