"""Where the numbers of a run go: `log.jsonl` always, and the trackers that were asked for, through Accelerate."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from nlp_ssl.config.common import TrackingConfig
from nlp_ssl.core.console import rank, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace

TRACKERS = ("tensorboard", "trackio", "wandb")


class Log:
    """One JSON object per line, on rank 0: `{"event": "step", "step": 10, "loss": 5.1, ...}`.

    Once a run has begun, no disk ends it here: lines that cannot be written wait in memory.

    Args:
        path: the file.
        resume_at: keep the lines up to this step and continue after them; `None` begins a new file.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        self.path, self.waiting = path, ""
        self.whole: int | None = None  # bytes before half a line that a full disk left, and did not let go
        if rank() == 0:
            kept = [] if resume_at is None else self._up_to(resume_at)
            replace(self.path, "".join(json_line(**event) for event in kept))

    def cut(self, last_step: int) -> None:
        """Keep the lines up to a step; complete under its name at every moment."""
        if rank() != 0:
            return
        try:
            replace(self.path, "".join(json_line(**event) for event in self._up_to(last_step)))
            self.waiting, self.whole = "", None
        except OSError as error:
            warn(f"{self.path}: {error.strerror}; it keeps its lines of steps after {last_step:,}, which come again")

    def _up_to(self, last_step: int) -> list[dict[str, Any]]:
        """The lines up to a step, those in memory too, without any that cannot be read."""
        written = self.path.read_bytes() if self.path.exists() else b""
        lines = (written[: self.whole] + self.waiting.encode()).splitlines()
        found, broken = [], 0
        for number, line in enumerate(lines, start=1):
            try:
                event = json.loads(line)
            except ValueError:  # no JSON, or no UTF-8
                event = None
            if isinstance(event, dict) and isinstance(event.get("step", 0), int):
                found += [event] if event.get("step", 0) <= last_step else []
            else:  # the last one was being written when the process was killed
                broken += number < len(lines)
        if broken:
            warn(f"{self.path}: {broken:,} lines are damaged, and were left out of it")
        return found

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append a line, or keep it in memory until it can be written."""
        if rank() != 0:
            return
        first = not self.waiting
        self.waiting += json_line(event=event, step=step, **values)
        try:
            with open(self.path, "a", encoding="utf-8") as f:
                size = f.tell()
                self.whole = size if self.whole is None else min(size, self.whole)
                if self.whole < size:
                    f.truncate(self.whole)
                f.write(self.waiting)
            self.waiting, self.whole = "", None
        except OSError as error:
            with contextlib.suppress(OSError):
                if self.whole is not None:
                    os.truncate(self.path, self.whole)  # no half a line
                    self.whole = None
            if first:
                warn(f"{self.path}: {error.strerror}; its lines wait in memory until they can be written")

    def ensure(self, event: str, step: int, **values: Any) -> None:
        """Append a line unless the log has one of this event and step."""
        if rank() == 0 and not any(
            (line.get("event"), line.get("step")) == (event, step) for line in self._up_to(step)
        ):
            self.write(event, step, **values)


def json_line(**values: Any) -> str:
    """A line of JSON; numbers that are not finite are written as words, since JSON has none for them."""
    values = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(values) + "\n"


def check_trackers(config: TrackingConfig) -> None:
    """Raise `UserError` for a tracker that is unknown or not installed, before anything is done."""
    from importlib.util import find_spec

    for name in config.trackers:
        if name not in TRACKERS:
            raise UserError(f"--tracking.trackers: '{name}' is unknown; there are {', '.join(TRACKERS)}")
        if not find_spec(name):
            raise UserError(f"--tracking.trackers: {name} is not installed; pip install {name}")


def start_trackers(accelerator: Accelerator, config: TrackingConfig, run_name: str, settings: dict[str, Any]) -> None:
    """Start the trackers that the accelerator was made with."""
    if config.trackers:
        flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
        kwargs = {name: {"name": config.run_name or run_name} for name in config.trackers if name != "tensorboard"}
        accelerator.init_trackers(config.project, config=flat, init_kwargs=kwargs)
