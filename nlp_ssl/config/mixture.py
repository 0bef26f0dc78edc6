"""Options of a mixture of objectives (`nlp_ssl.objectives.mixture`), apart from it: `--help` waits for no torch."""

from dataclasses import field
from typing import Any

from nlp_ssl.config.common import options
from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.config.pretraining import PretrainConfig


@options
class MemberConfig:
    """One objective of a mixture."""

    objective: str
    """A file of `nlp_ssl/objectives`, such as `mlm`, `clm`, `rtd`, or `supervised` for labelled texts."""
    name: str | None = None
    """Name of its numbers in the log. Derived: the objective's name."""
    share: float = 1.0
    """Share of the sequences of a global batch, relative to the other members' shares. 0 is for labelled rows, which
    are added to them."""
    weight: float = 1.0
    """Weight of its losses beside the other members'."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its own options, by dotted names, such as `{masking.probability: 0.3}`; text of its own: `{data.sources:
    a.txt}`."""


def _members() -> list[MemberConfig]:
    return [MemberConfig("mlm"), MemberConfig("clm")]


@options
class MixtureConfig(PretrainConfig):
    """One pretraining run with several objectives over one model."""

    output_dir: str = "runs/mixture"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    members: list[MemberConfig] = field(default_factory=_members)
    """The objectives, each with `objective`, `share`, `weight` and `options`; the first one determines the head of the
    published model."""


@options
class SupervisedSection:
    """Labelled texts among the objectives."""

    data: LabelledConfig = field(default_factory=LabelledConfig)
    max_length: int = 128
    """Longest input in tokens; longer ones are cut and counted."""
    batch_size: int = 32
    """Labelled rows in every step."""


@options
class SupervisedConfig(PretrainConfig):
    """The options of labelled texts in a mixture."""

    supervised: SupervisedSection = field(default_factory=SupervisedSection)
