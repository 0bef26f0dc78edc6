"""nlp_ssl: from raw text to a published Hugging Face language model."""

import os
import warnings
from importlib import import_module
from typing import Any

# How long OpenMP's threads spin at a barrier before they sleep. By default so long that on a machine with other work
# they lose their cores while they wait for each other, and a step takes several times as long; so short, an idle
# machine is no slower (CONTRIBUTING.md). It is read when torch is loaded, and changes no result.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "2000"

# what tqdm says in a notebook without ipywidgets, whoever imports it; ours shows lines there (core/console.py)
warnings.filterwarnings("ignore", "IProgress not found")

_WHERE = {
    "nlp_ssl.config.finetuning": ("ClassificationConfig", "LabelledConfig", "NERConfig"),
    "nlp_ssl.config.pretraining": ("CLMConfig", "CorpusConfig", "MLMConfig", "MaskingConfig"),
    "nlp_ssl.core.errors": ("UserError",),
    "nlp_ssl.data.labelled.labelled_data": ("LabelledData", "open_classification", "open_tagging"),
    "nlp_ssl.data.sequences.batches": ("Collator", "MicroBatch", "TrainBatches", "held_out_batches"),
    "nlp_ssl.data.sequences.packing": ("PackedRows", "pack"),
    "nlp_ssl.data.text.corpus": ("Corpus", "open_corpus"),
    "nlp_ssl.data.tokens.token_corpus": ("TokenCorpus",),
    "nlp_ssl.data.tokens.tokenizer": ("load_tokenizer", "train_tokenizer"),
    "nlp_ssl.data.tokens.tokenizing": ("tokenize_corpus",),
    "nlp_ssl.evaluation.held_out": ("evaluate",),
    "nlp_ssl.evaluation.metrics": (
        "Accuracy",
        "BitsPerByte",
        "EntityF1",
        "F1",
        "MatthewsCorrelation",
        "PearsonSpearman",
        "Perplexity",
    ),
    "nlp_ssl.models.checks": ("check_isolation",),
    "nlp_ssl.models.packed": ("PackedModel",),
    "nlp_ssl.objectives.classification": ("Classification", "ClassificationCollator"),
    "nlp_ssl.objectives.clm": ("CausalCollator", "CausalLanguageModeling"),
    "nlp_ssl.objectives.cross_entropy": ("bits_per_byte",),
    "nlp_ssl.objectives.label_matching": ("match_labels",),
    "nlp_ssl.objectives.masking": ("MaskingCollator",),
    "nlp_ssl.objectives.mlm": ("MaskedCollator", "MaskedLanguageModeling"),
    "nlp_ssl.objectives.objective": ("Objective", "PretrainingObjective"),
    "nlp_ssl.objectives.tagging": ("Tagging", "TaggingCollator"),
    "nlp_ssl.publishing.hub": ("HubPublisher",),
    "nlp_ssl.runs.in_python": ("Trained", "finetune", "pretrain"),
    "nlp_ssl.training.loop": ("Step", "train"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `import nlp_ssl` costs nothing."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nlp_ssl' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
