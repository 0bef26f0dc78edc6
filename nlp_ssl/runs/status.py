"""How a run ends, in `run_status.json`, since launchers flatten exit codes."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from nlp_ssl.core import console, program, signals
from nlp_ssl.core.errors import Interrupted, PeerGone, UserError
from nlp_ssl.core.files import advice, make_folder, replace
from nlp_ssl.core.memory import is_out_of_memory
from nlp_ssl.core.restarts import restarts
from nlp_ssl.reports.record import STATUS_FILE, read_status
from nlp_ssl.training.device import out_of_memory_advice
from nlp_ssl.training.distributed import peer_is_gone

EXIT_CODES = {"finished": 0, "failed": program.EXIT_USER_ERROR, "interrupted": program.EXIT_INTERRUPTED}


def write_status(folder: Path, status: str, step: int, **more: Any) -> None:
    """Write `run_status.json`, on rank 0."""
    if console.rank() == 0:
        make_folder(folder)
        _write(folder, status, step, **more)


def note_interrupts_in(folder: Path) -> None:
    """Have a signal before training begins noted in this run's folder."""
    signals.interrupts.tell = lambda reason: note_interrupt(folder, reason)


def note_interrupt(folder: Path, reason: str | None) -> None:
    """Write that a run was interrupted, wherever it was; the step is the one that the file has."""
    with contextlib.suppress(OSError):
        write_status(folder, "interrupted", read_status(folder).get("step", 0), reason=reason)


@contextlib.contextmanager
def outcome(folder: Path, micro_batch: int, step: Callable[[], int | None]) -> Iterator[None]:
    """Whatever ends a run once it has begun, `run_status.json` says it.

    Args:
        folder: of the run.
        micro_batch: for advice when it did not fit.
        step: how far the run is; `None` when it has not begun, and the file is still that of the run before.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        if (reached := step()) is not None:
            _end(folder, "interrupted", reached, reason=signals.interrupts.reason)
        raise
    except Exception as error:
        if is_out_of_memory(error):
            error = UserError(out_of_memory_advice(micro_batch))
            _end(folder, "failed", step() or 0, error=str(error))
            raise error from None
        if (reached := step()) is None:
            raise
        if peer_is_gone(error):
            _end_with_peer(folder, reached)
        code = program.EXIT_USER_ERROR if isinstance(error, UserError) or advice(error) else 1
        _end(folder, "failed", reached, error=f"{type(error).__name__}: {error}", exit_code=code)
        raise


def _end(folder: Path, status: str, step: int, **more: Any) -> None:
    """Rank 0 writes how the run ended; so does the process that ends before the others, and alone knows why."""
    with contextlib.suppress(OSError):  # what ended the run may be a disk that takes this file neither
        if console.rank() == 0 or read_status(folder).get("status") == "running":
            _write(folder, status, step, **more)


def _end_with_peer(folder: Path, step: int) -> NoReturn:
    """End because another process has, with what that wrote of its end if it could."""
    status = read_status(folder)
    if status.get("status") == "interrupted":
        signals.interrupts.reason = reason = signals.interrupts.reason or status.get("reason")
        raise Interrupted(f"stopped with another process ({reason}): continue with --resume") from None
    if status.get("status") != "failed" or "error" not in status:
        status["error"] = "another process of the run has died without a word"
        _end(folder, "failed", step, error=status["error"], exit_code=1)
    raise PeerGone(f"{status['error']}; --resume continues from the newest checkpoint") from None


def _write(folder: Path, status: str, step: int, **more: Any) -> None:
    record = {"status": status, "step": step, "exit_code": EXIT_CODES.get(status), **restarts(), **more}
    replace(folder / STATUS_FILE, json.dumps(record, indent=1))
