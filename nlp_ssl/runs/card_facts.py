"""What every card tells of a model and of how it was trained."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedConfig, PreTrainedModel

from nlp_ssl.config.common import flatten, plain, to_dict
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.core import libraries
from nlp_ssl.models import presets
from nlp_ssl.models.loading import is_from_scratch
from nlp_ssl.publishing.card import command_again
from nlp_ssl.publishing.local_paths import names_only
from nlp_ssl.runs.folder import RunConfig
from nlp_ssl.runs.state import RunState
from nlp_ssl.training.device import describe_hardware, describe_precision
from nlp_ssl.training.schedules import Horizon
from nlp_ssl.training.throughput import body_weights

COMMON = 0.1  # share of a language that the Hub lists a model under


def names(config: RunConfig, spoken: Mapping[str, float], datasets: Iterable[str]) -> dict[str, Any]:
    """What the Hub lists a run's model by, as `model_card` takes it.

    Args:
        config: of the run.
        spoken: shares of the languages that were detected in its text.
        datasets: where that text is from; what is a file here is left out.
    """
    published = [name for name in datasets if "/" in name and not Path(name).exists()]
    return {
        "title": config.hub.repo_id or Path(config.output_dir).resolve().name,
        "model": config.hub.repo_id or _folder(config.output_dir),
        "base_model": None if is_from_scratch(config.model) else config.model.name,
        "license": config.hub.license,
        "language": config.hub.language or [code for code, share in spoken.items() if share >= COMMON] or None,
        "datasets": published,
    }


def _folder(output_dir: str) -> str:
    """A run's folder for a snippet that works where the run was started; of one elsewhere on a machine the name."""
    folder = Path(output_dir)
    return folder.name if folder.is_absolute() or output_dir.startswith("~") else str(folder)


def again(config: RunConfig, recipe: str, horizon: Horizon) -> str:
    """The command that trains a run's model again, see `command_again`."""
    trained = isinstance(config, PretrainConfig) and config.tokenizer.path is None
    steps = None if horizon.minutes is None else horizon.steps
    return command_again(recipe, steps=steps, tokenizer=trained and bool(presets.split_name(config.model.name)))


def detected(spoken: Mapping[str, float]) -> str | None:
    """Languages and their shares for a reader, such as `"en 97 %, de 3 %"`."""
    return ", ".join(f"{code} {share:.0%}".replace("%", " %") for code, share in spoken.items()) or None


def body(config: PreTrainedConfig) -> dict[str, Any]:
    """What a model is made of, by the names of `MODEL_FACTS`; an architecture without one of them leaves it out."""
    return {
        "architecture": config.model_type,
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "vocab_size": getattr(config, "vocab_size", None),
    }


def own_options(config: RunConfig) -> dict[str, Any] | None:
    """Options that only runs of this objective have, such as its mask rate, by dotted names; on some its loss depends.

    Of local files their names; none that is open or empty.
    """
    common = FinetuneConfig if isinstance(config, FinetuneConfig) else PretrainConfig
    shared = {field.name for field in dataclasses.fields(common)}
    own = {name: value for name, value in plain(to_dict(config)).items() if name not in shared}
    found = flatten(names_only(own, near=Path(config.output_dir)))
    return {name: value for name, value in found.items() if value not in (None, "", [], {})} or None


def procedure(config: RunConfig, sequence_length: int) -> dict[str, Any]:
    """Options of a resolved configuration, by the names of `PROCEDURE_FACTS`."""
    optimizer, schedule = config.optimizer, config.schedule
    return {
        "objective_options": own_options(config),
        "batch_size": config.train.global_batch_size,
        "sequence_length": sequence_length,
        "optimizer": optimizer.name,
        "lr": optimizer.lr,
        "muon_lr": optimizer.muon_lr if optimizer.name == "muon" else None,
        "schedule": schedule.name,
        "warmup": schedule.warmup,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "seed": config.seed,
    }


def moment(state: RunState, model: PreTrainedModel, accelerator: Accelerator) -> dict[str, Any]:
    """How far a run has come, on what, and its last numbers."""
    parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    return {
        "parameters": f"{parameters / 1e6:.1f} M",
        "steps": state.step,
        "tokens_seen": state.tokens_seen,
        "training_flops": float(f"{6 * body_weights(model) * state.tokens_seen:.3g}"),
        "minutes": round(state.elapsed / 60, 1),
        "energy": f"{state.joules / 3.6e6:.3g} kWh" if state.joules else None,
        "tokens_per_second": round(state.tokens_seen / state.step_seconds) if state.step_seconds else None,
        "precision": describe_precision(accelerator),
        "hardware": describe_hardware(accelerator),
        "processes": accelerator.num_processes,
        "versions": libraries.versions(),
        "results": state.results,
    }
