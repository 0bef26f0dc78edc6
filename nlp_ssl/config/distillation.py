"""Options of distillation (`nlp_ssl.objectives.distillation`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import ClassVar

from nlp_ssl.config.common import Derived, Groups, options
from nlp_ssl.config.pretraining import MaskingConfig, PretrainConfig


@options
class DistillationSection:
    """Distillation: the teacher, and what the student learns from it."""

    teacher: str = ""
    """A trained masked or causal language model: a folder or a Hub id. Must be given."""
    revision: str | None = None
    """Branch, tag or commit of the teacher's Hub id."""
    temperature: float = 2.0
    """Temperature of the distributions of teacher and student (2 in Sanh et al. 2019)."""
    kl_weight: float = 5.0
    """Weight of the divergence from the teacher's distribution; this default and the next two are those of
    DistilBERT."""
    label_weight: float = 2.0
    """Weight of the cross-entropy of the true tokens."""
    cosine_weight: float = 1.0
    """Weight of the cosine distance between the last hidden states of student and teacher, which must be equally
    wide."""
    relation_weight: float = 0.0
    """Weight of the divergence of the student's relations between tokens from the teacher's, by queries, keys and
    values of one layer of each (MiniLMv2: Wang et al. 2020). Both may differ in width; packed sequences only."""
    relation_layer: int | Derived = None
    """The teacher's layer whose relations the student's last one learns, from 0. Derived: the last; the authors chose
    the 21st of BERT-large and the 19th of RoBERTa-large."""
    relation_heads: int | Derived = None
    """Number of heads into which a layer is cut for its relations. Derived: up to four times the teacher's attention
    heads, as the authors have it (48 and 64 for models of base and large size)."""
    layers: list[int] | Derived = None
    """The teacher's layers from which the student's are initialised, from 0, such as `[0, 2, 4]`; `[]` is new weights.
    Derived: evenly spread where both have one architecture and differ in their number of layers; otherwise none."""


@options
class DistillationConfig(PretrainConfig):
    """One run of distillation."""

    EVERYDAY: ClassVar[Groups] = {
        **PretrainConfig.EVERYDAY,
        "Distillation": (
            *("distillation.teacher", "distillation.temperature", "distillation.kl_weight"),
            *("distillation.label_weight", "distillation.relation_weight", "distillation.layers"),
        ),
    }
    output_dir: str = "runs/distilled"
    """Folder of the run: checkpoints, logs and, at its top, the finished student."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    distillation: DistillationSection = field(default_factory=DistillationSection)
