"""Print the parity table: `python tests/equivalence/parity_table.py` (on a CPU).

Ours beside the stock `transformers.Trainer`, each against float64 computed a text at a time by plain transformers.
"""

# ruff: noqa: E402  (the helpers beside this file and one folder above are found first)
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch
from accelerate import Accelerator
from parity_cases import BATCH, CASES, MICRO_BATCHES, expected, ours
from parity_processes import two_processes
from parity_trainer import expected_step, trainer_step

from nlp_ssl.doctor.proofs import Trajectory, difference

SPLITS = ["1 x 16", "micro-batches of 4", "of 3", "2 processes x 2 x 4"]
STOCK_SPLITS = ["1 x 16", "4 x 4", "2 processes x 2 x 4"]


def differences(found: Trajectory, true: Trajectory) -> str:
    """Of loss, gradient and parameters."""
    seen = difference(found, true)
    return " ".join(f"{value:.0e}" for value in (seen.loss, seen.gradient, seen.parameters))


def ratios(found: tuple[float, float], true: tuple[float, float]) -> str:
    """Of loss and gradient norm."""
    return " ".join(f"{a / b:.3f}" for a, b in zip(found, true, strict=True))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        on_two = two_processes(Path(folder, "ours.pt"), "ours")
        trainer_on_two = two_processes(Path(folder, "trainer.pt"), "trainer")
    accelerator = Accelerator(cpu=True)
    exact, stock = [], []
    for case in CASES:
        true = expected(case, "adamw")
        found = [ours(case, "adamw", size, accelerator) for size in MICRO_BATCHES]
        single = ours(case, "adamw", 3, accelerator, torch.float32)
        splits = [*found, on_two[str(case), "adamw"], single]
        exact.append([str(case), *(differences(each, true) for each in splits)])
        steps = [trainer_step(case, BATCH, 1), trainer_step(case, BATCH // 4, 4), trainer_on_two[str(case),]]
        largest = max(abs(a / b - 1) for each in splits[:-1] for a, b in zip(each.losses, true.losses, strict=True))
        norms = max(abs(e.grad_norms[0] / true.grad_norms[0] - 1) for e in splits[:-1])
        stock.append([str(case), f"1 ± {max(largest, norms):.0e}", *(ratios(s, expected_step(case)) for s in steps)])
    print("Relative differences of loss, first gradient, and all parameters after 4 AdamW steps; float64\n")
    print_table(["nlp_ssl", *SPLITS, "of 3, in float32"], exact)
    print("Loss and gradient norm, divided by the true ones\n")
    print_table(["", "nlp_ssl, every split", *(f"Trainer {split}" for split in STOCK_SPLITS)], stock)


if __name__ == "__main__":
    main()
