"""What a step learns from is the same for any number of processes: a thousand of them on one core.

Rows, their order and what is drawn for them are functions of integers, so processes need not run at once: each one's
micro-batches are made after the other's, and what all of them hold together is compared with what one process holds.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nlp_ssl.data.sequences.batches import TrainBatches

WORLDS = (8, 1000, 1024)


@dataclass
class Learnt:
    """What a step learns from, over all processes.

    Attributes:
        rows: how often it visits each row, by stream, row and epoch.
        targets: of each loss term.
        tokens: that are not padding.
        digest: sum of the micro-batches' digests: of tokens, masks and labels.
    """

    rows: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    digest: int = 0


def learnt(make: Callable[[int, int], TrainBatches], step: int, world_size: int) -> Learnt:
    """What the processes of a launch hold together.

    Args:
        make: gives the batches of a rank in a world of some size.
        step: of the run, from 0.
        world_size: processes.
    """
    found = Learnt()
    for rank in range(world_size):
        batches = make(rank, world_size)
        for index in batches.parts(step):
            _, stream, part = index
            _, numbers, epochs = batches.step_rows(step, part, stream)
            found.rows.update((stream, int(n), int(e)) for n, e in zip(numbers, epochs, strict=True))
            batch = batches[index]
            found.targets.update(batch.counts)
            found.tokens += batch.num_tokens
            found.digest += batch.digest
    return found


def same_for_all(
    make: Callable[[int, int], TrainBatches], steps: Sequence[int], worlds: Sequence[int] = WORLDS
) -> list[tuple[int, int]]:
    """Compare what steps learn from on several numbers of processes with what they learn from on one.

    Args:
        make: gives the batches of a rank in a world of some size.
        steps: of the run, from 0.
        worlds: numbers of processes, none above the rows of a step.

    Returns:
        Each `(step, world size)` in which they differ.
    """
    differing = []
    for step in steps:
        expected = learnt(make, step, 1)
        differing += [(step, world) for world in worlds if learnt(make, step, world) != expected]
    return differing
