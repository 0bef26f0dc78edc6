"""What only a CUDA GPU can show: `pytest -m gpu` there; everywhere else these are skipped."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launch import ROOT, write_corpus
from toys import packed_rows, tiny_model

sys.path.insert(0, str(ROOT / "tests" / "equivalence"))
from parity_cases import BATCH, ROW_LENGTH, Case, batches_of, expected, objective, ours

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.data.sequences.packing import cumulative_lengths
from nlp_ssl.doctor.proofs import difference, relative_distance
from nlp_ssl.models.checks import check_varlen
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.training.device import compile_module
from nlp_ssl.training.loop import train
from nlp_ssl.training.schedules import Horizon

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
CUDA = torch.device("cuda")
PACKED = [Case("bert", "masked"), Case("modernbert", "masked"), Case("gpt2", "causal"), Case("llama", "causal")]
CASES = [*PACKED, Case("deberta-v2", "masked"), Case("bert", "classification"), Case("modernbert", "tagging")]


@pytest.fixture
def accelerator():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    def make(precision: str) -> Accelerator:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        return Accelerator(mixed_precision=precision)

    return make


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [128, 512, 1024])
@pytest.mark.parametrize("head", [16, 32, 64, 80, 128])
def test_the_kernel_for_documents_end_to_end_is_as_exact_as_a_mask(dtype, length, head):
    config = tiny_model("bert", hidden_size=2 * head).config
    right, found = check_varlen(config, length, dtype, CUDA)
    assert right, found


@pytest.mark.parametrize("case", PACKED, ids=str)
def test_another_document_changes_no_bit(case, tmp_path):
    rows = packed_rows(tmp_path, "bpe", 64)
    several = [row for row in range(len(rows)) if len(rows.row_pieces(row)) > 2][:8]
    batch = {key: torch.from_numpy(value) for key, value in rows.stack(np.array(several)).items()}
    cu_seqlens = torch.from_numpy(cumulative_lengths(batch["document_ids"].numpy())).to(CUDA)
    ids, documents, positions = (batch[k].to(CUDA) for k in ("input_ids", "document_ids", "position_ids"))
    packed = PackedModel(tiny_model(case.architecture, isolated=True), True).to(CUDA).eval()
    packed.varlen = True

    @torch.no_grad()
    def logits(input_ids):
        with torch.autocast("cuda", torch.bfloat16):
            return packed(input_ids, document_ids=documents, position_ids=positions, cu_seqlens=cu_seqlens)

    before, after = logits(ids % 100), logits(torch.where(documents == 2, (ids + 7) % 100, ids % 100))
    others = (documents != 2) & (documents > 0)
    assert int((documents == 2).sum()) > 8
    assert not torch.equal(before[documents == 2], after[documents == 2])
    assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_is_the_sum_of_its_micro_batches(case, accelerator):
    true = expected(case, "sgd")
    for micro_batch in (BATCH, 4):
        found = difference(ours(case, "sgd", micro_batch, accelerator("no"), torch.float32), true)
        eps = torch.finfo(torch.float32).eps
        assert max(found.loss, found.gradient) < BATCH * ROW_LENGTH * eps
    whole, parts = (ours(case, "sgd", size, accelerator("bf16"), torch.float32, varlen=True) for size in (BATCH, 4))
    assert 0 < difference(whole, true).gradient < 0.1
    # the split moves bf16's result by no more than bf16 itself does
    assert difference(parts, whole).gradient < 2 * difference(whole, true).gradient
    assert difference(parts, whole).loss < 2e-3


@pytest.mark.parametrize("case", [*PACKED, Case("bert", "classification")], ids=str)
def test_a_compiled_step_is_as_exact_as_one_that_is_not(case, accelerator):
    made = accelerator("bf16")
    batches = batches_of(case, BATCH)
    batch = batches[batches.parts(0)[0]].inputs
    batch = {key: value.to(CUDA) for key, value in batch.items()}

    def gradient(compiled, dtype):
        module = objective(case, dtype).to(CUDA)
        if case.isolates and module.model.pairwise is None:
            module.model.varlen = dtype != torch.float64
        if compiled:
            torch.compiler.reset()
            compile_module(module)
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype != torch.float64):
            sums = module(batch)
        (term,) = module.terms
        sums[term].backward()
        return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}, float(sums[term].detach())

    assert made.device.type == "cuda"
    (true, exact), (eager, _), (compiled, loss) = (
        gradient(False, torch.float64),
        gradient(False, torch.float32),
        gradient(True, torch.float32),
    )
    assert loss == pytest.approx(exact, rel=1e-2)
    assert relative_distance(compiled, true) < 2 * relative_distance(eager, true)


# packed rows alone: for padded ones transformers asks the device whether anything is padded
@pytest.mark.parametrize("case", PACKED, ids=str)
def test_a_step_reads_from_the_device_once(case, accelerator):
    module = objective(case)
    if case.isolates:
        module.model.varlen = True
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    optimizer.param_groups[0]["peak_lr"] = 1e-3
    made = accelerator("bf16")
    module, optimizer = made.prepare(module, optimizer)
    batches = batches_of(case, 4)
    batches.pin_memory = True
    steps = train(
        module, optimizer, batches.steps(0), accelerator=made,
        schedule=ScheduleConfig(name="constant", warmup=0), horizon=Horizon(5), max_grad_norm=1.0,
    )  # fmt: skip
    next(steps)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(3):
                next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reads = [w for w in seen if "synchronizing" in str(w.message)]
    assert len(reads) == 3, [f"{w.filename}:{w.lineno}" for w in reads]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_summed_cross_entropy_is_torchs(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(3000, 30_522, generator=generator)).to(CUDA, dtype).requires_grad_()
    labels = torch.randint(0, 30_522, (3000,), generator=generator).to(CUDA)
    labels[::5] = IGNORE
    loss = summed_cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss / 2400, logits)
    exact = logits.detach().double().requires_grad_()
    true = F.cross_entropy(exact, labels, ignore_index=IGNORE, reduction="sum")
    (true_gradient,) = torch.autograd.grad(true / 2400, exact)
    assert float(loss) == pytest.approx(float(true), rel=1e-5)
    assert float((gradient - true_gradient).norm() / true_gradient.norm()) < 4 * torch.finfo(dtype).eps


# ---------------------------------------------------------------------------------------------------------------------
# whole runs


def start(corpus: Path, out: Path, *options: object, recipe: str = "pretrain_mlm.py") -> subprocess.Popen:
    variables = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    command = [sys.executable, ROOT / "recipes" / recipe, "--data.sources", corpus, "--model.name", "modernbert-tiny"]
    command += ["--tokenizer.vocab_size", 320, "--tokens.sequence_length", 64, "--train.global_batch_size", 64]
    command += ["--train.micro_batch_size", 32, "--train.log_every", 1, "--data.held_out_fraction", 0.1]
    command += ["--train.steps", 30, "--output_dir", out, *options]
    return subprocess.Popen(
        list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=variables | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen, expect: int = 0) -> str:
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == expect, printed
    return printed


def losses(out: Path) -> list[float]:
    events = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["event"] == "step"]


@pytest.mark.parametrize("recipe", ["pretrain_mlm.py", "pretrain_rtd.py"])
def test_a_deterministic_run_gives_the_same_bits_and_so_does_one_stopped_and_resumed(recipe, tmp_path):
    started = partial(start, recipe=recipe)
    corpus = write_corpus(tmp_path / "corpus.txt")
    options = ["--train.deterministic", "--train.compile", "false"]
    finish(started(corpus, tmp_path / "prepared", *options, "--train.steps", 1))  # tokens and kernels are there now
    once, again = (started(corpus, tmp_path / name, *options) for name in ("once", "again"))
    stopped = started(corpus, tmp_path / "stopped", *options)
    log = tmp_path / "stopped" / "log.jsonl"
    deadline = time.monotonic() + 100
    while not (log.exists() and log.read_text().count('"step", "step"') >= 3) and stopped.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    assert "documents laid end to end" in finish(once)
    finish(again)
    stopped.communicate(timeout=200)
    assert stopped.returncode == 75
    finish(started(corpus, tmp_path / "stopped", *options, "--resume"))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "again", "stopped")]
    assert weights[0] == weights[1]
    assert weights[0] == weights[2]


def test_float16_with_its_scaler_learns_what_bfloat16_learns(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.txt")
    finish(start(corpus, tmp_path / "prepared", "--train.compile", "false", "--train.steps", 1))
    eager = ("--train.compile", "false")
    runs = {p: start(corpus, tmp_path / p, "--train.mixed_precision", p, *eager) for p in ("fp16", "bf16", "no")}
    found = {}
    for precision, process in runs.items():
        finish(process)
        found[precision] = losses(tmp_path / precision)
    for values in found.values():
        assert values[0] == pytest.approx(found["no"][0], rel=1e-2)
        assert values[-1] < values[0] - 0.5
        assert values[-1] == pytest.approx(found["no"][-1], rel=0.1)
