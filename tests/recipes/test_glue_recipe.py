"""`recipes/evaluate_glue.py`: tasks side by side or in turn, what is missing named, the server's files, `--resume`."""

import json
from pathlib import Path

import pytest
import yaml
from glue_layout import LAYOUTS, write_glue
from launch import run
from toys import tiny_model, tokenizer

FIXED = ["--mixed_precision", "no", "--lr", "[1e-3]", "--seeds", "[0,1]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    # positions for the 256 tokens of every protocol
    tiny_model("bert", vocab_size=len(tokenizer("wordpiece")), max_position_embeddings=256).save_pretrained(folder)
    tokenizer("wordpiece").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    for task in LAYOUTS:
        write_glue(folder, task)
    return folder


def test_tasks_side_by_side_are_those_in_turn_and_a_missing_one_is_named(
    model: Path, glue: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    for task in ("stsb", "rte"):
        write_glue(few, task)
    (few / "CoLA").mkdir()
    results = {}
    for parallel in (1, 2):
        out = tmp_path / f"out-{parallel}"
        options = ["--model.name", model, "--glue_dir", few, *FIXED, "--output_dir", out, "--parallel", parallel]
        printed = run("evaluate_glue.py", *options, "--tasks", "[stsb,rte,cola]")
        assert "glue/cola is left out" in printed
        assert "no average: CoLA, MNLI-m, MNLI-mm, MRPC, QNLI, QQP, SST-2 were not measured" in printed
        results[parallel] = json.loads((out / "results.json").read_text())
        assert {path.name for path in (out / "submission").iterdir()} == {"STS-B.tsv", "RTE.tsv"}
        assert len((out / "submission" / "RTE.tsv").read_text().splitlines()) == 13
    assert results[1] == results[2]
    found = results[1]
    assert (found["protocol"], found["average"]) == ("cramming", None)
    assert found["entries"].keys() == {"STS-B", "RTE"}
    # the number is that of the predictions
    lines = [
        [json.loads(line) for line in (tmp_path / f"out-1/rte/lr-0.001/seed-{seed}/predictions.jsonl").open()]
        for seed in (0, 1)
    ]
    right = [[row["label"] == row["predicted"] for row in rows if row["set"] == "validation"] for rows in lines]
    assert found["entries"]["RTE"] == pytest.approx(100 * sum(map(sum, right)) / 24)

    again = run("evaluate_glue.py", *options, "--tasks", "[stsb,rte,cola]", "--resume", "--parallel", 1)
    assert again.count("is finished") == 4
    assert json.loads((out / "results.json").read_text()) == results[2]


def test_all_tasks_have_an_average_and_small_ones_begin_from_mnli(model: Path, glue: Path, tmp_path: Path) -> None:
    options = ["--model.name", model, "--glue_dir", glue, "--mixed_precision", "no", "--output_dir", tmp_path / "out"]
    printed = run("evaluate_glue.py", *options, "--protocol", "mosaic", "--seeds", "[0]", "--max_train", 6)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(found["entries"]) == 8
    assert found["average"] == pytest.approx(sum(found["entries"].values()) / 8)
    assert f"GLUE, protocol mosaic, but for seeds, max_train: {found['average']:.1f}" in printed
    assert not (tmp_path / "out" / "wnli").exists()
    begun = {
        task: yaml.safe_load((next((tmp_path / "out" / task).glob("lr-*/seed-0")) / "nlp_ssl_config.yaml").read_text())
        for task in ("mnli", "mrpc", "rte", "stsb", "cola")
    }
    mnli = str(tmp_path / "out" / "mnli" / "lr-5e-05" / "seed-0")
    assert {task for task, config in begun.items() if config["model"]["name"] == mnli} == {"mrpc", "rte", "stsb"}
    assert {begun[task]["model"]["name"] for task in ("mnli", "cola")} == {str(model)}
    assert len(list((tmp_path / "out" / "submission").iterdir())) == 7  # MNLI's needs all of its test rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "roberta"], "there is no protocol 'roberta'; there are devlin, cramming, mosaic"),
        (["--tasks", "[squad]"], "there is no task 'squad' in GLUE; there are mnli, qqp"),
        (
            ["--tasks", "[cola]", "--glue_dir", "/nowhere"],
            "there is nothing to run: glue/cola is left out: /nowhere has no",
        ),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path) -> None:
    printed = run("evaluate_glue.py", *options, "--output_dir", tmp_path / "out", expect=2)
    assert message in printed
    assert not (tmp_path / "out").exists()
