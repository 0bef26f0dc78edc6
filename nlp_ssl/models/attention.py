"""Document-isolated attention: documents that share a row do not see each other, in any layer.

transformers lets a model call an attention function by name. Ours, `"isolated"`, receives `document_ids` through the
model's keyword arguments and lets a token attend only within its document (and its window and, in a decoder, its past).
The stock functions leave BERT and ModernBERT no way to say that, and leak silently for decoders given a mask of ones.
"""

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.tiled_attention import Tile, tiled_attention, tiles_of
from nlp_ssl.models.varlen_attention import HALF, varlen_attention

ISOLATED = "isolated"
# on a CPU, whose flash kernel multiplies bfloat16 slowly: rows up to here by the plain formula, all at once; up to
# there in tiles; longer ones, whose weights would fill the memory, by the kernel
_SHORT, _LONG = 256, 2048
_NOT_IMPLEMENTED = ("softcap", "s_aux", "position_bias")  # what some decoders ask of their attention beyond a mask


def isolated_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    document_ids: "Documents | Tensor | None" = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention inside documents, in transformers' attention signature.

    Args:
        module: the attention layer; `module.is_causal` is used where `is_causal` is not given.
        query: (batch, heads, length, head_dim).
        key: (batch, key_value_heads, length, head_dim).
        value: (batch, key_value_heads, length, head_dim).
        attention_mask: ignored; the documents say who sees whom.
        scaling: factor on the scores.
        dropout: on the attention weights.
        is_causal: whether a token sees only itself and its past.
        sliding_window: a token sees others less than this far away (transformers passes ModernBERT's half width + 1).
        document_ids: int64, (batch, length); tokens of equal id see each other. `Documents` make a mask once for all
            layers.

    Returns:
        Output of shape (batch, length, heads, head_dim), and no weights.
    """
    if document_ids is None:
        raise ValueError(
            f"{type(module).__name__} was given no document_ids: call the model through nlp_ssl.models.packed, unless "
            "it does not hand its keyword arguments on to its attention"
        )
    for name in _NOT_IMPLEMENTED:
        if kwargs.get(name) is not None:
            raise UserError(
                f"{type(module).__name__} uses '{name}', which isolated attention does not have; "
                "give --tokens.packing one_document"
            )
    if is_causal is None:
        is_causal = getattr(module, "is_causal", False)
    documents = document_ids if isinstance(document_ids, Documents) else Documents(document_ids)
    if documents.projections is not None:
        documents.projections.see(query, key, value)
    groups, device = query.shape[1] // key.shape[1], query.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    has_kernel = precision in HALF and query.shape[-1] == value.shape[-1]
    cu_seqlens = documents.cu_seqlens if has_kernel else None  # then documents are laid end to end
    products = device == "cpu" and precision == torch.bfloat16 and query.shape[2] <= _LONG
    if (cu_seqlens is not None or products) and not dropout:
        query, key, value = (each.to(precision) for each in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
        if cu_seqlens is not None:
            causal = documents.direction(is_causal)
            return varlen_attention(query, key, value, cu_seqlens, scale, causal, sliding_window), None
        with torch.autocast("cpu", enabled=False):  # it would take the softmax to float32
            if query.shape[2] > _SHORT and not torch.compiler.is_compiling():
                return tiled_attention(query, key, value, scale, documents.tiles(is_causal, sliding_window)), None
            scores = torch.matmul(query * scale, key.mT)
            weights = scores.masked_fill_(~documents.mask(is_causal, sliding_window), -math.inf).softmax(-1)
            return torch.matmul(weights, value).transpose(1, 2).contiguous(), None
    mask = documents.mask(is_causal, sliding_window)
    if groups > 1 and device == "cuda":  # grouped heads and a mask together fall back to a slow kernel there
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


def stock_implementation(model: PreTrainedModel) -> str:
    """The name of the attention that plain transformers would give this model."""
    return "sdpa" if model._supports_sdpa else "eager"


@contextlib.contextmanager
def stock_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model attends as in plain transformers, unaware of documents: an independent witness."""
    before = model.config._attn_implementation
    if before == ISOLATED:
        model.set_attn_implementation(stock_implementation(model))
    try:
        yield
    finally:
        if before == ISOLATED:
            model.set_attn_implementation(ISOLATED)


class Documents:
    """Who sees whom in packed rows: a mask is made once for all layers that want the same one.

    Args:
        ids: int64, (batch, length); tokens of equal id see each other.
        causal: and only their past, whatever the architecture says; or bool, (batch,): whether each row's tokens see
            only their past, or both sides.
        cu_seqlens: int32, where they begin among the batch * length tokens (`packing.cumulative_lengths`): attention is
            then computed by `varlen_attention` where its arithmetic allows.
        projections: keeps those of a layer.
    """

    def __init__(
        self,
        ids: Tensor,
        causal: bool | Tensor = False,
        cu_seqlens: Tensor | None = None,
        projections: "Projections | None" = None,
    ) -> None:
        self.ids, self.causal, self.cu_seqlens, self.projections = ids, causal, cu_seqlens, projections
        self._masks: dict[tuple[bool | str, int | None], Tensor] = {}
        self._tiles: dict[tuple[bool | str, int | None], list[Tile]] = {}

    def direction(self, is_causal: bool) -> bool | Tensor:
        """Whether tokens see only their past, where the architecture says `is_causal`; or bool, (batch,)."""
        return self.causal if isinstance(self.causal, Tensor) else is_causal or self.causal

    def mask(self, is_causal: bool, sliding_window: int | None) -> Tensor:
        """`document_mask` of these documents."""
        causal = self.direction(is_causal)
        wanted = ("by row" if isinstance(causal, Tensor) else causal, sliding_window)
        if wanted not in self._masks:
            self._masks[wanted] = document_mask(self.ids, causal, sliding_window)
        return self._masks[wanted]

    def tiles(self, is_causal: bool, sliding_window: int | None) -> list[Tile]:
        """`tiles_of` these documents, which are on a CPU."""
        causal = self.direction(is_causal)
        wanted = ("by row" if isinstance(causal, Tensor) else causal, sliding_window)
        if wanted not in self._tiles:
            self._tiles[wanted] = tiles_of(self.ids, causal, sliding_window)
        return self._tiles[wanted]


class Projections:
    """Queries, keys and values of one layer of a forward pass, as its attention reads them.

    Args:
        layer: which, from 0.
    """

    def __init__(self, layer: int) -> None:
        self.layer, self.seen = layer, 0
        self.kept: tuple[Tensor, Tensor, Tensor] | None = None

    def see(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Those of the next layer, each (batch, its heads, length, its head_dim)."""
        if self.seen == self.layer:
            self.kept = query, key, value
        self.seen += 1


def document_mask(document_ids: Tensor, is_causal: bool | Tensor, sliding_window: int | None) -> Tensor:
    """Who sees whom: bool, (batch, 1, length, length), True where the query (third axis) sees the key (fourth).

    Args:
        document_ids: (batch, length); tokens of equal id see each other.
        is_causal: whether a token sees only itself and its past; bool, (batch,), where rows differ in that.
        sliding_window: a token sees others less than this far away.
    """
    mask = document_ids[:, :, None] == document_ids[:, None, :]
    if isinstance(is_causal, Tensor) or is_causal or sliding_window is not None:
        position = torch.arange(document_ids.shape[1], device=document_ids.device)
        distance = position[:, None] - position[None, :]
        if isinstance(is_causal, Tensor):
            mask = mask & ((distance >= 0) | ~is_causal[:, None, None])
        elif is_causal:
            mask = mask & (distance >= 0)
        if sliding_window is not None:
            mask = mask & (distance.abs() < sliding_window)
    return mask[:, None]


# for an attention without a mask function of its own transformers builds no mask, and reads nothing off the device
AttentionInterface.register(ISOLATED, isolated_attention)


def can_isolate(model_class: type[PreTrainedModel]) -> bool:
    """Whether packed documents can be kept apart in this architecture.

    It can where its layers call their attention by name and its positions can be given, or where its encoder takes a
    mask of shape (B, S, S), as DeBERTa's does. `packed.check_isolation` then proves it on the model itself.
    """
    if _takes_pairwise_mask(model_class):
        return True
    parameters = inspect.signature(model_class.forward).parameters
    return bool(model_class._supports_attention_backend) and "position_ids" in parameters


def _takes_pairwise_mask(model_class: type) -> bool:
    return model_class.__name__.startswith("Deberta")


class PairwiseMask:
    """Hands DeBERTa's encoder the (B, S, S) mask of the documents in place of its own.

    Args:
        model: a DeBERTa model with any head; a hook on its encoder stays installed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.documents: Documents | None = None
        model.base_model.encoder.register_forward_pre_hook(self._replace, with_kwargs=True)

    def _replace(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if self.documents is None:
            return args, kwargs
        mask = self.documents.mask(False, None)[:, 0].to(torch.uint8)
        if len(args) > 1:
            return (args[0], mask, *args[2:]), kwargs
        return args, kwargs | {"attention_mask": mask}
