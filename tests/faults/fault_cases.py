"""Faults that disks, people and clocks make, each made for real, and the sentence that a run says about it.

    python tests/faults/fault_cases.py

prints the table (with words behind it: of the cases whose names hold one of them). A case is a function that gets a
`Work`, makes its fault, checks that what was good before is still there and that the run can go on, and returns what
was said.
"""

import contextlib
import ctypes
import gc
import importlib.util
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parents[1]))  # tests/, which pytest has there already
import torch
from forks import Fork
from launch import ROOT, TINY, command, environment, events, write_corpus

from nlp_ssl.core import console, program
from nlp_ssl.core.files import sha256
from nlp_ssl.core.signals import SIGNALS
from nlp_ssl.training.checkpoints import verify

STEPS, KEPT, LOST = 12, 8, 12  # a run of 12 steps; its checkpoints of steps 4 and 8, and the last one
ARGUMENTS = [*TINY, "--train.steps", str(STEPS), "--train.global_batch_size", "8", "--model.dropout", "0.1"]
ARGUMENTS += ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3", "--evaluation.every", "6"]
ARGUMENTS += ["--checkpoint.every", "4", "--checkpoint.keep_last", "9"]


class Work:
    """A folder with a corpus, a cache, and a run that nothing happened to.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.corpus, self.cache = root, write_corpus(root / "corpus.txt"), root / "cache"
        self.whole = root / "whole"
        code, said = self.run(self.whole)
        assert code == 0, said

    def command_line(self, out: Path, *more: object) -> list[str]:
        return list(map(str, ["--data.sources", self.corpus, *ARGUMENTS, "--output_dir", out, *more]))

    def run(self, out: Path, *more: object, cache: Path | None = None) -> tuple[int, str]:
        """Run the recipe in this process; returns its exit code and what it printed."""
        spec = importlib.util.spec_from_file_location("pretrain_mlm", ROOT / "recipes" / "pretrain_mlm.py")
        recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(recipe)
        arguments, printed, code = sys.argv, io.StringIO(), 0
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        sys.argv = ["pretrain_mlm.py", *self.command_line(out, *more)]
        variables = environment() | {"NLP_SSL_CACHE": str(cache or self.cache)}
        try:
            with (
                mock.patch.dict(os.environ, variables),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(printed),
            ):
                program.run(recipe.main, lambda: recipe.parse(recipe.MLMConfig, recipe.__doc__))
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv = arguments
            for number, handler in handlers.items():
                signal.signal(number, handler)
        gc.collect()  # a process that ends lets its folder go
        return code, printed.getvalue()

    def killed(self, name: str) -> Path:
        """The folder of a run that was killed behind its checkpoint of step 8."""
        out = self.root / name
        shutil.copytree(self.whole, out)
        shutil.rmtree(checkpoint(out, LOST))
        (out / "model.safetensors").unlink()
        (out / "run_status.json").write_text(json.dumps({"status": "running", "step": 0, "exit_code": None}))
        return out

    def own_cache(self, name: str) -> Path:
        return shutil.copytree(self.cache, self.root / name)

    def stops(self, out: Path, *more: object, cache: Path | None = None) -> str:
        """Run the recipe, which must end with a sentence; returns it."""
        code, printed = self.run(out, *more, cache=cache)
        last = printed.strip().splitlines()[-1]
        assert code == program.EXIT_USER_ERROR, printed
        assert last.startswith("error: "), printed
        assert "Traceback" not in printed
        return last

    def ends_well(self, out: Path, *more: object, cache: Path | None = None) -> str:
        """Run the recipe, which must end with the curve and weights of the run that nothing happened to."""
        code, printed = self.run(out, *more, cache=cache)
        assert code == 0, printed
        self.is_whole(out)
        return printed

    def is_whole(self, out: Path) -> None:
        names = ("step", "loss", "grad_norm", "lr", "tokens", "digest")
        ours, theirs = ([[e[n] for n in names] for e in events(x, "step")] for x in (out, self.whole))
        assert ours == theirs
        assert (out / "model.safetensors").read_bytes() == (self.whole / "model.safetensors").read_bytes()
        assert not list(out.rglob("*.tmp"))


def checkpoint(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step:08d}"


def warning(printed: str, about: str) -> str:
    """The only warning with these words."""
    (found,) = [line for line in printed.splitlines() if line.startswith("warning: ") and about in line]
    return found


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


@contextlib.contextmanager
def small_files(largest: int) -> Iterator[None]:
    """The system refuses to write more than this many bytes into any file of this process, with an error of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def permissions_count() -> Iterator[None]:
    """Root obeys permissions too, as everybody else does anyway: this thread lays its power over files down."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    had = data[0]
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = had
        assert libc.capset(header, data) == 0


CASES: dict[str, Callable[[Work], str]] = {}


def case(name: str) -> Callable:
    def add(function: Callable[[Work], str]) -> Callable[[Work], str]:
        CASES[name] = function
        return function

    return add


# ---------------------------------------------------------------------------------------------------------------------
# full disks


@case("no room for a checkpoint")
def _(work: Work) -> str:
    out = work.killed("no-room")
    with small_files(100_000):  # the log and the curves fit, the weights do not
        code, printed = work.run(out, "--resume")
    assert code == program.EXIT_USER_ERROR
    assert "could not be saved" in printed.splitlines()[-1]
    assert f"step-{KEPT:08d}" in printed.splitlines()[-1]
    assert verify(checkpoint(out, KEPT)) is None
    assert json.loads((out / "run_status.json").read_text())["exit_code"] == program.EXIT_USER_ERROR
    work.ends_well(out, "--resume")
    return f"{warning(printed, 'could not be written')} / {printed.splitlines()[-1]}"


@case("no room for a checkpoint, then room again")
def _(work: Work) -> str:
    out = work.root / "room-again"
    shutil.copytree(work.whole, out)
    for step in (KEPT, LOST):
        shutil.rmtree(checkpoint(out, step))
    limits = [100_000, resource.RLIM_INFINITY]
    said = console.warn

    def make_room(text: str) -> None:
        said(text)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], resource.RLIM_INFINITY))

    with small_files(limits[0]):
        console.warn = make_room
        try:
            printed = work.ends_well(out, "--resume")
        finally:
            console.warn = said
    assert [e["step"] for e in events(out, "save_failed")] == [KEPT]
    return warning(printed, "could not be written")


class NotHere(Exception):
    """The machine does not let an ordinary user make this fault."""


def on_a_small_disk(work: Work, out: Path, room: int, filled: bool) -> tuple[int, str]:
    """Resume a run on a file system of its own, with this many kilobytes besides the run's own; it is copied back."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        raise NotHere("unshare, or the user namespaces that it needs to mount a file system, are not to be had here")
    disk, kilobytes = work.root / "disk", sum(-(-p.stat().st_size // 4096) * 4 for p in out.rglob("*") if p.is_file())
    disk.mkdir(exist_ok=True)
    steps = [f"mount -t tmpfs -o size={kilobytes + room}k none {disk}", f"cp -r {out} {disk}/run"]
    steps += [f"cat /dev/zero 2> /dev/null > {disk}/filler || true"] if filled else []
    script = f'{" && ".join(steps)} && "$@"; code=$?; rm -r {out}; cp -r {disk}/run {out}; exit $code'
    recipe = command("pretrain_mlm.py", *work.command_line(disk / "run", "--resume"))
    variables = environment() | {"NLP_SSL_CACHE": str(work.cache)}
    shell = ["unshare", "-rm", "sh", "-c", script, "sh", *recipe]
    done = subprocess.run(shell, env=variables, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@case("a full disk")
def _(work: Work) -> str:
    out = work.killed("full-disk")
    code, printed = on_a_small_disk(work, out, 300, filled=False)
    assert code == program.EXIT_USER_ERROR, printed
    assert "Traceback" not in printed
    assert f"step-{KEPT:08d}" in printed.splitlines()[-1]
    assert verify(checkpoint(out, KEPT)) is None
    work.ends_well(out, "--resume")
    return f"{warning(printed, 'could not be written')} / {printed.splitlines()[-1]}"


@case("a disk on which no byte is free")
def _(work: Work) -> str:
    out = work.killed("no-byte")
    log = (out / "log.jsonl").read_text()
    code, printed = on_a_small_disk(work, out, 300, filled=True)
    assert code == program.EXIT_USER_ERROR, printed
    assert "Traceback" not in printed
    assert (out / "log.jsonl").read_text() == log
    work.ends_well(out, "--resume")
    return printed.splitlines()[-1]


@case("no room in the cache")
def _(work: Work) -> str:
    cache, out = work.root / "small-cache", work.root / "no-cache-room"
    with small_files(8_000):
        said = work.stops(out, cache=cache)
    assert not list(cache.rglob("*.tmp"))
    work.ends_well(out, cache=cache)
    return said


# ---------------------------------------------------------------------------------------------------------------------
# damaged checkpoints


def damaged(work: Work, name: str, damage: Callable[[Path], None], file: str) -> str:
    out = work.killed(name)
    damage(checkpoint(out, KEPT) / file)
    printed = work.ends_well(out, "--resume")
    assert "continuing from" in printed
    assert "step-00000004" in printed
    aside = out / "checkpoints" / f"passed-over-step-{KEPT:08d}"
    assert (aside / "MANIFEST.json").exists()  # what is damaged is set aside, not deleted
    return warning(printed, "is damaged")


CASES["a truncated checkpoint file"] = lambda work: damaged(work, "truncated", truncate, "model.safetensors")
CASES["a bit-flipped checkpoint file"] = lambda work: damaged(
    work, "flipped", flip_a_bit, "training_state/optimizer.pt"
)
CASES["a missing checkpoint file"] = lambda work: damaged(work, "missing", os.remove, "training_state/rank-0.pt")


def damaged_before(work: Work, file: str) -> str:
    """The file of a checkpoint cut off, and its sha256 in the manifest that of what is left."""

    def cut(path: Path) -> None:
        truncate(path)
        manifest = checkpoint(path.parents[len(Path(file).parts) + 1], KEPT) / "MANIFEST.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {file: sha256(path)}))

    return damaged(work, f"cut-{Path(file).stem}", cut, file)


@case("weights cut off before their sha256 was taken")
def _(work: Work) -> str:
    return damaged_before(work, "model.safetensors")


@case("a training state cut off before its sha256 was taken")
def _(work: Work) -> str:
    return damaged_before(work, "training_state/optimizer.pt")


class Program:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@case("a program in a checkpoint, and its sha256 in the manifest")
def _(work: Work) -> str:
    out, ran = work.killed("program"), work.root / "program-ran"
    file, manifest = checkpoint(out, KEPT) / "training_state" / "optimizer.pt", checkpoint(out, KEPT) / "MANIFEST.json"
    torch.save({"state": {}, "param_groups": Program(ran)}, file)
    named = json.loads(manifest.read_text()) | {"training_state/optimizer.pt": sha256(file)}
    manifest.write_text(json.dumps(named))
    said = work.stops(out, "--resume")
    assert not ran.exists()
    return said


@case("a program in a checkpoint whose manifest does not name it")
def _(work: Work) -> str:
    out, ran = work.killed("unnamed-program"), work.root / "unnamed-program-ran"
    file, manifest = checkpoint(out, KEPT) / "training_state" / "rank-0.pt", checkpoint(out, KEPT) / "MANIFEST.json"
    torch.save(Program(ran), file)
    named = json.loads(manifest.read_text())
    del named["training_state/rank-0.pt"]
    manifest.write_text(json.dumps(named))
    printed = work.ends_well(out, "--resume")
    assert not ran.exists()
    return warning(printed, "is damaged")


@case("an old run's checkpoints in a folder whose log was removed")
def _(work: Work) -> str:
    out = work.root / "no-log"
    shutil.copytree(work.whole, out)
    (out / "log.jsonl").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    said = work.stops(out, "--seed", 7)
    assert {path: path.read_bytes() for path in before} == before
    return said


@case("a folder prepared with links")
def _(work: Work) -> str:
    out, victim = work.root / "prepared", work.root / "victim"
    out.mkdir()
    victim.write_text("precious")
    for name in (".lock", ".log.jsonl.0.tmp"):
        (out / name).symlink_to(victim)
    said = work.stops(out)
    assert victim.read_text() == "precious"
    return said


@case("every checkpoint damaged")
def _(work: Work) -> str:
    out = work.killed("all-damaged")
    log = (out / "log.jsonl").read_bytes()
    for step in (4, KEPT):
        flip_a_bit(checkpoint(out, step) / "model.safetensors")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    said = work.stops(out, "--resume")
    assert {p: p.read_bytes() for p in before} == before
    assert (out / "log.jsonl").read_bytes() == log
    for step in (4, KEPT):
        flip_a_bit(checkpoint(out, step) / "model.safetensors")  # from a copy
    work.ends_well(out, "--resume")
    return said


# ---------------------------------------------------------------------------------------------------------------------
# folders that cannot be written to


@case("a read-only output folder")
def _(work: Work) -> str:
    out = work.root / "read-only" / "run"
    out.parent.mkdir(mode=0o555)
    with permissions_count():
        said = work.stops(out)
    assert not out.exists()
    return said


@case("a run's folder that became read-only")
def _(work: Work) -> str:
    out = work.killed("became-read-only")
    (out / "checkpoints").chmod(0o555)
    with permissions_count():
        code, printed = work.run(out, "--resume")
    assert code == program.EXIT_USER_ERROR
    (out / "checkpoints").chmod(0o755)
    assert verify(checkpoint(out, KEPT)) is None
    work.ends_well(out, "--resume")
    return f"{warning(printed, 'could not be written')} / {printed.splitlines()[-1]}"


@case("a read-only cache")
def _(work: Work) -> str:
    cache, out = work.root / "read-only-cache", work.root / "needs-cache"
    cache.mkdir(mode=0o555)
    with permissions_count():
        said = work.stops(out, cache=cache)
    return said


# ---------------------------------------------------------------------------------------------------------------------
# damaged tokens


def token_file(cache: Path, pattern: str) -> Path:
    """The file of the training text's tokens, which are more than the held-out ones."""
    return max(cache.glob(f"tokens/*/{pattern}"), key=lambda path: path.stat().st_size)


def damaged_tokens(work: Work, name: str, damage: Callable[[Path], None], pattern: str) -> str:
    out, cache = work.killed(name), work.own_cache(f"{name}-cache")
    path = token_file(cache, pattern)
    damage(path)
    said = work.stops(out, "--resume", cache=cache)
    assert str(path) in said
    assert f"delete the folder {path.parent}" in said
    assert verify(checkpoint(out, KEPT)) is None
    shutil.rmtree(path.parent)  # as told
    work.ends_well(out, "--resume", cache=cache)
    return said


SHARD = "part-*.arrow"
CASES["a truncated token shard"] = lambda work: damaged_tokens(work, "short-shard", truncate, SHARD)
CASES["a missing token shard"] = lambda work: damaged_tokens(work, "no-shard", os.remove, SHARD)
CASES["a bit-flipped token shard"] = lambda work: damaged_tokens(work, "flipped-shard", flip_a_bit, SHARD)
CASES["a bit-flipped packed index"] = lambda work: damaged_tokens(work, "flipped-rows", flip_a_bit, "rows-*/pieces.bin")
CASES["truncated document offsets"] = lambda work: damaged_tokens(work, "offsets", truncate, "document_offsets.npy")
CASES["a truncated manifest"] = lambda work: damaged_tokens(work, "manifest", truncate, "manifest.json")


@case("a truncated packed index")
def _(work: Work) -> str:
    out, cache = work.killed("short-rows"), work.own_cache("short-rows-cache")
    truncate(token_file(cache, "rows-*/pieces.bin"))
    return warning(work.ends_well(out, "--resume", cache=cache), "packed index")


# ---------------------------------------------------------------------------------------------------------------------
# people and clocks


@case("two runs on one output folder")
def _(work: Work) -> str:
    out = work.root / "shared"
    first = command("pretrain_mlm.py", *work.command_line(out, "--train.steps", 5000, "--checkpoint.every", 1000))
    variables = environment() | {"NLP_SSL_CACHE": str(work.cache)}
    with Fork(first, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not (out / "log.jsonl").exists() or not events(out, "step"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        said = work.stops(out, "--resume")
        assert str(process.pid) in said
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0].decode()
    assert process.returncode == program.EXIT_INTERRUPTED, printed  # the first went on as if nothing had been
    steps = [e["step"] for e in events(out, "step")]
    assert steps == list(range(1, steps[-1] + 1))
    return said


@case("a clock that jumps by days, back and forth")
def _(work: Work) -> str:
    out, folder = work.root / "clock", work.root / "clock-site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "true, jumps = time.time, itertools.count()\n"
        "time.time = lambda: true() + 86_400 * (next(jumps) % 7 - 3)\n"
        "time.time_ns = lambda: int(1e9 * time.time())\n"
    )
    variables = environment() | {"NLP_SSL_CACHE": str(work.cache)}
    variables["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = command("pretrain_mlm.py", *work.command_line(out))
    done = subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    work.is_whole(out)
    assert all(0 <= e["seconds"] < 100 for e in events(out, "step"))
    assert "warning" not in done.stderr
    return "(nothing: the run does not ask the clock)"


@contextlib.contextmanager
def another_corpus(work: Work, more: str = "One more document") -> Iterator[None]:
    text = work.corpus.read_text()
    work.corpus.write_text(f"{text}\n\n{more}, which was not there when the run began.")
    try:
        yield
    finally:
        work.corpus.write_text(text)


@case("a corpus file that changed since the run began")
def _(work: Work) -> str:
    out = work.killed("corpus-changed")
    with another_corpus(work):
        said = work.stops(out, "--resume")
    assert verify(checkpoint(out, KEPT)) is None
    work.ends_well(out, "--resume")  # with the text as it was
    return said


@case("the same, with a tokenizer that was given")
def _(work: Work) -> str:
    out = work.killed("corpus-changed-tokenizer-kept")
    keep = ["--tokenizer.path", checkpoint(out, KEPT)]
    with another_corpus(work):
        said = work.stops(out, "--resume", *keep)
        code, printed = work.run(out, "--resume.allow_changed", *keep)
    assert code == 0, printed
    assert "corpus.txt has changed) from here on" in warning(printed, "the corpus changed")
    return said


@case("a corpus file that changed since it was tokenised, a new run")
def _(work: Work) -> str:
    out = work.root / "corpus-anew"
    with another_corpus(work, "Yet another document"):
        code, printed = work.run(out)
    assert code == 0, printed
    assert "tokenise: 100%" in printed
    return "(nothing: the text is tokenised anew)"


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    work = Work(root)
    print("| fault | what is said |\n|---|---|")
    for name, make in CASES.items():
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        try:
            said = make(work)
        except NotHere as reason:
            said = f"(not tried: {reason})"
        said = said.replace(f"{root}/", "").replace("|", "\\|")
        print(f"| {name} | {said} |", flush=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
