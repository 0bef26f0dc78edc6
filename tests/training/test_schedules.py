"""Learning rates against their closed forms, and horizons that end on time."""

import math
import multiprocessing
import os
import signal
import time

import pytest

from nlp_ssl.config.common import ScheduleConfig, TrainConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.training.schedules import Horizon, TrainedTime, lr_factor


def factors(total=1000, **config):
    return [lr_factor(ScheduleConfig(**config), step, total) for step in range(total)]


def test_warmup_is_linear_and_reaches_the_peak_at_its_last_step():
    for name in ("linear", "cosine", "wsd", "constant"):
        found = factors(name=name, warmup=0.1, final=0.1)
        assert found[:100] == pytest.approx([(i + 1) / 100 for i in range(100)])
        assert max(found) == found[99] == 1.0
        assert factors(name=name, warmup=100, final=0.1) == found  # as a number of steps
        assert factors(name=name, warmup=0.0)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_linear(final):
    expected = [final + (1 - final) * (1 - (i - 100) / 900) for i in range(100, 1000)]
    assert factors(name="linear", warmup=100, final=final)[100:] == pytest.approx(expected)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final):
    expected = [final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (i - 100) / 900)) for i in range(100, 1000)]
    assert factors(name="cosine", warmup=100, final=final)[100:] == pytest.approx(expected)


def test_warm_up_stable_decay():
    found = factors(name="wsd", warmup=100, decay=0.4, final=0.1)
    assert found[100:601] == [1.0] * 501
    assert found[600:] == pytest.approx([0.1 + 0.9 * (1 - i / 400) for i in range(400)])


def test_constant_stays():
    assert factors(name="constant", warmup=10)[10:] == [1.0] * 990


def test_transformers_agrees():
    import torch
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, theirs in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
        scheduler = theirs(optimizer, 50, 500)
        rates = []
        for _ in range(500):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        # theirs begins at 0, a step that does nothing; ours a step later
        assert factors(500, name=name, warmup=50)[:49] == pytest.approx(rates[1:50])
        assert factors(500, name=name, warmup=50)[50:] == pytest.approx(rates[50:])


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "constant"])
def test_tiny_runs_have_rates_that_train(name, total):
    for warmup in (0.0, 0.05, 1, 5):
        for factor in factors(total, name=name, warmup=warmup):
            assert 0 < factor <= 1


class Rows:
    """So many rows of this many tokens, or of lengths of their own."""

    def __init__(self, count, sequence_length=None):
        self.count, self.sequence_length, self.fixed_length = count, sequence_length, sequence_length is not None

    def __len__(self):
        return self.count


def test_budgets():
    packed = Phases([Phase(Rows(320, 128), 32, 8)])  # 4096 tokens per step, 10 steps an epoch
    texts = Phases([Phase(Rows(336), 32, 8)])
    assert Horizon.of(TrainConfig(steps=7), packed).steps == 7
    assert Horizon.of(TrainConfig(tokens=1e6), packed).steps == math.ceil(1e6 / 4096)
    assert Horizon.of(TrainConfig(tokens=4096 * 10), packed).steps == 10
    assert Horizon.of(TrainConfig(epochs=3), packed).steps == 30
    assert Horizon.of(TrainConfig(epochs=3), texts).steps == 32
    assert Horizon.of(TrainConfig(epochs=0.01), texts).steps == 1
    assert Horizon.of(TrainConfig(minutes=2), packed).steps is None
    for wrong, sentence in (
        (TrainConfig(), "give a budget"),
        (TrainConfig(steps=1, tokens=5), "--train.steps and --train.tokens"),
        (TrainConfig(steps=0), "positive"),
        (TrainConfig(minutes=-1), "positive"),
    ):
        with pytest.raises(UserError, match=sentence):
            Horizon.of(wrong, packed)
    with pytest.raises(UserError, match="fixed length"):
        Horizon.of(TrainConfig(tokens=1e6), texts)


def test_budgets_over_phases():
    rows, short = Rows(320, 128), Rows(1280, 32)
    phases = Phases([Phase(short, 32, 8, steps=10), Phase(rows, 16, 8, steps=5), Phase(rows, 32, 8)])
    assert Horizon.of(TrainConfig(steps=7), phases).steps == 7
    assert Horizon.of(TrainConfig(tokens=1024 * 10), phases).steps == 10
    assert Horizon.of(TrainConfig(tokens=1024 * 10 + 1), phases).steps == 11
    assert Horizon.of(TrainConfig(tokens=1024 * 10 + 2048 * 5 + 4096 * 3), phases).steps == 18
    assert Horizon.of(TrainConfig(epochs=1), phases).steps == 10 + 5 + 5  # 20,480 tokens are left of 40,960


def drive(seconds_of_step, minutes, horizon=None, step=0, clock=0.0, stop_at=None):
    """Train on a fake clock."""
    horizon = horizon or Horizon(None, minutes=minutes)
    rates = []
    while horizon.steps is None or step < horizon.steps:
        rates.append(horizon.factor(ScheduleConfig(), step))
        clock += seconds_of_step(step)
        step += 1
        horizon.update(step, clock)
        if step == stop_at:
            break
    return horizon, step, clock, rates


@pytest.mark.parametrize(
    "seconds_of_step",
    [
        lambda step: 0.5,
        lambda step: 25.0 if step == 0 else 0.2,  # compiled in the first step
        lambda step: 0.2 if step < 500 else 0.4,  # slower half way
        lambda step: 0.4 if step < 300 else 0.2,
        lambda step: 0.3 + 0.1 * math.sin(step / 7),
    ],
)
def test_minutes_end_on_time_and_the_rate_comes_down(seconds_of_step):
    horizon, step, clock, rates = drive(seconds_of_step, 5.0)
    assert 300 * 0.95 < clock < 300 * 1.03
    assert step == horizon.steps
    assert rates[-1] < 0.05
    assert max(rates) > 0.9
    assert [event[0] for event in horizon.events] == sorted(event[0] for event in horizon.events)
    assert horizon.events[0][:2] == (4, None)
    assert horizon.events[-1][2] == horizon.steps


def test_a_step_longer_than_the_budget_ends_after_the_first_measure():
    _, step, _, _ = drive(lambda step: 100.0, 1.0)
    assert step == Horizon.MEASURE + 1  # the first step is not measured: it compiles and warms up


def test_steps_are_not_corrected_by_a_clock():
    horizon = Horizon(10)
    horizon.update(5, 1e9)
    assert horizon.steps == 10
    assert horizon.events == []


def test_a_resumed_minutes_budget_goes_on():
    pace = lambda step: 0.5  # noqa: E731
    whole, *_ = drive(pace, 5.0)
    first, step, clock, _ = drive(pace, 5.0, stop_at=200)
    second = Horizon(None, minutes=5.0)
    second.load_state_dict(first.state_dict())
    assert second.steps == first.steps
    second, step, clock, _ = drive(pace, 5.0, second, step, clock)
    assert step == second.steps == whole.steps
    longer = Horizon(None, minutes=10.0)  # another budget is measured anew
    longer.load_state_dict(first.state_dict())
    assert longer.steps is None


def count_for(seconds: float, answers) -> None:
    clock, begun = TrainedTime(elapsed=100), time.monotonic()
    while time.monotonic() - begun < seconds:
        time.sleep(0.05)
    answers.put(clock.seconds())


def test_time_in_which_the_process_was_stopped_is_no_training(monkeypatch, capfd):
    monkeypatch.setattr(TrainedTime, "LONGEST", 1.5)
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    process = fork.Process(target=count_for, args=(5, answers))
    process.start()
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(process.pid, signal.SIGCONT)
    assert 101 < answers.get(timeout=60) < 103.5
    process.join()
    assert "this process was stopped for 3 s, which are not counted as training" in capfd.readouterr().err


@pytest.mark.parametrize(("factor", "said"), [(1.0, None), (1.1, None), (3.0, "busier"), (0.4, "idler")])
def test_a_machine_that_was_busier_than_when_it_was_measured_is_named_at_the_end(factor, said):
    horizon = Horizon(None, minutes=2.0)
    steps, clock = 0, 0.0
    while horizon.steps is None or steps < horizon.steps:
        clock += 1.0 if steps < 10 else factor
        horizon.update(steps := steps + 1, clock)
    outcome = horizon.outcome(steps)
    assert outcome.startswith(f"2 minutes: 120 steps planned at the beginning, {steps:,} reached")
    assert (said in outcome) if said else outcome.endswith("reached")
    again = Horizon(None, minutes=2.0)
    again.load_state_dict(horizon.state_dict())
    assert again.outcome(steps) == outcome
    assert Horizon(5).outcome(5) is None
