"""What it costs to begin at a step of a huge corpus: `python tests/equivalence/repositioning.py` prints a table.

The corpus is simulated (a row is made from its number), the rest is real: a batch ramp, order, masks, collation.
"""

import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from toys import word_tokenizer

from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator

LENGTH, NUM_ROWS, BATCH = 512, 10**10, 256  # five trillion tokens


class HugeCorpus:
    """Ten billion rows of one document each."""

    sequence_length, fixed_length = LENGTH, True

    def __len__(self) -> int:
        return NUM_ROWS

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        ids = 5 + (row + np.arange(LENGTH)) % 900
        one = np.ones(LENGTH, dtype=np.int64)
        return {"input_ids": ids, "document_ids": one, "position_ids": np.arange(LENGTH), "cut_ends": one < 1}


def first_batch(step: int) -> tuple[float, float, int]:
    """Seconds and peak megabytes from nothing to the first micro-batch of a step, and its digest."""
    collator = MaskedCollator(MaskingCollator(word_tokenizer(1000)))
    rows = HugeCorpus()
    phases = Phases([Phase(rows, BATCH // 4, 32, 4), Phase(rows, BATCH // 2, 32, 4), Phase(rows, BATCH, 32)])
    tracemalloc.start()
    begun = time.perf_counter()
    batch = next(TrainBatches(phases, collator, seed=0).steps(step))[0]
    seconds = time.perf_counter() - begun
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return seconds, peak, batch.digest


if __name__ == "__main__":
    first_batch(0)  # imports
    steps = (10, 10_000, 10_000_000)
    measured = {step: [] for step in steps}
    for _ in range(7):  # alternating
        for step in steps:
            measured[step].append(first_batch(step))
    print("| step | ms to its batches (median of 7) | peak MB |\n|---|---|---|")
    for step, runs in measured.items():
        seconds, peaks, digests = zip(*runs, strict=True)
        assert len(set(digests)) == 1
        print(f"| {step:,} | {1000 * statistics.median(seconds):.1f} | {max(peaks):.2f} |")
