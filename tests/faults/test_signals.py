"""The first signal is heard once, wherever it strikes; the second Ctrl-C ends everything."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from nlp_ssl.core import signals
from nlp_ssl.core.errors import Interrupted
from nlp_ssl.core.signals import Interrupts, run_in_thread

SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Handlers of a process that has called `listen`, as a recipe does, put back after the test."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    found = Interrupts()
    found.listen()
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_library_takes_it_for_an_error_of_its_own(interrupts: Interrupts) -> None:
    def build() -> None:
        try:
            signal.raise_signal(SIGTERM)
        except Exception as error:  # as `torch.compile` and `datasets` do
            raise RuntimeError("while building") from error

    with pytest.raises(Interrupted, match="SIGTERM"):
        build()


def test_a_later_signal_does_not_disturb_the_clean_up_of_the_first(interrupts: Interrupts) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(SIGTERM)
    signal.raise_signal(SIGTERM)
    signal.raise_signal(SIGINT)
    assert interrupts.reason == "SIGTERM"


def test_while_there_is_something_to_finish_it_is_noted_and_raised_behind_it(interrupts: Interrupts) -> None:
    noted = []

    def train() -> None:
        with interrupts:
            interrupts.at_once = False
            signal.raise_signal(SIGINT)
            noted.append(interrupts.reason)

    with pytest.raises(Interrupted, match="SIGINT"):
        train()
    assert noted == ["SIGINT"]
    assert interrupts.at_once


def test_what_is_not_a_recipe_gets_its_handlers_back_and_can_train_again() -> None:
    mine, interrupts = signal.getsignal(SIGINT), Interrupts()
    for _ in range(2):
        with pytest.raises(Interrupted), interrupts:
            signal.raise_signal(SIGINT)
        assert signal.getsignal(SIGINT) is mine


@pytest.mark.parametrize(("seconds", "ends"), [(0.5, False), (1.5, True)])
def test_a_second_ctrl_c_counts_when_a_person_has_had_time_for_it(
    interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch, seconds: float, ends: bool
) -> None:
    interrupts.at_once = False
    now = time.monotonic()
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    signal.raise_signal(SIGINT)
    monkeypatch.setattr(signals.time, "monotonic", lambda: now + seconds)
    if ends:
        with pytest.raises(KeyboardInterrupt, match="at once"):
            signal.raise_signal(SIGINT)
    else:
        signal.raise_signal(SIGINT)
    assert interrupts.reason == ("SIGINT, twice" if ends else "SIGINT")


def test_native_work_is_interruptible_and_hands_on_what_it_makes(interrupts: Interrupts) -> None:
    assert run_in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        run_in_thread(lambda: 1 / 0)
    end = threading.Event()
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, SIGTERM)).start()
    with pytest.raises(Interrupted):
        run_in_thread(end.wait)  # as long as it likes
    end.set()
