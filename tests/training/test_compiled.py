"""A training step as the compiler and the device see it: one graph, few shapes, no read in its middle."""

import sys
import traceback
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from launch import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(ROOT / "tests" / "equivalence"))
from parity_cases import CASES, Case, batches_of, build_model, objective

from nlp_ssl.config import ScheduleConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.objective import ObjectiveModule
from nlp_ssl.pretraining import even_share
from nlp_ssl.training.loop import train
from nlp_ssl.training.schedules import Horizon

aten = torch.ops.aten
# whose result, or its shape, a host must read off a device before it can go on
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2}
READS |= {aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.argwhere}
ONE_GRAPH = [case for case in CASES if case.architecture != "deberta-v2"]


def module_of(case: Case) -> ObjectiveModule:
    model = build_model(case, case.isolates)
    return ObjectiveModule(PackedModel(model, case.isolates) if case.is_packed else model, objective(case))


@pytest.mark.parametrize("case", ONE_GRAPH, ids=str)
def test_a_step_is_one_graph(case):
    torch.compiler.reset()
    batches = batches_of(case, 4)
    batch = batches[(0, batches.micro_batches(0)[0])]
    del batch["digest"]
    module = Accelerator(cpu=True).prepare(module_of(case))
    explained = torch._dynamo.explain(module)(batch)
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


class Reads(TorchDispatchMode):
    """Counts what a host would wait for a device for; the next step's batches lie on the host, and do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if (packet in READS or mask) and not any(frame.name == "prepare" for frame in traceback.extract_stack()):
            self.seen[str(packet)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", [case for case in ONE_GRAPH if case.isolates], ids=str)
def test_a_step_reads_nothing_but_its_loss_and_norm(case):
    module = module_of(case)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    optimizer.param_groups[0]["peak_lr"] = 1e-3
    accelerator = Accelerator(cpu=True)
    module, optimizer = accelerator.prepare(module, optimizer)
    steps = train(
        module, optimizer, iter([batches_of(case, 4)[(0, slice(0, 4))] for _ in range(2)] for _ in range(9)),
        module.objective.num_targets, accelerator=accelerator,
        schedule=ScheduleConfig(name="constant", warmup=0), horizon=Horizon(5), max_grad_norm=1.0,
    )  # fmt: skip
    next(steps)
    with Reads() as reads:
        next(steps)
    assert not reads.seen  # reading the step's two numbers, as a list, is no operation of its own on a CPU
    with Reads() as reads:
        assert torch.ones(3)[torch.tensor([True, False, True])].sum().item() == 2
    assert reads.seen.total() == 2, "such reads would be seen"


def test_batches_of_a_run_have_few_shapes():
    case = Case("bert", "masked")
    batches = batches_of(case, 4)
    shapes = {
        tuple((key, value.shape) for key, value in batches[(step, part)].items())
        for step in range(20)
        for part in batches.micro_batches(step)
    }
    assert len(shapes) <= 3  # two powers of two of documents, and labels beyond six standard deviations


@pytest.mark.parametrize(
    ("rows", "fitting", "expected"),
    [(64, 100, 64), (64, 64, 64), (512, 200, 128), (96, 50, 48), (100, 30, 25), (97, 50, 49), (7, 3, 3), (5, 1, 1)],
)
def test_micro_batches_are_even_where_that_costs_little(rows, fitting, expected):
    assert even_share(rows, fitting) == expected
