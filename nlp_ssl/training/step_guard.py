"""Steps that must not be applied: a loss or gradient that is not finite, or a gradient norm far above the usual."""

import math
from collections import deque
from statistics import median
from typing import Literal

Incident = Literal["nonfinite", "spike"]
WINDOW = 128  # applied steps whose gradient norms say what is usual
MIN_HISTORY = 16  # steps before the first spike can be found


class StepGuard:
    """Judges a step by its loss and gradient norm, which all processes share, so that all judge alike.

    Args:
        spike_factor: a gradient norm above this many times the median of the last 128 applied steps is a spike; `None`
            judges only whether numbers are finite.
    """

    def __init__(self, spike_factor: float | None = None) -> None:
        self.spike_factor = spike_factor
        self.history: deque[float] = deque(maxlen=WINDOW)

    def judge(self, loss: float, grad_norm: float) -> Incident | None:
        """What is wrong with a step, if anything; a step that is right is remembered as usual."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nonfinite"
        known = len(self.history) >= MIN_HISTORY
        if self.spike_factor and known and grad_norm > self.spike_factor * median(self.history):
            return "spike"
        self.history.append(grad_norm)
        return None

    def state_dict(self) -> list[float]:
        """What a checkpoint keeps."""
        return list(self.history)

    def load_state_dict(self, state: list[float]) -> None:
        """Go on where a checkpoint left it."""
        self.history = deque(state, maxlen=WINDOW)
