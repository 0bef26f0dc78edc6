"""Where a run is: the part of a checkpoint that is neither weights, nor optimizer, nor random state."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nlp_ssl.training.loop import Step


@dataclass
class RunState:
    """Counters of a run, as JSON in every checkpoint.

    Attributes:
        step: optimizer steps taken.
        data_offset: steps whose rows were passed over, so that the data are ahead of the steps.
        tokens_seen: tokens that are not padding.
        elapsed: seconds of training, with what was done between steps.
        step_seconds: seconds of steps alone.
        joules: that the machine counted meanwhile, steps that were taken again included; 0 where it counts none.
        results: numbers of the last evaluation.
        evaluated_at: its step; -1 before the first.
        rewinds: to which step the run was rewound, and how often in a row.
        not_applied: steps in a row that were not applied, up to the last one.
    """

    step: int = 0
    data_offset: int = 0
    tokens_seen: int = 0
    elapsed: float = 0.0
    step_seconds: float = 0.0
    joules: float = 0.0
    results: dict[str, float] = field(default_factory=dict)
    evaluated_at: int = -1
    rewinds: list[int] = field(default_factory=lambda: [-1, 0])
    not_applied: int = 0

    def count(self, step: Step, joules: float) -> None:
        """Take note of a step, and of the joules since the one before."""
        self.step, self.elapsed = step.number, step.elapsed
        self.tokens_seen += step.num_tokens
        self.step_seconds += step.seconds
        self.joules += joules
        self.not_applied = self.not_applied + 1 if step.incident else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    def load(self, stored: dict[str, Any]) -> None:
        """Undo `to_dict`; a counter that the checkpoint's version did not have begins anew."""
        for f in dataclasses.fields(self):
            if f.name in stored:
                setattr(self, f.name, stored[f.name])
