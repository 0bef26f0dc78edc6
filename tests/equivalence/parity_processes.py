"""The same cases on two processes, all in one launch: `two_processes` starts it, and it runs `main`."""

import os
import sys
from pathlib import Path
from typing import Any

import forks
import torch
from launch import environment

from nlp_ssl.doctor.proofs import Trajectory

PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


def two_processes(out: Path, what: str) -> dict[tuple[str, ...], Any]:
    """Results by case, from two processes over gloo.

    Args:
        out: a file to write them to.
        what: `"ours"`: trajectories by (case, optimizer), micro-batches of 4 rows, so two for each process;
            `"trainer"`: the stock `Trainer`'s (loss, gradient norm) by (case,), split alike.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join(filter(None, [*PATHS, os.environ.get("PYTHONPATH")]))
    done = forks.run([*launch, __file__, str(out), what], env=environment() | {"PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr
    with torch.serialization.safe_globals([Trajectory]):
        return torch.load(out, weights_only=True)


def main(out: str, what: str) -> None:
    from accelerate import Accelerator
    from parity_cases import BATCH, CASES, OPTIMIZERS, ours
    from parity_trainer import trainer_step

    torch.set_num_threads(1)
    if what == "trainer":
        results = {(str(case),): trainer_step(case, BATCH // 4, 2) for case in CASES}
    else:
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        results = {(str(case), name): ours(case, name, 4, accelerator) for case in CASES for name in OPTIMIZERS}
    if torch.distributed.get_rank() == 0:
        torch.save(results, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
