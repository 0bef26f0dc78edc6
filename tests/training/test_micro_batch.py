"""The largest micro-batch that fits is found by trying, whatever does not fit leaves nothing behind."""

import sys
from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator
from launch import ROOT

sys.path.insert(0, str(ROOT / "tests" / "equivalence"))
from parity_cases import Case, collator, objective, rows_of

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.training.micro_batch import find_micro_batch, largest_that_fits

CASE = Case("bert", "masked")


@pytest.mark.parametrize(
    ("rows", "room", "found"), [(512, 512, 512), (512, 200, 128), (100, 30, 25), (7, 1, 1), (5, 0, 0)]
)
def test_halves_until_it_fits(rows, room, found):
    tried = []
    assert largest_that_fits(rows, lambda n: (tried.append(n), n <= room)[1]) == found
    assert tried[0] == rows
    assert all(later < earlier for earlier, later in pairwise(tried))


class Small(MaskedLanguageModeling):
    """Has memory for this many rows, and is out of it in the middle of the backward pass."""

    room = 5

    def forward(self, batch):
        sums = super().forward(batch)
        if len(batch["input_ids"]) > self.room:
            sums["mlm"].register_hook(self.run_out)
        return sums

    @staticmethod
    def run_out(gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def small(room: int) -> Small:
    module = objective(CASE, kind=Small).eval()
    module.room = room
    return module


def test_a_model_is_tried_and_left_as_it_was():
    module = small(5)
    before = {name: p.clone() for name, p in module.named_parameters()}
    found = find_micro_batch(module, rows_of(CASE), collator(CASE), 16, Accelerator(cpu=True))
    assert found == 4
    assert not module.training
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_not_even_one_row():
    with pytest.raises(UserError, match="not even one sequence fits"):
        find_micro_batch(small(0), rows_of(CASE), collator(CASE), 16, Accelerator(cpu=True))


def test_it_is_asked_for_by_its_name():
    assert parse(MLMConfig, argv=["--train.micro_batch_size", "auto"]).train.micro_batch_size == "auto"
    assert parse(MLMConfig, argv=["--train.micro_batch_size", "8"]).train.micro_batch_size == 8
    with pytest.raises(UserError, match="micro_batch"):
        parse(MLMConfig, argv=["--train.micro_batch_size", "most"])
