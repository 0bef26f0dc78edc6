"""An encoder-decoder of transformers over packed rows of sources and of targets: documents kept apart in all three
attentions, logits where they are asked for."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.attention import document_mask
from nlp_ssl.models.label_gather import LabelledPositions
from nlp_ssl.models.packed import REFUSED


class PackedSeq2Seq(nn.Module):
    """An encoder-decoder called on rows that hold the sources of several documents, and rows that hold their targets.

    The tokens of a source see those of its document, a target's see their past in their document and the source of the
    same number. T5's position biases depend on the distance of two tokens, which is the same in a packed row; learned
    and sinusoidal positions are looked up anew for every document.

    Args:
        model: the model, with the attention that transformers gives it.
        isolated: keep the documents of a row apart; otherwise every row must hold one document, and padding is masked.

    Attributes:
        own_attention: masks say who sees whom, so the architecture's own attention stays.

    Raises:
        UserError: the architecture is no encoder-decoder, or cannot keep documents apart.
    """

    own_attention: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, isolated: bool) -> None:
        super().__init__()
        self.model = model
        self.isolated = isolated
        if not model.config.is_encoder_decoder:
            raise UserError(f"{type(model).__name__} has no encoder whose states a decoder reads")
        if isolated and not self.can_isolate(type(model)):
            raise UserError(REFUSED.format(type(model).__name__))
        self._no_split_modules = getattr(model, "_no_split_modules", None)
        encoder, decoder = model.get_encoder(), model.get_decoder()
        self.labelled = LabelledPositions(decoder)
        self.varlen = False
        self.pairs: Tensor | None = None  # the mask of the attention between the stacks, while the model is called
        decoder.register_forward_pre_hook(self._pair, with_kwargs=True)
        self.positions = [Positions(stack) for stack in (encoder, decoder)]

    @staticmethod
    def can_isolate(model_class: type[PreTrainedModel]) -> bool:
        """Whether packed documents can be kept apart in this architecture; `check_isolation` then proves it."""
        parameters = inspect.signature(model_class.forward).parameters
        return {"decoder_input_ids", "decoder_attention_mask"} <= parameters.keys()

    @property
    def takes_varlen(self) -> bool:
        """Never: no kernel for documents laid end to end knows position biases and two lengths."""
        return False

    def forward(
        self,
        input_ids: Tensor,
        *,
        document_ids: Tensor,
        position_ids: Tensor,
        target_ids: Tensor,
        target_document_ids: Tensor,
        target_position_ids: Tensor,
        label_positions: Tensor | None = None,
    ) -> Tensor:
        """Logits of the targets.

        Args:
            input_ids: of the sources, int32 or int64, (B, S).
            document_ids: the same; 0 is padding.
            position_ids: the same; from 0 in every document.
            target_ids: what the decoder reads: targets shifted by one token, int32 or int64, (B, T).
            target_document_ids: the same; a number that the row of sources has too.
            target_position_ids: the same.
            label_positions: int32 or int64, (C,); indices into the B * T tokens.

        Returns:
            (B, T, vocabulary), or (1, C, vocabulary) when `label_positions` are given.
        """
        if self.isolated:
            seen = self._mask(document_mask(document_ids, False, None))
            past = self._mask(document_mask(target_document_ids, True, None))
            pairs = target_document_ids[:, :, None] == document_ids[:, None, :]
            # padding sees everything: a query that sees nothing is no number in some kernels
            self.pairs = self._mask((pairs | (target_document_ids == 0)[:, :, None])[:, None])
            for stack, given in zip(self.positions, (position_ids, target_position_ids), strict=True):
                stack.given = given
        else:
            seen, past = (document_ids > 0).long(), (target_document_ids > 0).long()
        self.labelled.positions = label_positions
        try:
            return self.model(
                input_ids=input_ids,
                attention_mask=seen,
                decoder_input_ids=target_ids,
                decoder_attention_mask=past,
                use_cache=False,
            )[0]
        finally:
            self.labelled.positions = self.pairs = None
            for stack in self.positions:
                stack.given = None

    def _mask(self, sees: Tensor) -> Tensor:
        """As the model's attention takes it; the plain formula adds it to the scores."""
        if self.model.config._attn_implementation != "eager":
            return sees
        dtype = self.model.get_input_embeddings().weight.dtype
        return torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)

    def _pair(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs if self.pairs is None else kwargs | {"encoder_attention_mask": self.pairs}

    # for proofs: every document is a source, and its first half what the decoder reads

    def in_a_row(self, documents: Sequence[Tensor], length: int = 0) -> list[Tensor]:
        """What a proof compares: the logits of the targets of documents that share a row, each (n, vocabulary).

        Args:
            documents: ids, (n,).
            length: of the row, which is padded up to it.
        """
        targets = [_half(document) for document in documents]
        given: dict[str, Tensor] = {}
        for parts, prefix, ids in ((documents, "", "input_ids"), (targets, "target_", "target_ids")):
            rows = {
                ids: torch.cat(list(parts)),
                f"{prefix}document_ids": torch.cat([torch.full_like(part, i + 1) for i, part in enumerate(parts)]),
                f"{prefix}position_ids": torch.cat([torch.arange(len(part), device=part.device) for part in parts]),
            }
            given |= {name: F.pad(row, (0, max(0, length - len(row))))[None] for name, row in rows.items()}
        sizes = [len(target) for target in targets]
        return list(self(**given)[0][: sum(sizes)].split(sizes))

    def alone(self, document: Tensor, model: PreTrainedModel) -> Tensor:
        """The logits of one document's target by a model of plain transformers, (n, vocabulary)."""
        return model(input_ids=document[None], decoder_input_ids=_half(document)[None], use_cache=False)[0][0]


def _half(document: Tensor) -> Tensor:
    return document[: len(document) // 2 + 1]


class Positions:
    """Has the tables of positions of a stack give those of `given`, (B, S), from 0 in every document.

    Args:
        stack: an encoder or a decoder; a hook on each of its tables stays installed.
    """

    def __init__(self, stack: nn.Module) -> None:
        self.given: Tensor | None = None
        for name, module in stack.named_modules():
            if name.endswith("embed_positions") and isinstance(module, nn.Embedding):
                module.register_forward_hook(self._look_up)

    def _look_up(self, module: nn.Embedding, args: tuple, output: Tensor) -> Tensor:
        if self.given is None:
            return output
        return F.embedding(self.given + getattr(module, "offset", 0), module.weight)
