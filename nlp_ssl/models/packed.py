"""Any transformers model over packed rows: documents kept apart, logits where they are asked for."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.attention import (
    ISOLATED,
    Documents,
    PairwiseMask,
    Projections,
    can_isolate,
)
from nlp_ssl.models.label_gather import LabelledPositions

REFUSED = "{} cannot keep packed documents apart; give --tokens.packing one_document"


class PackedModel(nn.Module):
    """A transformers model, with or without a language-model head, called on packed rows.

    Args:
        model: the model; isolated if it was loaded with the attention `"isolated"` or is a DeBERTa.
        isolated: keep the documents of a row apart; otherwise every row must hold one document, and padding is masked.

    Attributes:
        own_attention: an isolated model is made with the attention `"isolated"` where it calls that by name.

    Raises:
        UserError: the architecture cannot keep documents apart.
    """

    own_attention: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel, isolated: bool) -> None:
        super().__init__()
        self.model = model
        self.isolated = isolated
        if isolated and not self.can_isolate(type(model)):
            raise UserError(REFUSED.format(type(model).__name__))
        self._no_split_modules = getattr(model, "_no_split_modules", None)
        self.labelled = LabelledPositions(model)
        self.pairwise = None
        if isolated and model.config._attn_implementation != ISOLATED:
            self.pairwise = PairwiseMask(model)
        self.position_offset = position_offset(model)
        self.projections: Projections | None = None
        self.varlen = False  # until `check_varlen` has shown that the device's kernel is right
        self.takes_cache = "use_cache" in inspect.signature(model.forward).parameters
        # it would read the ids off the device in every forward pass, to warn of padding that documents mark anyway
        model.base_model.warn_if_padding_and_no_attention_mask = _say_nothing

    def forward(
        self,
        input_ids: Tensor,
        *,
        document_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor | None = None,
        label_positions: Tensor | None = None,
        causal: bool | Tensor = False,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits; last hidden states of a model without a head.

        Args:
            input_ids: int32 or int64, (B, S).
            document_ids: the same; 0 is padding.
            position_ids: the same; from 0 in every document.
            cu_seqlens: int32; where documents begin among the B * S tokens (`packing.cumulative_lengths`). Read where
                `self.varlen` is set.
            label_positions: int32 or int64, (C,); indices into the B * S tokens.
            causal: have an isolated encoder's tokens see only their past; or bool, (B,): whether each row's tokens see
                only their past, or both sides, whatever the architecture says (isolated models).
            token_type_ids: int32 or int64, (B, S), for a model that has segments.

        Returns:
            (B, S, vocabulary or hidden size), or (1, C, ...) when `label_positions` are given.
        """
        kwargs: dict[str, Any] = {"use_cache": False} if self.takes_cache else {}
        documents = Documents(document_ids, causal, cu_seqlens if self.varlen else None, self.projections)
        if self.isolated:
            kwargs["position_ids"] = position_ids + self.position_offset
            if self.pairwise is None:
                kwargs["document_ids"] = documents
        else:
            kwargs["attention_mask"] = (document_ids > 0).long()
        if self.pairwise is not None:
            self.pairwise.documents = documents
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        self.labelled.positions = label_positions
        try:
            return self.model(input_ids=input_ids, **kwargs)[0]
        finally:
            self.labelled.positions = None
            if self.pairwise is not None:
                self.pairwise.documents = None

    @staticmethod
    def can_isolate(model_class: type[PreTrainedModel]) -> bool:
        """Whether packed documents can be kept apart in this architecture; `check_isolation` then proves it."""
        return can_isolate(model_class)

    @property
    def takes_varlen(self) -> bool:
        """Whether a kernel for documents laid end to end can take the place of a mask."""
        return self.pairwise is None

    def drop_pooler(self) -> None:
        """Leave out what only a head for whole texts would train, such as BERT's."""
        if getattr(self.model.base_model, "pooler", None) is not None:
            self.model.base_model.pooler = None

    def in_a_row(self, documents: Sequence[Tensor], length: int = 0) -> list[Tensor]:
        """What a proof compares: the logits of documents that share a row, each (n, ...).

        Args:
            documents: ids, (n,).
            length: of the row, which is padded up to it.
        """
        sizes = [len(document) for document in documents]
        ids = torch.cat(list(documents))
        numbers = torch.cat([torch.full_like(document, i + 1) for i, document in enumerate(documents)])
        positions = torch.cat([torch.arange(size, device=ids.device) for size in sizes])
        padding = (0, max(0, length - len(ids)))
        ids, numbers, positions = (nn.functional.pad(each, padding)[None] for each in (ids, numbers, positions))
        logits = self(ids, document_ids=numbers, position_ids=positions)[0]
        return list(logits[: sum(sizes)].split(sizes))

    def alone(self, document: Tensor, model: PreTrainedModel) -> Tensor:
        """The logits of one document by a model of plain transformers, (n, ...)."""
        return model(document[None], **({"use_cache": False} if self.takes_cache else {}))[0][0]

    def with_hidden(self, input_ids: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        """Logits as `forward` gives them, and the last hidden states of all tokens, (B, S, hidden size)."""
        self.labelled.keeps = True
        try:
            logits = self(input_ids, **given)
            assert self.labelled.hidden is not None
            return logits, self.labelled.hidden
        finally:
            self.labelled.keeps, self.labelled.hidden = False, None

    def with_projections(
        self, layer: int, input_ids: Tensor, **given: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """What `with_hidden` gives, and queries, keys and values of a layer of an isolated model with `own_attention`.

        Each is (B, heads, S, head width), keys and values of grouped heads as the architecture has them, positions
        already in them where it rotates.
        """
        self.projections = kept = Projections(layer)
        try:
            logits, hidden = self.with_hidden(input_ids, **given)
        finally:
            self.projections = None
        assert kept.kept is not None
        return logits, hidden, kept.kept

    def hidden_states(self, input_ids: Tensor, **given: Any) -> Tensor:
        """The last hidden states, (B, S, hidden size), of a model with or without a head; a head reads one of them."""
        if self.model.base_model is self.model:
            return self(input_ids, **given)
        first = torch.zeros(1, dtype=torch.int64, device=input_ids.device)
        return self.with_hidden(input_ids, **given, label_positions=first)[1]


def _say_nothing(*args: object) -> None:
    """In place of a warning."""


def position_offset(model: PreTrainedModel) -> int:
    """The position id of a document's first token: RoBERTa and its kin count from `padding_idx + 1`, others from 0."""
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
