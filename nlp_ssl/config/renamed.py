"""Options that had another name: who gives the old one is told the new one, and older checkpoints are read by it."""

from typing import Any

# the old name -> the new one
RENAMED = {
    "tokens.row_length": "tokens.sequence_length",
    "train.batch_size": "train.global_batch_size",
    "train.micro_batch": "train.micro_batch_size",
}
# of an entry of `phases`
RENAMED_OF_PHASES = {"row_length": "sequence_length", "batch_size": "global_batch_size", "causal": "objective"}


def what_is_it_now(key: str) -> str | None:
    """What to write instead of an old option, or key of a phase; `None` of another one."""
    if key in RENAMED:
        return f"--{RENAMED[key]}"
    if key in RENAMED_OF_PHASES:
        return "'objective: clm'" if key == "causal" else f"'{RENAMED_OF_PHASES[key]}'"
    return None


def renamed(flat: dict[str, Any]) -> dict[str, Any]:
    """The options of an earlier run, with dotted keys, under the names that they have now."""
    found = {RENAMED.get(key, key): value for key, value in flat.items()}
    if found.get("phases"):
        found["phases"] = [_phase(phase) for phase in found["phases"]]
    return found


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    new = {RENAMED_OF_PHASES.get(name, name): value for name, value in phase.items() if name != "causal"}
    return {**new, "objective": "clm" if phase.get("causal") else new.get("objective")}
