"""Where a step stands: against walking there step by step."""

from itertools import islice

import pytest
import torch

from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases


class Names:
    """Batches of which rows they are, named by whoever made them."""

    def __init__(self, name="the run's"):
        self.name = name

    def __call__(self, rows):
        return {"rows": list(rows), "made by": self.name, "input_ids": torch.zeros(1), "digest": torch.tensor(0)}

    def counts(self, batch):
        return {"loss": len(batch["rows"])}


class Rows:
    def __init__(self, name, count):
        self.name, self.count = name, count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return {"name": self.name}


LONG, SHORT = Rows("long", 37), Rows("short", 90)
PHASES = Phases(
    [Phase(SHORT, 4, 4, 3), Phase(SHORT, 8, 4, 5), Phase(LONG, 6, 2, 4), Phase(SHORT, 8, 8, 2), Phase(LONG, 10, 4)]
)


def walked(steps):
    """(rows, batch size, rows of these visited before) of every step, by counting."""
    plan = [("short", 4)] * 3 + [("short", 8)] * 5 + [("long", 6)] * 4 + [("short", 8)] * 2 + [("long", 10)] * steps
    visited = {"long": 0, "short": 0}
    for name, size in plan[:steps]:
        yield name, size, visited[name]
        visited[name] += size


def test_at_is_walking_there():
    found = [(phase.rows.name, phase.batch_size, cursor) for phase, cursor in map(PHASES.at, range(60))]
    assert found == list(walked(60))


@pytest.mark.parametrize("start", [0, 2, 9, 13, 40])
def test_no_row_is_repeated_or_left_out_over_phases(start):
    seen = {"long": [], "short": []}
    batches = TrainBatches(PHASES, Names(), seed=1)
    sizes = []
    for micro_batches in islice(batches.steps(start), 30):
        sizes.append(sum(batch.counts["loss"] for batch in micro_batches))
        for row in (row for batch in micro_batches for row in batch.inputs["rows"]):
            seen[row["name"]].append((row["epoch"], row["row"]))
    assert sizes == [size for _, size, _ in list(walked(start + 30))[start:]]
    for rows, visits in seen.items():
        assert len(set(visits)) == len(visits)
        if start == 0:
            whole = [row for epoch, row in visits if epoch == 0]
            assert rows == "short" or sorted(whole) == list(range(37))


def test_a_phase_has_its_own_collator():
    phases = Phases([Phase(SHORT, 4, 4, 2), Phase(LONG, 4, 2, 3, Names("the phase's")), Phase(SHORT, 4, 4)])
    batches = TrainBatches(phases, Names(), seed=1)
    made_by = [{batch.inputs["made by"] for batch in step} for step in islice(batches.steps(1), 6)]
    assert made_by == [{"the run's"}, *[{"the phase's"}] * 3, *[{"the run's"}] * 2]


def test_far_away_is_as_near():
    phase, cursor = PHASES.at(10**12)
    assert (phase.rows, cursor) == (LONG, 4 * 6 + (10**12 - 14) * 10)
