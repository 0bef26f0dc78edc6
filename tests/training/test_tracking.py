"""The log that is always written, and trackers that are checked before anything is done."""

import json
import os
import resource
import shutil

import pytest
from accelerate import Accelerator

from nlp_ssl.config.common import TrackingConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.training.tracking import Log, check_trackers, start_trackers


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_object_a_line(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("step", 1, loss=2.5)
    log.write("evaluation", 1, text="a\nb\u2028c")
    assert lines(tmp_path / "log.jsonl") == [
        {"event": "step", "step": 1, "loss": 2.5},
        {"event": "evaluation", "step": 1, "text": "a\nb\u2028c"},
    ]


def test_a_resumed_log_has_every_step_once(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    for step in range(1, 8):
        log.write("step", step)
    with open(path, "a") as f:
        f.write('{"event": "step", "st')  # killed here
    log = Log(path, resume_at=5)
    for step in range(6, 10):
        log.write("step", step)
    assert [line["step"] for line in lines(path)] == list(range(1, 10))
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_new_run_begins_a_new_log(tmp_path):
    Log(tmp_path / "log.jsonl").write("step", 1)
    Log(tmp_path / "log.jsonl")
    assert lines(tmp_path / "log.jsonl") == []
    Log(tmp_path / "other.jsonl", resume_at=5).write("step", 6)  # the former log is lost: no reason to stop
    assert len(lines(tmp_path / "other.jsonl")) == 1


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    Log(tmp_path / "log.jsonl").write("step", 1)
    assert list(tmp_path.iterdir()) == []


def test_lines_wait_while_the_disk_is_full(tmp_path, capsys):
    log = Log(tmp_path / "log.jsonl")
    log.write("step", 1, loss=2.5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = log.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))  # room for a part of a line
    try:
        log.write("step", 2, loss=2.25)
        log.write("step", 3, loss=2.0)
        assert [line["step"] for line in lines(log.path)] == [1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.write("step", 4, loss=1.75)
    assert [line["loss"] for line in lines(log.path)] == [2.5, 2.25, 2.0, 1.75]
    assert capsys.readouterr().err.count("File too large; its lines wait in memory") == 1


@pytest.mark.parametrize("then", ["the next write", "a resumed run", "a run that goes back"])
def test_half_a_line_that_cannot_be_taken_back_at_once_spoils_nothing(tmp_path, monkeypatch, then):
    log = Log(tmp_path / "log.jsonl")
    log.write("step", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 10, before[1]))
    with monkeypatch.context() as failing:
        failing.setattr(os, "truncate", lambda *args: os.open("/nowhere/at/all", os.O_RDONLY))  # raises OSError
        try:
            log.write("step", 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not log.path.read_bytes().endswith(b"\n")
    if then == "the next write":
        log.write("step", 3)
        assert [line["step"] for line in lines(log.path)] == [1, 2, 3]
    elif then == "a run that goes back":
        log.cut(2)
        assert [line["step"] for line in lines(log.path)] == [1, 2]
    else:
        Log(log.path, resume_at=1).write("step", 2)
        assert [line["step"] for line in lines(log.path)] == [1, 2]


def test_lines_wait_while_the_log_cannot_be_opened_or_its_folder_is_gone(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    log = Log(tmp_path / "run" / "log.jsonl")
    log.write("step", 1)
    shutil.rmtree(tmp_path / "run")
    log.write("step", 2)
    log.cut(2)
    (tmp_path / "run").mkdir()
    log.path.mkdir()  # cannot be opened
    log.write("step", 3)
    log.path.rmdir()
    log.write("step", 4)
    assert [line["step"] for line in lines(log.path)] == [2, 3, 4]
    assert capsys.readouterr().err.count("its lines wait in memory") == 1


@pytest.mark.parametrize("damage", [b"0", b"[]", b'{"event": "step", "step": "x"}', b'{"event": "\xff", "step": 3}'])
def test_a_damaged_line_is_left_out_and_the_rest_resumes(damage, tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    for step in range(1, 6):
        log.write("step", step)
    first, second, _, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, second, damage, *rest]) + b"\n")
    log = Log(path, resume_at=4)
    log.ensure("checkpoint", 4)
    assert [line["step"] for line in lines(path)] == [1, 2, 4, 4]
    assert "1 lines are damaged" in capsys.readouterr().err


def test_trackers_are_checked_before_anything_is_done(monkeypatch):
    check_trackers(TrackingConfig())
    with pytest.raises(UserError, match=r"'tensorbord' is unknown.*tensorboard"):
        check_trackers(TrackingConfig(trackers=["tensorbord"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install wandb"):
        check_trackers(TrackingConfig(trackers=["wandb"]))


def test_tensorboard_gets_settings_and_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrackingConfig(trackers=["tensorboard"], project="p")
    accelerator = Accelerator(log_with=["tensorboard"], project_dir=str(tmp_path), cpu=True)
    start_trackers(accelerator, config, "run", {"train.steps": 3, "model.name": None, "optimizer.betas": (0.9, 0.98)})
    accelerator.log({"train/loss": 2.5}, step=3)
    accelerator.end_training()
    files = list(tmp_path.rglob("events.out.*"))
    events = [EventAccumulator(str(f.parent)).Reload() for f in files]
    scalars = [e.Scalars("train/loss") for e in events if "train/loss" in e.Tags()["scalars"]]
    assert [(s.step, s.value) for s in scalars[0]] == [(3, 2.5)]
