"""How fast, against how fast it could be: operations that were asked for, and what the hardware multiplies.

Model FLOP utilisation (Chowdhery et al. 2022, appendix B) = operations that the model needs / (seconds x peak). Needed
are the products of the forward pass, 2 a weight and token, and twice as many backwards; here only those that were asked
for: a head counts where there is a label, and attention inside documents (and windows, and in a decoder the past).
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nlp_ssl.objectives.objective import Batch

# dense bf16 operations per second as their makers state them, by a part of the name that torch gives
DATASHEET = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12, "RTX 4090": 165e12}


def body_weights(model: PreTrainedModel) -> int:
    """Weights that every token is multiplied with: those of linear layers, without heads and embeddings."""
    inside, output = {id(p) for p in model.base_model.parameters()}, model.get_output_embeddings()
    weights = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Linear | Conv1D)}
    return sum(w.numel() for key, w in weights.items() if key in inside and (output is None or w is not output.weight))


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a model, forwards and backwards.

    Attributes:
        body: per token, in the products with weights of every layer.
        head: per label, in the head.
        pair: per pair of tokens that see each other, in one layer.
        windows: for every layer how far it sees, `None` everywhere.
        causal: whether a token sees only itself and its past.
    """

    body: float
    head: float
    pair: float
    windows: tuple[int | None, ...]
    causal: bool

    @classmethod
    def of(cls, model: PreTrainedModel, causal: bool) -> "Work":
        """Read off a model: weights of its linear layers, heads and windows of its configuration.

        Experts that a token does not visit would be counted too.
        """
        config, body = model.config, body_weights(model)
        weights = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | Conv1D)}
        head = sum(weights.values()) - body
        tied = model.get_output_embeddings()
        if tied is not None and id(tied.weight) not in weights:
            head += tied.weight.numel()
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(6 * body, 6 * head, 12 * width, _windows(config), causal)

    def of_batch(self, batch: Batch, num_targets: int) -> float:
        """Operations that a packed batch asks for.

        Args:
            batch: with `document_ids`, (B, S).
            num_targets: its labels.
        """
        documents = batch["document_ids"].numpy()
        real = documents > 0
        starts = np.pad(documents[:, 1:] != documents[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        numbers = np.cumsum(starts.ravel()) - 1
        lengths = np.bincount(numbers[real.ravel()], minlength=int(numbers[-1]) + 1)
        pairs = {window: sum(self._pairs(lengths, window)) for window in set(self.windows)}
        attention = self.pair * sum(float(pairs[window]) for window in self.windows)
        return self.body * float(real.sum()) + self.head * num_targets + attention

    def _pairs(self, lengths: np.ndarray, window: int | None) -> np.ndarray:
        """Pairs of a query and a key that it sees, for documents of these lengths."""
        n = lengths.astype(np.float64)
        reach = n if window is None else np.minimum(n, window)  # itself and `reach - 1` before it
        past = reach * n - reach * (reach - 1) / 2
        return past if self.causal else 2 * past - n


def _windows(config: PreTrainedConfig) -> tuple[int | None, ...]:
    layers = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    if config.model_type == "modernbert":  # it means half the window, and itself
        window = config.local_attention // 2 + 1
    return tuple(window if "sliding" in kind else None for kind in layers)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that large matrix products reach on this machine: the best of several sizes and orders."""
    cpu = device.type == "cpu"
    best = 0.0
    for size in (1024, 2048) if cpu else (4096, 8192, 12288):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for left, right in ((a, b), (a, b.t()), (a.t(), b)):
            seconds = _median_seconds(partial(torch.matmul, left, right), device, 6 if cpu else 30)
            best = max(best, 2 * size**3 / seconds)
    return best


def _median_seconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    """Seconds that some work takes, the first two times left out."""
    seconds = []
    for _ in range(times):
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def datasheet_peak(device: torch.device) -> float | None:
    """What the maker of a GPU states for bf16, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in DATASHEET.items() if part in name), None)


def measured_bandwidth(device: torch.device) -> float:
    """Bytes a second that memory gives and takes when a tensor far larger than the caches is copied."""
    source = torch.ones(2**26 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _median_seconds(lambda: target.copy_(source), device, 8)
