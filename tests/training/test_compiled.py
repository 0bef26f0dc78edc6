"""A training step as the compiler and the device see it: one graph, few shapes, no read in its middle."""

import importlib.util
import sys
import traceback
from collections import Counter
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from launch import ROOT
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(ROOT / "tests" / "equivalence"))
from parity_cases import CASES, Case, batches_of, objective

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.data.sequences.batches import MicroBatch
from nlp_ssl.evaluation.held_out import evaluate
from nlp_ssl.runs.resolve import even_share
from nlp_ssl.training.device import why_not_compiled
from nlp_ssl.training.loop import train
from nlp_ssl.training.schedules import Horizon

aten = torch.ops.aten
# whose result, or its shape, a host must read off a device before it can go on
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2}
READS |= {aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.argwhere}


def first_batch(case: Case) -> MicroBatch:
    batches = batches_of(case, 4)
    return batches[batches.parts(0)[0]]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_one_graph(case):
    torch.compiler.reset()
    module = Accelerator(cpu=True).prepare(objective(case))
    explained = torch._dynamo.explain(module)(first_batch(case).inputs)
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


@pytest.mark.parametrize("case", [case for case in CASES if case.isolates], ids=str)
def test_a_step_reads_nothing_but_its_loss_and_norm(case):
    module = objective(case)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    optimizer.param_groups[0]["peak_lr"] = 1e-3
    accelerator = Accelerator(cpu=True)
    module, optimizer = accelerator.prepare(module, optimizer)
    steps = train(
        module, optimizer, iter([batches_of(case, 4)[(0, slice(0, 4))] for _ in range(2)] for _ in range(9)),
        accelerator=accelerator,
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
        tuple((key, value.shape) for key, value in batches[part].inputs.items())
        for step in range(20)
        for part in batches.parts(step)
    }
    assert len(shapes) <= 3  # two powers of two of documents, and labels beyond six standard deviations


def test_an_evaluation_compiles_nothing_and_the_next_step_neither():
    case = Case("bert", "masked")
    counter = CompileCounter()
    torch.compiler.reset()
    accelerator = Accelerator(cpu=True)
    module = objective(case)
    module.compile(backend=counter, dynamic=False)
    module = accelerator.prepare(module)
    whole = first_batch(case)
    batch = whole.inputs
    module.train()(batch)["mlm"].backward()
    assert counter.frame_count == 1
    few = {key: value[:2] if value.dim() == 2 else value for key, value in batch.items() if key != "cu_seqlens"}
    held_out = few | {"cu_seqlens": batch["cu_seqlens"], "label_positions": batch["label_positions"] % 80}
    found = evaluate(module, iter([replace(whole, inputs=held_out)]), accelerator)
    assert found.sums["mlm"] > 0
    module.train()(batch)["mlm"].backward()
    assert counter.frame_count == 1


@pytest.mark.parametrize("missing", ["triton", "compiler", "headers", "capability", None])
def test_a_gpu_without_what_triton_needs_is_not_compiled_for_and_says_why(missing, monkeypatch, tmp_path):
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if missing == "triton" else name)
    monkeypatch.setattr("shutil.which", lambda name: None if missing == "compiler" else f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_path", lambda name: tmp_path / ("none" if missing == "headers" else ""))
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: (6, 1) if missing == "capability" else (9, 0)
    )
    named = {"triton": "triton", "compiler": "gcc", "headers": "python3-dev", "capability": "7.0"}
    why = why_not_compiled(torch.device("cuda"))
    assert named[missing] in why if missing else why is None
    assert "CUDA" in why_not_compiled(torch.device("cpu"))


@pytest.mark.parametrize(
    ("rows", "fitting", "expected"),
    [(64, 100, 64), (64, 64, 64), (512, 200, 128), (96, 50, 48), (100, 30, 25), (97, 50, 49), (7, 3, 3), (5, 1, 1)],
)
def test_micro_batches_are_even_where_that_costs_little(rows, fitting, expected):
    assert even_share(rows, fitting) == expected
