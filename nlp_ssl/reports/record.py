"""What a run's folder says of it: what a report is made of."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace
from nlp_ssl.publishing.curves import interpolate, read_log, without_rewound
from nlp_ssl.publishing.tables import is_number, to_json

FACTS_FILE, LOG_FILE, STATUS_FILE = "report.json", "log.jsonl", "run_status.json"
PAGE_FILE = "report.html"
PREDICTIONS_FILE, ERRORS_FILE = "predictions.jsonl", "errors.jsonl"


@dataclass
class RunFacts:
    """What a run knows of itself and its log does not say: `report.json` in its folder.

    Attributes:
        program: the recipe, such as `"pretrain_mlm"`.
        what: the model, as its card calls it.
        settings: resolved options, dotted.
        changed: options that are not at their defaults: name, value, default, and where the value is from.
        facts: what the model card knows, by its names.
        results: what each held-out number counts, by its name.
        metrics: the numbers of an evaluation, and whether a low or a high one is good.
        reference: losses to compare with, by name.
        total: optimizer steps of the whole run, as far as they are known.
        lengths: a histogram of the documents' lengths: `edges` and `counts`.
        tokenizer: its measurements on held-out text, by name.
        samples: what the model made of held-out texts: `step` and `lines`, of several moments.
        scores: final numbers of labelled sets, a table row each.
        mode: permissions of the data's files, and so of those that hold texts of it.
    """

    program: str = ""
    what: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    changed: list[list[Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    total: int | None = None
    lengths: dict[str, list[float]] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    mode: int = 0o666

    def write(self, folder: Path) -> None:
        """Write `report.json` apart, and rename it to its place."""
        replace(folder / FACTS_FILE, to_json(asdict(self)), self.mode)

    @classmethod
    def read(cls, folder: Path) -> "RunFacts":
        """`report.json`; what it does not have is empty, as all is of a run that wrote none.

        Raises:
            UserError: it is no JSON object.
        """
        path = folder / FACTS_FILE
        if not path.exists():
            return cls()
        try:
            found = json.loads(path.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{path} is not a JSON object; remove it, and the report is made without it")
        found = {name: value for name, value in found.items() if name in cls.__dataclass_fields__ and value is not None}
        return cls(**found)


@dataclass(frozen=True)
class Run:
    """A run as its folder has it.

    Attributes:
        folder: where it is.
        facts: what it knows of itself.
        log: lines of its log.
        status: how it ended, or that it runs.
    """

    folder: Path
    facts: RunFacts
    log: list[dict[str, Any]]
    status: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder.

        Raises:
            UserError: it holds no log, or one that is damaged.
        """
        return cls(folder, RunFacts.read(folder), read_log(folder / LOG_FILE), read_status(folder))

    @property
    def name(self) -> str:
        """What its folder is called."""
        return self.folder.resolve().name

    @cached_property
    def _kept(self) -> list[dict[str, Any]]:
        """Steps and evaluations, without those that were taken again after a rewind or a resume."""
        return without_rewound(self.log)

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The logged steps, each once."""
        return [row for row in self._kept if row["event"] == "step"]

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations, each with the `tokens` seen by then."""
        tokens = {row["step"]: row.get("tokens", 0) for row in self.steps}
        found = [row for row in self._kept if row["event"] == "evaluation"]
        return [{"tokens": round(interpolate(tokens, row["step"]))} | row for row in found]

    @property
    def shown_evaluation(self) -> dict[str, Any]:
        """That of the finished model, which may be an earlier one that was the best; else the last; empty without."""
        if self.status.get("status") == "finished":
            at = [row for row in self.evaluations if row["step"] == self.status.get("step")]
            return (at or self.evaluations or [{}])[-1]
        return (self.evaluations or [{}])[-1]

    @property
    def final_scores(self) -> dict[str, Any]:
        """The numbers of its validation set at its end; else of `shown_evaluation`."""
        validation = [row for row in self.facts.scores if row.get("set") == "validation"]
        found = validation[-1] if validation else self.shown_evaluation
        return {name: v for name, v in found.items() if is_number(v) and name not in ("step", "tokens", "seconds")}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file of the folder; none where it is not there."""
        path = self.folder / name
        return read_log(path) if path.exists() else []

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log of one event."""
        return [row for row in self.log if row.get("event") == name]


def find_runs(folder: Path, depth: int = 4) -> list[Path]:
    """Folders of runs in a folder, itself among them, sorted."""
    if (folder / LOG_FILE).is_file():
        return [folder]
    if not depth or not folder.is_dir():
        return []
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return [run for path in inner for run in find_runs(path, depth - 1)]


def read_status(folder: Path) -> dict[str, Any]:
    """`run_status.json`; empty where there is none that can be read."""
    try:
        found = json.loads((folder / STATUS_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # none, or cut off by a full disk
        return {}
    return found if isinstance(found, dict) else {}
