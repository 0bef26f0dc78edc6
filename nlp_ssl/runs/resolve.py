"""Every option that was left open (`None`), filled in: here alone, and in a copy. What was chosen is said, with why.

What the user gave is never written to. A run gets the frozen result, nothing of which is `None` that it needs.
"""

import copy
import dataclasses
import math
from operator import attrgetter
from typing import Any, TypeVar

import torch
from transformers import PreTrainedConfig

from nlp_ssl.config.common import freeze
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.models import presets
from nlp_ssl.models.loading import find_config, is_from_scratch, max_positions
from nlp_ssl.objectives.objective import PretrainingObjective
from nlp_ssl.training.adapters import HIGHEST_LR, LR_FACTOR
from nlp_ssl.training.device import best_precision, training_device, why_not_compiled
from nlp_ssl.training.optimizers import WEIGHT_DECAY
from nlp_ssl.training.schedules import budgets_of

Config = TypeVar("Config", bound=PretrainConfig | FinetuneConfig)
Pretraining = TypeVar("Pretraining", bound=PretrainConfig)
SCALED_LR = 0.02  # nanoT5's (Nawrot 2023)
FEWEST_STEPS, MOST_EPOCHS = 1000, 20  # small sets need more steps than the usual three epochs (Zhang et al. 2020)


class _Choices:
    """A copy of a run's options that is being completed.

    Args:
        config: what it is a copy of.
    """

    def __init__(self, config: Any) -> None:
        self.config = _thawed(config)
        self.said: list[str] = []

    def fill(self, key: str, value: Any, why: str | None = None) -> None:
        """Choose a value for an option that is open, such as `"train.global_batch_size"`; `why` is for the user."""
        section, _, name = key.rpartition(".")
        part = attrgetter(section)(self.config) if section else self.config
        if getattr(part, name) is not None:
            return
        setattr(part, name, value)
        if why is not None:
            self.said.append(f"  {key} = {f'{value:.3g}' if isinstance(value, float) else value} ({why})")

    def say(self) -> None:
        """Print what was chosen."""
        for line in self.said:
            console.say(line)


def _thawed(config: Any) -> Any:
    """A copy of a configuration, and of all in it, that can be written to."""
    if isinstance(config, list):
        return [_thawed(each) for each in config]
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return copy.deepcopy(config)
    return dataclasses.replace(
        config, **{f.name: _thawed(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}
    )


def implied(config: Config) -> Config:
    """With what some options mean for others: patience keeps the best, and whatever was allowed to change, resumes."""
    choices = _Choices(config)
    if config.evaluation.patience is not None:
        choices.config.checkpoint.keep_best = True
    if config.resume.allow_changed:
        choices.config.resume.enabled = True
    return choices.config


def precision(config: Config) -> Config:
    """With the arithmetic that the hardware is fast at."""
    choices = _Choices(config)
    choices.fill("train.mixed_precision", best_precision(training_device()))
    return choices.config


# ---------------------------------------------------------------------------------------------------------------------
# pretraining: before the data are made, and before the model is trained


def model(config: Pretraining, objective: type[PretrainingObjective]) -> Pretraining:
    """With a model: a small modern one that learns in minutes, a larger one where there is a GPU."""
    choices = _Choices(config)
    default = objective.default_models["cpu" if training_device().type == "cpu" else "gpu"]
    if config.model.name is None:
        console.say(f"model: {default}, chosen for this machine (--model.name)")
    choices.fill("model.name", default)
    return choices.config


def tokenizer(config: Pretraining, kind: str, vocab_size: int) -> Pretraining:
    """With the kind and size of a new tokenizer."""
    choices = _Choices(config)
    choices.fill("tokenizer.kind", kind)
    choices.fill("tokenizer.vocab_size", vocab_size)
    return choices.config


def lengths(config: Pretraining) -> Pretraining:
    """With the length of sequences, that of every phase too."""
    choices = _Choices(config)
    name = config.model.name
    if config.tokens.sequence_length is None:
        if presets.split_name(name):
            length = presets.sequence_length(name)
        else:
            length = min(512, max_positions(find_config(name, config.model.revision)) or 512)
        choices.fill("tokens.sequence_length", length)
    for phase in choices.config.phases:
        phase.sequence_length = phase.sequence_length or choices.config.tokens.sequence_length
    return choices.config


def packing(config: Pretraining, model_config: PreTrainedConfig, isolates: bool) -> Pretraining:
    """With packing, wherever the architecture can keep documents apart."""
    choices = _Choices(config)
    if config.tokens.packing is None and not isolates:
        console.say(f"packing: {model_config.model_type} cannot keep documents of a row apart: one document a row")
    choices.fill("tokens.packing", "packed" if isolates else "one_document")
    return choices.config


def pretraining(
    config: Pretraining,
    objective: type[PretrainingObjective],
    model_config: PreTrainedConfig,
    world_size: int,
) -> Pretraining:
    """With everything that training needs; only `train.micro_batch_size` may still be `"auto"`.

    Args:
        config: complete up to the packed sequences.
        objective: what is trained.
        model_config: its architecture.
        world_size: processes.
    """
    choices, device = _Choices(config), training_device()
    train, gpu = choices.config.train, device.type != "cpu"
    scratch = is_from_scratch(config.model)
    preset = presets.split_name(config.model.name)
    hidden, length = model_config.hidden_size, config.tokens.sequence_length
    if not budgets_of(train):
        choices.fill("train.minutes", 5.0, "a first look")
    tokens = (4096 if hidden <= 512 else 16_384) if not gpu else (65_536 if hidden <= 512 else 262_144)
    fewest, usual = objective.fewest_sequences(config), tokens // length
    why = f"{tokens:,} tokens per step for width {hidden}"
    if fewest > usual:
        why = "a step's texts are told apart from each other"
    choices.fill("train.global_batch_size", max(world_size, fewest, usual), why)
    at_once = tokens_at_once(model_config, objective.labels_per_token(config), device)
    share = math.ceil(train.global_batch_size / world_size)
    fits = even_share(share, max(1, at_once // length))
    if train.micro_batch_size == "auto" and device.type != "cuda":
        train.micro_batch_size = None  # a CPU has no limit to be found
    choices.fill("train.micro_batch_size", fits, "changes memory and speed, not the result")
    why_not = why_not_compiled(device)
    if gpu:
        choices.fill("train.compile", why_not is None, why_not or "kernels made for this model and its shapes")
    for phase in choices.config.phases:
        phase.global_batch_size = phase.global_batch_size or train.global_batch_size
    smallest = min([train.global_batch_size, *(phase.global_batch_size for phase in choices.config.phases)])
    if smallest < world_size:
        raise UserError(f"a batch of {console.counted(smallest, 'row')} is smaller than the {world_size} processes")
    choices.fill("train.workers", 2 if gpu else 0, "batches are made ahead on a GPU machine")
    family = presets.FAMILIES[preset[0]] if preset else None
    choices.fill("optimizer.name", family.optimizer if family else "adamw", f"for {config.model.name}")
    name = choices.config.optimizer.name
    choices.fill("optimizer.weight_decay", WEIGHT_DECAY[name], f"with {name}")
    scales = family is not None and family.scale_parameter
    choices.fill("optimizer.scale_parameter", scales, f"for {config.model.name}" if scales else None)
    rate = (0.5 if scratch else 0.1) / hidden
    why = f"{0.5 if scratch else 0.1} / width, {'from scratch' if scratch else 'continued'}"
    if choices.config.optimizer.scale_parameter:
        rate, why = SCALED_LR, "of the size of every weight"
    choices.fill("optimizer.lr", rate, why)
    tried = train.micro_batch_size == "auto"
    choices.fill("evaluation.batch_size", fits if tried else train.micro_batch_size, "the micro-batch")
    choices.say()
    return choices.config


def micro_batch(config: Pretraining, found: int) -> Pretraining:
    """With the micro-batch that was found by trying."""
    choices = _Choices(config)
    choices.config.train.micro_batch_size = found
    console.say(f"  train.micro_batch_size = {found} (the largest that fits, found by trying)")
    return choices.config


def even_share(rows: int, fitting: int) -> int:
    """Rows of a micro-batch, at most this many, that split a batch into few and equal parts: into few shapes."""
    if fitting >= rows:
        return rows
    divisor = next(n for n in range(fitting, 0, -1) if rows % n == 0)
    return divisor if 2 * divisor > fitting else math.ceil(rows / math.ceil(rows / fitting))


def tokens_at_once(model_config: PreTrainedConfig, labels_per_token: float, device: torch.device) -> int:
    """Tokens whose forward and backward pass fit on a device: a rough rule of ours, on the safe side.

    Half of a GPU's memory, over the bytes that a token leaves for the backward pass: about 40 per layer and hidden
    unit, and 10 for every logit (bf16, its float32 copy, the gradient).
    """
    if device.type != "cuda":
        return 4096
    logits = 10 * labels_per_token * model_config.vocab_size
    a_token = 40 * model_config.num_hidden_layers * model_config.hidden_size + logits
    return int(torch.cuda.get_device_properties(device).total_memory / 2 / a_token)


# ---------------------------------------------------------------------------------------------------------------------
# fine-tuning


def finetuning(
    config: FinetuneConfig, num_rows: int, hidden_size: int, main_metric: str, world_size: int
) -> FinetuneConfig:
    """With everything that training needs, frozen.

    Args:
        config: what was given.
        num_rows: to train on.
        hidden_size: of the model.
        main_metric: the number that says which evaluation is the best.
        world_size: processes.
    """
    choices = _Choices(config)
    train, optimizer, transfer = choices.config.train, choices.config.optimizer, choices.config.transfer
    an_epoch = math.ceil(num_rows / train.global_batch_size)
    if not budgets_of(train):
        epochs = max(3, min(MOST_EPOCHS, math.ceil(FEWEST_STEPS / an_epoch)))
        why = "the usual" if epochs == 3 else "a small set needs more than the usual 3"
        choices.fill("train.epochs", epochs, why)
    choices.fill("optimizer.name", "adamw")
    choices.fill("optimizer.weight_decay", WEIGHT_DECAY[optimizer.name])
    choices.fill("optimizer.scale_parameter", False)
    if optimizer.lr is None:
        why = "31 / width squared: the usual 5e-5 at 768, more for smaller models"
        rate = min(2e-3, 31 / hidden_size**2)
        choices.fill("optimizer.lr", rate, why)
        if transfer.lora_rank is not None:
            choices.fill("transfer.head_lr", rate)
            optimizer.lr = adapted = min(HIGHEST_LR, LR_FACTOR * rate)
            why = f"{LR_FACTOR} times as much, {HIGHEST_LR:g} at most"
            choices.said.append(f"  learning rate of the adapters = {adapted:.3g} ({why})")
    if train.global_batch_size < world_size:
        raise UserError(
            f"--train.global_batch_size {train.global_batch_size} is smaller than the {world_size} processes"
        )
    given = train.micro_batch_size
    rows: int = given if isinstance(given, int) else math.ceil(train.global_batch_size / world_size)
    train.micro_batch_size = rows
    choices.fill("train.workers", 2 if training_device().type == "cuda" else 0)
    if train.steps is not None and train.steps < an_epoch:
        choices.fill("evaluation.every", train.steps, "the run, which is shorter than an epoch")
    choices.fill("evaluation.every", an_epoch, "an epoch")
    choices.fill("evaluation.batch_size", 2 * rows)
    choices.fill("evaluation.metric", main_metric)
    choices.say()
    return freeze(choices.config)
