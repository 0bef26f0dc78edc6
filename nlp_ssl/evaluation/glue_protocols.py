"""GLUE (Wang et al. 2018) as three papers mean it: named protocols, each with its hyperparameters, metrics and average.

"GLUE 80" says nothing without one of these names: they differ in what is averaged, in epochs, and in whether small
tasks begin from a model that has learnt MNLI.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TASKS: tuple[str, ...]
TASKS = ("glue/mnli", "glue/qqp", "glue/qnli", "glue/sst2", "glue/cola", "glue/stsb", "glue/mrpc", "glue/rte")
TASKS += ("glue/wnli",)
"""All nine; MNLI first, from which some begin."""


@dataclass(frozen=True)
class TaskSettings:
    """How one task is learnt.

    Attributes:
        lr: peak rates; where there are several, the one that is best on the development set counts.
        batch_size: rows.
        epochs: passes over the training rows.
        weight_decay: decoupled, relative to the rate, of matrices.
        seeds: one run each; the mean counts.
        from_mnli: begin from the model that has learnt MNLI.
    """

    lr: tuple[float, ...]
    batch_size: int
    epochs: int
    weight_decay: float = 0.01
    seeds: tuple[int, ...] = (0,)
    from_mnli: bool = False


@dataclass(frozen=True)
class Protocol:
    """One way to measure GLUE on its development sets.

    Attributes:
        name: what a score is called by.
        source: where the numbers stand.
        entries: what is averaged: the name of an entry, and the numbers (task, set, metric) whose mean it is.
        tasks: settings of each task; WNLI is in nobody's average.
        schedule: of the rate.
        warmup: share of the steps.
        betas: AdamW's.
        eps: AdamW's.
        max_grad_norm: clipping; 0 is none.
        max_length: tokens.
        caveat: what this project does otherwise.
    """

    name: str
    source: str
    entries: Mapping[str, tuple[tuple[str, str, str], ...]]
    tasks: Mapping[str, TaskSettings]
    schedule: Literal["linear", "cosine"]
    warmup: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float
    max_length: int
    caveat: str = ""

    def entry_scores(self, numbers: Mapping[tuple[str, str, str], float]) -> dict[str, float]:
        """The entries that can be had from what was measured, in per cent; a correlation of constants is none.

        Args:
            numbers: by (task, set, metric), from 0 to 1.
        """
        found = {}
        for name, parts in self.entries.items():
            if all(math.isfinite(numbers.get(part, math.nan)) for part in parts):
                found[name] = 100 * math.fsum(numbers[part] for part in parts) / len(parts)
        return found

    def average(self, scores: Mapping[str, float]) -> float | None:
        """The mean of all entries; `None` while one is missing, for a mean of some is no GLUE score."""
        if self.entries.keys() - scores.keys():
            return None
        return math.fsum(scores[name] for name in self.entries) / len(self.entries)


def _entries(stsb: str, nine: bool, paraphrases: tuple[str, ...]) -> dict[str, tuple[tuple[str, str, str], ...]]:
    matched, mismatched = ("glue/mnli", "validation", "accuracy"), ("glue/mnli", "test", "accuracy")
    mnli = {"MNLI-m": (matched,), "MNLI-mm": (mismatched,)} if nine else {"MNLI": (matched, mismatched)}
    both = {name: tuple((task, "validation", m) for m in paraphrases) for name, task in PARAPHRASES.items()}
    return {
        **mnli,
        **both,
        "QNLI": (("glue/qnli", "validation", "accuracy"),),
        "SST-2": (("glue/sst2", "validation", "accuracy"),),
        "CoLA": (("glue/cola", "validation", "matthews_correlation"),),
        "STS-B": (("glue/stsb", "validation", stsb),),
        "RTE": (("glue/rte", "validation", "accuracy"),),
    }


PARAPHRASES = {"QQP": "glue/qqp", "MRPC": "glue/mrpc"}
PROTOCOLS = {
    "devlin": Protocol(
        name="devlin",
        source="Devlin et al. 2018, section 4.1 and appendix A.3: three epochs of 32, the best of four rates",
        entries=_entries("spearmanr", nine=True, paraphrases=("f1",)),
        tasks=dict.fromkeys(TASKS, TaskSettings((5e-5, 4e-5, 3e-5, 2e-5), 32, 3)),
        schedule="linear",
        warmup=0.1,
        betas=(0.9, 0.999),
        eps=1e-6,
        max_grad_norm=1.0,
        max_length=128,
        caveat="on development sets; the paper's table is the test server's",
    ),
    "cramming": Protocol(
        name="cramming",
        source="Geiping and Goldstein 2022, section 5, and its code: five epochs of 16, five trials",
        entries=_entries("pearsonr", nine=True, paraphrases=("f1",)),
        tasks=dict.fromkeys(TASKS, TaskSettings((4e-5,), 16, 5, 0.0, (0, 1, 2, 3, 4))),
        schedule="cosine",
        warmup=0.1,
        betas=(0.9, 0.98),
        eps=1e-6,
        max_grad_norm=0.0,
        max_length=128,
        caveat="the mean of the trials, where the paper has their median",
    ),
    "mosaic": Protocol(
        name="mosaic",
        source="Portes et al. 2023, appendix, and its code: settings by task; RTE, MRPC and STS-B begin from MNLI",
        entries=_entries("spearmanr", nine=False, paraphrases=("accuracy", "f1")),
        tasks={
            "glue/mnli": TaskSettings((5e-5,), 48, 3, 0.1, (0,)),
            "glue/qqp": TaskSettings((3e-5,), 16, 5, 0.1, (0,)),
            "glue/qnli": TaskSettings((1e-5,), 16, 10, 0.1, (0,)),
            "glue/sst2": TaskSettings((3e-5,), 16, 3, 0.1, (0, 1, 2)),
            "glue/cola": TaskSettings((5e-5,), 32, 10, 0.1, (0, 1, 2, 3)),
            "glue/stsb": TaskSettings((3e-5,), 32, 10, 0.1, (0, 1, 2, 3, 4), from_mnli=True),
            "glue/mrpc": TaskSettings((8e-5,), 32, 10, 0.1, (0, 1, 2, 3, 4), from_mnli=True),
            "glue/rte": TaskSettings((1e-5,), 16, 3, 1.0, (0, 1, 2, 3, 4), from_mnli=True),
        },
        schedule="linear",
        warmup=0.06,
        betas=(0.9, 0.98),
        eps=1e-6,
        max_grad_norm=0.0,
        max_length=256,
        caveat="weight decay on matrices only, other seeds",
    ),
}
