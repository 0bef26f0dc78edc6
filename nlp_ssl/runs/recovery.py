"""How a run gets back to where it was: from a checkpoint when it is resumed, and from one after a bad step."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nlp_ssl.core import console, libraries
from nlp_ssl.core.errors import UserError
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.runs.folder import RunConfig
from nlp_ssl.runs.resuming import check_changes, choose_checkpoint
from nlp_ssl.runs.state import RunState
from nlp_ssl.training.checkpoints import Checkpoints, load

REWINDS = 10  # going back so often from one checkpoint does not help


class Stateful(Protocol):
    """Has a state that a checkpoint keeps."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any, /) -> None:
        """Undo `state_dict`."""


@dataclass
class Recovery:
    """Puts a run where it was when a checkpoint was made.

    Attributes:
        config: of the run, resolved.
        checkpoints: of the run.
        objective: whose weights they hold.
        optimizer: the prepared one.
        state: counters of the run.
        parts: what else has a state, by the name under which a checkpoint keeps it.
        identity: what a resumed run must share with the run that it continues.
        setup: what rounding may depend on; see `setup_of`.
    """

    config: RunConfig
    checkpoints: Checkpoints
    objective: Objective
    optimizer: torch.optim.Optimizer
    state: RunState
    parts: Mapping[str, Stateful]
    identity: dict[str, Any]
    setup: dict[str, Any]

    def resume(self) -> Path | None:
        """Resume from the newest checkpoint; `None` where there is none.

        Raises:
            UserError: the checkpoint is of another run.
        """
        found = choose_checkpoint(self.checkpoints)
        if found is None:
            console.say(f"resume: {self.checkpoints.folder.parent} has no checkpoint yet, beginning at step 0")
            return None
        check_changes(found, self.config, self.identity, self.setup)
        self._restore(found)
        console.say(f"resume: continuing from {found} (step {self.state.step:,})")
        return found

    def snapshot(self) -> dict[str, Any]:
        """What of this moment a checkpoint keeps besides weights, optimizer and random state."""
        state = self.state.to_dict() | {"identity": self.identity, "setup": self.setup}
        return state | {name: part.state_dict() for name, part in self.parts.items()}

    def _restore(self, checkpoint: Path) -> None:
        state = load(checkpoint, self.objective, self.optimizer)
        self.state.load(state)
        for name, part in self.parts.items():
            if name in state:  # a scaler is not, where the precision was another
                part.load_state_dict(state[name])

    def rewind(self) -> tuple[int, int]:
        """Go back to the newest checkpoint, and on from it with the rows behind those that led to the last step.

        Returns:
            The step that asked for it, and of how many steps the rows are passed over.

        Raises:
            UserError: there is no checkpoint, or this one did not help in many attempts.
        """
        state = self.state
        ahead = state.step + state.data_offset  # the data position behind the step that was not applied
        found = choose_checkpoint(self.checkpoints)
        if found is None:
            raise UserError(f"step {state.step:,} asks to go back, and there is no checkpoint; lower --optimizer.lr")
        bad, before, joules = state.step, state.rewinds, state.joules
        self._restore(found)
        state.joules = joules
        state.rewinds = [state.step, before[1] + 1 if before[0] == state.step else 1]
        if state.rewinds[1] > REWINDS:
            raise UserError(f"went back to step {state.step:,} {REWINDS} times, to no good end; lower --optimizer.lr")
        passed_over, state.data_offset = ahead - state.step - state.data_offset, ahead - state.step
        state.not_applied = 0
        return bad, passed_over


def setup_of(config: RunConfig, processes: int, device: torch.device) -> dict[str, Any]:
    """What rounding may depend on, such as `{"processes": 2, "hardware": "cuda", "versions": ...}`."""
    where = {"processes": processes, "hardware": device.type, "versions": libraries.versions()}
    return where | ({"compile": True} if config.train.compile else {})
