"""How a recipe's process begins and ends: its options, its sentence, its exit code.

It exits 0 when it finished, 2 on a user's mistake (one sentence, last, no stack trace) and 75 when it was stopped and
can be resumed; anything else is a bug of ours and keeps its stack trace. Below that sentence launchers print a stack
trace of their own, and it says so.
"""

import argparse
import atexit
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from nlp_ssl.core import console, invocation
from nlp_ssl.core.cache import make_private
from nlp_ssl.core.errors import Interrupted, PeerGone, UserError
from nlp_ssl.core.files import advice
from nlp_ssl.core.invocation import this_program
from nlp_ssl.core.memory import memory_advice
from nlp_ssl.core.signals import AGAIN, NATIVE, SIGNALS, interrupts

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again


class Parser(argparse.ArgumentParser):
    """Of programs with a handful of options, and none of a run's; mistakes in them are a `UserError`.

    Args:
        description: of the program, with its examples; its lines stay as they are.
    """

    def __init__(self, description: str | None) -> None:
        kept = argparse.RawDescriptionHelpFormatter
        super().__init__(this_program(), description=description, formatter_class=kept, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise UserError(f"{message}; see --help")


def run(main: Callable[[Any], Any], parse: Callable[[], Any]) -> None:
    """Run a recipe: parse its configuration, call `main(config)`, and exit with the code its outcome deserves."""
    console.protect()
    interrupts.listen()  # to the end: a late signal must not change the exit code
    interrupts.watch_launcher()
    make_private()
    atexit.register(gc.freeze)  # a process that ends need not look for garbage among a million objects: a second less
    try:
        config = parse()
        interrupts.again = _again(config)
        main(config)
    except PeerGone as error:
        if console.rank() == 0:
            console.fail(str(error))
        sys.exit(1)
    except (Interrupted, KeyboardInterrupt) as stop:
        for number in set(SIGNALS) - {signal.SIGINT}:  # another must not end the interpreter's end with another code
            signal.signal(number, signal.SIG_IGN)
        interrupts.tell(interrupts.reason)
        console.say(f"{stop}{_below()}")
        sys.stderr.flush()
        if isinstance(stop, KeyboardInterrupt) or any(thread.name == NATIVE for thread in threading.enumerate()):
            os._exit(EXIT_INTERRUPTED)  # at once; native work would hold up the interpreter's end, or crash in it
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else advice(error) or memory_advice(error)
        if sentence is None:
            raise
        if console.rank() != 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # rank 0 says it; the launcher ends this process meanwhile
            time.sleep(3)
        console.fail(f"{sentence}{_below()}")
        sys.exit(EXIT_USER_ERROR)


def _again(config: Any) -> str:
    """What continues a program that was stopped, in words."""
    resume = getattr(config, "resume", None)
    return AGAIN if resume is None or resume.enabled else f"{AGAIN} with --resume"


def _below() -> str:
    """What to make of the stack trace that the launcher prints, where there is one; said once."""
    launcher = invocation.launcher() if console.rank() == 0 else None
    if launcher is None:
        return ""
    alone = f"; `{invocation.this_program()}` starts it without" if console.world_size() == 1 else ""
    return f" (the stack trace that {launcher} prints below says nothing else{alone})"
