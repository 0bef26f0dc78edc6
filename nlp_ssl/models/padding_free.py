"""Rows of different lengths without their padding, in any transformers model that calls its attention by name.

Attention compares the tokens of a row, and a head reads its first token, its last one, or their mean: these need rows
below each other, padded. All the rest of a model, most of its work, reads one token at a time. Hooks around the base
model lay a padded batch end to end; its attention, and its head at the end, see it laid out.
"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from nlp_ssl.core.console import say
from nlp_ssl.models.attention import Documents, can_isolate, isolated_attention
from nlp_ssl.models.checks import ROUNDING, text_ids
from nlp_ssl.models.label_gather import with_hidden_states
from nlp_ssl.models.packed import position_offset

UNPADDED = "unpadded"
_MULTIPLE_OF = 8  # tokens of a batch: fewer shapes


class Layout:
    """Where the tokens of a padded batch stand when they are laid end to end, and back.

    Behind the N tokens come some spare ones, at least one, that nothing reads.

    Args:
        mask: int64 (B, S), 1 where there is a token, 0 where there is padding.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        self.mask = Documents(mask)
        real = mask.flatten().nonzero()[:, 0]
        self.num_tokens = len(real)
        self.places = torch.cat([real, real[:1].expand(_MULTIPLE_OF - len(real) % _MULTIPLE_OF)])
        self.slots = torch.full((mask.numel(),), len(self.places) - 1, device=mask.device)  # padding: a spare one
        self.slots[real] = torch.arange(len(real), device=mask.device)

    def end_to_end(self, laid_out: Tensor) -> Tensor:
        """(B, S, ...) to (1, N and spare, ...)."""
        return _Rearrange.apply(laid_out.flatten(0, 1), self.places, self.slots, self.mask.ids.numel())[None]

    def out(self, end_to_end: Tensor) -> Tensor:
        """(1, N and spare, ...) to (B, S, ...); what stands at padding means nothing."""
        rows = _Rearrange.apply(end_to_end[0], self.slots, self.places, self.num_tokens)
        return rows.unflatten(0, self.shape)


class _Rearrange(torch.autograd.Function):
    """Entries by index, and back by index: much quicker than the scatter that autograd would make of it."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, there: Tensor, back: Tensor, num_real: int) -> Tensor:
        ctx.back, ctx.num_real = back, num_real
        return entries.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.index_select(0, ctx.back)
        gradient[ctx.num_real :] = 0  # nothing reads the spare tokens, and so padding, which has theirs, gets 0 too
        return gradient, None, None, None


def unpadded_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, layout: Layout,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`isolated_attention` of rows that are laid end to end.

    Args:
        module: the attention layer.
        query: (1, heads, N and spare, head_dim).
        key: (1, key_value_heads, N and spare, head_dim).
        value: of the key's shape.
        attention_mask: ignored.
        layout: where the rows are.
        kwargs: see `isolated_attention`.

    Returns:
        (1, N and spare, heads, head_dim), and no weights.
    """
    query, key, value = (layout.out(each.transpose(1, 2)).transpose(1, 2) for each in (query, key, value))
    output, _ = isolated_attention(module, query, key, value, None, document_ids=layout.mask, **kwargs)
    return layout.end_to_end(output), None


AttentionInterface.register(UNPADDED, unpadded_attention)
AttentionMaskInterface.register(UNPADDED, lambda *args, **kwargs: None)


class Unpadded:
    """Hooks that take the padding out of what a model's base reads, and put it back into what it gives.

    The model is called as ever, with `input_ids` (B, S), `attention_mask` (B, S) and perhaps `token_type_ids`.

    Args:
        model: with any head and the attention `"unpadded"`.
    """

    layout: Layout  # of the batch that the layers have

    def __init__(self, model: PreTrainedModel) -> None:
        base = model.base_model
        self.signature = inspect.signature(base.forward)
        self.others = next((p.name for p in self.signature.parameters.values() if p.kind == p.VAR_KEYWORD), "")
        self.fixed = {"use_cache": False} if "use_cache" in self.signature.parameters else {}
        self.position_offset = position_offset(model)
        self.hooks = [
            base.register_forward_pre_hook(self._take_out, with_kwargs=True),
            base.register_forward_hook(self._put_back),
        ]

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self.hooks:
            hook.remove()

    def _take_out(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = self.signature.bind_partial(*args, **kwargs).arguments
        given |= given.pop(self.others, {})
        mask = given.pop("attention_mask")
        self.layout = layout = Layout(mask)
        for key in ("input_ids", "token_type_ids"):
            if given.get(key) is not None:
                given[key] = given[key].flatten()[layout.places][None]
        positions = (mask.cumsum(1) - 1).flatten()[layout.places][None]
        return (), {**given, **self.fixed, "position_ids": positions + self.position_offset, "layout": layout}

    def _put_back(self, module: PreTrainedModel, args: tuple, output: Any) -> Any:
        hidden = self.layout.out(output[0])
        del self.layout
        output = with_hidden_states(output, hidden)
        if getattr(module, "pooler", None) is not None:  # BERT's, which is in its base
            output["pooler_output"] = module.pooler(hidden)
        return output


@torch.no_grad()
def unpad(model: PreTrainedModel, sequence_length: int) -> float | None:
    """Take the padding out of a model's batches, and prove on the model itself that this changes nothing.

    Args:
        model: with a head that gives `logits`, in float32.
        sequence_length: longest row, so that every window of its attention that can matter is looked at.

    Returns:
        Largest difference of logits from those of the padded batch, relative to their largest; `None` where the
        architecture does not keep to it, or cannot be called so (said with the reason): it pads then as ever.
    """
    if not (can_isolate(type(model)) and model._supports_attention_backend):
        return None
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()
    unpadded, difference, why = None, math.inf, "other logits"
    try:
        inputs = _trial(model, sequence_length)
        padded = model(**inputs).logits
        model.set_attn_implementation(UNPADDED)
        unpadded = Unpadded(model)
        differences = (model(**inputs).logits - padded).abs()
        if padded.dim() == 3:  # of tokens, or of rows
            differences = differences[inputs["attention_mask"] > 0]
        difference = float(differences.max() / padded.abs().max().clamp_min(1e-12))
    except _REFUSALS as error:  # it reads what it is not given, or attends in a way of its own
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    finally:
        model.train(was_training)
    if difference < ROUNDING:
        return difference
    if unpadded is not None:
        unpadded.remove()
    model.set_attn_implementation(attention)
    say(f"rows: padded; {type(model).__name__} cannot do without ({why})")
    return None


_REFUSALS = (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError, AssertionError)


def _trial(model: PreTrainedModel, sequence_length: int) -> dict[str, Tensor]:
    """A batch of random rows, one of the full length."""
    config = model.config.get_text_config()
    lengths = torch.tensor([sequence_length, max(1, sequence_length // 5), max(1, sequence_length * 2 // 3), 1])
    mask = (torch.arange(sequence_length) < lengths[:, None]).long()
    pad_id = max(0, config.pad_token_id or 0)
    drawn = text_ids(config, config.vocab_size)  # decoders look for the last token that is not padding
    words = drawn[torch.randint(len(drawn), mask.shape, generator=torch.Generator().manual_seed(0))]
    return {"input_ids": torch.where(mask > 0, words, pad_id), "attention_mask": mask}
