"""What is checked before a run begins."""

import math
import os
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.publishing.repository import HubRepository
from nlp_ssl.runs.folder import RunConfig, check_output_dir
from nlp_ssl.training.schedules import budgets_of
from nlp_ssl.training.tracking import check_trackers

# options of every run, by what they must be
RANGES: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "at least 1": (
        lambda value: value == "auto" or value >= 1,
        (
            *("train.global_batch_size", "train.micro_batch_size", "train.log_every"),
            *("evaluation.every", "evaluation.batch_size", "evaluation.max_rows", "evaluation.patience"),
            *("checkpoint.every", "checkpoint.keep_last", "checkpoint.keep_every"),
        ),
    ),
    "0 or more": (
        lambda value: 0 <= value < math.inf,
        (
            *("optimizer.lr", "optimizer.muon_lr", "optimizer.eps", "optimizer.weight_decay"),
            *("optimizer.max_grad_norm", "schedule.warmup", "schedule.final"),
        ),
    ),
    "between 0 and 1": (lambda value: 0 <= value <= 1, ("schedule.decay",)),
    "at least 0 and below 1": (lambda value: 0 <= value < 1, ("model.dropout",)),
    "two numbers, at least 0 and below 1": (lambda pair: all(0 <= value < 1 for value in pair), ("optimizer.betas",)),
    "above 1, such as 10": (lambda value: value > 1, ("train.spike_factor",)),
}


def check_run(config: RunConfig) -> None:
    """Find out before any work what would stop the run later: numbers, folder, trackers, the Hub. Changes nothing.

    Raises:
        UserError: a number is out of its range, the folder holds another run or something else, a tracker is not
            installed, the Hub refuses.
    """
    for said, (is_right, keys) in RANGES.items():
        for key in keys:
            value = attrgetter(key)(config)
            if value is not None and not is_right(value):
                raise UserError(f"--{key} is {value}; it must be {said}")
    budgets_of(config.train)
    if "RANK" not in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise UserError("start processes with accelerate launch or torchrun; mpirun alone does not say who is who")
    check_output_dir(config)
    check_trackers(config.tracking)
    if config.hub.repo_id and console.rank() == 0:
        HubRepository(config.hub.repo_id, private=config.hub.private, overwrite=config.hub.overwrite).check()
