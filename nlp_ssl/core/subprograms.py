"""Programs that a recipe runs beside each other; they stop when it is asked to, and when it is gone."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from nlp_ssl.core import console, program
from nlp_ssl.core.errors import Interrupted, UserError
from nlp_ssl.core.files import no_links
from nlp_ssl.core.signals import WATCHES_PARENT

SECONDS = 0.2  # between two looks at them


@dataclass(frozen=True)
class Program:
    """One of them.

    Attributes:
        name: for messages.
        arguments: its command line, of a recipe.
        log: gets what it prints.
        environment: more variables.
    """

    name: str
    arguments: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen:
        """Start it; it watches this process, and stops in good order when that is gone."""
        variables = os.environ | self.environment | {WATCHES_PARENT: "1"}
        with open(self.log, "w", opener=no_links, encoding="utf-8") as out:
            return subprocess.Popen(self.arguments, stdout=out, stderr=subprocess.STDOUT, env=variables)

    def last_line(self) -> str:
        """The end of what it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word"


def run_beside(programs: list[Program], at_once: int) -> None:
    """Run programs, this many at a time, to the end of all; one that fails does not stop the others.

    Raises:
        Interrupted: this process, or one of them, was asked to stop; each has saved what it had.
        UserError: one failed.
    """
    waiting, running, failed = list(programs), dict[subprocess.Popen, Program](), list[tuple[Program, int]]()
    try:
        while running or waiting:
            while waiting and len(running) < at_once:
                following = waiting.pop(0)
                running[following.start()] = following
            for process in [process for process in running if process.poll() is not None]:
                ended = running.pop(process)
                if process.returncode:
                    failed.append((ended, process.returncode))
                else:
                    console.say(f"{ended.name}: done")
            time.sleep(SECONDS)
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:  # they finish their step and save
            process.wait()
        raise
    for ended, code in failed:
        if code == program.EXIT_INTERRUPTED:
            raise Interrupted(f"{ended.name} was stopped; what was finished is kept: continue with --resume")
        raise UserError(f"{ended.name} failed: {ended.last_line()} (all of it: {ended.log})")
