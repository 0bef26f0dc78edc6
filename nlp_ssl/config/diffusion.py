"""Options of masked diffusion (`nlp_ssl.objectives.diffusion`), apart from it so that `--help` waits for no torch."""

from dataclasses import field

from nlp_ssl.config.common import options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class DiffusionSection:
    """Masked diffusion: how tokens are masked."""

    eps: float = 1e-3
    """Lowest mask probability: a document is masked with probability eps + (1 - eps) t, t uniform (Nie et al. 2025)."""


@options
class DiffusionConfig(PretrainConfig):
    """One pretraining run of a masked diffusion language model."""

    output_dir: str = "runs/diffusion"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    diffusion: DiffusionSection = field(default_factory=DiffusionSection)
