"""A step of the loop on one weight, against the arithmetic of gradient descent by hand."""

import pytest
import torch
from accelerate import Accelerator

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.data.sequences.batches import MicroBatch
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training.loop import train
from nlp_ssl.training.schedules import Horizon

LR = 0.1


class Slope(Objective):
    """Its summed loss over a batch of t targets is t * slope * weight, so its gradient is the slope."""

    def __init__(self):
        super().__init__(torch.nn.Module())
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"loss": (batch["input_ids"] * self.weight).sum()}


def weights_after(slopes, schedule, max_grad_norm):
    """The weight after every step of plain gradient descent, and the steps."""
    module = Slope()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    optimizer.param_groups[0]["peak_lr"] = LR
    accelerator = Accelerator(cpu=True)
    ids = (torch.full((2, 3), float(slope)) for slope in [*slopes, slopes[-1]])  # one step is fetched ahead
    batches = ([MicroBatch({"input_ids": part}, {"loss": 3}, 3, 0) for part in batch] for batch in ids)
    weights, taken = [], []
    for step in train(
        *accelerator.prepare(module, optimizer), batches,
        accelerator=accelerator, schedule=schedule, horizon=Horizon(len(slopes)), max_grad_norm=max_grad_norm,
    ):  # fmt: skip
        weights.append(module.weight.item())
        taken.append(step)
    return weights, taken


class TwoSlopes(Objective):
    """Two terms, each the sum of its targets' slopes times one weight."""

    def __init__(self):
        super().__init__(torch.nn.Module())
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.steps = []

    @property
    def terms(self):
        return {"a": 2.0, "b": 0.5}

    def forward(self, batch):
        return {name: (batch[name] * self.weight).sum() for name in batch}

    def after_step(self, step):
        self.steps.append(step)


def steps_of_two(*batches):
    """The steps, the objective behind them, and the weight before and after each."""
    module = TwoSlopes()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    optimizer.param_groups[0]["peak_lr"] = LR
    accelerator = Accelerator(cpu=True)
    made = [
        [
            MicroBatch({k: torch.tensor(v) for k, v in part.items()}, {k: len(v) for k, v in part.items()}, 1, 0)
            for part in batch
        ]
        for batch in [*batches, batches[-1]]
    ]
    weights, taken = [1.0], []
    for step in train(
        *accelerator.prepare(module, optimizer), iter(made), accelerator=accelerator,
        schedule=ScheduleConfig(name="constant", warmup=0), horizon=Horizon(len(batches)), max_grad_norm=0,
    ):  # fmt: skip
        weights.append(module.weight.item())
        taken.append(step)
    return taken, module, weights


def test_every_term_is_divided_by_its_own_targets():
    taken, module, weights = steps_of_two([{"a": [1.0, 2.0], "b": [4.0]}, {"a": [6.0], "b": [2.0, 0.0, 6.0]}])
    (step,) = taken
    assert step.targets == {"a": 3, "b": 4}
    assert step.num_targets == 7
    assert step.losses == pytest.approx({"a": 9 / 3, "b": 12 / 4})
    assert step.loss == pytest.approx(2.0 * 3 + 0.5 * 3)
    assert step.grad_norm == pytest.approx(7.5)
    assert weights[1] == pytest.approx(1 - LR * 7.5)
    assert module.steps == [1]


def test_a_step_has_the_terms_of_its_batches():
    taken, module, weights = steps_of_two([{"b": [4.0, 2.0]}], [{"a": [1.0], "b": [4.0]}])
    assert [step.targets for step in taken] == [{"b": 2}, {"a": 1, "b": 1}]
    assert taken[0].losses == pytest.approx({"b": 3.0})
    assert weights[1] == pytest.approx(1 - LR * 0.5 * 3)
    assert module.steps == [1, 2]


def test_a_term_without_targets_teaches_nothing_and_is_told_once(capsys):
    batch = [{"a": [3.0], "b": []}]
    taken, _, weights = steps_of_two(batch, batch)
    assert [step.losses["b"] for step in taken] == [0.0, 0.0]
    assert weights[1] == pytest.approx(1 - LR * 2.0 * 3)
    assert capsys.readouterr().err.count("no targets for the loss term 'b'") == 1


def test_an_objective_hears_of_steps_that_were_applied_alone():
    taken, module, weights = steps_of_two([{"a": [1.0]}], [{"a": [float("inf")]}], [{"a": [1.0]}])
    assert [step.incident for step in taken] == [None, "nonfinite", None]
    assert weights[1] == weights[2] > weights[3]
    assert module.steps == [1, 3]


def test_a_gradient_longer_than_the_limit_is_shortened_to_it():
    constant = ScheduleConfig(name="constant", warmup=0)
    weights, steps = weights_after([4.0, -0.5], constant, max_grad_norm=1.0)
    assert weights == pytest.approx([-LR * 1.0, -LR * 1.0 + LR * 0.5], rel=1e-5)
    assert [step.grad_norm for step in steps] == pytest.approx([4.0, 0.5])  # as it was before
    weights, _ = weights_after([4.0, -0.5], constant, max_grad_norm=0)
    assert weights == pytest.approx([-LR * 4.0, -LR * 4.0 + LR * 0.5], rel=1e-5)


def test_every_step_has_the_rate_of_its_number():
    # two steps up to the peak, then from the peak in a straight line that is at 0 behind the last step
    shares = [1 / 2, 1, 1, 1 / 2]
    weights, steps = weights_after([1.0] * 4, ScheduleConfig(name="linear", warmup=2, final=0.0), max_grad_norm=0)
    assert [step.lr for step in steps] == pytest.approx([LR * share for share in shares])
    expected = [-LR * sum(shares[: number + 1]) for number in range(4)]
    assert weights == pytest.approx(expected, rel=1e-5)
