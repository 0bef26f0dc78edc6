"""What is found out about an output folder before a run begins."""

import os
from pathlib import Path

import pytest

from nlp_ssl.config.common import ResumeConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.runs.checks import check_run
from nlp_ssl.runs.folder import lock_folder


def config(folder: Path, resume: bool = False) -> MLMConfig:
    return MLMConfig(output_dir=str(folder), resume=ResumeConfig(enabled=resume))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("beside", [[], ["run_status.json"], ["model.safetensors", "config.json"], ["log.jsonl"]])
@pytest.mark.parametrize("name", ["step-00000012", "step-00000012.former"])
def test_a_folder_with_checkpoints_is_refused_without_resume_whatever_else_is_there(folder, beside, name) -> None:
    (folder / "checkpoints" / name).mkdir(parents=True)
    for file in beside:
        (folder / file).write_text("{}")
    with pytest.raises(UserError, match=r"holds a run already; give --resume"):
        check_run(config(folder))
    check_run(config(folder, resume=True))


def test_the_model_of_another_run_is_not_overwritten_though_only_its_status_says_so(folder: Path) -> None:
    (folder / "run_status.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    check_run(config(folder))  # interrupted before it learnt anything
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds other files"):
        check_run(config(folder))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [".lock", ".log.jsonl.0.tmp", ".run_status.json.0.tmp", "checkpoints", "log.jsonl"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_out_of_the_folder_is_refused(folder: Path, name: str, resume: bool, dangling: bool) -> None:
    victim = folder.parent / "victim"
    if not dangling:
        victim.mkdir() if name == "checkpoints" else victim.write_text("precious")
    (folder / name).symlink_to(victim)
    with pytest.raises(UserError, match=rf"{name} is a link to .*victim, outside of --output_dir.*remove it"):
        check_run(config(folder, resume))
    assert dangling is not victim.exists()
    assert dangling or name == "checkpoints" or victim.read_text() == "precious"


def test_a_folder_that_is_a_link_itself_and_links_inside_of_it_are_fine(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    check_run(config(link))
    (folder / "checkpoints" / "step-00000012").mkdir(parents=True)
    (folder / "best").symlink_to("checkpoints/step-00000012")
    check_run(config(link, resume=True))
    lock_folder(link).close()
    link.unlink()
    link.symlink_to(folder.parent / "nowhere")
    with pytest.raises(UserError, match=r"is a link to .*nowhere, which is not there"):
        check_run(config(link))


def test_the_lock_is_not_written_into_a_file_that_has_another_name_too(folder: Path) -> None:
    victim = folder.parent / "victim"
    victim.write_text("precious")
    os.link(victim, folder / ".lock")
    lock_folder(folder).close()
    assert victim.read_text() == "precious"


def test_what_a_killed_run_was_writing_is_removed_and_a_persons_file_is_not(folder: Path) -> None:
    (folder / ".log.jsonl.0123abcd.tmp").write_text("half")
    (folder / ".mine.tmp").write_text("mine")
    lock_folder(folder).close()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", ".mine.tmp"]
