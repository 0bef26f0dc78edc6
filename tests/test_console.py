"""What is said is best effort, and shows what a terminal would obey."""

import importlib.util
import io
import os
import subprocess
import sys

import pytest

from nlp_ssl.core import console
from nlp_ssl.runs.run import shown


def test_what_a_terminal_would_obey_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b]0;HACKED\x07b\r\n\tc \u202egnp.exe \x9b2J é 日本")
    console.warn("\x1b[2J")
    console.fail("\x1b[2J")
    list(console.progress([1], desc="\x1b[2J"))
    said = capsys.readouterr()
    assert said.out == "a\\x1b]0;HACKED\\x07b\\r\n\tc \\u202egnp.exe \\x9b2J é 日本\n"
    assert "warning: \\x1b[2J\n" in said.err
    assert "error: \\x1b[2J\n" in said.err
    assert "\x1b[2J" not in said.err


@pytest.mark.parametrize("how", ["broken pipe", "full", "closed", "none", "latin-1"])
def test_no_line_and_no_bar_raises(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = broken(how)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    console.say("before a recipe begins")
    console.protect()
    for each in console.progress(range(3), desc="日本"):
        console.say(f"日本 {each}")
        console.warn("日本" * 10_000)
    console.fail("日本")
    print("日本", flush=True)  # as other libraries do
    if how == "latin-1":
        assert b"\\u65e5\\u672c 2\n" in stream.buffer.getvalue()


def broken(how: str) -> io.TextIOWrapper | None:
    """A stream that takes nothing, or not everything."""
    if how == "none":
        return None
    if how == "latin-1":
        return io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    if how == "broken pipe":
        reading, writing = os.pipe()
        os.close(reading)
        return os.fdopen(writing, "w")
    stream = open("/dev/full", "w")  # noqa: SIM115
    if how == "closed":
        stream.close()
    return stream


def test_lines_above_a_bar_do_not_cut_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.protect()
    bar = console.progress(total=2, desc="train")
    console.say("a line")
    bar.close()
    assert "a line\n" in capsys.readouterr().out


def test_a_bar_without_a_total_begins_with_the_first_unit(capsys: pytest.CaptureFixture[str]) -> None:
    bar = console.progress(desc="train", unit="step")
    assert "train" not in capsys.readouterr().err
    bar.total = 2
    bar.start_t -= 1
    bar.last_print_t -= 60
    bar.update(1)
    assert "1/2 [" in capsys.readouterr().err
    bar.close()
    bar = console.progress(total=2, desc="train", unit="step")
    assert "? step/s" in capsys.readouterr().err
    bar.close()


def test_numbers_of_an_evaluation_are_whole_where_they_count():
    assert [shown(number) for number in (256, 1234, 0.5, 1.0)] == ["256", "1,234", "0.5000", "1.0000"]


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "file", "1 file"), (0, "run", "0 runs"), (2000, "thread", "2,000 threads"), (3, "class", "3 classes"),
        (2, "batch", "2 batches"), (5, "entry", "5 entries"), (2, "day", "2 days"), (1, "entry", "1 entry"),
        (1.0, "minute", "1 minute"), (0.5, "minute", "0.5 minutes"), (3.0, "minute", "3 minutes"),
    ],
)  # fmt: skip
def test_things_are_counted_in_english(count, noun, said):
    assert console.counted(count, noun) == said


NOTEBOOK = """
import sys, types, warnings
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
import nlp_ssl
import tqdm.auto
from nlp_ssl.core import console
assert list(console.progress(range(3), desc="count")) == [0, 1, 2]
console.say("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("ipywidgets") is not None, reason="with ipywidgets a notebook shows bars")
def test_a_notebook_without_widgets_shows_lines_alone() -> None:
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
