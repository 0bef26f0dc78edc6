"""A study of objectives: real runs, stopped and continued; and what its report says of numbers that are known."""

import csv
import json

import numpy as np
import pytest
import torch
from launch import TINY, WORDS, events, run, write_corpus, write_labelled
from PIL import Image
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

from nlp_ssl.benchmarks import study, study_report
from nlp_ssl.benchmarks.study_report import Judged, report
from nlp_ssl.config.command_line import parse
from nlp_ssl.config.study import JudgeConfig, StudyConfig, VariantConfig


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Options of a study of two ways, one seed, three judges: fine-tuned, and not."""
    folder = tmp_path_factory.mktemp("given")
    corpus = write_corpus(folder / "corpus.txt")
    rows, _ = write_labelled(folder)
    rng = np.random.default_rng(0)
    pairs = [(rng.choice(WORDS, 6), rng.choice(WORDS, 6)) for _ in range(80)]
    with open(folder / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("sentence1", "sentence2", "label"),
                *((" ".join(a), " ".join(b), f"{len({*a} & {*b}) / 6:.2f}") for a, b in pairs),
            ]
        )
    judge = {"data.train_file": str(rows), "max_length": 32, "train.steps": 4, "train.mixed_precision": "no"}
    variants = [
        {"name": "masked", "options": {"masking.probability": 0.3}},
        {"name": "causal, then masked", "options": {"phases": [{"share": 0.5, "objective": "clm"}]}},
    ]
    options = ["--data.sources", corpus, *TINY, "--train.global_batch_size", "8"]
    judges = [
        {"name": "texts", "options": judge},
        {"name": "pairs", "kind": "similarity", "options": {"data.train_file": str(folder / "pairs.csv")}},
        {"name": "halves", "kind": "retrieval", "options": {"data.train_file": str(rows)}},
    ]
    options += ["--judges", json.dumps(judges), "--seeds", "[1]", "--parallel", "2"]
    return [*options, "--variants", json.dumps(variants)]


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run("compare_objectives.py", *given, "--train.minutes", "0.02", "--output_dir", out)


@torch.no_grad()
def mean_vectors(model, texts):
    tokenizer, model = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)
    return torch.stack([model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts])


def test_every_variant_is_pretrained_as_long_and_judged(whole):
    out, printed = whole
    steps = json.loads((out / "steps.json").read_text())
    for name, folder, phases in (
        ("masked", "masked-seed-1", 1),
        ("causal, then masked", "causal-then-masked-seed-1", 2),
    ):
        plan = steps[name]
        assert len(plan["steps"]) == len(plan["seconds"]) == phases
        taken = events(out / "pretraining" / folder, "step")
        assert len(taken) == sum(plan["steps"])
        # within half a step of each phase as long as was asked for
        planned = sum(n * s for n, s in zip(plan["steps"], plan["seconds"], strict=True))
        assert abs(planned - 0.02 * 60) <= sum(plan["seconds"])
        assert (out / "texts" / folder / "predictions.jsonl").exists()
    assert "are 0.02 minutes" in printed
    plan = next(line for line in printed.splitlines() if line.startswith("study: "))
    assert plan.startswith(
        "study: 2 variants x 1 seed = 2 pretraining runs, 2 at a time, of 0.02 minutes, about 0.02 min"
    )
    assert "3 judges of every model: 6 runs" in plan
    assert printed.index(plan) < printed.index("timing: 1 run, 1 at a time")
    found = json.loads((out / "results.json").read_text())
    assert [row["variant"] for row in found["rows"]] == ["masked", "causal, then masked"] * 4
    judges = ["texts", "texts", "pairs", "pairs", "halves", "halves", "all, on average", "all, on average"]
    assert [row["judge"] for row in found["rows"]] == judges
    for row in found["rows"][:2]:
        folder = out / "texts" / f"{study.slug(row['variant'])}-seed-1"
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        right = np.mean([line["label"] == line["predicted"] for line in lines if line["set"] == "validation"])
        assert row["runs"] == [pytest.approx(right)]
    for row in found["rows"][2:4]:  # as SciPy and plain transformers find them
        name = f"{study.slug(row['variant'])}-seed-1"
        lines = [json.loads(line) for line in (out / "pairs" / name / "predictions.jsonl").read_text().splitlines()]
        texts = [line["texts"] for line in lines if line["set"] == "validation"]
        assert len(texts) >= 5
        one, other = (
            mean_vectors(out / "pretraining" / name, [text[c] for text in texts]) for c in ("sentence1", "sentence2")
        )
        labels = [line["label"] for line in lines if line["set"] == "validation"]
        assert row["runs"] == [
            pytest.approx(spearmanr(torch.cosine_similarity(one, other), labels).statistic, abs=1e-6)
        ]
    for row in found["rows"][4:6]:
        name = f"{study.slug(row['variant'])}-seed-1"
        lines = [json.loads(line) for line in (out / "halves" / name / "predictions.jsonl").read_text().splitlines()]
        words = [line["texts"]["text"].split() for line in lines]
        halves = [" ".join(each[:4]) for each in words] + [" ".join(each[4:]) for each in words]
        first, second = mean_vectors(out / "pretraining" / name, halves).chunk(2)
        cosines = torch.cosine_similarity(first[:, None], second[None], dim=-1)
        assert len(words) >= 5
        assert row["runs"] == [pytest.approx(float((cosines.argmax(1) == torch.arange(len(words))).float().mean()))]
    assert found["verdict"] in printed
    assert Image.open(out / "study.png").size[0] > 300
    settings = (out / "options" / "masked-seed-1.yaml").read_text()
    assert "probability: 0.3" in settings


def test_the_steps_of_an_objective_that_compares_texts_are_timed(given, tmp_path):
    config = parse(StudyConfig, argv=[*map(str, given), "--output_dir", str(tmp_path / "out")])
    seconds = study._seconds_a_step(study.Study(config, {}), VariantConfig("contrast", "contrastive"))
    assert len(seconds) == 1
    assert seconds[0] > 0


def test_a_study_continues_where_it_was(whole, given):
    out, _ = whole
    first = {path: path.stat().st_mtime_ns for path in out.glob("*/masked-seed-1/model.safetensors")}
    assert len(first) == 2
    (out / "texts" / "causal-then-masked-seed-1" / "run_status.json").unlink()
    args = [*given, "--train.minutes", "0.02", "--output_dir", out]
    printed = run("compare_objectives.py", *args, "--resume")
    assert "pretraining: 1 run" not in printed
    assert "texts: 1 run, 1 at a time" in printed
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert "holds something already; continue with --resume" in run("compare_objectives.py", *args, expect=2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--train.steps", "3"], r"causal, then masked: shares of phases need a budget in minutes"),
        (
            ["--variants", '[{"name": "a", "objective": "no"}]'],
            "'no' is no pretraining objective; there are autoencoder",
        ),
        (["--variants", '[{"name": "a"}, {"name": "A"}]'], "each needs a name of its own; given are a, a"),
        (["--variants", '[{"name": "a", "options": {"masking.probabilty": 0.1}}]'], "--variants, a: unknown key"),
        (["--judges", '[{"name": "a", "options": {"data.train_file": "gone.csv"}}]'], "gone.csv"),
        (
            ["--judges", '[{"name": "a", "kind": "similarity", "options": {"data.train_file": "LABELLED"}}]'],
            "--judges, a: similarity needs pairs of texts, each with a score, as in STS-B; this is",
        ),
        (
            ["--judges", '[{"name": "a", "kind": "retrieval", "options": {"data.train_file": "SHORT"}}]'],
            "--judges, a: retrieval needs two texts at least: 0 texts are cut into halves",
        ),
        (["--judges", "[]"], "each needs a name of its own; given are none"),
        (["--seeds", "[1, 1]"], "names a seed twice"),
        (["--hub.repo_id", "a/b"], "a study has many models"),
    ],
)
def test_what_no_run_could_do_is_refused_before_any(more, said, given, tmp_path):
    (short := tmp_path / "short.csv").write_text("text,label\n" + "".join(f"word {i},{i % 2}\n" for i in range(99)))
    more = [each.replace("LABELLED", str(write_labelled(tmp_path)[0])).replace("SHORT", str(short)) for each in more]
    minutes = [] if "--train.steps" in more else ["--train.minutes", "1"]
    printed = run("compare_objectives.py", *given, *minutes, "--output_dir", tmp_path / "out", *more, expect=2)
    assert said in printed
    assert not (tmp_path / "out").exists()


def test_a_study_says_how_long_it_will_take():
    judges = [JudgeConfig("a"), JudgeConfig("b", "ner")]
    variants = [VariantConfig(name) for name in "abcde"]
    config = StudyConfig(variants=variants, judges=judges, seeds=[0, 1, 2], parallel=2)
    config.train.minutes = 10
    said = study._plan(study.Study(config, {}))
    assert said.startswith(
        "study: 5 variants x 3 seeds = 15 pretraining runs, 2 at a time, of 10 minutes, about 80 min"
    )
    assert "2 judges of every model: 30 runs" in said
    config.train.minutes = 60
    assert "about 8 hours for all" in study._plan(study.Study(config, {}))


# ---------------------------------------------------------------------------------------------------------------------
# the report


def judged(name, values, rows=400):
    """Of each variant and seed a share of the rows is right, the first ones."""
    right = {v: [np.arange(rows) < round(share * rows) for share in shares] for v, shares in values.items()}
    return Judged(name, "accuracy", "validation", rows, {
        v: [lambda at, flags=flags: float(flags[at].mean()) for flags in each] for v, each in right.items()
    })  # fmt: skip


COST = {"steps": 10.0, "tokens": 1e6, "minutes": 1.0}


def reported(values, tmp_path, capsys, names=("one", "two")):
    costs = dict.fromkeys(values, COST)
    found = report([judged(name, values) for name in names], costs, [0, 1, 2], tmp_path)
    return found, capsys.readouterr().out


def test_differences_are_of_pairs(tmp_path, capsys):
    """Seeds differ by far more than variants; but of each seed and row the second variant is better."""
    found, printed = reported({"a": [0.5, 0.7, 0.9], "b": [0.55, 0.75, 0.95]}, tmp_path, capsys)
    first, second, *_ = found["rows"]
    assert first["mean"] == pytest.approx(0.7)
    assert second["difference"] == pytest.approx(0.05)
    low, high = map(float, second["95 % of it"].split(" to "))
    assert 0.02 < low < 0.05 < high < 0.08
    assert second["95 % from"] < 0.65  # of itself far less is known
    assert "take 'b': over 2 judges it is ahead of a by 0.05" in printed
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == found["rows"]
    assert [row["judge"] for row in found["rows"][::2]] == ["one", "two", "all, on average"]


def test_what_is_not_sure_is_said(tmp_path, capsys):
    _, printed = reported({"a": [0.5, 0.7, 0.9], "b": [0.9, 0.7, 0.56]}, tmp_path, capsys, names=("one",))
    assert "no variant is surely the best: over the judge 'b' is ahead of a by" in printed


def test_intervals_hold_seeds_and_rows(tmp_path, capsys):
    """Of one seed and many rows the standard error of a share."""
    costs = {"a": COST}
    one = report([judged("x", {"a": [0.5]}, 1000)], costs, [0], tmp_path)["rows"][0]
    assert one["to"] - one["95 % from"] == pytest.approx(2 * 1.96 * (0.25 / 1000) ** 0.5, rel=0.15)
    assert study_report.SAMPLES >= 1000


def test_steps_fill_the_minutes():
    phases = [{"share": 0.25, "objective": "clm"}, {"steps": 10}]
    assert study._fitting(phases, [0.5, 1.0, 2.0], 100.0) == [50, 10, round((100 - 25 - 10) / 2)]
    assert study._fitting([], [2.0], 100.0) == [50]
    assert study._fitting([], [1000.0], 1.0) == [1]
