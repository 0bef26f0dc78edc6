"""How often a launcher or a scheduler has started this program again by itself."""

import os

from nlp_ssl.core.console import warn

# what counts it -> its variable: Slurm after a preemption or `scontrol requeue`, torchrun after a worker's death
COUNTED = {"requeued": "SLURM_RESTART_COUNT", "restarted": "TORCHELASTIC_RESTART_COUNT"}
SHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # "1": restarted workers do not find the addresses of dead ones


def restarts() -> dict[str, int]:
    """Times that Slurm has requeued this job, and torchrun restarted these workers; what is 0 is left out."""
    found = {name: os.environ.get(variable, "") for name, variable in COUNTED.items()}
    return {name: int(count) for name, count in found.items() if count.isdecimal() and int(count)}


def started_again() -> bool:
    """Whether this is another start of a run that was begun before, with the same command line."""
    return bool(restarts())


def warn_of_restarts() -> None:
    """Say of a launcher that was asked to restart workers that it is going to fail (pytorch#135712)."""
    allowed = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if allowed.isdecimal() and int(allowed) and os.environ.get(SHARED_STORE) != "1":
        warn(
            f"torchrun's --max_restarts {allowed} cannot connect restarted workers unless it is started with "
            f"{SHARED_STORE}=1 and --rdzv_backend c10d; then a worker's death costs no more than the steps since the "
            "newest checkpoint"
        )
