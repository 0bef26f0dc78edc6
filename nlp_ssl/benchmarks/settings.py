"""What a benchmark is asked."""

from dataclasses import dataclass, field
from typing import Literal

from nlp_ssl.config.finetuning import ClassificationConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core.errors import UserError

TRAINERS = ("script", "bf16", "best")
CONTENDERS = ("eager", *TRAINERS)
FINETUNING_TRAINERS = ("script", "best")
Stage = Literal["step", "loss", "tokenise", "pack", "batches", "masking", "resume", "save"]


@dataclass
class BenchmarkConfig(MLMConfig):
    """One benchmark: the options of a pretraining run, and what is measured."""

    stage: Stage = "step"
    """`step`: seconds of a training step beside `transformers.Trainer`; `loss`: seconds until a held-out loss; or a
    part by itself: `tokenise`, `pack`, `batches`, `masking`, `resume` (time to the first step), `save`."""
    against: list[str] = field(default_factory=lambda: list(TRAINERS))
    """What to run beside: Trainers, `script` as `run_mlm.py` and `run_clm.py` set it, `bf16` with that alone, `best`
    with bf16, `torch_compile`, TF32, the fused optimizer and a loader worker; and `eager`, this project without
    `torch.compile` (`step`)."""
    rounds: int = 5
    """How often every contender has its turn; medians are of these."""
    steps: int = 3
    """Optimizer steps in a turn."""
    target: float = 5.5
    """Held-out loss to reach (`loss`)."""
    patience: float = 10.0
    """Stop a Trainer that takes so many times our seconds to reach it (`loss`)."""
    trainer_model: str | None = None
    """Another preset for the Trainers, such as the BERT of their script (`loss`)."""
    trainer_lr: float = 1e-3
    """Their peak learning rate (`loss`); the scripts' own, 5e-5, is for continuing from trained weights."""
    results: str = "runs/benchmark.json"
    """Where everything that was measured is written; an older file is replaced."""


@dataclass
class FinetuneBenchmarkConfig(ClassificationConfig):
    """One benchmark of fine-tuning: the options of a run, and what is measured."""

    against: list[str] = field(default_factory=lambda: list(FINETUNING_TRAINERS))
    """Trainers to run beside: `script` as `run_glue.py` sets it (float32, every row padded to `max_length`), `best`
    with bf16, rows of like length together, padded to the longest of a batch, and a loader worker."""
    rounds: int = 5
    """How often every contender has its turn; medians are of these."""
    steps: int = 20
    """Optimizer steps in a turn."""
    results: str = "runs/benchmark_finetuning.json"
    """Where everything that was measured is written; an older file is replaced."""


def check(config: BenchmarkConfig) -> None:
    """Find out before anything is measured what cannot be.

    Raises:
        UserError: an unknown Trainer, or a number that must be positive.
    """
    known = CONTENDERS if config.stage == "step" else TRAINERS
    for name in config.against:
        if name not in known:
            raise UserError(f"--against {name}: there are {', '.join(known)}")
    for key in ("rounds", "steps", "target", "patience", "trainer_lr"):
        if getattr(config, key) <= 0:
            raise UserError(f"--{key} is {getattr(config, key)}; it must be positive")
