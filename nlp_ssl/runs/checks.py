"""What is checked before a run begins."""

import os
from operator import attrgetter

from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.publishing.repository import HubRepository
from nlp_ssl.runs.folder import RunConfig, check_output_dir
from nlp_ssl.training.schedules import budgets_of
from nlp_ssl.training.tracking import check_trackers

POSITIVE: tuple[str, ...]
POSITIVE = (
    "train.global_batch_size",
    "train.micro_batch_size",
    "train.log_every",
    "evaluation.every",
    "evaluation.batch_size",
)
POSITIVE += (
    "evaluation.max_rows",
    "evaluation.patience",
    "checkpoint.every",
    "checkpoint.keep_last",
    "checkpoint.keep_every",
)


def check_run(config: RunConfig) -> None:
    """Find out before any work what would stop the run at its end: its folder, its trackers, the Hub. Changes nothing.

    Raises:
        UserError: the folder holds another run or something else, a tracker is not installed, the Hub refuses.
    """
    for key in POSITIVE:
        value = attrgetter(key)(config)
        if value not in (None, "auto") and value < 1:
            raise UserError(f"--{key} is {value}; it must be at least 1")
    budgets_of(config.train)
    if config.train.spike_factor is not None and config.train.spike_factor <= 1:
        raise UserError(f"--train.spike_factor is {config.train.spike_factor}; it must be above 1, such as 10")
    if "RANK" not in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise UserError("start processes with accelerate launch or torchrun; mpirun alone does not say who is who")
    check_output_dir(config)
    check_trackers(config.tracking)
    if config.hub.repo_id and console.rank() == 0:
        HubRepository(config.hub.repo_id, private=config.hub.private, overwrite=config.hub.overwrite).check()
