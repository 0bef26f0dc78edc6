"""A run that publishes itself: checkpoints as branches, the last model on main, and a Hub that breaks down."""

import sys
from pathlib import Path

import pytest
from launch import ROOT, TINY, command, events, execute, write_corpus
from safetensors.torch import load_file

sys.path.append(str(ROOT / "tests" / "publishing"))
from hub_server import HubServer

READ_BACK = """
import sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from safetensors.torch import save_file
repo, out, *revisions = sys.argv[1:]
for revision in revisions:
    model = AutoModelForMaskedLM.from_pretrained(repo, revision=revision)
    AutoTokenizer.from_pretrained(repo, revision=revision)
    model.save_pretrained(f"{out}/{revision}")
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    corpus = write_corpus(tmp_path / "corpus.txt", documents=80)
    run = ["--output_dir", str(tmp_path / "run"), "--hub.repo_id", "tester/model", "--checkpoint.every", "2"]
    tiny = ["--train.steps", "4", "--train.global_batch_size", "8", "--tokenizer.vocab_size", "290"]
    return ["--data.sources", str(corpus), *TINY, *run, *tiny]


def test_main_and_step_branches_are_read_back_with_equal_weights(arguments: list[str], tmp_path: Path) -> None:
    with HubServer() as server:
        execute(command("pretrain_mlm.py", *arguments), **server.variables)
        code = [sys.executable, "-c", READ_BACK, "tester/model", str(tmp_path / "back"), "main", "step-2"]
        execute(code, **server.variables)
        for revision, folder in (("main", "run"), ("step-2", "run/checkpoints/step-00000002")):
            ours, theirs = (load_file(tmp_path / f / "model.safetensors") for f in (folder, f"back/{revision}"))
            assert ours.keys() == theirs.keys()
            assert all((ours[key] == theirs[key]).all() for key in ours)
        assert set(server.repos["tester/model"].branches) == {"main", "step-2", "step-4"}


@pytest.mark.long
def test_a_discriminator_from_the_hub_continues_with_its_generator(arguments: list[str], tmp_path: Path) -> None:
    # options with values, of which a trained model takes no other fields and has its own tokenizer
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    kept = [p for p in pairs if not p[0].startswith(("--model.", "--tokenizer.", "--output_dir", "--hub."))]
    again = [word for pair in kept for word in pair]
    again += ["--model.name", "tester/model", "--output_dir", str(tmp_path / "again")]
    with HubServer() as server:
        execute(command("pretrain_rtd.py", *arguments), **server.variables)
        assert "generator/model.safetensors" in server.repos["tester/model"].files()
        printed = execute(command("pretrain_rtd.py", *again), **server.variables)
    assert "generator: new" not in printed
    last, first = events(tmp_path / "run", "evaluation")[-1], events(tmp_path / "again", "evaluation")[0]
    assert first["generator_loss"] == pytest.approx(last["generator_loss"], rel=1e-5)


def test_a_hub_that_breaks_down_does_not_break_the_run(arguments: list[str], tmp_path: Path) -> None:
    with HubServer() as server:
        server.fail("POST .*/commit/", status=403)
        printed = execute(command("pretrain_mlm.py", *arguments), **server.variables)
    assert len(events(tmp_path / "run", "step")) == 4
    assert f"python {ROOT}/recipes/push_to_hub.py --folder" in printed


def test_no_token_is_found_out_before_any_work(arguments: list[str], tmp_path: Path) -> None:
    with HubServer() as server:
        printed = execute(
            command("pretrain_mlm.py", *arguments),
            expect=2,
            **server.variables | {"HF_TOKEN": ""},
        )
    assert "hf auth login" in printed.splitlines()[-1]
    assert not (tmp_path / "run").exists()
