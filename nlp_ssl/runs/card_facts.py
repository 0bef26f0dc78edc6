"""What every card tells of how a model was trained."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from nlp_ssl.core import libraries
from nlp_ssl.models.loading import is_from_scratch
from nlp_ssl.runs.folder import RunConfig
from nlp_ssl.runs.state import RunState
from nlp_ssl.training.device import describe_hardware
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
        "model": config.hub.repo_id or Path(config.output_dir).name,
        "base_model": None if is_from_scratch(config.model) else config.model.name,
        "license": config.hub.license,
        "language": config.hub.language or [code for code, share in spoken.items() if share >= COMMON] or None,
        "datasets": published,
    }


def detected(spoken: Mapping[str, float]) -> str | None:
    """Languages and their shares for a reader, such as `"en 97 %, de 3 %"`."""
    return ", ".join(f"{code} {share:.0%}".replace("%", " %") for code, share in spoken.items()) or None


def procedure(config: RunConfig, sequence_length: int) -> dict[str, Any]:
    """Options of a resolved configuration, by the names of `PROCEDURE_FACTS`."""
    optimizer, schedule = config.optimizer, config.schedule
    return {
        "batch_size": config.train.global_batch_size,
        "sequence_length": sequence_length,
        "optimizer": optimizer.name,
        "lr": optimizer.lr,
        "muon_lr": optimizer.muon_lr if optimizer.name == "muon" else None,
        "schedule": schedule.name,
        "warmup": schedule.warmup,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "precision": config.train.mixed_precision,
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
        "hardware": describe_hardware(accelerator),
        "processes": accelerator.num_processes,
        "versions": libraries.versions(),
        "results": state.results,
    }
