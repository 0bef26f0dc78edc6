"""Kill runs at any moment of their lives (SIGKILL), resume them, compare them with one that was never killed.

    python tests/faults/kills.py --kills 100 [--run masked] [--seed 0] [--parallel 2]

starts 100 runs of masked pretraining, or of another objective of `RUNS`, each with a cache and an output folder of its
own. Each is killed once at least, at a drawn moment of a drawn stage, started again with the same command line, perhaps
killed again, and then left to finish. In what stage a kill landed is read off what the run had printed and written by
then. At the end every run must have the step, evaluation and checkpoint lines of the one never killed, its weights, and
the files that it left, no more and no fewer.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).resolve().parents[1]))  # tests/, which pytest has there already
from launch import TINY, command, environment, events, write_corpus

STEPS = 30
PHASES = '[{"steps": 8, "global_batch_size": 4, "sequence_length": 32}, {"steps": 10, "global_batch_size": 6}]'
ARGUMENTS = [*TINY, "--train.steps", str(STEPS), "--train.global_batch_size", "8", "--phases", PHASES]
ARGUMENTS += ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3"]
ARGUMENTS += ["--evaluation.every", "6", "--checkpoint.every", "4"]
# what is killed: a recipe and its options; a teacher is trained beforehand
RUNS = {
    "masked": ["pretrain_mlm.py", "--model.dropout", "0.1"],
    "moco": ["pretrain_contrastive.py", "--contrastive.loss", "moco", "--contrastive.queue", "37"],
    "byol": ["pretrain_contrastive.py", "--contrastive.loss", "byol"],
    "hybrid": ["pretrain_hybrid.py", "--hybrid.share", "0.6", "--hybrid.adapt_every", "3", "--model.dropout", "0.1"],
    "distillation": ["distill.py", "--distillation.teacher", "{teacher}"],
}
# one process does everything, or others tokenise and make the batches
WAYS = {"one process": ["--train.workers", "0", "--tokens.num_proc", "1"]}
WAYS |= {"helpers": ["--train.workers", "1", "--tokens.num_proc", "2"]}

# what a run has printed when a stage begins; a stage may be passed through in no time where all is in the cache
BEGINNINGS = {
    "read the text": "model: ",
    "train the tokenizer": "corpus: ",
    "tokenise": "tokenizer: ",
    "pack": "tokens: ",
    "build the model": "  train.micro_batch_size = ",
    "first evaluation": "evaluate: ",
}
STAGES = ["import", *BEGINNINGS, "steps", "evaluate", "save", "publish"]
MEASURED = {"seconds", "tokens_per_second"}  # which no two runs share
POLL = 0.002
ORPHAN_SECONDS = 30


def stage_of(printed: str, out: Path) -> str:
    """What a run is doing, by what it has printed and written."""
    training = printed.rpartition("train: ")[2] if "train: " in printed else None
    if training is None:
        reached = [name for name, words in BEGINNINGS.items() if words in printed]
        return reached[-1] if reached else "import"
    if any((out / "checkpoints").glob(".step-*.tmp")):
        return "save"
    lines = (out / "log.jsonl").read_bytes().splitlines() if (out / "log.jsonl").exists() else []
    last = f'"checkpoint", "step": {STEPS}'.encode()
    if any(last in line for line in lines):
        return "publish"
    after = printed.rpartition("evaluate: ")[2]
    return "steps" if "held out loss" in after or "evaluate: " not in printed else "evaluate"


@dataclass
class Life:
    """A run: its folder, what its processes went through, and how it ended.

    Args:
        program: what starts its processes; a `Fork` has no libraries left to import.
    """

    folder: Path
    corpus: Path
    way: str
    run: str = "masked"
    program: type[subprocess.Popen] = subprocess.Popen
    kills: list[str] = field(default_factory=list)
    starts: int = 0
    visits: list[tuple[str, float]] = field(default_factory=list)  # of the last process: stages and their seconds
    orphan_seconds: float = 0.0
    printed: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def start(self, kill: tuple[str, int, float] | None = None) -> bool:
        """Run to the end, or kill (stage, how many visits to it before, seconds into it); returns whether it ended."""
        name, *own = [each.format(teacher=self.corpus.parent / "teacher" / "run") for each in RUNS[self.run]]
        recipe = command(name, "--data.sources", self.corpus, *ARGUMENTS, *own, *WAYS[self.way])
        recipe += ["--output_dir", str(self.out)] + (["--resume"] if self.starts else [])
        recipe.insert(1, str(Path(__file__).with_name("small_parts.py")))
        self.starts += 1
        with self.program(
            recipe,
            env=environment() | {"NLP_SSL_CACHE": str(self.cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            killed = self._watch(process, kill)
            code = process.wait()
        if killed:
            self.kills.append(stage_of(self.printed, self.out))
        elif code != 0:
            self.faults.append(f"start {self.starts} ended with {code}: {self.printed[-2000:]}")
        return not killed

    def _watch(self, process: subprocess.Popen, kill: tuple[str, int, float] | None) -> bool:
        """Read what a process prints until it ends or is killed."""
        os.set_blocking(process.stdout.fileno(), False)
        self.printed, self.visits, began, seen = "", [], time.monotonic(), Counter()
        stage, due, output = "import", None, b""
        if kill and kill[0] == "import":
            due = began + kill[2]
        while True:
            try:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    self.visits.append((stage, time.monotonic() - began))
                    return False
                output += chunk
                self.printed = output.decode(errors="replace")
            except BlockingIOError:
                time.sleep(POLL)
            now = time.monotonic()
            if due is not None and now >= due:
                process.kill()
                process.wait()
                self._read_rest(process, output)
                self._wait_for_orphans(process.pid)
                return True
            if (current := stage_of(self.printed, self.out)) != stage:
                self.visits.append((stage, now - began))
                stage, began = current, now
                if due is not None:
                    due = now  # it was faster than the reference, and is through with the stage
                elif kill and (stage, seen[stage]) == kill[:2]:
                    due = now + kill[2]
                seen[stage] += 1

    def _read_rest(self, process: subprocess.Popen, output: bytes) -> None:
        try:
            while chunk := os.read(process.stdout.fileno(), 1 << 16):
                output += chunk
        except BlockingIOError:  # a helper has it open
            pass
        self.printed = output.decode(errors="replace")

    def _wait_for_orphans(self, session: int) -> None:
        """The processes that a killed one had started must end by themselves."""
        killed = time.monotonic()
        while left := _session(session):
            if time.monotonic() - killed > ORPHAN_SECONDS:
                self.faults.append(f"still alive {ORPHAN_SECONDS} s after the kill: {left}")
                for process in left:
                    process.kill()
                return
            time.sleep(0.01)
        self.orphan_seconds = max(self.orphan_seconds, time.monotonic() - killed)


def _session(session: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def never_killed(life: Life) -> Life:
    """A run from start to end, whose stages tell when to kill others."""
    life.start()
    assert not life.faults, life.faults
    return life


def draw(rng: random.Random, reference: Life, stage: str, resumed: bool) -> tuple[str, int, float]:
    """A moment of a stage, even over all the time that the reference spent in it; of a resumed run's, which may have
    little left to do, in its first visit to it."""
    visits = [seconds for name, seconds in reference.visits if name == stage]
    if resumed:
        return stage, 0, rng.uniform(0, sum(visits) / max(1, len(visits)))
    at = rng.uniform(0, sum(visits))
    for number, seconds in enumerate(visits):
        if at < seconds:
            return stage, number, at
        at -= seconds
    return stage, max(0, len(visits) - 1), 0.0


def differences(life: Life, reference: Life) -> list[str]:
    """In what a run that has ended is not as the one that was never killed."""
    if life.faults:
        return life.faults
    found = []
    for kind in ("step", "evaluation", "checkpoint"):
        ours, theirs = (
            [{name: value for name, value in line.items() if name not in MEASURED} for line in events(x.out, kind)]
            for x in (life, reference)
        )
        if ours != theirs:
            wrong = [f"{a} is not {b}" for a, b in zip(ours, theirs, strict=False) if a != b]
            found.append(f"{kind} lines: {len(ours)} of {len(theirs)}; {wrong[:2]}")
    if (life.out / "model.safetensors").read_bytes() != (reference.out / "model.safetensors").read_bytes():
        found.append("other weights")
    for part in ("run", "cache"):
        ours, theirs = (_files(x.folder / part) for x in (life, reference))
        if ours != theirs:
            found.append(f"{part}: more {sorted(ours - theirs)[:9]}, fewer {sorted(theirs - ours)[:9]}")
    for path in reference.cache.rglob("*"):
        ours = life.cache / path.relative_to(reference.cache)
        if path.is_file() and ours.exists() and ours.read_bytes() != path.read_bytes():
            found.append(f"other bytes: {ours}")
    return found


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def live(life: Life, reference: Life, stages: list[str], rng: random.Random) -> list[str]:
    """Kill a run in these stages, one after the other, then let it end; returns how it differs from the reference."""
    for stage in stages:
        if life.start(draw(rng, reference, stage, resumed=life.starts > 0)):  # it was through before the moment came
            break
    else:
        life.start()
    return differences(life, reference)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="runs to kill")
    parser.add_argument("--run", choices=RUNS, default="masked", help="what is killed")
    parser.add_argument("--first", type=int, default=1, help="number of the first one, to repeat some of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--again", type=float, default=0.25, help="probability that a resumed run is killed too")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ |= {"HF_HOME": str(root / "hf"), "MPLCONFIGDIR": str(root / "mpl")}
    corpus = write_corpus(root / "corpus.txt", documents=1500)
    began = time.monotonic()
    if "{teacher}" in RUNS[given.run]:
        never_killed(Life(root / "teacher", corpus, "one process"))
    references = {way: never_killed(Life(root / way.replace(" ", "-"), corpus, way, given.run)) for way in WAYS}
    first, second = references.values()
    assert not (wrong := differences(second, first)), wrong
    visited = {name for reference in references.values() for name, _ in reference.visits}
    stages_of_run = [stage for stage in STAGES if stage in visited]

    def one(number: int) -> tuple[Life, list[str]]:
        rng = random.Random(f"{given.seed} {number}")
        way = "helpers" if number % 8 == 2 else "one process"
        while True:
            life = Life(root / f"{number:03d}", corpus, way, given.run)
            stages = [stages_of_run[number % len(stages_of_run)]]
            while rng.random() < given.again:
                stages.append(rng.choice(stages_of_run))
            wrong = live(life, references[way], stages, rng)
            if life.kills or wrong:
                break
            shutil.rmtree(life.folder)  # it got through unharmed: draw again
        if not wrong:
            shutil.rmtree(life.folder)
        said = "; ".join(wrong) or "the run never killed"
        print(f"{number + 1:3d} {way}: killed in {', '.join(life.kills)} -> {said}", flush=True)
        return life, wrong

    with ThreadPoolExecutor(given.parallel) as pool:
        lives = list(pool.map(one, range(given.first - 1, given.first - 1 + given.kills)))
    good = sum(not wrong for _, wrong in lives)
    landed = Counter(kill for life, _ in lives for kill in life.kills)
    print("\n| stage | kills |\n|---|---:|")
    print("\n".join(f"| {stage} | {landed[stage]} |" for stage in stages_of_run))
    print(f"| all | {landed.total()} |\n")
    print(f"{good} of {len(lives)} runs ended as the one never killed: the same lines, weights and files")
    longest = max(life.orphan_seconds for life, _ in lives)
    print(f"{landed.total()} kills, seed {given.seed}, {(time.monotonic() - began) / 60:.1f} minutes; ", end="")
    print(f"processes of a killed run lived on for {longest:.1f} s at most")
    if good == len(lives):
        shutil.rmtree(root)
    else:
        print(f"what is left of the others: {root}")
    return int(good < len(lives))


if __name__ == "__main__":
    sys.exit(main())
