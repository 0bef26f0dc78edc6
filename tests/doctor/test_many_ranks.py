"""A step of one process is that of a thousand; and what makes it another one is found."""

from dataclasses import replace

import numpy as np
import pytest
from toys import packed_rows, tokenizer

from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.doctor.many_ranks import learnt, same_for_all
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator

BATCH = 1100
STEPS = [0, 3, 10_000_000]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return packed_rows(tmp_path_factory.mktemp("tokens"), sequence_length=24)


def batches_of(rows, kind=TrainBatches, **more):
    phases = Phases([Phase(rows, BATCH, 2)])
    collator = MaskedCollator(MaskingCollator(tokenizer("bpe")))
    return lambda rank, world: kind(phases, collator, seed=3, rank=rank, world_size=world, **more)


class LosesARow(TrainBatches):
    """As a loader that drops what does not fill a micro-batch."""

    def micro_batches(self, step, stream=0):
        return [part for part in super().micro_batches(step, stream) if part.stop - part.start == 2]


class MasksByRank(TrainBatches):
    """Rows right, masks of the rank's own."""

    def __getitem__(self, index):
        found = super().__getitem__(index)
        return replace(found, digest=found.digest + self.rank)


class ShufflesByRank(TrainBatches):
    """Each rank has an order of its own."""

    def step_rows(self, step, part=slice(None), stream=0):
        data, numbers, epochs = super().step_rows(step, part, stream)
        return data, (numbers + self.rank) % len(data), epochs


def test_a_step_is_the_same_for_a_thousand_processes(rows):
    assert len(rows) < BATCH  # so the second step reads the end of an epoch, and most others
    assert same_for_all(batches_of(rows), STEPS) == []
    found = learnt(batches_of(rows), STEPS[2], 7)
    assert sum(found.rows.values()) == BATCH
    assert found.tokens == sum(
        int((np.asarray(rows[row]["document_ids"]) > 0).sum()) * times for (_, row, _), times in found.rows.items()
    )


@pytest.mark.parametrize("kind", [LosesARow, MasksByRank, ShufflesByRank])
def test_what_depends_on_the_number_of_processes_is_found(rows, kind):
    assert same_for_all(batches_of(rows, kind), [0], [1000 if kind is LosesARow else 8]) != []
