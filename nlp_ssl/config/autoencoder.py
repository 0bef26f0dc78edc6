"""Options of autoencoders (`nlp_ssl.objectives.autoencoder`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import ClassVar, Literal

from nlp_ssl.config.common import Derived, Groups, options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class AutoencoderSection:
    """Autoencoder: what is deleted from a document, and the bottleneck it is reconstructed from."""

    deleted: float = 0.6
    """Share of the words that are deleted from the input of the encoder (0.6 in Wang et al. 2021)."""
    pooling: Literal["mean", "cls"] = "mean"
    """The document's vector: the mean over its tokens, or its first token's; equally good in Wang et al. 2021."""
    bottleneck: Literal["plain", "variational", "sparse"] = "plain"
    """What the decoder receives: the vector itself; a sample of a normal distribution that the vector parametrises; or
    a sparse code, by an L1 penalty."""
    latent_size: int | Derived = None
    """Width of the sample or the code. Derived: the model's width."""
    decoder_layers: int | None = None
    """Layers of a separate decoder, which shares embeddings and head with the encoder. Derived: the encoder itself is
    the decoder (tied weights, as in TSDAE)."""
    kl_weight: float = 1.0
    """Weight of the divergence from a standard normal distribution (variational); 1 makes the loss a bound."""
    free_bits: float = 0.5
    """Free bits: this many nats per entry cost nothing in training (variational; Optimus: Li et al. 2020)."""
    annealing_steps: int = 1000
    """Steps over which the weight of the divergence grows from 0 (variational; Bowman et al. 2016)."""
    l1_weight: float = 1e-3
    """Weight of the L1 penalty: the sum of a code's entries (sparse)."""


@options
class AutoencoderConfig(PretrainConfig):
    """One run of a denoising autoencoder."""

    EVERYDAY: ClassVar[Groups] = {
        **PretrainConfig.EVERYDAY,
        "Autoencoder": tuple(
            f"autoencoder.{name}" for name in ("deleted", "pooling", "bottleneck", "latent_size", "decoder_layers")
        ),
    }
    output_dir: str = "runs/autoencoder"
    """Folder of the run: checkpoints, logs and, at its top, the finished encoder."""
    autoencoder: AutoencoderSection = field(default_factory=AutoencoderSection)
