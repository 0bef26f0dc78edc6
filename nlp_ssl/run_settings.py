"""What is checked before a run begins, and what must stay the same when it is resumed."""

import os
from operator import attrgetter
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from nlp_ssl import console
from nlp_ssl.config import FinetuneConfig, PretrainConfig
from nlp_ssl.console import UserError
from nlp_ssl.data.tokens import fingerprint
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.training.tracking import check_trackers

CONFIG_FILE = "nlp_ssl_config.yaml"
STATUS_FILE = "run_status.json"
POSITIVE = ("train.batch_size", "train.micro_batch", "train.log_every", "evaluation.every", "evaluation.batch_size")
POSITIVE += ("evaluation.max_rows", "checkpoint.every", "checkpoint.keep_last")
RunConfig = PretrainConfig | FinetuneConfig


def check_run(config: RunConfig) -> None:
    """Find out before any work what would stop the run at its end: its folder, its trackers, the Hub.

    Raises:
        UserError: the folder holds another run or something else, a tracker is not installed, the Hub refuses.
    """
    for key in POSITIVE:
        value = attrgetter(key)(config)
        if value is not None and value < 1:
            raise UserError(f"--{key} is {value}; it must be at least 1")
    if "RANK" not in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise UserError("start processes with accelerate launch or torchrun; mpirun alone does not say who is who")
    _check_output_dir(config)
    check_trackers(config.tracking)
    if config.hub.repo_id and console.rank() == 0:
        HubPublisher(config.hub.repo_id, private=config.hub.private).check()


def _check_output_dir(config: RunConfig) -> None:
    folder = Path(config.output_dir)
    if folder.is_file():
        raise UserError(f"--output_dir {folder} is a file; give a folder")
    if (folder / STATUS_FILE).exists():
        if not config.resume:
            raise UserError(f"{folder} holds a run already; give --resume to go on with it, or another --output_dir")
    elif folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise UserError(f"--output_dir {folder} holds other files; give a new or empty folder")


def run_identity(config: RunConfig, data_fingerprint: str, model: PreTrainedModel, world: dict[str, Any]) -> dict:
    """What must not change between the parts of a run: its data and their order, its model, its kind of optimizer."""
    return {
        "data": data_fingerprint,
        "model": fingerprint({k: v for k, v in model.config.to_dict().items() if k != "transformers_version"}),
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "optimizer": config.optimizer.name,
        **world,
    }


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries with dotted keys."""
    flat = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML that `--config` reads again."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
