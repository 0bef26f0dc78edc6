"""Options of hybrid pretraining (`nlp_ssl.objectives.hybrid`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import options
from nlp_ssl.config.pretraining import MaskingConfig, PretrainConfig


@options
class HybridSection:
    """Masked and causal sequences: how each is read."""

    share: float = 0.875
    """Share of the sequences that are masked and read in both directions; in the others every token predicts the next
    one and sees only its past. 7/8 is the best mixture of Charpentier and Samuel (2024) on BLiMP."""
    predict: Literal["same", "previous"] = "same"
    """Where a masked token is predicted: at its own position, as `pipeline("fill-mask")` reads it, or by the token
    before it, as the next token is in causal sequences (masked next-token prediction, the choice of Charpentier and
    Samuel 2024). `previous` learnt slightly faster when it was tried (350 steps, half of the sequences masked, one
    seed: 4.42 nats per masked token and 2.11 bits per byte, beside 4.45 and 2.15); the model is then read as its card
    says."""
    adapt_every: int = 0
    """Steps between two updates of adaptive mask rates, by which tokens that the model predicts wrong are masked more
    often; 0 masks all alike. The number of masked tokens per sequence does not change (AMLM: Edman and Fraser 2025, who
    update every 200 steps, with all sequences masked and fewer tokens masked later on: see `mask_probability` of
    phases). Held-out masks are always those of 0."""


@options
class HybridConfig(PretrainConfig):
    """One pretraining run with masked and causal sequences."""

    output_dir: str = "runs/hybrid"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    hybrid: HybridSection = field(default_factory=HybridSection)
