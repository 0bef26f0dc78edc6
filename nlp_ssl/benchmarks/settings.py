"""What a benchmark is asked."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from nlp_ssl.config.common import Groups
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

    EVERYDAY: ClassVar[Groups] = {
        "The measurement": ("stage", "against", "rounds", "steps", "target", "patience", "trainer_lr", "results"),
        "What is trained": (
            *("data.sources", "model.name", "tokenizer.path", "tokenizer.vocab_size", "tokens.sequence_length"),
            *("train.global_batch_size", "train.micro_batch_size", "train.mixed_precision", "train.compile"),
        ),
    }
    stage: Stage = "step"
    """`step`: seconds of a training step beside `transformers.Trainer`; `loss`: seconds until a held-out loss; or a
    part by itself: `tokenise`, `pack`, `batches`, `masking`, `resume` (time to the first step), `save`."""
    against: list[str] = field(default_factory=lambda: list(TRAINERS))
    """What to compare with: Trainers, `script` as `run_mlm.py` and `run_clm.py` set it, `bf16` with that alone, `best`
    with bf16, `torch_compile`, TF32, the fused optimizer and a loader worker; and `eager`, this project without
    `torch.compile` (`step`)."""
    rounds: int = 5
    """Turns of every contender, of which medians are taken."""
    steps: int = 3
    """Optimizer steps in a turn."""
    target: float = 5.5
    """Held-out loss to reach (`loss`)."""
    patience: float = 10.0
    """Stop a Trainer that takes this many times this project's seconds to reach it (`loss`)."""
    trainer_model: str | None = None
    """Another preset for the Trainers, such as the BERT of their script (`loss`)."""
    trainer_lr: float = 1e-3
    """Their peak learning rate (`loss`); the scripts' own, 5e-5, is for continuing from trained weights."""
    results: str = "runs/benchmark.json"
    """File of all results; an older one is replaced."""


@dataclass
class FinetuneBenchmarkConfig(ClassificationConfig):
    """One benchmark of fine-tuning: the options of a run, and what is measured."""

    EVERYDAY: ClassVar[Groups] = {
        "The measurement": ("against", "rounds", "steps", "results"),
        "What is trained": (
            *("data.task", "data.train_file", "data.validation_file", "data.text_columns", "data.label_column"),
            *("model.name", "model.from_scratch", "max_length", "optimizer.lr"),
            *("train.global_batch_size", "train.micro_batch_size", "train.mixed_precision"),
        ),
    }
    against: list[str] = field(default_factory=lambda: list(FINETUNING_TRAINERS))
    """Trainers to compare with: `script` as `run_glue.py` sets it (float32, every row padded to `max_length`), `best`
    with bf16, rows of like length together, padded to the longest of a batch, and a loader worker."""
    rounds: int = 5
    """Turns of every contender, of which medians are taken."""
    steps: int = 20
    """Optimizer steps in a turn."""
    results: str = "runs/benchmark_finetuning.json"
    """File of all results; an older one is replaced."""


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
