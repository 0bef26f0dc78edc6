"""Try a model: type lines and see what it answers, in the terminal or on a local page.

    nlp-ssl try runs/mlm
    nlp-ssl try runs/classifier --text 'I liked it.' --text 'I did not.'
    nlp-ssl try runs/contrastive --against sentences.txt
    echo 'Paris is <mask>.' | nlp-ssl try runs/mlm
    nlp-ssl try runs/mlm --web

takes a folder or an id of the Hub. A masked model fills masks, a causal one continues, a classifier or tagger labels, a
model of vectors finds neighbours: what the model is for is read off its folder. Ctrl-D or Ctrl-C leaves. Input that is
not a terminal is read to its end, one line of answer for each line.
"""

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_ssl.core import console, program
from nlp_ssl.core.errors import Interrupted, UserError
from nlp_ssl.core.signals import interrupts
from nlp_ssl.publishing.pushed import model_in

if TYPE_CHECKING:
    from nlp_ssl.trying.answers import Answerer
    from nlp_ssl.trying.terminal import Screen

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass
class TryConfig:
    """Which model, and what it is asked."""

    folder: str
    """A finished run, one of its checkpoints, or an id of the Hub."""
    text: list[str] = field(default_factory=list)
    """Texts to answer, instead of lines that are typed."""
    against: str | None = None
    """A file of texts, one per line, among which neighbours are looked for."""
    top: int = 5
    """How many guesses, classes or neighbours are shown."""
    web: bool = False
    """Answer on a local page."""
    port: int | None = None
    """Of that page; a free one when `None`."""


def main(config: TryConfig) -> None:
    """Answer, until there is nothing more to answer."""
    try:
        _try(config)
    except Interrupted:
        if interrupts.reason != "SIGINT":
            raise
        console.write("\n")  # Ctrl-C leaves; the shell continues in a line of its own


def _try(config: TryConfig) -> None:
    if config.web:
        _check_gradio()
    others = _lines(Path(config.against)) if config.against is not None else None
    answerer = load(config.folder, config.top)
    if others is not None and not answerer.compares:
        raise UserError(f"--against is for models of vectors, and {config.folder} {answerer.task}; leave it out")
    if config.web:
        _serve(config, answerer, others)
    elif config.text:
        screen = _screen() if _is_terminal(sys.stdout) else None
        for text in config.text:
            _answer(answerer, text, config.text if others is None else others, screen)
    else:
        _converse(config, answerer, others)


def load(name: str, top: int = 5) -> "Answerer":
    """Load a model from a folder or the Hub.

    Raises:
        UserError: there is none, or none that answers texts.
    """
    _check_folder(name)
    from transformers.utils import logging

    from nlp_ssl.core.network import hub_answers
    from nlp_ssl.data.tokens.tokenizer import load_tokenizer
    from nlp_ssl.models.loading import find_config, readable_weights
    from nlp_ssl.trying.answers import CannotAnswer, open_model

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    cached_only = not Path(name).is_dir() and not hub_answers()
    try:
        find_config(name)
    except UserError as error:
        if Path(name).is_dir() or "Python code" in str(error):
            raise
        reason = "the Hub cannot be reached" if cached_only else "the Hub has no such model, or keeps it private"
        raise UserError(f"there is no folder {name}, and {reason}; give a finished run or an id of the Hub") from None
    with contextlib.redirect_stdout(sys.stderr):  # where answers go, only answers go
        tokenizer = load_tokenizer(name)
        try:
            with readable_weights(name):
                return open_model(name, tokenizer=tokenizer, top=top, cached_only=cached_only)
        except CannotAnswer as error:
            raise UserError(f"{error}") from None


def _check_folder(name: str) -> None:
    """Say of a folder without a model which one has one.

    Raises:
        UserError: it has none, or there is no such folder.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        there, is_checkpoint = model_in(folder)
        advice = f"try {there}" if there else "give a finished run, or one of its checkpoints"
        if is_checkpoint:
            advice = f"its run is not finished: try its newest checkpoint, {there}"
        raise UserError(f"{folder} holds no model (no config.json); {advice}")
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder of a model")
    if not folder.exists() and not HUB_ID.fullmatch(name):
        raise UserError(f"there is no folder {name}; give a finished run, one of its checkpoints, or an id of the Hub")


# ---------------------------------------------------------------------------------------------------------------------
# lines


def _converse(config: TryConfig, answerer: "Answerer", against: list[str] | None) -> None:
    """Answer lines that are typed, or come through a pipe."""
    from nlp_ssl.trying.answers import describe

    typed: list[str] = []
    about, hint = describe(answerer), answerer.hint
    is_typed = _is_terminal(sys.stdin) and _is_terminal(sys.stdout)
    screen = _screen() if is_typed else None
    if is_typed:
        console.say(f"{about} (Ctrl-D leaves); {hint}")
        if (Path(config.folder) / "generator" / "config.json").is_file():
            console.say(f"{Path(config.folder) / 'generator'} is a model too, which fills masks")
    else:
        console.note(f"{about}; {hint}")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(
            errors="replace"
        )  # a line that is not UTF-8 costs its characters, not the lines behind it
    for line in _typed() if is_typed else sys.stdin or ():
        text = line.rstrip("\r\n")
        if not text.strip():
            console.write("" if is_typed else "\n")
            continue
        _answer(answerer, text, typed if against is None else against, screen)
        typed.append(text)


def _typed() -> Iterator[str]:
    """Lines of a person, with a prompt, edited as in a shell."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` uses it
    while True:
        try:
            yield input("> ")
        except EOFError:
            console.write("\n")
            return


def _answer(answerer: "Answerer", text: str, others: Iterable[str], screen: "Screen | None") -> None:
    """Print what a model says of a text: on a screen, where a person sits, or else in a line."""
    from nlp_ssl.trying.terminal import one_line

    if screen is None:
        console.write(one_line(answerer.answer(text, list(others))) + "\n")
    elif answerer.streams:
        console.write("  ")
        answer = answerer.answer(text, list(others), lambda part: console.write(console.printable(part)))
        console.write("\n" + screen.show(answer, streamed=True))
    else:
        console.write(screen.show(answerer.answer(text, list(others))))


def _screen() -> "Screen":
    from nlp_ssl.trying.terminal import Screen

    coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Screen(coloured=coloured, blocks="utf" in (sys.stdout.encoding or "").lower())


def _is_terminal(stream: Any) -> bool:
    return stream is not None and not stream.closed and bool(stream.isatty())


def _lines(path: Path) -> list[str]:
    """The texts of a file, one per line, without empty ones.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"--against {path} cannot be read ({reason}); give a file of texts, one per line") from None
    if not lines:
        raise UserError(f"--against {path} holds no texts; write one per line")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# the page


def _check_gradio() -> None:
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio, which is not installed: pip install gradio")


def title_of(name: str) -> str:
    """The name of a model: that of its folder, wherever it lies, or its id of the Hub."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _serve(config: TryConfig, answerer: "Answerer", against: list[str] | None) -> None:
    """Answer on a page of this machine, until this process is asked to stop."""
    from nlp_ssl.trying.answers import describe
    from nlp_ssl.trying.app import launch, page

    built = page(answerer, title=title_of(config.folder), about=describe(answerer), against=against)
    try:
        _, address, _ = launch(built, server_name="127.0.0.1", server_port=config.port, prevent_thread_lock=True)
    except OSError:
        raise UserError(f"port {config.port} is taken, or none is free; give another --port") from None
    console.say(f"{describe(answerer)}: {address} (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    finally:
        built.close(verbose=False)


# ---------------------------------------------------------------------------------------------------------------------
# options


def options() -> TryConfig:
    """Read the command line.

    Raises:
        UserError: an unknown option, a value of the wrong kind, no model.
    """
    parser = program.Parser(__doc__)
    add = parser.add_argument
    add("folder", nargs="?", metavar="FOLDER", help="a finished run, one of its checkpoints, or an id of the Hub")
    add("--text", action="append", default=[], help="answer this text and end; may be repeated")
    add("--against", metavar="FILE", help="texts, one per line, among which neighbours are looked for")
    add("--top", type=int, default=5, metavar="N", help="guesses, classes or neighbours that are shown (5)")
    add("--web", action="store_true", help="answer on a page of this machine (pip install gradio)")
    add("--port", type=int, metavar="N", help="of that page; a free one by default")
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    given = parser.parse_args()
    if given.folder is None:
        raise UserError("say which model: its folder, such as runs/mlm, or an id of the Hub")
    if given.top < 1:
        raise UserError(f"--top is {given.top}; it must be at least 1")
    if given.port is not None and not 1 <= given.port <= 65535:
        raise UserError(f"--port is {given.port}; it must lie between 1 and 65535")
    if given.web and given.text:
        raise UserError("--text is answered here and --web is a page; give one of them")
    return TryConfig(**vars(given))


if __name__ == "__main__":
    program.run(main, options)
