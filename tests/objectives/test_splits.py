"""Every objective: one batch is its micro-batches on one process or two, in every term, and stopped is resumed.

    PYTHONPATH=.:tests python tests/objectives/test_splits.py OUT.pt

prints the table of all.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence", "objectives"))
import forks
from launch import environment
from splits import SPLITS, Taken, all_cases, distances, stopped_and_resumed

CASES = all_cases()
EXACT = 1e-12
# other bodies, pooling, denominators of what is proved by another case: by hand, with `pytest -m ""`
SIBLINGS = {
    "autoencoder deberta-v2, first token", "contrastive infonce", "diffusion bert", "distillation modernbert",
    "fill in the middle, as held out, gpt2", "hybrid deberta-v2", "masked with adaptive mask rates", "mixture of two",
    "next sentence bert", "rtd bert", "rtd deberta-v2", "rtd electra", "sentence order modernbert",
    "span corruption bart",
}  # fmt: skip
NAMES = [pytest.param(name, marks=pytest.mark.long) if name in SIBLINGS else name for name in CASES]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Of one batch of 16, computed when it is first asked for."""
    known = {}

    def of(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[name] = stopped_and_resumed(CASES[name], 16, Accelerator(cpu=True), folder)
        return known[name][0]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_same_under_every_split_and_with_a_resume_between(name, expected, tmp_path):
    for split, micro_batch in SPLITS.items():
        for found in stopped_and_resumed(CASES[name], micro_batch, Accelerator(cpu=True), tmp_path / split):
            assert max(distances(found, expected(name)).values()) < EXACT, (split, distances(found, expected(name)))


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory, request):
    own = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in own if "on_two_processes" in item.fixturenames]
    return two_processes(tmp_path_factory.mktemp("two") / "found.pt", *names)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(name, expected, on_two_processes):
    for found in on_two_processes[name]:
        assert max(distances(found, expected(name)).values()) < EXACT, distances(found, expected(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_term_learns_and_every_weight_has_a_gradient(name, expected):
    """Or a term that is not there, and a weight that nothing trains, would be the same under every split, too."""
    taken = expected(name)
    assert all(loss > 0 for losses in taken.losses for loss in losses.values()), taken.losses
    assert taken.gradient
    assert all(gradient.isfinite().all() for gradient in taken.gradient.values())
    assert len({tuple(losses.values()) for losses in taken.losses}) == len(taken.losses)


def two_processes(out, *names):
    """What `stopped_and_resumed` is on two processes, in micro-batches of 4: two for each of them; by name, or all."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = forks.run([*launch, __file__, str(out), *names], env=environment(), timeout=600)
    assert done.returncode == 0, done.stderr
    found = torch.load(out, weights_only=True)
    return {name: tuple(Taken(**each) for each in pair) for name, pair in found.items()}


def main(out, *names):
    """On two processes: writes what `two_processes` reads. On one: prints the table of all splits."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    folder = Path(out).with_suffix("")
    if accelerator.num_processes > 1:
        found = {
            name: stopped_and_resumed(CASES[name], 4, Accelerator(cpu=True), folder / name) for name in names or CASES
        }
        if accelerator.is_main_process:
            torch.save({name: [asdict(each) for each in pair] for name, pair in found.items()}, out)
        torch.distributed.destroy_process_group()
        return
    apart = two_processes(out)
    print("| objective | split | loss of a term | gradient | state | held-out numbers |\n|---|---|---:|---:|---:|---:|")
    for name, case in CASES.items():
        whole, _ = stopped_and_resumed(case, 16, accelerator, folder / name / "whole")
        rows = {s: stopped_and_resumed(case, n, accelerator, folder / name / s) for s, n in SPLITS.items()}
        for split, pair in {**rows, "2 processes x 2 x 4": apart[name]}.items():
            for what, found in zip(("", ", resumed"), pair, strict=True):
                shown = " | ".join(f"{value:.0e}" for value in distances(found, whole).values())
                print(f"| {name} | {split}{what} | {shown} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
