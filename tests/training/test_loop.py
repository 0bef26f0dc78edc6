"""A step of the loop on one weight, against the arithmetic of gradient descent by hand."""

import pytest
import torch
from accelerate import Accelerator

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.training.loop import train
from nlp_ssl.training.schedules import Horizon

LR = 0.1


class Slope(torch.nn.Module):
    """Its summed loss over a batch of t targets is t * slope * weight, so its gradient is the slope."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return (batch["input_ids"] * self.weight).sum(), {}


def weights_after(slopes, schedule, max_grad_norm):
    """The weight after every step of plain gradient descent, and the steps."""
    module = Slope()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    optimizer.param_groups[0]["peak_lr"] = LR
    accelerator = Accelerator(cpu=True)
    ids = (torch.full((2, 3), float(slope)) for slope in [*slopes, slopes[-1]])  # one step is fetched ahead
    batches = ([{"input_ids": part[None], "digest": torch.tensor(0)} for part in batch] for batch in ids)
    weights, taken = [], []
    for step in train(
        *accelerator.prepare(module, optimizer), batches, lambda batch: batch["input_ids"].numel(),
        accelerator=accelerator, schedule=schedule, horizon=Horizon(len(slopes)), max_grad_norm=max_grad_norm,
    ):  # fmt: skip
        weights.append(module.weight.item())
        taken.append(step)
    return weights, taken


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
