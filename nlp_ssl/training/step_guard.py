"""Steps that must not be applied: a loss or gradient that is not finite, or a gradient norm far above the usual."""

import math
from collections import deque
from statistics import median
from typing import Literal

Incident = Literal["nonfinite", "spike"]
WINDOW = 128  # applied steps whose gradient norms say what is usual
ENOUGH = 16  # so many are needed to say it


class StepGuard:
    """Judges a step by its loss and gradient norm, which all processes share, so that all judge alike.

    Args:
        spike_factor: a gradient norm above so many times the median of the last 128 applied steps is a spike; `None`
            judges only whether numbers are finite.
    """

    def __init__(self, spike_factor: float | None = None) -> None:
        self.spike_factor = spike_factor
        self.usual: deque[float] = deque(maxlen=WINDOW)

    def judge(self, loss: float, grad_norm: float) -> Incident | None:
        """What is wrong with a step, if anything; a step that is right is remembered as usual."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nonfinite"
        if self.spike_factor and len(self.usual) >= ENOUGH and grad_norm > self.spike_factor * median(self.usual):
            return "spike"
        self.usual.append(grad_norm)
        return None

    def state_dict(self) -> list[float]:
        """What a checkpoint keeps."""
        return list(self.usual)

    def load_state_dict(self, state: list[float]) -> None:
        """Go on where a checkpoint left it."""
        self.usual = deque(state, maxlen=WINDOW)
