"""Options of filling in the middle (`nlp_ssl.objectives.fill_in_the_middle`), so that `--help` waits for no torch."""

from dataclasses import field

from nlp_ssl.config.common import options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class InfillingSection:
    """Filling in the middle: which documents are rearranged."""

    rate: float = 0.5
    """Share of the documents whose middle is moved to their end; the others are left unchanged. Up to 0.9 does not
    raise the loss on plain text (Bavarian et al. 2022), 1 does."""


@options
class InfillingConfig(PretrainConfig):
    """One causal pretraining run with documents whose middle is filled in."""

    output_dir: str = "runs/fim"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    fim: InfillingSection = field(default_factory=InfillingSection)
