"""Early stopping: which evaluation is the best so far, and whether to wait for a better one."""

import math
from collections.abc import Mapping
from typing import Any

from nlp_ssl.config.common import EvaluationConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError


class EarlyStopping:
    """Compares the evaluations of a run by one of their numbers.

    Args:
        config: the number's name, and the patience.
        metrics: whether a low or a high number is good, by name; of others a high one, but for losses.

    Attributes:
        value: what the last evaluation is judged by, the lower the better (so a score has its sign changed).
        is_best: whether it is better than all before it.
    """

    def __init__(self, config: EvaluationConfig, metrics: Mapping[str, str] | None = None) -> None:
        self.metric, self.patience = config.metric or "held_out_loss", config.patience
        good = (metrics or {}).get(self.metric, "min" if "loss" in self.metric else "max")
        self.sign = 1 if good == "min" else -1
        self.value: float | None = None
        self.best: float | None = None
        self.without_improvement, self.is_best = 0, False

    def update(self, results: dict[str, float]) -> None:
        """Take note of an evaluation.

        Raises:
            UserError: it did not measure the number.
        """
        if self.metric not in results:
            raise UserError(f"--evaluation.metric {self.metric} is not measured here, only {', '.join(results)}")
        self.value = self.sign * results[self.metric]
        self.is_best = math.isfinite(self.value) and (self.best is None or self.value < self.best)
        self.best = self.value if self.is_best else self.best
        self.without_improvement = 0 if self.is_best else self.without_improvement + 1
        if self.should_stop:
            say(f"early stopping: {self.without_improvement} evaluations in a row were no better than the best")

    @property
    def should_stop(self) -> bool:
        """Whether as many evaluations as there is patience for were no better than the best."""
        return self.patience is not None and self.without_improvement >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "evaluations_without_improvement": self.without_improvement}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.best, self.without_improvement = state["best"], state["evaluations_without_improvement"]
