"""Where the numbers of a run go: `log.jsonl` always, and the trackers that were asked for, through Accelerate."""

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
    """One JSON object a line, on rank 0: `{"event": "step", "step": 10, "loss": 5.1, ...}`.

    Args:
        path: the file.
        resume_at: keep the lines up to this step and go on after them; `None` begins a new file.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        self.path, self.waiting = path, ""
        self.cut(resume_at)

    def cut(self, last_step: int | None) -> None:
        """Keep the lines up to a step, or none; complete under its name at every moment."""
        if rank() != 0:
            return
        kept = []
        if last_step is not None and self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:  # the line being written when the process was killed
                    continue
                if event.get("step", 0) <= last_step:
                    kept.append(line + "\n")
        replace(self.path, "".join(kept))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append a line, or keep it in memory until the disk has room for it."""
        if rank() != 0:
            return
        first, size = not self.waiting, self.path.stat().st_size
        self.waiting += json_line(event=event, step=step, **values)
        try:
            with open(self.path, "a") as f:
                f.write(self.waiting)
            self.waiting = ""
        except OSError as error:
            os.truncate(self.path, size)  # no half a line
            if first:
                warn(f"{self.path}: {error.strerror}; its lines wait in memory until they can be written")

    def ensure(self, event: str, step: int, **values: Any) -> None:
        """Append a line unless the log has one of this event and step."""
        if rank() == 0:
            lines = map(json.loads, self.path.read_text().splitlines())
            if not any((line["event"], line["step"]) == (event, step) for line in lines):
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
            raise UserError(f"--tracking.trackers: {name} is not installed; pip install 'nlp_ssl[{name}]'")


def start_trackers(accelerator: Accelerator, config: TrackingConfig, run_name: str, settings: dict[str, Any]) -> None:
    """Start the trackers that the accelerator was made with."""
    if config.trackers:
        flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
        kwargs = {name: {"name": config.run_name or run_name} for name in config.trackers if name != "tensorboard"}
        accelerator.init_trackers(config.project, config=flat, init_kwargs=kwargs)
