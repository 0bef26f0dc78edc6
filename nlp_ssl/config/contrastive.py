"""Options of contrastive pretraining (`nlp_ssl.objectives.contrastive`), apart from it so that `--help` waits for no
torch."""

from dataclasses import field
from typing import ClassVar, Literal

from nlp_ssl.config.common import Groups, options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class ContrastiveSection:
    """Contrast: two views of every document, and the loss that draws their vectors together."""

    view: Literal["crops", "deletion", "replacement", "repetition", "dropout", "next"] = "crops"
    """How the two views of a document are made. `crops`: two random stretches of it (Contriever); `deletion`,
    `replacement`: tokens deleted, or replaced by random ones, in both views; `repetition`: tokens of the second view
    repeated (ESimCSE); `dropout`: the same text twice under different dropout (SimCSE); `next`: the document up to a
    random place, and the rest of it."""
    noise: float | None = None
    """Share of the tokens that `crops` and `deletion` delete, `replacement` replaces, and `repetition` repeats at most.
    Derived: 0.1, for repetition 0.32, as in the papers."""
    shortest_crop: float = 0.05
    """Shortest crop, as a share of the document (Contriever)."""
    longest_crop: float = 0.5
    """Longest crop, as a share of the document (Contriever)."""
    loss: Literal["infonce", "moco", "byol"] = "infonce"
    """Which negatives the loss has. `infonce`: the views of all other documents of the step; `moco`: those of past
    steps, by a momentum encoder; `byol`: none, a view predicts the momentum encoder's vector of the other view."""
    temperature: float = 0.05
    """Temperature: divides the cosines of `infonce` and `moco` (SimCSE, Contriever)."""
    pooling: Literal["mean", "cls"] = "mean"
    """The vector of a text: the mean over its tokens, or its first token's."""
    head: Literal["none", "mlp"] | None = None
    """Projection head between that vector and the loss, which is not published: none, or a layer with tanh (SimCSE).
    Derived: `mlp` for byol, otherwise none."""
    momentum: float | None = None
    """Momentum of the momentum encoder: the share of it that a step leaves unchanged. Derived: 0.999 for moco (He et
    al. 2020), 0.996 for byol (Grill et al. 2020)."""
    queue: int = 16_384
    """Number of vectors of past documents that `moco` keeps as negatives. The queue begins empty."""


@options
class ContrastiveConfig(PretrainConfig):
    """One contrastive pretraining run."""

    EVERYDAY: ClassVar[Groups] = {
        **PretrainConfig.EVERYDAY,
        "Contrast": tuple(f"contrastive.{name}" for name in ("view", "noise", "loss", "temperature", "pooling")),
    }
    output_dir: str = "runs/contrastive"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    contrastive: ContrastiveSection = field(default_factory=ContrastiveSection)
