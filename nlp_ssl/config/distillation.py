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
