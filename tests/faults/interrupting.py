"""Starts recipes as a user does, waits until they are at some point, sends signals, and looks at what is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from forks import Fork
from launch import BIN, ROOT, command, environment, events

SECONDS = 20  # to end in, on a busy machine; alone it takes 2
STEPS = 50  # of the run that is stopped: several seconds of them
MARK = "NLP_SSL_TEST_RUN"  # in the environment of every process of a run, whoever its parent is


class Started:
    """A command line that runs, in a process group of its own.

    Args:
        arguments: the command line.
        log: a new file for what it prints.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log, self.mark = log, uuid.uuid4().hex
        with open(log, "w") as out:
            start = Fork if arguments[0] == sys.executable else subprocess.Popen  # launchers with all that is theirs
            self.process = start(
                arguments,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment() | {MARK: self.mark},
                start_new_session=True,
            )

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes():
            process.kill()
        self.process.wait()

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started by this command, directly or not."""
        found = []
        for process in psutil.process_iter():
            try:
                # a fork's environment is not to be seen from outside, its session is
                ours = os.getsid(process.pid) == self.process.pid or process.environ().get(MARK) == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, ProcessLookupError, PermissionError):  # not ours, or just gone
                continue
        return found

    def names(self) -> set[str]:
        """What the processes are called."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # compilers come and go
                found.add(process.name())
        return found

    def recipe(self, rank: int = 0) -> psutil.Process:
        """The process that runs the recipe, as this rank: below the launchers, above loader workers."""
        found = [p for p in self.processes() if p.environ().get("RANK", "0") == str(rank)]
        found = [p for p in found if Path(ROOT, "recipes").as_posix() in " ".join(p.cmdline())]
        found = [p for p in found if not {"accelerate", "torchrun"} & {Path(part).name for part in p.cmdline()}]
        return min(found, key=psutil.Process.create_time)

    def wait_until(self, happened: Callable[[], Any], seconds: float = 120) -> None:
        """Wait for something to happen while the command runs."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"it ended too early, with {self.process.returncode}\n{self.printed}"
            assert time.monotonic() < deadline, f"it did not happen\n{self.printed}"
            time.sleep(0.01)

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the process that was started, or to its whole group."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def ends(self, within: float) -> int:
        """Wait until none of its processes is left; returns the exit code of the one that was started."""
        deadline = time.monotonic() + within
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there after {within} s: {left}\n{self.printed}"
            time.sleep(0.05)
        return self.process.wait(5)


def spoiled(how: str, recipe: str, *args: object, processes: int = 1) -> list[str]:
    """The command line of a recipe in a spoiled environment."""
    *start, path = command(recipe, processes=processes)
    return [*start, str(Path(__file__).with_name("spoiled.py")), how, path, *map(str, args)]


def accelerate_launch(recipe: str, *args: object) -> list[str]:
    return [str(BIN / "accelerate"), "launch", "--cpu", str(ROOT / "recipes" / recipe), *map(str, args)]


def status(out: Path) -> dict[str, Any]:
    """`run_status.json`."""
    return json.loads((out / "run_status.json").read_text())


def last_step(out: Path) -> int:
    """The last step in the log; 0 before there is one."""
    steps = events(out, "step") if (out / "log.jsonl").exists() else []
    return steps[-1]["step"] if steps else 0


def story(out: Path) -> tuple[list[tuple], list[tuple]]:
    """What a run that was never stopped has exactly the same: its step lines and its evaluation lines."""
    names = ("step", "loss", "grad_norm", "lr", "tokens", "digest")
    steps = [tuple(event[name] for name in names) for event in events(out, "step")]
    evaluations = [
        tuple((key, value) for key, value in event.items() if key != "seconds") for event in events(out, "evaluation")
    ]
    return steps, evaluations


def assert_same_run(out: Path, whole: Path) -> None:
    """Same lines, same weights, same outcome."""
    assert story(out) == story(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert status(out) == status(whole)
    assert not list(out.rglob("*.tmp"))


def in_training(started: Started, out: Path, *, beyond: int = 0) -> Callable[[], bool]:
    """It has taken a step (and the log has no longer those that a run before took in vain)."""
    return lambda: "train:" in started.printed and last_step(out) > beyond


def in_evaluation(started: Started, out: Path, step: int) -> Callable[[], bool]:
    """The step is in the log, its evaluation not yet."""

    def happened() -> bool:
        evaluated = [event["step"] for event in events(out, "evaluation")]
        return "train:" in started.printed and last_step(out) == step and step not in evaluated

    return happened


def assert_interrupted(
    out: Path, started: Started, reason: str, *, step: int | None = None, launcher_complains: bool = False
) -> int:
    """The outcome is on disk and nobody had to read a stack trace; returns the step."""
    found = status(out)
    assert (found["status"], found["reason"], found["exit_code"]) == ("interrupted", reason, 75), started.printed
    assert step is None or found["step"] == step
    assert "--resume" in started.printed or "run the same command again" in started.printed
    assert launcher_complains or "Traceback" not in started.printed, started.printed
    return found["step"]
