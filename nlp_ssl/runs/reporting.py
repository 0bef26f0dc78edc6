"""The page of a run, kept up to date while it trains, for at most a hundredth of its time."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from nlp_ssl.config.common import flatten, plain, to_dict
from nlp_ssl.core import console
from nlp_ssl.core.vocabulary import special_ids
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.reports.record import PAGE_FILE, RunFacts
from nlp_ssl.reports.run_report import write_report
from nlp_ssl.runs.status import read_status

SHARE = 0.01  # of a run's time
MEMORY = 0.2  # of what is free, for the weights of a checkpoint
FIRST_PAGE, FIRST_SAMPLES = 1.0, 2.0  # seconds that they are taken to need before one was made
BARS = 32
ENOUGH = 1_000_000  # documents, or tokens, to measure on


class Reporter:
    """Writes `report.html` and what it is made of.

    Args:
        folder: of the run, which is there.
        facts: what the run knows before it begins.
        card: gives the arguments of `model_card` at a moment.
        step: the run resumes there; what was seen after it is seen anew. `None`: it begins.
    """

    def __init__(
        self, folder: Path, facts: RunFacts, card: Callable[[], Mapping[str, Any]], step: int | None = None
    ) -> None:
        self.folder, self.facts, self.card = folder, facts, card
        self.began = time.monotonic()
        self.page_seconds, self.sample_seconds, self.spent = FIRST_PAGE, FIRST_SAMPLES, 0.0
        self.written = False
        if step is not None:
            with console.optional("what the report had"):
                before = RunFacts.read(folder)
                facts.samples = [each for each in before.samples if each["step"] <= step]
                facts.scores = before.scores

    def close(self, total: int | None) -> None:
        """Write the last page, of a run that is finished or was interrupted."""
        status = read_status(self.folder).get("status")
        self.write(total, last=status in ("finished", "interrupted"))
        if status == "finished" and self.written:
            console.say(f"report: {self.folder / PAGE_FILE}")

    def write(self, total: int | None, last: bool = False) -> None:
        """Write the page, the first and the last always, others unless that takes more than their share of the time.

        Args:
            total: optimizer steps of the whole run, as far as they are known.
            last: no other follows.
        """
        if console.rank() != 0 or not (last or not self.written or self._has_time(self.page_seconds)):
            return
        with self._timed() as took, console.optional("the report"):
            self.facts.facts, self.facts.total = dict(self.card()["facts"]), total
            self.facts.write(self.folder)
            write_report(self.folder)
            self.written = True
        self.page_seconds = took[0]

    def look(self, checkpoint: Path, step: int, samples: Callable[[Path], Iterator[str]]) -> None:
        """Note what the model makes of held-out text after some step, unless it takes more than its share of the time.

        Nothing is loaded that could fill the memory of a run.

        Args:
            checkpoint: of that step.
            step: optimizer steps taken.
            samples: lines, which plain transformers reads from a checkpoint.
        """
        if console.rank() != 0 or not self._has_time(self.sample_seconds):
            return
        weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
        if weights > MEMORY * psutil.virtual_memory().available:
            return
        # what is drawn meanwhile must not change what the run draws
        with self._timed() as took, torch.random.fork_rng(devices=[]), console.optional("a look at held-out text"):
            self.note(step, list(samples(checkpoint)))
        self.sample_seconds = took[0]

    def note(self, step: int, lines: list[str]) -> None:
        """Keep lines for the page, in the place of those of that step."""
        if lines:
            others = [each for each in self.facts.samples if each["step"] != step]
            self.facts.samples = [*others, {"step": step, "lines": lines}]

    def _has_time(self, seconds: float) -> bool:
        return self.spent + seconds <= SHARE * (time.monotonic() - self.began)

    @contextmanager
    def _timed(self) -> Iterator[list[float]]:
        """A list that holds the seconds when it is over."""
        before, took = time.monotonic(), [0.0]
        yield took
        took[0] = time.monotonic() - before
        self.spent += took[0]


def changed(asked: Mapping[str, Any], config: Any) -> list[list[Any]]:
    """Options that are not at their defaults: name, value, default, and whether it was given or derived.

    Args:
        asked: the options before they were resolved, dotted.
        config: afterwards.
    """
    defaults, rows = flatten(plain(to_dict(type(config)()))), []
    for name, value in flatten(plain(to_dict(config))).items():
        if value != defaults.get(name) and not name.startswith("resume."):
            rows.append([name, value, defaults.get(name), "given" if asked.get(name) == value else "derived"])
    return rows


def document_lengths(offsets: np.ndarray) -> np.ndarray:
    """Tokens of documents, of many an even share: of a corpus on disk not all is read when a run starts.

    Args:
        offsets: where each begins, and the last ends, (documents + 1,).
    """
    some = np.arange(0, len(offsets) - 1, max(1, (len(offsets) - 1) // ENOUGH))
    return np.asarray(offsets[some + 1] - offsets[some])


def histogram(lengths: np.ndarray, documents: int | None = None) -> dict[str, list[float]]:
    """How many documents are how long: `edges` of bars, equally wide on a logarithmic axis, and `counts`.

    Args:
        lengths: of some of them.
        documents: how many there are in all; as many as there are lengths when `None`.
    """
    some = lengths[lengths > 0]
    if not len(some):
        return {}
    counts, edges = np.histogram(some, np.unique(np.geomspace(some.min(), some.max() + 1, BARS).round()))
    return {"edges": edges.tolist(), "counts": (counts * ((documents or len(lengths)) / len(some))).round().tolist()}


def tokenizer_numbers(held_out: TokenCorpus, tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer does to held-out text, counted on its tokens."""
    documents = min(held_out.num_documents, 10_000)
    tokens = np.concatenate([held_out.document(i) for i in range(documents)])[:ENOUGH]
    special = special_ids(tokenizer)
    used = len(np.setdiff1d(tokens, special))
    unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    return {
        "entries": len(tokenizer),
        "bytes_per_token": held_out.manifest["bytes"] / max(1, held_out.manifest["tokens"]),
        "unknown_tokens": f"{(tokens == unknown).mean():.3%}",
        "entries_that_held_out_text_uses": f"{used / (len(tokenizer) - len(special)):.1%}",
    }
