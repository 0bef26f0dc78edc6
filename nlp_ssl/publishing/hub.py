"""Pushing model folders to the Hub while training continues; what fails is retried, reported, and never stops a run.

Only rank 0 makes a publisher.
"""

import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from nlp_ssl.core.console import progress, say, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.signals import interrupts
from nlp_ssl.publishing.repository import HubRepository


@dataclass(eq=False)
class _Push:
    folder: Path
    revision: str
    message: str
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class HubPublisher(HubRepository):
    """A repository that model folders are pushed to one after the other, in a background thread.

    Args:
        repo_id: `user/name`.
        options: as `HubRepository` takes them.
    """

    def __init__(self, repo_id: str, **options: Any) -> None:
        super().__init__(repo_id, **options)
        self._pushes: list[_Push] = []  # waiting, running or failed
        self._queue: queue.Queue[_Push] = queue.Queue()
        self._worker: threading.Thread | None = None
        self._quiet = True  # whether the client's own progress bars were off before we turned them off

    def push(self, folder: Path, *, revision: str = "main", message: str) -> None:
        """Queue a model folder for pushing, and return at once. See `holds` before deleting the folder.

        Args:
            folder: a Hub model folder; of what is in it, `model_files` says what is pushed.
            revision: branch to commit to; made from `main` if it is not there.
            message: the commit's message.
        """
        push = _Push(Path(folder).absolute(), revision, message)
        self._pushes = [old for old in self._pushes if old.error or not old.done.is_set()] + [push]
        self._queue.put(push)
        if self._worker is None:
            self._quiet = are_progress_bars_disabled()
            disable_progress_bars()  # the client's own bars would fight with the training bar
            # A daemon: a push that hangs must not keep a finished run from exiting.
            self._worker = threading.Thread(target=self._work, name="hub-publisher", daemon=True)
            self._worker.start()

    def holds(self, folder: Path) -> bool:
        """Whether a push of this folder is waiting or running, so that the folder must stay as it is."""
        return any(push.folder == Path(folder).absolute() and not push.done.is_set() for push in self._pushes)

    def finish(self, timeout: float = 600.0) -> list[str]:
        """Wait for the pushes that are under way, but not once the run was asked to stop.

        Args:
            timeout: seconds to wait at most; what is not pushed by then counts as failed.

        Returns:
            For every failed push whose folder still exists, the command that pushes it by hand (also printed).
        """
        deadline = time.monotonic() + timeout
        if waiting := [push for push in self._pushes if not push.done.is_set()]:
            if not self._quiet:
                enable_progress_bars()
            try:
                with progress(total=len(waiting), desc=f"push to {self.repo_id}", unit="push") as bar:
                    for push in waiting:
                        while not push.done.wait(min(0.5, max(0.0, deadline - time.monotonic()))):
                            bar.refresh()
                            if time.monotonic() >= deadline or interrupts.reason is not None:
                                break
                        bar.update(push.done.is_set())
            except KeyboardInterrupt:
                pass
        commands = []
        for push in self._pushes:
            if not push.done.is_set():
                push.error = "it was still under way when the run ended"
                push.done.set()
            if push.error and push.folder.is_dir():
                commands.append(self.command(push.folder, push.revision))
                warn(f"{push.revision} is not on the Hub ({push.error}); push it with\n  {commands[-1]}")
            elif push.error:
                warn(f"{push.revision} is not on the Hub ({push.error}), and its folder {push.folder} has been removed")
        self._pushes = []
        return commands

    def _work(self) -> None:
        while True:
            push = self._queue.get()
            if push.done.is_set():  # given up by `finish`
                continue
            failure = ""
            try:
                url = self.upload(push.folder, revision=push.revision, message=push.message, stop=push.done)
            except UserError as error:
                failure = str(error)
            except Exception as error:  # a bug in here may cost a push, never the worker or the run
                failure = f"{type(error).__name__}: {error}"
            if push.done.is_set():
                continue
            if failure:
                warn(f"could not push {push.revision} to {self.repo_id}: {failure}; the run continues")
            else:
                say(f"pushed {push.folder.name} to {url}")
            push.error = failure
            push.done.set()
