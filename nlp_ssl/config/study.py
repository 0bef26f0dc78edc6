"""Options of a study: pretraining in several ways, with several seeds, each judged by what it is for."""

from dataclasses import field
from typing import Any, Literal

from nlp_ssl.config.common import options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class VariantConfig:
    """One way to pretrain."""

    name: str
    """Its name, also of its folders."""
    objective: str = "mlm"
    """Its training objective: a file of `nlp_ssl/objectives`, such as `mlm`, `clm` or `rtd`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its options that differ from the study's, by dotted names, such as `{masking.probability: 0.3}`. A phase may say
    its `share` of the run's time instead of `steps`: `{phases: [{share: 0.5, objective: clm}]}`."""


@options
class JudgeConfig:
    """What pretrained models are judged by."""

    name: str
    """Its name, also of its folders."""
    kind: Literal["classification", "ner", "similarity", "retrieval"] = "classification"
    """Fine-tuning for classes or scores of texts, or for tags of words. Without fine-tuning: the cosines of pairs of
    texts with a score (`similarity`), or how often half a text finds its other half among 256 (`retrieval`; labels do
    not matter). A linear probe is fine-tuning with `{transfer.unfreeze: never}` among the options."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the fine-tuning recipe, by dotted names, such as `{data.train_file: reviews.csv, max_length: 256}`."""


def _variants() -> list[VariantConfig]:
    return [
        VariantConfig("masked"),
        VariantConfig("causal, then masked", options={"phases": [{"share": 0.5, "objective": "clm"}]}),
        VariantConfig("hybrid", "hybrid"),
        VariantConfig("replaced tokens", "rtd"),
        VariantConfig("diffusion", "diffusion"),
    ]


def _judges() -> list[JudgeConfig]:
    return [JudgeConfig("library of a text"), JudgeConfig("names in a text", "ner")]


@options
class StudyConfig(PretrainConfig):
    """One study: the options that all its pretraining runs have in common, and what is compared."""

    output_dir: str = "runs/objectives"
    """Folder of the study: one folder per run, `results.json` and `study.png`."""
    variants: list[VariantConfig] = field(default_factory=_variants)
    """Ways of pretraining to compare, each with `name`, `objective` and `options`; the others are compared with the
    first."""
    judges: list[JudgeConfig] = field(default_factory=_judges)
    """Tasks by which the models are judged, each with `name`, `kind` and `options`."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Random seeds: each variant is pretrained and judged with each of them."""
    parallel: int | None = None
    """Number of runs at once, each in a process of its own. Derived: the number of GPUs; on a CPU one per core, with
    one thread each."""
