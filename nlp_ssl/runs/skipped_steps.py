"""Skipped steps: a loss spike or a loss that is not finite. Names their rows, and decides what follows.

A step that is not applied changes no weight. What is reported are its rows, the documents in them, and on request their
text; then the run stops, continues, or is rewound.
"""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.console import rank, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import no_links
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.packing import PackedRows
from nlp_ssl.data.sequences.phases import Rows
from nlp_ssl.runs.folder import RunConfig, text_mode
from nlp_ssl.runs.saving import Saver
from nlp_ssl.runs.state import RunState
from nlp_ssl.training.loop import Step
from nlp_ssl.training.tracking import Log, json_line

INCIDENTS_FILE = "incidents.jsonl"


OVERFLOWS = 20  # this many fp16 overflows in a row are no longer ordinary
NOT_APPLIED = 50  # this many skipped steps in a row will not be followed by a good one


class SkippedSteps:
    """What a run does about steps that were not applied.

    Args:
        config: what is to follow.
        batches: know the rows of a step.
        folder: of the run.
        log: of the run.
        saver: finishes a pending save before the run stops.
        tokenizer: writes the rows' texts too, where that is asked for; then the file is as private as the data.
    """

    def __init__(
        self,
        config: RunConfig,
        batches: TrainBatches,
        folder: Path,
        log: Log,
        saver: Saver,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        self.config, self.batches, self.folder, self.log, self.saver = config.train, batches, folder, log, saver
        self.tokenizer = tokenizer if config.train.incident_texts else None
        self.mode = text_mode(config) if config.train.incident_texts else 0o666

    def handle(self, step: Step, state: RunState) -> bool:
        """Report a step if it was not applied; returns whether the run is to be rewound because of it.

        Raises:
            UserError: the run stops because of it.
        """
        if step.incident is None or (step.incident == "overflow" and state.not_applied < OVERFLOWS):
            return False
        rows, numbers, epochs = self.batches.step_rows(step.number - 1 + state.data_offset)
        named = name_rows(rows, numbers, epochs, self.tokenizer)
        text = report_incident(step, named, self.folder / INCIDENTS_FILE, self.mode)
        found = {"incident": step.incident, "loss": step.loss, "grad_norm": step.grad_norm}
        self.log.write("incident", step.number, **found, rows=numbers.tolist())
        spike = step.incident == "spike"
        action = self.config.on_spike if spike else self.config.on_nonfinite
        if state.not_applied == NOT_APPLIED:
            raise UserError(
                f"{text}; so were {NOT_APPLIED} steps in a row: --resume with a lower rate and allow_changed"
            )
        if action == "stop":
            self.saver.finish()
            option = "--train.on_spike" if spike else "--train.on_nonfinite"
            raise UserError(f"{text}; --resume with {option} skip or rewind, or with a lower rate and allow_changed")
        warn(text)
        return action == "rewind"


def name_rows(
    rows: Rows, numbers: np.ndarray, epochs: np.ndarray, tokenizer: PreTrainedTokenizerFast | None = None
) -> list[dict[str, Any]]:
    """What the rows of a step are.

    Args:
        rows: the data set.
        numbers: which of its rows.
        epochs: their epochs.
        tokenizer: to write their texts too.

    Returns:
        For each row `row`, `epoch`, `documents` (numbers in the tokenised corpus, of packed rows) and, with a
        tokenizer, `text`: one text a document of a packed row, special tokens included.
    """
    named = []
    for number, epoch in zip(numbers.tolist(), epochs.tolist(), strict=True):
        entry: dict[str, Any] = {"row": number, "epoch": epoch}
        if isinstance(rows, PackedRows):
            entry["documents"] = rows.row_pieces(number)["document"].tolist()
        if tokenizer is not None:
            entry["text"] = [tokenizer.decode(piece) for piece in _pieces(rows[number])]
        named.append(entry)
    return named


def _pieces(row: dict[str, Any]) -> list[Any]:
    """The token ids of a row, one list a document of a packed row or a window of a sentence."""
    ids = row["input_ids"]
    if "document_ids" in row:
        return [ids[row["document_ids"] == n] for n in range(1, int(row["document_ids"].max()) + 1)]
    return ids if isinstance(ids[0], list) else [ids]


def report_incident(step: Step, named: list[dict[str, Any]], path: Path, mode: int = 0o666) -> str:
    """Append a line for every row to a file, on rank 0; returns a line for a person.

    Args:
        step: that was not applied.
        named: its rows, from `name_rows`.
        path: the file.
        mode: its permissions.
    """
    assert step.incident is not None
    found = {"step": step.number, "incident": step.incident, "loss": step.loss, "grad_norm": step.grad_norm}
    if rank() == 0:
        try:
            with open(path, "a", opener=lambda name, flags: no_links(name, flags, mode), encoding="utf-8") as f:
                f.writelines(json_line(**found, **entry) for entry in named)
        except OSError as error:
            warn(f"{path} could not be written: {error.strerror}; the rows are in the log")
    what = {"nonfinite": "not finite", "spike": "a spike", "overflow": "overflow after overflow"}[step.incident]
    documents = sorted({d for entry in named for d in entry.get("documents", [])})
    of = f", documents {_listed(documents)}" if documents else ""
    return (
        f"step {step.number:,}: {what} (loss {step.loss:.4g}, gradient norm {step.grad_norm:.4g}); it was not applied; "
        f"its rows: {_listed([entry['row'] for entry in named])}{of} (all in {path})"
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
