"""Proofs, on the user's own model, that packed documents cannot see each other and that kernels are exact."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.attention import (
    Documents,
    isolated_attention,
    stock_attention,
)
from nlp_ssl.models.packed import REFUSED, PackedModel

_SPECIAL = ("pad_token", "bos_token", "eos_token", "sep_token", "cls_token", "mask_token", "decoder_start_token")
ROUNDING = 1e-4  # of float32, through some dozen layers


@torch.no_grad()
def check_isolation(packed: PackedModel, vocab_size: int, sequence_length: int = 96) -> float:
    """Prove on the model itself that one document of a row has no influence on another.

    A document shares a row of the model's own length with another, and with a third in that one's place; and it is read
    alone by the same weights through the architecture's own attention, so that a wrong window, a lost causality or a
    mask of the model's own that packing would ignore is found too.

    Args:
        packed: the model in float32 or float64, on any device.
        vocab_size: ids below this are drawn, but no special ones, which a model may treat in a way of its own (RoBERTa
            gives padding no position).
        sequence_length: tokens of the row.

    Returns:
        Largest difference between a packed document's logits and those it gets alone, relative to their largest.

    Raises:
        UserError: another document changes a bit of the logits (with experts, whose products are shaped by the tokens
            of all documents: changes more than rounding), or alone they differ by more than rounding.
    """
    device = next(packed.parameters()).device
    generator = torch.Generator().manual_seed(0)
    lengths = (sequence_length // 3, sequence_length // 3, sequence_length - sequence_length // 3)
    drawn = text_ids(packed.model.config, vocab_size)
    first, other, second = (drawn[torch.randint(len(drawn), (n,), generator=generator)].to(device) for n in lengths)
    was_training = packed.training
    packed.eval()
    refused = REFUSED.format(type(packed.model).__name__)
    try:
        together, swapped = (packed.in_a_row([neighbour, second])[1].double() for neighbour in (first, other))
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:  # it reads a mask that it lacks
        raise UserError(f"{refused} ({' '.join(str(error).split())[:200]})") from None
    with stock_attention(packed.model):
        alone = packed.alone(second, packed.model).double()
    packed.train(was_training)
    scale = alone.abs().max().clamp_min(1e-12)
    difference, leak = float((together - alone).abs().max() / scale), float((together - swapped).abs().max() / scale)
    if leak > (ROUNDING if has_experts(packed.model.config) else 0) or not difference < ROUNDING:
        raise UserError(
            f"{refused}: another document changes logits by {leak:.0e}, and alone they differ by "
            f"{difference:.0e}, relative to the largest"
        )
    return difference


def check_varlen(
    config: PreTrainedConfig, sequence_length: int, dtype: torch.dtype, device: torch.device
) -> tuple[bool, str]:
    """Prove on a device that the kernel for documents laid end to end attends as a mask says, and as exactly.

    Rows of random documents go through `isolated_attention` both ways, in both directions and causally, with and
    without a window, forward and backward, in heads of the model's size. Of each result the worst entry's distance from
    float64 may be twice that of the same arithmetic under a mask; and what another document holds may not change a bit.

    Args:
        config: the model's.
        sequence_length: of its rows.
        dtype: that products are in.
        device: that it trains on.

    Returns:
        Whether the kernel can be used, and a sentence that says what was found.
    """
    heads, length = 2, min(sequence_length, 1024)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    begins = torch.rand(2, length, generator=generator) < 8 / length
    begins[:, 0], begins[:, 2], begins[1, -1] = True, True, True  # documents of two tokens and of one
    ids = begins.cumsum(1)
    starts = begins.flatten().nonzero()[:, 0]
    cu_seqlens = torch.cat([starts, torch.full((5,), ids.numel())]).to(device, torch.int32)
    *inputs, weights = torch.randn(4, 2, heads, length, size, generator=generator, dtype=torch.float64).to(device)
    ids = ids.to(device)
    layer = nn.Module()

    def attend(documents: Documents, precision: torch.dtype, causal: bool, window: int | None) -> list[Tensor]:
        """Output, and the gradients of query, key and value."""
        given = query, key, value = [each.to(precision).requires_grad_() for each in inputs]
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            output, _ = isolated_attention(
                layer, query, key, value, None, is_causal=causal, sliding_window=window, document_ids=documents
            )
            gradients = torch.autograd.grad(output, given, weights.to(precision).transpose(1, 2))
        return [each.detach().double() for each in (output, *gradients)]

    worst, outputs = 0.0, []
    for causal in (False, True):
        for window in (None, max(2, length // 8)):
            true = attend(Documents(ids), torch.float64, causal, window)
            usual = attend(Documents(ids), dtype, causal, window)
            try:
                found = attend(Documents(ids, cu_seqlens=cu_seqlens), dtype, causal, window)
            except RuntimeError as error:  # a device or a size of heads that the kernel does not have
                return False, f"the kernel says: {' '.join(str(error).split())[:200]}"
            for exact, masked, ours in zip(true, usual, found, strict=True):
                distances = [float((each - exact).abs().max()) for each in (ours, masked)]
                if not distances[0] <= 2 * distances[1]:
                    return False, f"it is {distances[0]:.0e} from float64 where a mask is {distances[1]:.0e} from it"
                worst = max(worst, distances[0] / distances[1])
            outputs.append(found[0])
    inputs = [torch.where((ids == 1)[:, None, :, None], -each, each) for each in inputs]
    after = attend(Documents(ids, cu_seqlens=cu_seqlens), dtype, False, None)[0]
    if not torch.equal(outputs[0][ids != 1], after[ids != 1]):
        return False, "another document changes what it gives"
    return True, f"at most {worst:.1f} times as far from float64 as under a mask"


def text_ids(config: PreTrainedConfig, vocab_size: int) -> Tensor:
    """The ids below `vocab_size` that a model's configuration does not call special, int64."""
    named = (getattr(config, f"{name}_id", None) for name in _SPECIAL)
    special = {i for ids in named for i in (ids if isinstance(ids, list) else [ids]) if i is not None}
    ids = [i for i in range(vocab_size) if i not in special]
    return torch.tensor(ids or range(vocab_size))


def has_experts(config: PreTrainedConfig) -> bool:
    """Whether the layers choose among experts for every token."""
    return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
