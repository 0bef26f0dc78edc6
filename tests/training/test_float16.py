"""Training in float16 with its loss scaler: overflows lower the scale and cost a step, and nothing else."""

import sys

import pytest
import torch
from accelerate import Accelerator
from launch import ROOT

sys.path.insert(0, str(ROOT / "tests" / "equivalence"))
from parity_cases import Case, batches_of, objective

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.training.loop import Step, train
from nlp_ssl.training.schedules import Horizon

STEPS = 8
FIRST = 21  # power of two of a scale that is too large for the gradients below
CASES = [Case("bert", "masked"), Case("llama", "causal"), Case("bert", "classification")]


def float16(init_scale: float) -> Accelerator:
    """An accelerator in float16, which Accelerate makes for GPUs alone; PyTorch has the same arithmetic on a CPU."""
    accelerator = Accelerator(cpu=True)
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return accelerator


def learn(accelerator: Accelerator, case: Case) -> tuple[list[Step], list[torch.Tensor], list[float]]:
    """Steps, the weights after each, and the scale after each."""
    module = objective(case)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer.param_groups[0]["peak_lr"] = 0.1
    module, optimizer = accelerator.prepare(module, optimizer)
    batches = batches_of(case, 4)
    steps, weights, scales = [], [], []
    every = ([batches[part] for part in batches.parts(number)] for number in range(STEPS + 1))
    for step in train(
        module, optimizer, every,
        accelerator=accelerator,
        schedule=ScheduleConfig(name="constant", warmup=0), horizon=Horizon(STEPS), max_grad_norm=1.0,
    ):  # fmt: skip
        steps.append(step)
        weights.append(torch.cat([p.detach().flatten().clone() for p in module.parameters()]))
        scales.append(accelerator.scaler.get_scale() if accelerator.scaler else 1.0)
    return steps, weights, scales


@pytest.mark.parametrize(
    "case", [Case("bert", "masked"), Case("llama", "causal"), Case("bert", "classification")], ids=str
)
def test_it_learns_what_float32_learns(case: Case) -> None:
    half, half_weights, scales = learn(float16(2.0**10), case)
    single, weights, _ = learn(Accelerator(cpu=True), case)
    assert all(step.incident is None for step in half)
    assert set(scales) == {2.0**10}
    for a, b in zip(half, single, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=5e-3)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=5e-2)  # of the gradient, not of the scaled one
    moved = (weights[-1] - weights[0]).norm()
    assert (half_weights[-1] - weights[-1]).norm() < 0.05 * moved


def test_an_overflow_costs_a_step_and_halves_the_scale() -> None:
    steps, weights, scales = learn(float16(2.0**FIRST), Case("bert", "masked"))
    overflows = [step.incident == "overflow" for step in steps]
    count = overflows.index(False)
    assert 0 < count < STEPS - 2
    assert overflows == [True] * count + [False] * (STEPS - count)
    assert scales[:count] == [2.0 ** (FIRST - 1 - number) for number in range(count)]
    assert set(scales[count:]) == {scales[count - 1]}
    for number in range(1, STEPS):
        assert torch.equal(weights[number], weights[number - 1]) == overflows[number]
    assert all(step.loss == step.loss and step.loss < 20 for step in steps)
