"""Options of distillation (`nlp_ssl.objectives.distillation`), apart from it so that `--help` waits for no torch."""

from dataclasses import field

from nlp_ssl.config.common import Derived, options
from nlp_ssl.config.pretraining import MaskingConfig, PretrainConfig


@options
class DistillationSection:
    """Whom the student learns from, and what."""

    teacher: str = ""
    """A trained masked or causal language model: a folder or a Hub id. Must be given."""
    revision: str | None = None
    """Branch, tag or commit of the teacher's Hub id."""
    temperature: float = 2.0
    """Softens the distributions of teacher and student alike (Sanh et al. 2019 train with 2)."""
    kl_weight: float = 5.0
    """Weight of the divergence from the teacher's distribution; this and the next two are of DistilBERT's published
    command."""
    label_weight: float = 2.0
    """Weight of the cross-entropy of the true tokens."""
    cosine_weight: float = 1.0
    """Weight of the cosine distance of student's and teacher's last hidden states, which must be equally wide."""
    relation_weight: float = 0.0
    """Weight of the divergence of the student's relations between tokens from the teacher's, by queries, keys and
    values of one layer of each (MiniLMv2: Wang et al. 2020). Both may differ in width; packed rows only."""
    relation_layer: int | Derived = None
    """The teacher's layer whose relations the student's last one learns, from 0. Derived: the last; the authors took
    the 21st of BERT-large and the 19th of RoBERTa-large."""
    relation_heads: int | Derived = None
    """Into how many heads a layer is cut for its relations. Derived: up to four times the teacher's attention heads,
    which are the 48 and 64 of the authors for models of base and large size."""
    layers: list[int] | Derived = None
    """The teacher's layers that the student's begin with, from 0, such as `[0, 2, 4]`; `[]` begins with new weights.
    Derived: evenly spread, where the student is the teacher's architecture with other layers; otherwise none."""


@options
class DistillationConfig(PretrainConfig):
    """One run of distillation."""

    output_dir: str = "runs/distilled"
    """Folder of the run: checkpoints, logs and, at its top, the finished student."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    distillation: DistillationSection = field(default_factory=DistillationSection)
