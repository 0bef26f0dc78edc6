"""Options of contrastive pretraining (`nlp_ssl.objectives.contrastive`), apart from it so that `--help` waits for no
torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class ContrastiveSection:
    """Two views of every document, and the loss that draws their vectors together."""

    view: Literal["crops", "deletion", "replacement", "repetition", "dropout", "next"] = "crops"
    """`crops`: two random stretches of the document (Contriever); `deletion`, `replacement`: tokens deleted, or
    replaced by random ones, in both views; `repetition`: tokens of the second view repeated (ESimCSE); `dropout`: the
    same text twice under other dropout (SimCSE); `next`: the document up to a random place, and from there on."""
    noise: float | None = None
    """Share of the tokens that `crops` and `deletion` delete, `replacement` replaces, and `repetition` repeats at most.
    Derived: 0.1, and 0.32 for repetition, as in the papers."""
    shortest_crop: float = 0.05
    """Shortest crop, as a share of the document (Contriever)."""
    longest_crop: float = 0.5
    """Longest crop, as a share of the document (Contriever)."""
    loss: Literal["infonce", "moco", "byol"] = "infonce"
    """`infonce`: a view is told apart from those of all other documents of the step; `moco`: from those of past steps,
    which a momentum encoder made; `byol`: it predicts the momentum encoder's vector of the other view, without
    negatives."""
    temperature: float = 0.05
    """Divides the cosines of `infonce` and `moco` (SimCSE, Contriever)."""
    pooling: Literal["mean", "cls"] = "mean"
    """The vector of a text: the mean over its tokens, or its first token's."""
    head: Literal["none", "mlp"] | None = None
    """What stands between that vector and the loss in training, and is not published: nothing, or a layer with tanh
    (SimCSE). Derived: `mlp` for byol, otherwise none."""
    momentum: float | None = None
    """How much of the momentum encoder a step leaves as it is. Derived: 0.999 for moco (He et al. 2020), 0.996 for byol
    (Grill et al. 2020)."""
    queue: int = 16_384
    """Vectors of past documents that `moco` keeps as negatives. It begins empty."""


@options
class ContrastiveConfig(PretrainConfig):
    """One contrastive pretraining run."""

    output_dir: str = "runs/contrastive"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    contrastive: ContrastiveSection = field(default_factory=ContrastiveSection)
