"""Operations that a model needs, against torch's own count of what it does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import tiny_model

from nlp_ssl.models.packed import PackedModel
from nlp_ssl.training.throughput import Work, measured_bandwidth, measured_peak


def batch_of(*rows, length):
    """Packed rows of documents of these lengths."""
    ids = np.zeros((len(rows), length), dtype=np.int64)
    for row, documents in zip(ids, rows, strict=True):
        row[: sum(documents)] = np.repeat(np.arange(1, len(documents) + 1), documents)
    return {"document_ids": torch.from_numpy(ids)}


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "gpt2", "llama"])
def test_a_full_row_needs_what_torch_counts(name):
    length, labels = 24, 7
    model = tiny_model(name)
    model.set_attn_implementation("eager")  # torch does not count the fused kernel of CPUs
    packed = PackedModel(model, False)
    ids, positions = torch.randint(5, 90, (2, length)), torch.arange(length).expand(2, -1)
    ones = torch.ones_like(ids)
    with FlopCounterMode(display=False) as counter:
        logits = packed(ids, document_ids=ones, position_ids=positions, label_positions=torch.arange(labels))
        logits.sum().backward()
    work = Work.of(model, causal=False)
    work = replace(work, windows=(None,) * len(work.windows))  # eager attention computes what a window hides, too
    rotating = sum(  # some versions of transformers multiply positions and frequencies as matrices
        sum(count.values()) for name, count in counter.get_flop_counts().items() if name.endswith("rotary_emb")
    )
    counted = counter.get_total_flops() - rotating
    assert work.of_batch(batch_of([length], [length], length=length), labels) == counted


def pairs(documents, causal, window):
    """By counting."""
    count = 0
    for n in documents:
        query, key = np.arange(n)[:, None], np.arange(n)[None]
        sees = np.ones((n, n), dtype=bool)
        if causal:
            sees &= key <= query
        if window is not None:
            sees &= np.abs(query - key) < window
        count += int(sees.sum())
    return count


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 5, 100])
def test_attention_counts_inside_documents_windows_and_the_past(causal, window):
    work = Work(body=1000, head=0, pair=1, windows=(window,), causal=causal)
    rows = ([5, 1, 9], [30], [2, 2])
    batch = batch_of(*rows, length=32)
    tokens = sum(map(sum, rows))
    expected = 1000 * tokens + sum(pairs(documents, causal, window) for documents in rows)
    assert work.of_batch(batch, 0) == expected


def test_modernbert_looks_through_windows():
    model = tiny_model("modernbert")
    windows = Work.of(model, causal=False).windows
    assert len(windows) == model.config.num_hidden_layers
    assert {w for w in windows if w is not None} == {model.config.local_attention // 2 + 1}


def test_the_machine_is_measured():
    device = torch.device("cpu")
    assert 1e9 < measured_peak(device, torch.float32) < 1e14
    assert 1e8 < measured_bandwidth(device) < 1e13
