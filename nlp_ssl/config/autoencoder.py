"""Options of autoencoders (`nlp_ssl.objectives.autoencoder`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import Derived, options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class AutoencoderSection:
    """What is taken from a document, and through what it is written anew."""

    deleted: float = 0.6
    """Share of the words that the encoder does not see; 0.6 is that of Wang et al. 2021."""
    pooling: Literal["mean", "cls"] = "mean"
    """The document's vector: the mean over its tokens, or its first token's; equally good in Wang et al. 2021."""
    bottleneck: Literal["plain", "variational", "sparse"] = "plain"
    """What the decoder gets: the vector itself; a draw from a normal distribution that the vector gives; or a code of
    which L1 makes most entries 0."""
    latent_size: int | Derived = None
    """Entries of the draw or the code. Derived: the model's width."""
    decoder_layers: int | None = None
    """Layers of a decoder of its own, which shares embeddings and head with the encoder. By default the encoder itself
    is the decoder (tied weights, as in TSDAE)."""
    kl_weight: float = 1.0
    """Weight of the divergence from a standard normal distribution (variational); 1 makes the loss a bound."""
    free_bits: float = 0.5
    """That many nats of each entry cost nothing in training (variational; Optimus: Li et al. 2020)."""
    annealing_steps: int = 1000
    """Steps in which the weight of the divergence grows from 0 (variational; Bowman et al. 2016)."""
    l1_weight: float = 1e-3
    """Weight of the sum of a code's entries (sparse)."""


@options
class AutoencoderConfig(PretrainConfig):
    """One run of a denoising autoencoder."""

    output_dir: str = "runs/autoencoder"
    """Folder of the run: checkpoints, logs and, at its top, the finished encoder."""
    autoencoder: AutoencoderSection = field(default_factory=AutoencoderSection)
