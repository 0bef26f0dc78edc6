"""Options of replaced-token detection (`nlp_ssl.objectives.rtd`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import Scalar, options
from nlp_ssl.config.pretraining import MaskingConfig, PretrainConfig


@options
class ReplacedTokensSection:
    """Replaced-token detection: generator and discriminator."""

    weight: float = 50.0
    """Weight of the discriminator's loss beside the generator's."""
    embeddings: Literal["shared", "disentangled", "separate"] = "shared"
    """Whether generator and discriminator share their embeddings. `disentangled`: the discriminator adds a table of its
    own to the generator's, which gets no gradient from it (gradient-disentangled embedding sharing)."""
    generator: dict[str, Scalar] = field(default_factory=dict)
    """Fields of the model's configuration that differ in the generator, such as `--rtd.generator.num_hidden_layers 3`.
    Derived: half the layers."""


@options
class ReplacedTokensConfig(PretrainConfig):
    """One pretraining run with replaced-token detection."""

    output_dir: str = "runs/rtd"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    masking: MaskingConfig = field(default_factory=lambda: MaskingConfig(mask_share=0.85, random_share=0.0))
    rtd: ReplacedTokensSection = field(default_factory=ReplacedTokensSection)
