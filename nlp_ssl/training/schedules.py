"""The learning rate as a pure function of the step, and how many steps a run has."""

import math
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from nlp_ssl.config.common import BUDGETS, ScheduleConfig, TrainConfig
from nlp_ssl.core.console import counted, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Phases


def lr_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """Share of the peak learning rate at a step.

    Args:
        config: the schedule.
        step: optimizer steps taken before this one, from 0.
        total: steps of the whole run.

    Returns:
        A number in (0, 1]: it rises linearly over the warm-up, reaches 1 at its last step, and falls to `config.final`
        just after the run's last step.
    """
    warmup = config.warmup if config.warmup >= 1 else config.warmup * total
    if step + 1 < warmup:
        return (step + 1) / warmup
    if config.name == "constant":
        return 1.0
    decay = config.decay * total if config.name == "wsd" else total - warmup
    progress = min(1.0, max(0.0, (step - (total - decay)) / max(decay, 1e-9)))
    shape = (1 + math.cos(math.pi * progress)) / 2 if config.name == "cosine" else 1 - progress
    return config.final + (1 - config.final) * shape


def budgets_of(config: TrainConfig) -> dict[str, float]:
    """The budget that was given, by its name; none is there while nothing was.

    Raises:
        UserError: there are several, or it is not positive.
    """
    budgets = {k: getattr(config, k) for k in BUDGETS}
    given = {key: value for key, value in budgets.items() if value is not None}
    if len(given) > 1:
        listed = " and ".join(f"--train.{key}" for key in given)
        raise UserError(f"give one budget of --train.steps, tokens, minutes or epochs; given: {listed}")
    for key, value in given.items():
        if value <= 0:
            raise UserError(f"--train.{key} is {value}; a budget must be positive")
    return given


class TrainedTime:
    """Seconds of training: those in which the process was stopped (Ctrl-Z, a suspended job, `docker pause`) are none.

    A thread looks at the clock a few times a second; where it could not for `LONGEST` seconds, nobody worked. Work in
    which Python cannot change threads takes far less.

    Args:
        elapsed: seconds of training before.
    """

    BETWEEN, LONGEST = 0.25, 10.0

    def __init__(self, elapsed: float = 0.0) -> None:
        self._started, self._seen = time.monotonic() - elapsed, time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=_look_often, args=(weakref.ref(self),), daemon=True).start()

    def seconds(self) -> float:
        """Of training until now."""
        with self._lock:
            now = time.monotonic()
            gap, self._seen = now - self._seen, now
            if gap > self.LONGEST:
                self._started += gap
                warn(f"this process was stopped for {gap:,.0f} s, which are not counted as training")
            return now - self._started


def _look_often(reference: "weakref.ref[TrainedTime]") -> None:
    while (clock := reference()) is not None:
        clock.seconds()
        del clock
        time.sleep(TrainedTime.BETWEEN)


@dataclass
class Horizon:
    """How many steps a run has: given, or found from a budget in minutes and the measured throughput.

    With a budget in minutes the first steps are measured, and the estimate is corrected when it is off by more than
    3 %; rank 0's clock decides, so all processes agree. Every change is kept in `events`.

    Attributes:
        steps: current number of steps; `None` while nothing is measured yet.
        minutes: the budget, if that is what was given.
        planned: steps of the first estimate.
        events: (step, old, new) of every change since they were last taken.
    """

    steps: int | None
    minutes: float | None = None
    planned: int | None = None
    events: list[tuple[int, int | None, int]] = field(default_factory=list)
    _first: tuple[int, float] | None = None

    MEASURE = 3  # steps before the first estimate, after the first one, which compiles and warms up
    TOLERANCE = 0.03
    MUCH = 0.2  # of the steps that were planned: this many more or less are explained

    @classmethod
    def of(cls, config: TrainConfig, phases: Phases) -> "Horizon":
        """From a run's budget, of which exactly one must be given, and the batches that it is spent on."""
        given = budgets_of(config)
        if not given:
            raise UserError("give a budget: --train.steps, tokens, minutes or epochs")
        (key, value), = given.items()  # fmt: skip
        if key == "minutes":
            return cls(None, minutes=value)
        if key == "steps":
            return cls(math.ceil(value))
        if key == "tokens" and not phases.fixed_length:
            raise UserError("a budget in tokens needs rows of a fixed length; give --train.epochs or --train.steps")
        return cls(phases.num_steps(**{key: value}))

    def update(self, step: int, elapsed: float) -> None:
        """Correct the number of steps.

        Args:
            step: optimizer steps taken.
            elapsed: seconds of training on rank 0's clock, those of earlier parts of a resumed run included.
        """
        self._first = self._first or (step, elapsed)
        if self.minutes is None or step - self._first[0] < self.MEASURE:
            return
        left = self.minutes * 60 - elapsed
        seconds_a_step = max(1e-9, (elapsed - self._first[1]) / (step - self._first[0]))
        estimate = step + max(0, math.floor(left / seconds_a_step))
        if self.steps is None or abs(estimate - self.steps) > self.TOLERANCE * self.steps or left <= 0:
            new = max(estimate, step)
            self.planned = self.planned or new
            if new != self.steps:
                self.events.append((step, self.steps, new))
                self.steps = new

    def factor(self, config: ScheduleConfig, step: int) -> float:
        """`lr_factor`, and a hundredth of the peak while the number of steps is not known yet."""
        return 0.01 if self.steps is None else lr_factor(config, step, self.steps)

    def outcome(self, step: int) -> str | None:
        """What became of a budget in minutes, at the run's last step; `None` of another budget."""
        if self.minutes is None or self.planned is None:
            return None
        change = step / self.planned - 1
        slower = "busier" if change < 0 else "idler"
        why = f": the machine was {slower} than at the beginning, or later steps were of another length"
        planned = f"{counted(self.planned, 'step')} planned at the beginning, {step:,} reached"
        said = f"{counted(self.minutes, 'minute')}: {planned}"
        return said + (why if abs(change) > self.MUCH else "")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "minutes": self.minutes, "planned": self.planned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a minutes budget where a checkpoint left it; other budgets come from the configuration."""
        if self.minutes is not None and state["minutes"] == self.minutes:
            self.steps, self.planned = state["steps"], state.get("planned")
