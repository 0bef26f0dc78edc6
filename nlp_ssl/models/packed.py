"""Any transformers model over packed rows: documents kept apart, logits where they are asked for."""

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from nlp_ssl.console import UserError
from nlp_ssl.models.attention import ISOLATED, Documents, PairwiseMask, can_isolate, stock_attention
from nlp_ssl.models.heads import LabelledPositions

_REFUSED = "{} cannot keep packed documents apart; give --tokens.packing one_document"
ROUNDING = 1e-4  # of float32, through some dozen layers


class PackedModel(nn.Module):
    """A transformers model with a language-model head, called on packed rows.

    Args:
        model: the model; isolated if it was loaded with the attention `"isolated"` or is a DeBERTa.
        isolated: keep the documents of a row apart; otherwise every row must hold one document, and padding is masked.

    Raises:
        UserError: the architecture cannot keep documents apart.
    """

    def __init__(self, model: PreTrainedModel, isolated: bool) -> None:
        super().__init__()
        self.model = model
        self.isolated = isolated
        if isolated and not can_isolate(type(model)):
            raise UserError(_REFUSED.format(type(model).__name__))
        self._no_split_modules = getattr(model, "_no_split_modules", None)
        self.labelled = LabelledPositions(model)
        self.pairwise = None
        if isolated and model.config._attn_implementation != ISOLATED:
            self.pairwise = PairwiseMask(model)
        self.position_offset = position_offset(model)
        self.takes_cache = "use_cache" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: Tensor,
        *,
        document_ids: Tensor,
        position_ids: Tensor,
        label_positions: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Logits.

        Args:
            input_ids: int64, (B, S).
            document_ids: int64, (B, S); 0 is padding.
            position_ids: int64, (B, S); from 0 in every document.
            label_positions: int64, (C,); indices into the B * S tokens.
            causal: have an isolated encoder's tokens see only their past.

        Returns:
            (B, S, vocabulary), or (1, C, vocabulary) when `label_positions` are given.
        """
        kwargs = {"use_cache": False} if self.takes_cache else {}
        documents = Documents(document_ids, causal)
        if self.isolated:
            kwargs["position_ids"] = position_ids + self.position_offset
            if self.pairwise is None:
                kwargs["document_ids"] = documents
        else:
            kwargs["attention_mask"] = (document_ids > 0).long()
        if self.pairwise is not None:
            self.pairwise.documents = documents
        self.labelled.positions = label_positions
        try:
            return self.model(input_ids=input_ids, **kwargs).logits
        finally:
            self.labelled.positions = None
            if self.pairwise is not None:
                self.pairwise.documents = None


def position_offset(model: PreTrainedModel) -> int:
    """The position id of a document's first token: RoBERTa and its kin count from `padding_idx + 1`, others from 0."""
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


@torch.no_grad()
def check_isolation(packed: PackedModel, vocab_size: int, row_length: int = 96) -> float:
    """Prove on the model itself that one document of a row has no influence on another.

    A document shares a row of the model's own length with another, and with a third in that one's place; and it is read
    alone by the same weights through the architecture's own attention, so that a wrong window, a lost causality or a
    mask of the model's own that packing would ignore is found too.

    Args:
        packed: the model in float32 or float64, on any device.
        vocab_size: tokens to draw from.
        row_length: tokens of the row.

    Returns:
        Largest difference between a packed document's logits and those it gets alone, relative to their largest.

    Raises:
        UserError: another document changes a bit of the logits (with experts, whose products are shaped by the tokens
            of all documents: changes more than rounding), or alone they differ by more than rounding.
    """
    device = next(packed.parameters()).device
    generator = torch.Generator().manual_seed(0)
    lengths = (row_length // 3, row_length // 3, row_length - row_length // 3)
    first, other, second = (torch.randint(0, vocab_size, (1, n), generator=generator).to(device) for n in lengths)
    was_training = packed.training
    packed.eval()

    def logits(document: Tensor) -> Tensor:
        ids = torch.cat([torch.full_like(d, n) for n, d in ((1, document), (2, second))], 1)
        positions = torch.cat([torch.arange(d.shape[1], device=device)[None] for d in (document, second)], 1)
        together = packed(torch.cat([document, second], 1), document_ids=ids, position_ids=positions)
        return together[:, -second.shape[1] :].double()

    refused = _REFUSED.format(type(packed.model).__name__)
    try:
        together, swapped = logits(first), logits(other)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:  # it reads a mask that it lacks
        raise UserError(f"{refused} ({' '.join(str(error).split())[:200]})") from None
    with stock_attention(packed.model):
        alone = packed.model(second, **({"use_cache": False} if packed.takes_cache else {})).logits.double()
    packed.train(was_training)
    scale = alone.abs().max().clamp_min(1e-12)
    difference, leak = float((together - alone).abs().max() / scale), float((together - swapped).abs().max() / scale)
    if leak > (ROUNDING if has_experts(packed.model.config) else 0) or not difference < ROUNDING:
        raise UserError(
            f"{refused}: another document changes logits by {leak:.0e}, and alone they differ by "
            f"{difference:.0e}, relative to the largest"
        )
    return difference


def has_experts(config: PreTrainedConfig) -> bool:
    """Whether the layers choose among experts for every token."""
    return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
