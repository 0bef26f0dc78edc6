import json
import sys

import matplotlib.figure
import pytest
from matplotlib.text import Text

from nlp_ssl.core.errors import UserError
from nlp_ssl.publishing import plots
from nlp_ssl.publishing.curves import plot_curves, read_log
from nlp_ssl.publishing.tables import format_table


def step(number: int, loss: float = 1.0) -> dict:
    return {"event": "step", "step": number, "loss": loss, "lr": 1e-3, "tokens": number * 100}


def evaluation(number: int, loss: float = 1.0) -> dict:
    return {"event": "evaluation", "step": number, "held_out_loss": loss}


def write(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was last saved, to read its lines back from matplotlib."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


def line(figure, label: str, axes: int = 0) -> list[tuple[float, float]]:
    (found,) = [line for line in figure.axes[axes].lines if line.get_label() == label]
    return [(float(x), float(y)) for x, y in found.get_xydata()]


@pytest.mark.parametrize(
    "labels", [["price_$10_to_$20", "price_$20_to_$50"], ["$5-$10", "a^b$x_1$"], ["$\\frac$", "&"]]
)
def test_dollars_in_a_label_are_dollars(labels, tmp_path, drawn):
    assert plots.plot_confusion([(0, 1), (1, 1)], labels, tmp_path / "confusion.png") == tmp_path / "confusion.png"
    texts = [text for text in drawn[-1].findobj(Text) if text.get_text() in labels]
    assert {text.get_text() for text in texts} == set(labels)
    assert not any(text.get_parse_math() for text in texts)


def test_a_picture_that_fails_is_said_and_ends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda *a, **k: 1 / 0)
    assert plots.plot_confusion([(0, 1)], ["a", "b"], tmp_path / "confusion.png") is None
    assert plot_curves(write(tmp_path / "log.jsonl", [step(10)]), tmp_path / "curves.png") is None
    assert "the picture of confusion could not be made (ZeroDivisionError" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


# -- the log ----------------------------------------------------------------------------------------------------------


def test_a_line_cut_off_at_the_end_is_left_out(tmp_path):
    rows = [step(10), evaluation(10)]
    full = json.dumps(step(20))
    for cut in range(len(full)):
        assert read_log(write(tmp_path / "log.jsonl", rows, tail=full[:cut])) == rows
    assert read_log(write(tmp_path / "log.jsonl", rows, tail=full)) == [*rows, step(20)]


@pytest.mark.parametrize("broken", ["{'event': 1}", "[1]", '{"event": "st'])
def test_a_broken_line_in_the_middle_is_named(tmp_path, broken):
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(step(10))}\n{broken}\n{json.dumps(step(20))}\n")
    with pytest.raises(UserError, match=r"log\.jsonl, line 2"):
        read_log(path)


def test_a_missing_log_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="there is no log"):
        read_log(tmp_path / "log.jsonl")


# -- the curves -------------------------------------------------------------------------------------------------------


def test_the_picture_shows_the_logged_numbers(tmp_path, drawn):
    rows = [evaluation(0, 9.0), step(10, 8.0), step(20, 7.0), evaluation(20, 7.5), step(30, 6.5), step(40, 6.0)]
    log, png = write(tmp_path / "log.jsonl", [*rows, evaluation(40, 6.25)]), tmp_path / "curves.png"
    assert plot_curves(log, png, {"unigram entropy": 6.04}) == png
    assert png.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("*.tmp")) == []
    (figure,) = drawn
    assert line(figure, "training") == [(1000, 8.0), (2000, 7.0), (3000, 6.5), (4000, 6.0)]
    assert line(figure, "held out") == [(0, 9.0), (2000, 7.5), (4000, 6.25)]
    assert {text.get_text() for text in figure.axes[0].texts} == {"6.25", "unigram entropy 6.04"}
    assert [y for _, y in figure.axes[1].lines[0].get_xydata()] == [1e-3] * 4


def test_a_resumed_run_shows_only_the_steps_that_the_model_took(tmp_path, drawn):
    first = [step(10, 8.0), step(20, 7.0), evaluation(20, 7.1), step(30, 99.0), evaluation(30, 99.0), step(40, 99.0)]
    second = [evaluation(20, 7.2), step(30, 6.0), evaluation(30, 6.1)]
    plot_curves(write(tmp_path / "log.jsonl", first + second), tmp_path / "curves.png")
    assert line(drawn[0], "training") == [(1000, 8.0), (2000, 7.0), (3000, 6.0)]
    assert line(drawn[0], "held out") == [(2000, 7.2), (3000, 6.1)]


def test_the_smoothed_curve_neither_lags_nor_bends_a_straight_descent(tmp_path, drawn):
    rows = [step(n, 5.0 - n / 100 + (0.1 if n % 2 else -0.1)) for n in range(300)]
    plot_curves(write(tmp_path / "log.jsonl", rows), tmp_path / "curves.png")
    assert len(line(drawn[0], "training, as logged")) == 300
    for (_, y), n in zip(line(drawn[0], "training"), range(300), strict=True):
        assert y == pytest.approx(5.0 - n / 100, abs=0.11 if n in (0, 299) else 0.04)


def test_losses_that_are_not_finite_leave_a_gap_and_nothing_to_draw_is_no_picture(tmp_path, drawn):
    log = write(tmp_path / "log.jsonl", [step(10, float("nan"))])
    assert plot_curves(log, tmp_path / "curves.png") is None
    assert not (tmp_path / "curves.png").exists()
    write(log, [step(10, float("nan")), step(20, 2.0), evaluation(20, float("inf"))])
    plot_curves(log, tmp_path / "curves.png")
    assert line(drawn[0], "training") == [(2000, 2.0)]


def test_without_matplotlib_it_says_how_to_install_it_once(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    plots._say_once.cache_clear()
    log = write(tmp_path / "log.jsonl", [step(10)])
    assert plot_curves(log, tmp_path / "curves.png") is None
    assert plot_curves(log, tmp_path / "curves.png") is None
    assert capsys.readouterr().out.count("pip install matplotlib") == 1


# -- the tables -------------------------------------------------------------------------------------------------------


def test_columns_are_aligned_numbers_to_the_right():
    rows = [
        {"model": "bert-tiny", "parameters": 4_386_178, "loss": 3.571234, "tied": True},
        {"model": "漢字", "loss": None, "tokens_per_second": 123456.7},
    ]
    assert format_table(rows).split("\n") == [
        "model      parameters   loss  tied  tokens_per_second",
        "---------  ----------  -----  ----  -----------------",
        "bert-tiny   4,386,178  3.571  yes                   -",
        "漢字                -      -  -               123,457",
    ]


@pytest.mark.parametrize("width", [80, 60])
def test_texts_are_cut_until_a_row_fits(width):
    rows = [
        {"row": 12, "text": "long " * 60, "true": "a", "other": "漢" * 50, "score": 0.5},
        {"row": 3, "text": "short"},
    ]
    lines = format_table(rows, width=width).split("\n")
    takes = [sum(2 if c == "漢" else 1 for c in line) for line in lines]
    assert width - 2 <= max(takes) <= width
    assert "…" in lines[2]
    assert "short " in lines[3]
    assert "long long" in lines[2]
    assert max(map(len, format_table(rows).split("\n"))) > 300


def test_numbers_and_names_are_never_cut():
    rows = [{f"a_long_name_of_a_number_{i}": 1 / 3 for i in range(6)}]
    assert format_table(rows, width=80) == format_table(rows)


def test_an_empty_table_is_empty():
    assert format_table([]) == ""
