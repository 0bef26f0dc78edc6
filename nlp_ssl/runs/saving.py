"""When a run saves, and what it does when that fails."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nlp_ssl.config.common import CheckpointConfig
from nlp_ssl.core import console
from nlp_ssl.training.checkpoints import Checkpoints, SaveError
from nlp_ssl.training.tracking import Log

SAVE_SECONDS = 1800  # without --checkpoint.every, no more than this is lost
RETRY_SECONDS = 300  # until a save that failed is tried again


def is_due(step: int, every: int | None, total: int | None, parts: int, last: int = -1) -> bool:
    """Whether something that happens every N steps, or `parts` times in the run, happens after this step.

    Where `total` is an estimate that grows, a run comes to the same share of it again; so no two are closer than half
    a part, if it is known when it `last` happened.
    """
    if every is not None:
        return step % every == 0
    if total is None or (last >= 0 and 2 * parts * (step - last) < total):
        return False
    return step * parts // total > (step - 1) * parts // total


class Saver:
    """Saves a run while it trains. A full disk may have room again: a save that fails is said, and tried again.

    Args:
        checkpoints: where to.
        config: how often.
        log: records every checkpoint, and every save that failed.
        committed: called on rank 0 with a checkpoint that is on disk and its step.
        elapsed: seconds of training when the last checkpoint was made.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: CheckpointConfig,
        log: Log,
        committed: Callable[[Path, int], None],
        elapsed: float,
    ) -> None:
        self.checkpoints, self.config, self.log, self.committed = checkpoints, config, log, committed
        self.saved_at = self.elapsed = elapsed
        self.retry_at: float | None = None

    def is_due(self, step: int, total: int | None, elapsed: float, is_best: bool) -> bool:
        """At its cadence, at a new best evaluation, at the latest after half an hour, and again after a failure."""
        self.elapsed = elapsed
        best = self.config.keep_best and is_best
        overdue = self.config.every is None and elapsed - self.saved_at >= SAVE_SECONDS
        retry = self.retry_at is not None and elapsed >= self.retry_at
        return best or overdue or retry or is_due(step, self.config.every, total, 5)

    def save(self, step: int, *state: Any) -> None:
        """Start saving; see `Checkpoints.save`."""
        self.finish()
        self.saved_at, self.retry_at = self.elapsed, None
        self.checkpoints.save(step, *state)

    def commit(self, failed: bool) -> None:
        """Make a save that all processes have finished a checkpoint, or say that it failed."""
        with self._may_fail():
            self._note(self.checkpoints.commit(failed))

    def finish(self) -> bool:
        """Wait for the pending save, and make it a checkpoint; returns False if it failed."""
        done = False
        with self._may_fail():
            self._note(self.checkpoints.finish())
            done = True
        return done

    def _note(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            step = int(checkpoint.name.removeprefix("step-"))
            self.log.write("checkpoint", step, folder=checkpoint.name)
            self.committed(checkpoint, step)

    @contextlib.contextmanager
    def _may_fail(self) -> Iterator[None]:
        try:
            yield
        except SaveError as error:
            self.retry_at = self.elapsed + RETRY_SECONDS
            self.log.write("save_failed", error.step, error=str(error))
            console.warn(f"{error}; older checkpoints are kept, trying again in {RETRY_SECONDS // 60} minutes")
