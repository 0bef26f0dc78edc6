"""How a run ends: stopped, with everything saved, or finished, with its model, its picture and its card."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator

from nlp_ssl.core import console, signals
from nlp_ssl.core.errors import Interrupted, UserError
from nlp_ssl.core.files import replace
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.publishing import curves
from nlp_ssl.publishing.card import PICTURES, model_card
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.reports.record import RunFacts
from nlp_ssl.runs.card_facts import moment
from nlp_ssl.runs.saving import Saver
from nlp_ssl.runs.state import RunState
from nlp_ssl.runs.status import write_status
from nlp_ssl.training.checkpoints import Checkpoints, publish, read_state
from nlp_ssl.training.objective_state import load_weights
from nlp_ssl.training.tracking import Log


class Ending(Protocol):
    """What of a `Run` its end has to do with."""

    folder: Path
    accelerator: Accelerator
    objective: Objective
    module: torch.nn.Module
    state: RunState
    log: Log
    checkpoints: Checkpoints
    saver: Saver
    publisher: HubPublisher | None
    seen: dict[str, Any]
    about: RunFacts

    @property
    def card(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """See `Run`."""

    @property
    def look(self) -> Callable[[torch.nn.Module, Path], dict[str, Any]]:
        """See `Run`."""

    def evaluate(self) -> bool:
        """See `Run.evaluate`."""

    def save(self) -> None:
        """See `Run.save`."""

    def close(self) -> None:
        """See `Run.close`."""


def stop(run: Ending) -> NoReturn:
    """End a run that was asked to stop, once its last checkpoint is on disk.

    Raises:
        Interrupted: always.
        UserError: that checkpoint could not be written.
    """
    signals.interrupts.reason = reason = signals.interrupts.reason or "another process was asked to stop"
    _last_save(run)
    _end_publishing(run)
    with contextlib.suppress(OSError):  # what stops the run may be a full disk
        write_status(run.folder, "interrupted", run.state.step, reason=reason)  # before another process can end
    run.accelerator.wait_for_everyone()  # the first to exit has the launcher end the others
    run.close()
    raise Interrupted(f"stopped ({reason}) after step {run.state.step:,}; everything is saved: continue with --resume")


def finish(run: Ending) -> None:
    """End a run that has taken its last step: its model, the best or the last one, lies at the top of its folder.

    Raises:
        Interrupted: it was asked to stop during its last evaluation.
        UserError: the last checkpoint could not be written.
    """
    state = run.state
    if state.evaluated_at != state.step:  # stopped at the last step, before it was evaluated
        if not run.evaluate():
            stop(run)
        run.save()
    _last_save(run)
    chosen = run.checkpoints.chosen(state.step)
    if chosen != run.checkpoints.of(state.step):
        load_weights(chosen, run.objective)
        best = read_state(chosen)
        state.results, state.step = best["results"], best["step"]
        console.say(f"the best is kept: step {state.step:,}")
    if run.accelerator.is_main_process:
        publish(chosen, run.folder)
    run.seen = run.look(run.module, run.folder)
    if run.accelerator.is_main_process:
        if (picture := curves.plot_curves(run.log.path, run.folder / "curves.png", run.about.reference)) is not None:
            console.say(f"curves: {picture}")
        write_card(run.folder, card_of(run))
        write_status(run.folder, "finished", state.step)
        if run.publisher:
            run.publisher.push(run.folder, message=f"Trained for {console.counted(state.step, 'step')}")
    _end_publishing(run)


def card_of(run: Ending) -> dict[str, Any]:
    """Arguments of `model_card` for a finished run; none where they cannot be had, which is said."""
    arguments: dict[str, Any] = {}
    with console.optional("the model card"):
        arguments = run.card(run.seen | moment(run.state, run.objective.published()[""], run.accelerator))
    return arguments


def write_card(folder: Path, arguments: dict[str, Any]) -> None:
    """Write the card of a finished model, with the pictures beside it, apart, and rename it to its place.

    Args:
        folder: of the model.
        arguments: of `model_card`; without any, the card that is there stays.
    """
    with console.optional("the model card"):
        if arguments:
            pictures = [name for name in PICTURES if (folder / name).is_file()]
            replace(folder / "README.md", model_card(**arguments, pictures=pictures))


def _last_save(run: Ending) -> None:
    if not run.saver.finish():
        newest = [path.name for path in run.checkpoints.list()[-1:]] or ["none"]
        raise UserError(
            f"step {run.state.step:,} could not be saved in {run.folder}, as said above; mend that, then "
            f"--resume: it resumes from the newest checkpoint ({newest[0]})"
        )


def _end_publishing(run: Ending) -> None:
    if run.publisher:
        run.publisher.finish()
