"""Which steps are not applied."""

import math

import pytest

from nlp_ssl.training.step_guard import MIN_HISTORY, WINDOW, StepGuard


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_not_finite(loss, norm):
    assert StepGuard().judge(loss, norm) == "nonfinite"
    assert StepGuard().judge(1.0, 1e30) is None


def test_a_spike_is_far_above_the_median_of_what_was_applied():
    guard = StepGuard(spike_factor=10)
    for step in range(MIN_HISTORY):
        assert guard.judge(5.0, 1e6 if step == 0 else 1.0) is None  # not enough seen yet to say what is usual
    assert guard.judge(5.0, 10.0) is None
    assert guard.judge(5.0, 10.1) == "spike"
    for _ in range(1000):
        assert guard.judge(5.0, 50.0) == "spike"  # spikes do not become usual
    for _ in range(WINDOW):
        assert guard.judge(5.0, 2.0) is None
    assert guard.judge(5.0, 19.0) is None
    assert guard.judge(5.0, 21.0) == "spike"


def test_a_resumed_guard_judges_alike():
    first, second = StepGuard(4), StepGuard(4)
    for step in range(WINDOW + 9):
        first.judge(1.0, 1 + step % 7)
    second.load_state_dict(first.state_dict())
    norms = [1, 3, 15, 16, 17, 40, 2]
    assert [first.judge(1.0, n) for n in norms] == [second.judge(1.0, n) for n in norms]
