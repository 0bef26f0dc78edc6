"""Pretraining and fine-tuning as functions: in a notebook, or in a program of one's own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from accelerate.state import AcceleratorState
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import flatten, plain
from nlp_ssl.config.finetuning import ClassificationConfig, NERConfig
from nlp_ssl.core.cache import make_private
from nlp_ssl.core.console import world_size
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.objective import find_objective
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.reports.record import PAGE_FILE, RunFacts
from nlp_ssl.runs import multi_seed, pretraining, pretraining_data

Files = str | Path | Sequence[str | Path]
Options = Mapping[str, Any]
TASKS: dict[str, tuple[Any, Any]] = {
    "classification": (ClassificationConfig, Classification),
    "ner": (NERConfig, Tagging),
}


@dataclass(frozen=True)
class Trained:
    """What a run left.

    Attributes:
        folder: its folder, a model that `from_pretrained` loads.
        results: held-out numbers by name; of fine-tuning `validation_accuracy`, `test_f1` and so on, of several seeds
            their means.
        auto_class: the `transformers.AutoModelFor...` that loads the model.
    """

    folder: Path
    results: dict[str, float]
    auto_class: Any

    @cached_property
    def model(self) -> PreTrainedModel:
        """The trained model as transformers loads it, in evaluation mode; of several seeds that of the first."""
        loaded: PreTrainedModel = self.auto_class.from_pretrained(self._model_folder, trust_remote_code=False)
        return loaded.eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        found: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(self._model_folder, trust_remote_code=False)
        return found

    @property
    def report(self) -> Path:
        """The run as a page."""
        return self._model_folder / PAGE_FILE

    @property
    def _model_folder(self) -> Path:
        seeds = sorted(self.folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
        return seeds[0] if seeds else self.folder


def pretrain(
    sources: Files | None = None,
    *,
    objective: str = "mlm",
    model: str | Path | Options | None = None,
    output_dir: str | Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    seed: int = 0,
    resume: bool = False,
    **sections: Options,
) -> Trained:
    """Pretrain a model on text, or continue with one that is trained.

    Args:
        sources: files, folders, globs or Hub ids of text; the built-in corpus by default.
        objective: the name of a file in `nlp_ssl/objectives`, such as `"mlm"`, `"clm"`, `"rtd"` or `"contrastive"`.
        model: a preset such as `"modernbert-tiny"`, a Hub id or a folder, derived from the machine by default; or the
            section of options, such as `{"name": "bert-mini", "overrides": {"num_hidden_layers": 6}}`.
        output_dir: folder of the run; `runs/mlm` and its like by default.
        steps: budget in optimizer steps.
        minutes: budget in minutes of training; 5 where no budget is given (one in tokens: `train={"tokens": 1e9}`).
        epochs: budget in passes over the text.
        seed: of weights, order and masks.
        resume: continue what is in `output_dir`, if there is something.
        sections: further options in their sections, named as on the command line: `optimizer={"lr": 1e-3}`,
            `tokens={"sequence_length": 512}`, `masking={"probability": 0.3}`.

    Raises:
        UserError: a `ValueError` in one sentence: what is wrong with the options, the text or the machine.
        Interrupted: Ctrl-C, or a signal; everything is saved, and `resume=True` continues.
    """
    kind = find_objective(objective)
    budget = {"steps": steps, "minutes": minutes, "epochs": epochs}
    values = {"data.sources": sources, "output_dir": output_dir, "seed": seed}
    config = _config(kind.Config, model, values, budget, resume, sections)
    data = pretraining_data.prepare(config, kind)
    run = pretraining.start(config, kind, data)
    try:
        run.train()
        pretraining.show(run, data)
    finally:
        _forget()
    return Trained(run.folder, dict(run.state.results), kind.auto_class)


def finetune(
    train_file: Files | None = None,
    *,
    task: Literal["classification", "ner"] = "classification",
    model: str | Path | Options | None = None,
    validation_file: Files | None = None,
    test_file: Files | None = None,
    output_dir: str | Path | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    resume: bool = False,
    **sections: Options,
) -> Trained:
    """Fine-tune a pretrained model on labelled rows.

    Args:
        train_file: labelled rows (csv, tsv, jsonl, parquet, conll); the built-in task by default.
        task: classify (or score) texts and pairs of texts, or tag words.
        model: a folder or Hub id, `runs/mlm` by default; or the section of options.
        validation_file: rows to measure on; a part of the training rows by default.
        test_file: further rows to measure on at the end.
        output_dir: folder of the run.
        steps: budget in optimizer steps.
        epochs: budget in passes over the rows.
        minutes: budget in minutes of training.
        seed: of the new head, order and dropout.
        seeds: several runs, a folder and a row each, with their mean and its interval.
        resume: continue what is in `output_dir`, if there is something.
        sections: further options in their sections, named as on the command line: `data={"label_column": "stars"}`,
            `transfer={"lora_rank": 8}`.

    Raises:
        UserError: a `ValueError` in one sentence: what is wrong with the options, the rows or the machine.
        Interrupted: Ctrl-C, or a signal; everything is saved, and `resume=True` continues.
    """
    config_class, kind = TASKS[task]
    files = {"data.train_file": train_file, "data.validation_file": validation_file, "data.test_file": test_file}
    budget = {"steps": steps, "minutes": minutes, "epochs": epochs}
    values = files | {"output_dir": output_dir, "seed": seed, "seeds": seeds and list(seeds)}
    config = _config(config_class, model, values, budget, resume, sections)
    try:
        rows = multi_seed.finetune(config, kind)
    finally:
        _forget()
    folder = Path(config.output_dir)
    if seeds is not None:
        return Trained(folder, {f"{row['set']}_{row['metric']}": row["mean"] for row in rows}, kind.auto_class)
    scores = {
        f"{row['set']}_{name}": value
        for row in RunFacts.read(folder).scores
        for name, value in row.items()
        if isinstance(value, float)
    }
    return Trained(folder, scores, kind.auto_class)


def _config(
    config_class: type[Any],
    model: str | Path | Options | None,
    values: Options,
    budget: Options,
    resume: bool,
    sections: Options,
) -> Any:
    """A run's configuration; options are checked as those of a command line are."""
    make_private()
    named = model if isinstance(model, Mapping) else {"name": model}
    given = {**values, **flatten({"model": named, "train": budget}), "resume.enabled": resume}
    given = {name: value for name, value in given.items() if value is not None} | flatten(dict(sections))
    return parse(config_class, argv=[f"--{name}={_written(value)}" for name, value in given.items()])


def _written(value: Any) -> str:
    """A value as it stands on a command line."""
    return str(value) if isinstance(value, str | Path) else json.dumps(plain(value), default=str)


def _forget() -> None:
    """Let another run of this process have another precision, which Accelerate keeps for the whole process."""
    if world_size() == 1:
        AcceleratorState._reset_state()
