"""Options of sentence order (`nlp_ssl.objectives.sentence_order`), apart from it: `--help` waits for no torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import options
from nlp_ssl.config.pretraining import MaskingConfig, PretrainConfig


@options
class SentenceOrderSection:
    """Sentence order: the question about two parts of a text."""

    task: Literal["sop", "nsp"] = "sop"
    """`sop`: whether they are in their order (Lan et al. 2019); `nsp`: whether they are from one text (Devlin et al.
    2018), which the topic gives away and which did not help in later comparisons."""
    weight: float = 1.0
    """Weight of this loss beside that of the masked tokens."""


@options
class SentenceOrderConfig(PretrainConfig):
    """One masked pretraining run with sentence order."""

    output_dir: str = "runs/sentence_order"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    sentence_order: SentenceOrderSection = field(default_factory=SentenceOrderSection)
