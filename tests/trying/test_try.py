"""`nlp-ssl try` as a person has it: a pipe, a terminal, the wrong folder."""

import io
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import ROOT, environment, execute
from transformers import pipeline
from tried import ESCAPING

from nlp_ssl.core.errors import UserError
from nlp_ssl.trying.__main__ import TryConfig, load, main, options, title_of
from nlp_ssl.trying.answers import Answer, Piece, Ranking, open_model
from nlp_ssl.trying.terminal import Screen, one_line

MODULE = [sys.executable, "-m", "nlp_ssl.trying"]


def tried(*arguments: object, expect: int = 0, **variables: str) -> str:
    return execute([*MODULE, *map(str, arguments)], expect, cwd=ROOT, **variables)


# ---------------------------------------------------------------------------------------------------------------------
# lines


def test_a_pipe_gets_a_line_for_a_line_and_nothing_else(folder):
    lines = "kalo <mask> mi.\n\nno mask\nkalo \xe9 ___ \x1b[2J"  # the last one is not ended
    done = subprocess.run(
        [*MODULE, str(folder("masked")), "--top", "2"],
        input=lines.encode("latin-1"),
        capture_output=True,
        env=environment(),
        cwd=ROOT,
        check=True,
    )
    first, empty, without, last = done.stdout.decode().split("\n")[:-1]
    guesses = pipeline("fill-mask", str(folder("masked")), top_k=2)("kalo [MASK] mi.")
    assert first.endswith(" -> " + ", ".join(f"{each['token_str']} {each['score']:.0%}" for each in guesses))
    assert first.startswith("kalo [")
    assert empty == ""
    assert without.startswith("(write ___ or [MASK]")
    assert r"\x1b[2J" in last
    assert b"\x1b" not in done.stdout + done.stderr
    assert re.fullmatch(r"BertForMaskedLM, [\d,]+ parameters: fills masks; write .*\n", done.stderr.decode())


@pytest.mark.parametrize("leave", [b"\x04", b"\x03"])  # Ctrl-D, Ctrl-C
def test_a_terminal_has_a_prompt_and_colours_and_is_left_quietly(folder, leave):
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        command = [*MODULE, str(folder("tags"))]
        os.execve(command[0], command, environment() | {"TERM": "xterm", "PYTHONPATH": str(ROOT)})
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 4096).decode()

    wait_for("> ")
    os.write(terminal, b"kalo mi renva tus\n")
    wait_for("tus\r\n")
    seen = seen.rpartition("tus\r\n")[2]
    wait_for("> ")
    marked = [p for p in open_model(str(folder("tags"))).answer("kalo mi renva tus").pieces if p.label]
    assert marked
    for piece in marked:
        assert re.search(rf"\x1b\[1;\d\dm{piece.text}\x1b\[0m\x1b\[2m {piece.label}\x1b\[0m", seen)
    os.write(terminal, leave)
    while select.select([terminal], [], [], 10)[0]:
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError:  # the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(terminal)
    assert "Traceback" not in seen
    assert "stopped" not in seen


def test_piped_lines_are_answered_without_colour_where_a_terminal_shows_them(folder, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setattr("sys.stdin", io.StringIO("kalo\nmi\n"))
    main(TryConfig(str(folder("classes")), top=1))
    assert re.fullmatch(r"\S+ \d+%\n\S+ \d+%\n", shown.getvalue())
    shown.truncate(0)
    main(TryConfig(str(folder("classes")), ["kalo"], top=1))  # typed by a person, in the command
    assert "\x1b[1m" in shown.getvalue()


def test_texts_of_the_command_line_and_neighbours_in_a_file(folder, tmp_path):
    (tmp_path / "lines.txt").write_text("renva tus\n\nkalo mi\nva po\n")
    printed = tried(folder("mean"), "--text", "kalo mi va", "--text", "tus", "--against", tmp_path / "lines.txt")
    assert printed.count("\n") == 2
    lines = ["renva tus", "kalo mi", "va po"]
    for text, line in zip(("kalo mi va", "tus"), printed.splitlines(), strict=True):
        (ranking,) = open_model(str(folder("mean"))).answer(text, lines).rankings
        assert line == ", ".join(f"{name} {cosine:.2f}" for name, cosine in ranking.entries)


# ---------------------------------------------------------------------------------------------------------------------
# what is shown

SEVERAL = Answer(
    (Piece("a "), Piece("b\x1b[2J", "X\n"), Piece(" c"), Piece("d", "")),
    (Ranking((("u", 0.5), (ESCAPING, 0.25)), "mask 1"), Ranking((("v", -1.25),), unit="value")),
    ("cut",),
)


def test_an_answer_in_one_line():
    assert one_line(SEVERAL) == r"a [b\x1b[2J: X ] c[d] -> u 50%, neutral\x1b[31m 25% | v -1.25 -> (cut)"


def test_an_answer_on_a_screen_has_bars_and_obeys_nothing():
    shown = Screen(coloured=False, blocks=True).show(SEVERAL)
    assert "\x1b" not in shown
    assert shown.splitlines()[-5:] == [
        "  mask 1:",
        "  u                  50%  ████████████",
        r"  neutral\x1b[31m    25%  ██████",
        "  v  -1.25",
        "  (cut)",
    ]
    coloured = Screen(coloured=True, blocks=False).show(SEVERAL)
    assert set(re.findall(r"\x1b\[[\d;]*[a-zA-Z]", coloured)) <= {
        "\x1b[1m",
        "\x1b[2m",
        "\x1b[0m",
        "\x1b[1;33m",
        "\x1b[1;36m",
    }
    assert "############" in coloured


# ---------------------------------------------------------------------------------------------------------------------
# mistakes


def test_a_page_is_titled_by_the_model_and_not_by_the_way_to_it(tmp_path, monkeypatch):
    (tmp_path / "ner").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert [title_of(name) for name in ("../ner", "../ner/", ".", "user/name")] == ["ner", "ner", "here", "user/name"]


def test_a_wrong_folder_is_a_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "runs").mkdir()
    said = tried(tmp_path / "runs", expect=2)
    assert (
        said
        == f"error: {tmp_path}/runs holds no model (no config.json); give a finished run, or one of its checkpoints\n"
    )


def test_an_unfinished_run_has_its_newest_checkpoint_named(folder, tmp_path):
    for step in (10, 200):
        shutil.copytree(folder("masked"), tmp_path / "checkpoints" / f"step-{step:08d}")
    with pytest.raises(UserError, match=r"not finished: try its newest checkpoint, .*/checkpoints/step-00000200"):
        load(str(tmp_path))
    assert load(str(tmp_path / "checkpoints" / "step-00000200")).task == "fills masks"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such/folder", "there is no folder no/such/folder; give a finished run"),
        ("./nothing", "there is no folder ./nothing; give a finished run"),
        ("somebody/model", "there is no folder somebody/model, and the Hub cannot be reached"),
        ("README.md", "README.md is a file; give the folder of a model"),
    ],
)
def test_what_is_not_there(name, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("nlp_ssl.core.network.hub_answers", lambda: False)
    monkeypatch.setattr("nlp_ssl.models.loading.hub_answers", lambda: False)
    with pytest.raises(UserError, match=said):
        load(name)


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_folder(folder, tmp_path, spoilt):
    shutil.copytree(folder("masked"), tmp_path / "model")
    (tmp_path / "model" / spoilt).write_bytes(b"{")
    with pytest.raises(UserError):
        load(str(tmp_path / "model"))


def test_a_model_that_answers_no_texts(folder, tmp_path):
    shutil.copytree(folder("masked"), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("BertForMaskedLM", "BertForMultipleChoice"))
    with pytest.raises(UserError, match="is a BertForMultipleChoice, and only models that read and write text"):
        load(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which model"),
        (["x", "--top", "0"], "--top is 0"),
        (["x", "--top", "many"], "invalid int value"),
        (["x", "--port", "70000"], "--port is 70000"),
        (["x", "--tex", "a"], "unrecognized arguments: --tex"),
        (["x", "--web", "--text", "a"], "give one of them"),
    ],
)
def test_options_that_cannot_be(arguments, said, monkeypatch):
    monkeypatch.setattr("sys.argv", ["try", *arguments])
    with pytest.raises(UserError, match=said):
        options()


def test_a_file_of_neighbours_that_cannot_be(folder, tmp_path, monkeypatch):
    (tmp_path / "latin").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "empty").write_text("\n")
    for name, said in (("no", "No such file"), ("latin", "not UTF-8"), ("empty", "holds no texts")):
        with pytest.raises(UserError, match=said):
            main(TryConfig(str(folder("mean")), against=str(tmp_path / name)))
    (tmp_path / "lines").write_text("a\n")
    with pytest.raises(UserError, match=r"--against is for models of vectors, and .* fills masks"):
        main(TryConfig(str(folder("masked")), against=str(tmp_path / "lines")))


def test_a_page_without_gradio_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs Gradio, which is not installed: pip install gradio"):
        main(TryConfig("runs/mlm", web=True))


def test_the_shell_is_told_the_name_that_was_typed():
    command = Path(sys.executable).with_name("nlp-ssl")
    program = "import sys; sys.argv[1:] = ['try', '--help']; from nlp_ssl.__main__ import main; main()"
    assert execute([sys.executable, "-c", program], cwd=ROOT).startswith("usage: python -m nlp_ssl.trying")
    if command.exists():
        assert execute([sys.executable, str(command), "try", "--help"], cwd=ROOT).startswith("usage: nlp-ssl try")
