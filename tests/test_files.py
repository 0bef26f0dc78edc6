"""Files that are whole or not there, and what is left of processes that were killed."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from disks import Disk

from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import (
    advice,
    cache_dir,
    common_mode,
    disk_error,
    making,
    no_links,
    replace,
    replacing,
    write_atomically,
)

fork = multiprocessing.get_context("fork")


def make_and_wait(path: Path, begun, go_on) -> None:
    with making(path) as temporary:
        temporary.mkdir()
        (temporary / "half").write_bytes(b"x" * 1000)
        begun.set()
        go_on.wait()
        (temporary / "whole").write_bytes(b"x")


@pytest.fixture
def other(tmp_path):
    """A process that has begun to make something."""
    begun, go_on = fork.Event(), fork.Event()
    process = fork.Process(target=make_and_wait, args=(tmp_path / "theirs", begun, go_on))
    process.start()
    assert begun.wait(30)
    yield process, go_on
    process.kill()
    process.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path, other):
    process, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = names(tmp_path)
    assert left.startswith(".theirs.")
    write_atomically(tmp_path / "ours", b"y")
    assert names(tmp_path) == ["ours"]


def test_what_a_living_process_is_making_stays(tmp_path, other):
    process, go_on = other
    write_atomically(tmp_path / "ours", b"y")
    assert len(names(tmp_path)) == 2
    go_on.set()
    process.join()
    assert process.exitcode == 0
    assert names(tmp_path) == ["ours", "theirs"]
    assert names(tmp_path / "theirs") == ["half", "whole"]


def test_the_first_of_two_that_make_the_same_folder_wins(tmp_path):
    with making(tmp_path / "folder") as slow:
        slow.mkdir()
        (slow / "who").write_text("slow")
        with making(tmp_path / "folder") as fast:
            fast.mkdir()
            (fast / "who").write_text("fast")
    assert (tmp_path / "folder" / "who").read_text() == "fast"
    assert names(tmp_path) == ["folder"]


def test_an_error_leaves_nothing_and_what_was_there_stays(tmp_path):
    write_atomically(tmp_path / "file", b"before")

    def fails(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as stopped, making(tmp_path / "file") as temporary:
        fails(temporary)
    assert stopped.value.filename == str(tmp_path / "file")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"
    replace(tmp_path / "file", "after")
    assert (tmp_path / "file").read_bytes() == b"after"


def test_what_the_disk_said_is_found_in_what_libraries_raise():
    said = disk_error(Exception("I/O error: No space left on device (os error 28)"))  # tokenizers, safetensors
    assert said.errno == errno.ENOSPC
    assert advice(said).startswith("No space left on device; make room there and start again")
    error = RuntimeError("unexpected pos 704 vs 598")  # torch.save
    error.__context__ = OSError(errno.EFBIG, "File too large", "weights")
    assert advice(error).startswith("weights: File too large; give a place that takes larger files")
    assert advice(RuntimeError("shapes differ")) is None
    assert advice(FileNotFoundError(errno.ENOENT, "No such file")) is None


def test_a_user_without_a_home_is_told_where_a_cache_can_be(monkeypatch):
    for name in ("HOME", "NLP_SSL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no entry in /etc/passwd either
    with pytest.raises(UserError, match=r"no home folder.*set NLP_SSL_CACHE"):
        cache_dir()
    monkeypatch.setenv("NLP_SSL_CACHE", "/cache")
    assert cache_dir() == Path("/cache")


def test_nothing_is_written_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("file", ".file.0.tmp", ".file.tmp", "appended"):
        (tmp_path / name).symlink_to(victim)
    replace(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
    with pytest.raises(OSError, match="symbolic links") as refused:
        open(tmp_path / "appended", "a", opener=no_links).close()
    assert "it is a link, and nothing is written through one: remove it" in advice(refused.value)
    assert victim.read_text() == "precious"


def test_a_file_of_somebody_else_is_not_taken_for_an_abandoned_one(tmp_path):
    (tmp_path / ".mine.tmp").write_text("mine")
    (tmp_path / ".gone.0123abcd.tmp").write_text("half")
    write_atomically(tmp_path / "ours", b"y")
    assert names(tmp_path) == [".mine.tmp", "ours"]


def test_what_has_its_name_is_on_disk(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    with making(tmp_path / "folder") as temporary:
        (temporary / "below").mkdir(parents=True)
        (temporary / "below" / "file").write_bytes(b"x" * 1000)
    write_atomically(tmp_path / "file", b"y")
    replace(tmp_path / "log", "z")
    assert [path.name for path in disk.named] == ["folder", "file", "log"]
    assert disk.lost == []


def test_texts_of_several_sources_may_be_read_by_who_may_read_them_all(tmp_path):
    (tmp_path / "inside").mkdir()
    for name, mode in {"public": 0o644, "group": 0o640, "inside/private": 0o400}.items():
        (tmp_path / name).write_text("text")
        (tmp_path / name).chmod(mode)
    assert common_mode(["user/data_set", str(tmp_path / "public")]) == 0o666
    assert common_mode([str(tmp_path / "public"), str(tmp_path / "gro*")]) == 0o660
    assert common_mode([str(tmp_path / "public"), str(tmp_path / "inside")]) == 0o600
    with replacing(tmp_path / "written", 0o600) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
