"""The page of a run and of several: what a person reads in it, and what a hostile text cannot do to it."""

import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launch import TINY, environment, events, execute, run, write_corpus, write_labelled

from nlp_ssl.core.errors import UserError
from nlp_ssl.reports.comparison import comparison_page
from nlp_ssl.reports.figures import Line, draw_histogram, draw_lines, draw_points
from nlp_ssl.reports.record import Run, RunFacts, find_runs
from nlp_ssl.reports.run_report import run_page, write_report
from nlp_ssl.runs import reporting
from nlp_ssl.runs.reporting import Reporter, histogram

HOSTILE = [
    "<script>fetch('https://example.com')</script>",
    '"><img src=https://example.com/x.png onerror=alert(1)>',
    "]]></svg><style>*{display:none}</style>",
    "\x1b[2J\x07 and \u202e and $\\frac{1}{0}$",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Reader(HTMLParser):
    """The text of a page, the elements in it, and where its attributes lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.text, self.cells = [""], [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.elements[-1] != "style":
            self.text += data
        if self.elements[-1] in ("td", "th"):
            self.cells[-1] += data.strip()


def write_run(folder, log, facts=None, **files):
    """A run's folder as it lies on disk."""
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (facts or RunFacts()).write(folder)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def step(number, loss=1.0, **more):
    values = {"loss": loss, "lr": 1e-3, "tokens": 100 * number, "tokens_per_second": 50.0, "seconds": number}
    return {"event": "step", "step": number, **values, **more}


def evaluation(number, loss, **more):
    return {"event": "evaluation", "step": number, "held_out_loss": loss, **more, "seconds": 1.0}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run's folder, and what it said."""
    folder = tmp_path_factory.mktemp("runs")
    corpus, out = write_corpus(folder / "corpus"), folder / "mlm"
    return out, run("pretrain_mlm.py", "--data.sources", corpus, "--output_dir", out, *TINY, "--train.steps", 12)


def test_a_run_leaves_a_page_with_its_numbers(pretrained):
    out, said = pretrained
    page, last = Reader((out / "report.html").read_text()), events(out, "evaluation")[-1]
    assert f"report: {out / 'report.html'}" in said
    assert f"{last['held_out_loss']:.4g}" in page.cells
    assert "Finished after 12 steps." in page.text
    assert [page.cells[page.cells.index("train.steps") + i] for i in (1, 2, 3)] == ["12", "–", "given"]
    assert page.cells[page.cells.index("train.global_batch_size") + 3] == "derived"
    looked = [line.strip() for line in said.splitlines() if "(it was: " in line]
    assert looked
    assert all(line in page.cells for line in looked)
    facts = json.loads((out / "report.json").read_text())
    documents = page.cells[page.cells.index("Documents") + 1]
    assert sum(facts["lengths"]["counts"]) == int(documents.replace(",", ""))


def test_a_fine_tuned_classifier_has_confusions_and_errors_in_its_page(pretrained, tmp_path):
    (train, _), out = write_labelled(tmp_path), tmp_path / "run"
    arguments = ["--model.name", pretrained[0], "--data.train_file", train, "--train.epochs", 1, "--output_dir", out]
    said = run("finetune_classification.py", *arguments, "--train.cpu_threads", 1)
    page = Reader((out / "report.html").read_text())
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    counts = Counter((row["label"], row["predicted"]) for row in rows)
    shown = [str(counts[pair] or "") for pair in itertools.product(("cat", "other"), repeat=2)]
    at = page.cells.index("cat")  # after it the other column, and the rows
    assert page.cells[at : at + 8] == ["cat", "other", "cat", *shown[:2], "other", *shown[2:]]
    assert (
        f"only {len(rows)} validation rows: a share such as accuracy may be {100 / len(rows) ** 0.5:.0f} points off"
        in said
    )
    accuracy = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert f"{accuracy:.4g}" in page.cells


def test_the_first_numbers_are_those_of_the_finished_model(tmp_path):
    log = [evaluation(0, 5.0, accuracy=0.1), step(1), evaluation(1, 2.25, accuracy=0.625), step(2)]
    log.append(evaluation(2, 3.0, accuracy=0.875))  # of a part of the rows
    scores = [{"set": "validation", "accuracy": 0.75}, {"set": "test", "accuracy": 0.6875}]
    tuned, pretrained = RunFacts(metrics={"accuracy": "max"}, scores=scores), RunFacts(metrics={"held_out_loss": "min"})
    for name, facts, expected in (
        ("tuned", tuned, [("Accuracy", 0.75, "validation set"), ("Accuracy", 0.6875, "test set")]),
        ("last", pretrained, [("Held out loss", 3.0, "5 at step 0")]),
        ("kept", pretrained, [("Held out loss", 2.25, "5 at step 0")]),
    ):
        folder = write_run(tmp_path / name, log, facts)
        status = {"status": "finished", "step": 1 if name == "kept" else 2}
        (folder / "run_status.json").write_text(json.dumps(status))
        page = run_page(Run.read(folder))
        assert page.numbers[: len(expected)] == expected
        assert ("The evaluation of the model that was kept, at step 1" in Reader(page.html()).text) == (name == "kept")


def test_a_page_says_how_to_make_the_model_again_on_another_machine(tmp_path):
    settings = {"train.minutes": 3.0, "tokenizer.path": None}
    facts = RunFacts(program="pretrain_mlm", settings=settings, facts={"preset": "bert-tiny"}, total=77)
    folder = write_run(tmp_path / "run", [step(1)], facts)
    command = f"nlp-ssl pretrain-mlm --config {folder}/nlp_ssl_config.yaml --train.steps 77 --tokenizer.path {folder}"
    assert f"{command} --output_dir again" in Reader(run_page(Run.read(folder)).html()).text


def hostile_run(folder):
    text = HOSTILE[0]
    facts = RunFacts(
        program="pretrain_mlm", what="a model", settings={"data.sources": HOSTILE[1]}, facts={"corpus": HOSTILE[2]},
        changed=[["data.sources", HOSTILE[1], None, "given"]], reference={text: 2.0}, metrics={"held_out_loss": "min"},
        samples=[{"step": 1, "lines": HOSTILE}],
    )  # fmt: skip
    predictions = [
        {"set": "validation", "row": 0, "texts": {"text": text}, "label": HOSTILE[1], "predicted": HOSTILE[2]}
    ]
    errors = [{"text": HOSTILE[3], "label": HOSTILE[0], "predicted": HOSTILE[1]}]
    log = [evaluation(0, 3.0), step(1), step(2), evaluation(2, 2.5)]
    return write_run(folder, log, facts, predictions=predictions, errors=errors)


def test_no_text_becomes_a_part_of_the_page(tmp_path):
    folder = hostile_run(tmp_path / HOSTILE[1].replace("/", "_"))
    html = write_report(folder).read_text()
    page = Reader(html)
    assert not {"script", "img", "iframe", "object", "link-", "form"} & set(page.elements)
    assert page.elements.count("style") == 1 + page.elements.count("svg")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    leads_to = [value for name, value in page.attributes if name in ("href", "src", "xlink:href", "action")]
    assert all(value.startswith("#") or value == "data:," for value in leads_to)
    assert "default-src 'none'" in dict(page.attributes)["content"] or "default-src 'none'" in html
    assert all(text in page.text for text in HOSTILE[:3])
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_pictures_hold_their_numbers_as_text():
    svg = draw_lines([Line("<b>held out</b> $x$", [0, 1000], [3.0, 2.0], points=True)], "tokens", {"unigram": 2.5})
    assert "3 at 0 tokens" in svg
    assert "2 at 1k tokens" in svg
    assert "unigram 2.50" in svg
    assert "<b>" not in svg
    svg = draw_histogram([1, 10, 100], [5, 7], "tokens", "documents")
    assert "7 of 10 to 100 tokens" in svg
    svg = draw_points(np.zeros((2, 2)), ["a", "b"], ["first text", "<i>second</i>"])
    assert "a: first text" in svg
    assert "<i>" not in svg
    assert draw_lines([Line("nothing", [0], [float("nan")])], "tokens") is None


def test_a_curve_leaves_out_what_a_rewind_took_back(tmp_path):
    log = [step(1, 5.0), step(2, 90.0), {"event": "rewind", "step": 1}, step(2, 4.0), evaluation(2, 3.5)]
    found = Run.read(write_run(tmp_path / "run", log))
    assert [row["loss"] for row in found.steps] == [5.0, 4.0]
    assert [row["tokens"] for row in found.evaluations] == [200]


def test_runs_side_by_side_show_what_differs_and_what_came_out(tmp_path):
    for name, lr, loss in (("slow", 1e-4, 3.25), ("fast", 1e-2, 2.75)):
        facts = RunFacts(settings={"optimizer.lr": lr, "seed": 0, "output_dir": name}, what="a model")
        write_run(tmp_path / name, [evaluation(0, 5.0), step(1), step(2), evaluation(2, loss)], facts)
    page = Reader(execute_report(tmp_path))
    at = page.cells.index("optimizer.lr")
    assert page.cells[at : at + 3] == ["optimizer.lr", "0.01", "0.0001"]
    assert "seed" not in page.cells
    assert "output_dir" not in page.cells
    assert "3.25" in page.cells
    assert "2.75" in page.cells
    assert "fast: 2.75 at 200 tokens" in page.text


def test_runs_of_each_program_have_a_table_without_the_numbers_of_others(tmp_path):
    for program, metrics in (("pretrain_mlm", {"held_out_loss": 2.5}), ("finetune_ner", {"f1": 0.75, "recall": 0.5})):
        for name in "ab":
            facts = RunFacts(program=program, metrics=dict.fromkeys(metrics, "max"))
            facts.scores = [{"set": "validation", **metrics}]
            write_run(tmp_path / f"{program}-{name}", [step(1)], facts)
    page = comparison_page([Run.read(folder) for folder in find_runs(tmp_path)], tmp_path)
    tagged, masked = page.sections[0].parts
    assert tagged.caption.startswith("finetune-ner (f1, recall): ")
    assert tagged.columns[:4] == ["Run", "f1", "recall", "steps"]
    assert masked.caption.startswith("pretrain-mlm (held out loss): ")
    assert [row[:2] for row in masked.rows] == [["pretrain_mlm-a", 2.5], ["pretrain_mlm-b", 2.5]]


def test_runs_with_few_labels_and_many_are_a_curve(tmp_path):
    for rows, seed, scratch, score in (
        (10, 0, False, 0.5), (10, 1, False, 0.6), (1000, 0, False, 0.9), (10, 0, True, 0.25), (1000, 0, True, 0.75)
    ):  # fmt: skip
        facts = RunFacts(
            program="finetune_classification", settings={"model.name": "runs/mlm", "model.from_scratch": scratch},
            facts={"train_rows": rows}, metrics={"accuracy": "max"}, scores=[{"set": "validation", "accuracy": score}],
        )  # fmt: skip
        write_run(tmp_path / f"{rows}-{scratch}-{seed}", [step(1)], facts)
    page = Reader(execute_report(tmp_path))
    assert "Label efficiency" in page.text
    assert "mlm: 0.55 at 10 labelled rows" in page.text
    assert "mlm, from scratch: 0.75 at 1k labelled rows" in page.text
    at = page.cells.index("mlm")
    assert page.cells[at : at + 6] == ["mlm", "10", "0.55", "0.5", "0.6", "2"]
    with_as_many = Reader(
        comparison_page([Run.read(tmp_path / f"10-False-{seed}") for seed in (0, 1)], tmp_path).html()
    )
    assert "Label efficiency" not in with_as_many.text


def execute_report(folder):
    said = execute([*python(), folder.as_posix()])
    assert f"report: {folder / 'report.html'}" in said
    return (folder / "report.html").read_text()


def python():
    return [sys.executable, "-m", "nlp_ssl.reports"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    said = execute([*python(), str(tmp_path / "nowhere")], expect=2)
    assert "there is no run in" in said
    write_run(tmp_path / "one", [step(1)])
    assert find_runs(tmp_path) == [tmp_path / "one"]
    with pytest.raises(UserError, match="a comparison needs two"):
        comparison_page([Run.read(tmp_path / "one")], tmp_path)


def test_a_run_that_goes_on_has_itself_read_again(tmp_path):
    folder = write_run(tmp_path / "run", [step(7)], RunFacts(total=20))
    (folder / "run_status.json").write_text('{"status": "running", "step": 0}')
    page = run_page(Run.read(folder))
    assert page.subtitle == "Running, at step 7 of 20."
    assert 'http-equiv="refresh"' in page.html()
    (folder / "run_status.json").write_text('{"status": "interrupted", "step": 7, "reason": "SIGTERM"}')
    page = run_page(Run.read(folder))
    assert page.subtitle == "Interrupted at step 7 of 20: SIGTERM."
    assert 'http-equiv="refresh"' not in page.html()


@pytest.fixture
def reporter(tmp_path, monkeypatch):
    """Of a run that has just begun; `clock.now` is the time."""

    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls):
            return cls.now

    monkeypatch.setattr(reporting, "time", Clock)
    made = Reporter(write_run(tmp_path / "run", [step(1)]), RunFacts(mode=0o600), lambda: {"facts": {}})
    made.clock = Clock
    return made


def test_pages_take_at_most_a_hundredth_of_a_runs_time(reporter, monkeypatch):
    def slow(folder):
        reporter.clock.now += 5.0
        pages.append(reporter.clock.now)
        return folder

    pages = []
    monkeypatch.setattr(reporting, "write_report", slow)
    for _ in range(10_000):
        reporter.clock.now += 1.0
        reporter.write(None)
    assert len(pages) > 10
    assert 5.0 * len(pages) <= 0.01 * pages[-1] + 5.0
    reporter.write(None, last=True)
    assert pages[-1] == reporter.clock.now


@pytest.mark.parametrize(("status", "pages"), [("interrupted", 2), ("finished", 2), ("running", 1)])
def test_the_first_page_and_the_last_are_written_however_short_the_run(reporter, monkeypatch, status, pages):
    def slow(folder):
        reporter.clock.now += 5.0
        written.append(folder)

    written = []
    monkeypatch.setattr(reporting, "write_report", slow)
    reporter.write(None)
    reporter.write(None)
    (reporter.folder / "run_status.json").write_text(json.dumps({"status": status}))
    reporter.close(None)
    assert len(written) == pages


def test_a_look_at_text_draws_nothing_from_the_runs_numbers(reporter):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    reporter.clock.now = 1_000.0
    reporter.look(reporter.folder, 5, lambda folder: iter([f"a line {torch.rand(100).sum():.0f}"]))
    assert torch.equal(torch.rand(3), expected)
    assert [each["step"] for each in reporter.facts.samples] == [5]


def test_a_model_that_would_fill_the_memory_is_not_loaded_beside_the_run(reporter, monkeypatch):
    (reporter.folder / "model.safetensors").write_bytes(bytes(1000))
    reporter.clock.now = 1_000.0
    monkeypatch.setattr(reporting.psutil, "virtual_memory", lambda: SimpleNamespace(available=4_000))
    reporter.look(reporter.folder, 5, lambda folder: pytest.fail("it was loaded"))
    monkeypatch.setattr(reporting.psutil, "virtual_memory", lambda: SimpleNamespace(available=40_000))
    reporter.look(reporter.folder, 6, lambda folder: iter(["a line"]))
    assert [each["step"] for each in reporter.facts.samples] == [6]


def test_a_resumed_run_keeps_what_was_seen_before(reporter):
    reporter.note(5, ["five"])
    reporter.note(9, ["nine"])
    reporter.write(None, last=True)
    again = Reporter(reporter.folder, RunFacts(), reporter.card, 7)
    assert again.facts.samples == [{"step": 5, "lines": ["five"]}]
    assert (reporter.folder / "report.html").stat().st_mode & 0o777 == 0o600  # it holds texts of the data


def test_bars_count_every_document():
    lengths = np.array([1, 1, 2, 3, 500, 500, 7])
    found = histogram(lengths)
    assert sum(found["counts"]) == len(lengths)
    assert histogram(np.array([4, 4]))["counts"] == [2]
    assert histogram(np.array([], dtype=int)) == {}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
def test_a_browser_shows_the_page_and_complains_of_nothing(tmp_path):
    page = write_report(hostile_run(tmp_path / "run"))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert "CONSOLE" not in done.stderr
    shown = Reader(done.stdout)
    assert all(text in shown.text for text in HOSTILE[:3])
    assert "script" not in shown.elements
    assert shown.elements.count("svg") > 2
