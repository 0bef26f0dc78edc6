"""The terminal, the pipe, the disk beside the run fail: the run continues, or ends in good order."""

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from glue_layout import write_glue
from interrupting import (
    SECONDS,
    STEPS,
    Started,
    assert_interrupted,
    assert_same_run,
    in_training,
    last_step,
    spoiled,
    status,
)
from launch import TINY, command, environment, events, execute, run, write_corpus, write_labelled
from toys import tiny_model, tokenizer

from nlp_ssl.core.files import sha256

MORE_SIGNALS = (signal.SIGUSR1, signal.SIGQUIT)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To fine-tune: nobody has trained it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model("bert", vocab_size=len(tokenizer("wordpiece")), max_position_embeddings=256).save_pretrained(folder)
    tokenizer("wordpiece").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGHUP, *(pytest.param(n, marks=pytest.mark.long) for n in MORE_SIGNALS)])
def test_a_signal_to_the_whole_group_is_the_main_process_s(
    number: signal.Signals, arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = [*arguments, "--output_dir", str(out)]
    with Started(command("pretrain_mlm.py", *arguments, "--train.workers", "2"), tmp_path / "0") as started:
        started.wait_until(in_training(started, out))
        started.send(number, group=True)
        assert started.ends(SECONDS) == 75
    step = assert_interrupted(out, started, number.name)
    assert 0 < step < STEPS
    assert (out / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json").exists()
    if number == signal.SIGHUP:
        run("pretrain_mlm.py", *arguments, "--resume")
        assert_same_run(out, whole)


def test_a_terminal_that_closes(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process, terminal = pty.fork()
    if process == 0:
        more = ["--train.workers", "2", "--train.steps", "2000"]  # it is not to end before the terminal does
        recipe = command("pretrain_mlm.py", *arguments, *more, "--output_dir", out)
        os.execve(recipe[0], recipe, environment())
    deadline = time.monotonic() + 120
    while last_step(out) < 3:
        assert os.read(terminal, 4096)
        assert time.monotonic() < deadline
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 75
    found = status(out)
    assert (found["status"], found["reason"]) == ("interrupted", "SIGHUP")
    assert (out / "checkpoints" / f"step-{found['step']:08d}" / "MANIFEST.json").exists()


@pytest.mark.long
def test_what_nohup_ignores_stays_ignored(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = command("pretrain_mlm.py", *arguments, "--train.steps", "20", "--output_dir", out)
    with Started(["nohup", *recipe], tmp_path / "0") as started:
        started.wait_until(in_training(started, out))
        started.send(signal.SIGHUP, group=True)
        assert started.ends(120) == 0
    assert status(out)["status"] == "finished"


def test_an_output_folder_that_is_removed_is_made_again_at_the_next_save(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Started(command("pretrain_mlm.py", *arguments, "--output_dir", out), tmp_path / "0") as started:
        started.wait_until(in_training(started, out))
        shutil.rmtree(out, ignore_errors=True)
        assert started.ends(120) == 0, started.printed
    assert "its lines wait in memory" in started.printed
    assert status(out)["status"] == "finished"
    assert (out / "model.safetensors").exists()
    assert last_step(out) == STEPS


def test_what_decorates_a_run_does_not_decide_whether_it_is_kept(model: Path, tmp_path: Path) -> None:
    labelled, _ = write_labelled(tmp_path)
    labelled.write_text(labelled.read_text().replace(",cat", ",$10 to $20").replace(",other", ",$20 to $50"))
    options = ["--model.name", model, "--data.train_file", labelled, "--train.steps", "2", "--seeds", "[0, 1]"]
    options += ["--train.mixed_precision", "no", "--output_dir", tmp_path / "run"]
    printed = execute(spoiled("broken_decorations", "finetune_classification.py", *options))
    for seed in (0, 1):
        assert status(tmp_path / "run" / f"seed-{seed}")["status"] == "finished"
        assert (tmp_path / "run" / f"seed-{seed}" / "model.safetensors").exists()
    assert (tmp_path / "run" / "results.json").exists()
    assert "the picture of curves could not be made (KeyError" in printed
    assert "the picture of confusion could not be made (KeyError" in printed
    assert "the model card could not be made (KeyError" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (1, "error: out of memory with micro-batches of 4,096 rows; give --train.micro_batch_size 2048, which"),
        (4000, "error: out of memory in an evaluation of 4,000 rows at once; give --evaluation.batch_size 2000, which"),
    ],
)
def test_memory_that_is_full_gets_the_advice_that_a_gpu_s_gets(
    evaluation: int, said: str, model: Path, tmp_path: Path
) -> None:
    labelled, _ = write_labelled(tmp_path, rows=5000)
    few = tmp_path / "few.csv"
    few.write_text("".join(labelled.open().readlines()[:9]))
    options = ["--model.name", model, "--data.train_file", labelled, "--train.steps", "1", "--max_length", "48"]
    options += ["--train.mixed_precision", "no", "--train.global_batch_size", "4096", "--evaluation.max_rows", "null"]
    options += [
        "--train.micro_batch_size",
        "4096",
        "--evaluation.batch_size",
        evaluation,
        "--data.validation_file",
        few if evaluation == 1 else labelled,
    ]
    options += ["--output_dir", tmp_path / "run"]
    printed = execute(spoiled("little_memory", "finetune_classification.py", *options), expect=2)
    assert printed.splitlines()[-1].startswith(said)
    assert "Traceback" not in printed
    assert (status(tmp_path / "run")["status"], status(tmp_path / "run")["exit_code"]) == ("failed", 2)


@pytest.mark.parametrize("variables", [{"HOME": "/proc", "NLP_SSL_CACHE": "", "XDG_CACHE_HOME": ""}, {}], ids=str)
def test_a_home_or_an_output_folder_that_cannot_be_made_gets_a_sentence(
    variables: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run" if variables else Path("/proc/nlp_ssl/run")
    recipe = command("train_tokenizer.py", "--data.sources", write_corpus(tmp_path / "text.txt"), "--output_dir", out)
    printed = execute([*recipe, "--tokenizer.vocab_size", "320"], expect=2, **variables)
    where = "/proc/.cache/nlp_ssl" if variables else "/proc/nlp_ssl: Permission denied"
    assert printed.splitlines()[-1].startswith(f"error: {where}")
    assert "Permission denied; give a place that can be written to" in printed
    assert ("NLP_SSL_CACHE says where the cache is" in printed) == bool(variables)
    assert "Traceback" not in printed


@pytest.mark.parametrize("recipe", ["one process", "two processes", "labelled rows"])
def test_a_text_at_which_the_tokenizer_breaks_down_is_named(recipe: str, model: Path, tmp_path: Path) -> None:
    folder, bad = tmp_path / "model", "a" * 60 + "! is what breaks it"
    shutil.copytree(model, folder)
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "((a+)\\2*)+b"},
        "behavior": "Isolated",
        "invert": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    text, labelled = tmp_path / "text.txt", tmp_path / "rows.csv"
    text.write_text("\n\n".join([*(f"document {i}" for i in range(300)), bad, "the end"]))
    labelled.write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(90)) + f"{bad},1\n")
    if recipe == "labelled rows":
        options = ["finetune_classification.py", "--data.train_file", labelled, "--model.name", folder]
    else:
        options = ["pretrain_mlm.py", "--data.sources", text, *TINY, "--tokenizer.path", folder]
        options += ["--tokens.num_proc", 2 if recipe == "two processes" else 1]
    printed = execute(command(*options, "--train.steps", 1, "--output_dir", tmp_path / "run"), expect=2)
    last = printed.splitlines()[-1]
    assert last.startswith("error: the tokenizer cannot read this text (Onig: Regex search error: retry-limit-in-match")
    assert "aaaa" in last
    assert "Traceback" not in printed


def test_files_with_texts_are_as_private_as_the_texts(model: Path, tmp_path: Path) -> None:
    labelled, _ = write_labelled(tmp_path)
    labelled.chmod(0o600)
    options = ["--model.name", model, "--data.train_file", labelled, "--train.steps", "1", "--max_length", "16"]
    run("finetune_classification.py", *options, "--train.mixed_precision", "no", "--output_dir", tmp_path / "run")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
    assert modes["predictions.jsonl"] == modes["errors.jsonl"] == 0o600
    assert modes["model.safetensors"] == modes["run_status.json"] == 0o644


def test_what_cannot_be_saved_is_found_before_the_first_step(arguments: list[str], whole: Path, tmp_path: Path) -> None:
    options = [*arguments, "--tokenizer.path", whole, "--output_dir", tmp_path / "run"]
    printed = execute(spoiled("unsaved_tokenizer", "pretrain_mlm.py", *options), expect=2)
    assert "cannot be saved, and so no checkpoint (ValueError: Invalid chat template name" in printed
    assert "train:" not in printed
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_tasks_beside_each_other_stop_with_the_one_that_started_them(
    number: signal.Signals, model: Path, tmp_path: Path
) -> None:
    glue, out = tmp_path / "glue", tmp_path / "out"
    for task in ("rte", "cola"):
        write_glue(glue, task)
    options = ["--model.name", model, "--glue_dir", glue, "--mixed_precision", "no", "--lr", "[1e-3]"]
    options += ["--tasks", "[rte,cola]", "--parallel", 2, "--seeds", list(range(200)), "--output_dir", out]
    recipe = command("evaluate_glue.py", *options)
    if number == signal.SIGKILL:
        recipe = ["env", *recipe]  # not forked, as the tests' forks have another parent
    with Started(recipe, tmp_path / "0") as started:
        runs = [out / task / "lr-0.001" / "seed-0" / "run_status.json" for task in ("rte", "cola")]
        started.wait_until(lambda: all(run.exists() for run in runs))
        started.send(number)
        assert started.ends(SECONDS) == (75 if number == signal.SIGTERM else -number)
    reason = "SIGTERM" if number == signal.SIGTERM else "the launcher is gone"
    for task in ("rte", "cola"):
        assert f"stopped ({reason})" in (out / f"{task}.txt").read_text()
    assert "Traceback" not in started.printed


def test_a_status_that_was_cut_off_and_a_checkpoint_of_a_strange_version(
    arguments: list[str], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "run_status.json").write_text("")
    resume = [*arguments, "--output_dir", out, "--resume"]
    run("pretrain_mlm.py", *resume)
    assert status(out)["status"] == "finished"
    newest = max((out / "checkpoints").iterdir())
    state = json.loads((newest / "training_state" / "run.json").read_text())
    del state["identity"]
    (newest / "training_state" / "run.json").write_text(json.dumps(state))
    manifest = json.loads((newest / "MANIFEST.json").read_text())
    manifest["training_state/run.json"] = sha256(newest / "training_state" / "run.json")
    (newest / "MANIFEST.json").write_text(json.dumps(manifest))
    printed = run("pretrain_mlm.py", *resume, expect=2)
    assert "run.json has no identity" in printed
    assert "start anew in another --output_dir" in printed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")
    text.write_text(text.read_text().replace("stone", "pierre-à-feu 日本"))  # which samples and bars then show
    return text


HOW = {
    "the reader of a pipe ends": "set -o pipefail; {recipe} 2>&1 | head -c 300 > /dev/null",
    "the disk of both streams is full": "{recipe} > /dev/full 2> /dev/full",
    "all of them are closed": "{recipe} <&- >&- 2>&-",
    "ASCII": "LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii {recipe}",
}


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.long) if how.startswith("the ") else how for how in HOW]
)
def test_a_console_that_takes_nothing_changes_nothing(how: str, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--data.sources", corpus, *TINY, "--train.steps", "6", "--train.global_batch_size", "8"]
    recipe = " ".join(command("pretrain_mlm.py", *options, "--output_dir", out))
    done = subprocess.run(
        ["bash", "-c", HOW[how].format(recipe=recipe)], env=environment(), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"Exception ignored" not in done.stderr + done.stdout
    assert status(out)["status"] == "finished"
    assert [event["step"] for event in events(out, "step")] == list(range(1, 7))
