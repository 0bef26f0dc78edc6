"""One batch of 16 = 4 x 4 = 5 x 3 + 1 = 2 processes x 2 x 4: loss, gradient and weights, for every model and head.

The witness is plain transformers and PyTorch, a text at a time, in float64 (`parity_cases.expected`). There right and
wrong lie ten orders of magnitude apart, so the tolerances are bounds on rounding, not choices.
"""

import math

import pytest
import torch
from accelerate import Accelerator
from parity_cases import BATCH, CASES, MICRO_BATCHES, ROW_LENGTH, STEPS, expected, ours
from parity_processes import two_processes
from torch import Tensor

from nlp_ssl.doctor.proofs import Trajectory, difference
from nlp_ssl.objectives.objective import Objective

EPS64, EPS32 = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps
# A loss or a gradient is a sum over the tokens of a batch; two orders of summing n terms differ by n rounding errors at
# most (Higham 2002, section 4.2), and by their square root as a rule.
TOKENS = BATCH * ROW_LENGTH
# AdamW moves a weight by lr * g / (|g| + 1e-8). Where the true gradient is 0 (the bias of an attention key: softmax
# takes no notice of it) g is noise, a rounding error of the whole gradient; the quotient raises it by lr / 1e-8 a step.
ADAMW_64 = STEPS * (1e-3 / 1e-8) * EPS64
SPLITS = [*MICRO_BATCHES, "2 processes"]


@pytest.fixture(scope="module")
def accelerator():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Accelerator(cpu=True)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory):
    return two_processes(tmp_path_factory.mktemp("parity") / "ours.pt", "ours")


@pytest.fixture(params=SPLITS, ids=lambda split: split if isinstance(split, str) else f"micro-batches of {split}")
def train_split(request, accelerator):
    """`(case, optimizer) -> Trajectory` under a split of the batch."""
    if request.param == "2 processes":
        results = request.getfixturevalue("on_two_processes")
        return lambda case, optimizer: results[str(case), optimizer]
    return lambda case, optimizer: ours(case, optimizer, request.param, accelerator)


def furthest(found: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    """Largest distance of any tensor, relative to its norm; one that is 0 but for rounding is held to the whole's."""
    assert found.keys() == true.keys()
    whole = math.hypot(*(float(t.norm()) for t in true.values()))
    sizes = {name: float(t.norm()) for name, t in true.items()}
    return max(
        float((found[name].double() - t).norm()) / (sizes[name] if sizes[name] > EPS64 * whole else whole)
        for name, t in true.items()
    )


def check(found: Trajectory, true: Trajectory, eps: float) -> None:
    assert found.losses == pytest.approx(true.losses, rel=TOKENS * eps)
    assert found.grad_norms == pytest.approx(true.grad_norms, rel=TOKENS * eps)
    assert furthest(found.gradient, true.gradient) < TOKENS * eps


@pytest.mark.parametrize("case", CASES, ids=str)
def test_adamw_takes_the_same_steps(case, train_split):
    found, true = train_split(case, "adamw"), expected(case, "adamw")
    check(found, true, EPS64)
    assert difference(found, true).parameters < ADAMW_64


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sgd_moves_every_tensor_alike(case, train_split):
    found, true = train_split(case, "sgd"), expected(case, "sgd")
    check(found, true, EPS64)
    assert furthest(found.parameters, true.parameters) < TOKENS * EPS64


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_as_runs_use_it_differs_by_its_rounding(case, accelerator):
    found, true = ours(case, "sgd", 3, accelerator, torch.float32), expected(case, "sgd")
    check(found, true, EPS32)
    assert furthest(found.parameters, true.parameters) < TOKENS * EPS32


class MeanOfMeans(Objective):
    """An objective as most code has it: every micro-batch counts alike, whatever it asks for."""

    def __init__(self, asked, collator):
        super().__init__(asked.model)
        self.asked, self.collator = asked, collator

    @property
    def terms(self):
        return self.asked.terms

    def forward(self, batch):
        sums, counts = self.asked(batch), self.collator.counts(batch)
        return {name: sums[name] / max(1, count) for name, count in counts.items()}


class CountsAlike:
    """Every micro-batch has one target."""

    def __init__(self, collator):
        self.collator = collator

    def __call__(self, rows):
        return self.collator(rows)

    def counts(self, batch):
        return dict.fromkeys(self.collator.counts(batch), 1)


def means(module, collator):
    return MeanOfMeans(module, collator), CountsAlike(collator)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_these_rows_would_show_a_mean_of_means(case, accelerator):
    wrong = ours(case, "adamw", 3, accelerator, spoilt=means)
    seen = difference(wrong, expected(case, "adamw"))
    assert seen.loss > 1e-3
    assert seen.gradient > 1e-2
    assert seen.parameters > 1e-4
