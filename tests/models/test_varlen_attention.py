"""Documents laid end to end in attention, held against a mask; the kernel has a stand-in where there is no GPU.

What the stand-in shows is what we do around the kernel: where documents begin, windows, grouped heads, what is refused.
The kernel itself is proved on the device by `check_varlen` whenever a run starts there, and by `tests/gpu`.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import CAUSAL, packed_rows, tiny_model

from nlp_ssl.data.sequences.packing import cumulative_lengths
from nlp_ssl.models import varlen_attention
from nlp_ssl.models.checks import check_varlen
from nlp_ssl.models.packed import PackedModel

CPU = torch.device("cpu")


def stand_in(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """What torch documents of `varlen_attn`, a document at a time: (T, H, D) in and out, a window of (left, right)."""
    assert query.dtype in (torch.bfloat16, torch.float16)
    assert cu_seq_q.dtype == torch.int32
    assert int(cu_seq_q[-1]) == len(query) == len(value)
    left, right = window_size
    outputs = []
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        assert 0 <= end - begin <= max_q
        at = torch.arange(end - begin)
        ahead = at[None, :] - at[:, None]
        seen = (ahead >= -left if left >= 0 else ahead > -max_q) & (ahead <= right if right >= 0 else ahead < max_q)
        q, k, v = (each[begin:end].transpose(0, 1).float() for each in (query, key, value))
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(0, 1))
    return torch.cat(outputs).to(query.dtype)


@pytest.fixture
def kernel(monkeypatch):
    def use(function=stand_in):
        monkeypatch.setattr(varlen_attention, "varlen_attn", function)

    use()
    return use


def test_documents_begin_where_their_numbers_change(tmp_path):
    rows = packed_rows(tmp_path, "bpe", 64)
    batch = rows.stack(np.arange(11))
    begins, at = [], 0
    for row in range(11):
        sizes = [int(piece["length"]) + len(rows.prefix) + len(rows.suffix) for piece in rows.row_pieces(row)]
        if sum(sizes) < 64:
            sizes.append(64 - sum(sizes))  # padding
        for size in sizes:
            begins.append(at)
            at += size
    found = cumulative_lengths(batch["document_ids"])
    assert found.dtype == np.int32
    assert found[: len(begins)].tolist() == begins
    assert set(found[len(begins) :].tolist()) == {11 * 64}
    assert (len(found) - 1).bit_count() == 1
    assert len(begins) <= len(found) - 1 < 2 * len(begins)
    assert cumulative_lengths(np.ones((1, 5), dtype=np.int64)).tolist() == [0, 5]
    assert cumulative_lengths(np.array([[1], [1], [1]])).tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "mistral"])
def test_a_model_gives_what_it_gives_under_a_mask(name, causal, tmp_path, kernel):
    rows = packed_rows(tmp_path, "bpe", 64)
    batch = {key: torch.from_numpy(value) for key, value in rows.stack(np.arange(6)).items()}
    batch = {"input_ids": batch["input_ids"] % 100} | {k: batch[k] for k in ("document_ids", "position_ids")}
    cu_seqlens = torch.from_numpy(cumulative_lengths(batch["document_ids"].numpy()))
    packed = PackedModel(tiny_model(name, isolated=True), True).eval()
    calls = []
    kernel(lambda *args, **more: (calls.append(more["window_size"]), stand_in(*args, **more))[1])

    def gradient(cu_seqlens, **precision):
        with torch.autocast("cpu", **precision):
            logits = packed(**batch, cu_seqlens=cu_seqlens, causal=causal)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        packed.zero_grad()
        (logits * weights).sum().backward()
        return torch.cat([p.grad.flatten() for p in packed.parameters() if p.grad is not None]), logits.detach()

    exact = gradient(None, enabled=False)
    masked = gradient(cu_seqlens, dtype=torch.bfloat16)
    assert not calls, "not before it is proved on the device"
    packed.varlen = True
    gradient(cu_seqlens, enabled=False)
    assert not calls, "not in float32, which the kernel does not have"
    found = gradient(cu_seqlens, dtype=torch.bfloat16)
    assert len(calls) == packed.model.config.num_hidden_layers
    assert all(right == (0 if causal or name in CAUSAL else left) for left, right in calls)
    for ours, usual, true in zip(found, masked, exact, strict=True):
        assert float((ours - true).norm() / true.norm()) < 1.5 * float((usual - true).norm() / true.norm()) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_proof_lets_a_right_kernel_pass(dtype, kernel):
    config = tiny_model("modernbert").config
    right, found = check_varlen(config, 96, dtype, CPU)
    assert right, found
    assert found.startswith("at most ")


def _wide(*args, window_size, **more):
    return stand_in(*args, window_size=tuple(w + 1 if w > 0 else w for w in window_size), **more)


def _blind(*args, window_size, **more):
    return stand_in(*args, window_size=(window_size[0], -1), **more)


def _leaking(query, key, value, cu_seq_q, cu_seq_k, *args, **more):
    joined = cu_seq_q.clone()
    joined[1] = joined[2]
    joined[2:-1] = cu_seq_q[3:]
    return stand_in(query, key, value, joined, joined, *args, **more)


def _whispering(query, key, value, *args, **more):
    return stand_in(query, key, value, *args, **more) + 1e-3 * value[0].detach()


def _coarse(*args, **more):
    output = stand_in(*args, **more)
    return output + 0.02 * output.detach().roll(1, 0)


def _detached(query, key, *args, **more):
    return stand_in(query, key.detach(), *args, **more) + 0 * key


def _missing(*args, **more):
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (_wide, "from float64"),
        (_blind, "from float64"),
        (_leaking, "from float64"),
        (_whispering, "another document"),
        (_coarse, "from float64"),
        (_detached, "from float64"),
        (_missing, "Ampere"),
    ],
)
def test_the_proof_refuses_a_kernel_that_is(wrong, says, kernel):
    kernel(wrong)
    right, found = check_varlen(tiny_model("bert").config, 96, torch.bfloat16, CPU)
    assert not right
    assert says in found


def test_rows_may_differ_in_direction(kernel):
    kernel(stand_in)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 64, 8, generator=generator).bfloat16()
    cu_seqlens = torch.tensor([0, 30, 64, 100, 128], dtype=torch.int32)
    past, both, mixed = (
        varlen_attention.varlen_attention(query, key, value, cu_seqlens, 0.3, causal, None)
        for causal in (True, False, torch.tensor([True, False]))
    )
    assert torch.equal(mixed[0], past[0])
    assert torch.equal(mixed[1], both[1])
    assert not torch.equal(past, both)
