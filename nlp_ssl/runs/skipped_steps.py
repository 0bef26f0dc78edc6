"""What is told of a step that was not applied: its rows, the documents in them, and on request their text."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.console import rank, warn
from nlp_ssl.core.files import no_links
from nlp_ssl.data.sequences.packing import PackedRows
from nlp_ssl.data.sequences.phases import Rows
from nlp_ssl.training.loop import Step
from nlp_ssl.training.tracking import json_line

INCIDENTS_FILE = "incidents.jsonl"


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


def report_incident(step: Step, named: list[dict[str, Any]], path: Path) -> str:
    """Append a line for every row to a file, on rank 0; returns a line for a person.

    Args:
        step: that was not applied.
        named: its rows, from `name_rows`.
        path: the file.
    """
    assert step.incident is not None
    found = {"step": step.number, "incident": step.incident, "loss": step.loss, "grad_norm": step.grad_norm}
    if rank() == 0:
        try:
            with open(path, "a", opener=no_links) as f:
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
