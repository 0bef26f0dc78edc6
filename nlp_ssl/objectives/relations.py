"""How the tokens of a layer relate to each other, and how far a student's relations are from a teacher's (MiniLMv2:
Wang et al. 2020, section 3).

The queries of a layer are cut into relation heads, whatever its attention heads; a relation is the softmax over the
tokens of a document of the scaled products of the queries with each other, and so it is for keys and for values. Number
and width of the heads of student and teacher may differ: only the number of relation heads is shared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig

from nlp_ssl.config.distillation import DistillationSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.models.packed import PackedModel

_PER_HEAD = 4  # relation heads of the authors for an attention head of BERT-base, and of BERT-large
_SCORES = 2**26  # at once: 256 MB of float32


@dataclass(frozen=True)
class Relations:
    """Which layers are compared, in how many heads.

    Attributes:
        student_layer: from 0; its last.
        teacher_layer: from 0.
        heads: relation heads.
    """

    student_layer: int
    teacher_layer: int
    heads: int

    @classmethod
    def of(cls, options: DistillationSection, student: PackedModel, teacher: PackedModel) -> "Relations":
        """As the options say.

        Raises:
            UserError: the student's attention does not keep what it reads, the teacher has no such layer, or the number
                of heads does not divide the width of a layer.
        """
        if not student.isolated or student.pairwise is not None:
            raise UserError(
                "--distillation.relation_weight reads queries and keys in the attention of packed rows, which "
                f"{type(student.model).__name__} is not trained with here; leave it out"
            )
        configs = [student.model.config, teacher.model.config]
        there = configs[1].num_hidden_layers
        layer = there - 1 if options.relation_layer is None else options.relation_layer
        if not 0 <= layer < there:
            raise UserError(f"--distillation.relation_layer is {layer}; the teacher's layers are 0 to {there - 1}")
        widths = [width for config in configs for width in _projected_widths(config)]
        common, most = math.gcd(*widths), _PER_HEAD * configs[1].num_attention_heads
        derived = max(heads for heads in range(1, most + 1) if common % heads == 0)
        heads = derived if options.relation_heads is None else options.relation_heads
        if heads < 1 or common % heads:
            shown = ", ".join(map(str, sorted(set(widths))))
            raise UserError(f"--distillation.relation_heads is {heads}, which does not divide widths of {shown}")
        return cls(configs[0].num_hidden_layers - 1, layer, heads)

    def divergence(self, ours: Sequence[Tensor], theirs: Sequence[Tensor], document_ids: Tensor) -> Tensor:
        """`summed_relation_divergence` of the projections of these layers."""
        return summed_relation_divergence(ours, theirs, document_ids, self.heads)


def summed_relation_divergence(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], document_ids: Tensor, heads: int
) -> Tensor:
    """KL(teacher's relations || student's) in nats, summed over tokens and over queries, keys and values.

    Of a token it is the mean over relation heads. Scores are made anew in the backward pass, a few heads at a time.

    Args:
        ours: queries, keys and values of the student, each (B, heads, S, head width).
        theirs: the teacher's, which get no gradient.
        document_ids: (B, S); tokens relate to those of their document; 0 is padding.
        heads: relation heads, which divide the whole width of each.

    Returns:
        0-d, float32, or float64 for float64 models.
    """
    count, length = document_ids.shape
    others = (document_ids[:, :, None] != document_ids[:, None, :])[:, None]
    real = document_ids > 0
    together = max(1, _SCORES // (count * length * length))
    total = torch.zeros((), device=document_ids.device)
    for own, taught in zip(ours, theirs, strict=True):
        own, taught = _relation_heads(own, heads), _relation_heads(taught.detach(), heads)
        for begin in range(0, heads, together):
            part = slice(begin, begin + together)
            total = total + checkpoint(_divergence, own[:, part], taught[:, part], others, real, use_reentrant=False)
    return total / heads


def _relation_heads(projected: Tensor, heads: int) -> Tensor:
    """(B, attention heads, S, width of one) as (B, relation heads, S, width of one)."""
    count, _, length, _ = projected.shape
    return projected.transpose(1, 2).reshape(count, length, heads, -1).transpose(1, 2)


def _divergence(ours: Tensor, theirs: Tensor, others: Tensor, real: Tensor) -> Tensor:
    """Summed over heads and real tokens."""
    log_q, log_p = _log_relations(ours, others), _log_relations(theirs, others)
    rows = torch.where(others, 0.0, log_p.exp() * (log_p - log_q)).sum(-1)
    return torch.where(real[:, None], rows, 0.0).sum()


def _log_relations(projected: Tensor, others: Tensor) -> Tensor:
    precision = torch.promote_types(projected.dtype, torch.float32)
    scores = torch.matmul(projected, projected.mT).to(precision) * projected.shape[-1] ** -0.5
    return scores.masked_fill(others, torch.finfo(precision).min).log_softmax(-1)


def _projected_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """Of a layer's queries, and of its keys."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return head * config.num_attention_heads, head * groups
