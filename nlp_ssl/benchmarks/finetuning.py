"""Rows a second of fine-tuning, beside a Trainer as `run_glue.py` sets it and with its best flags."""

import contextlib
import os
import statistics
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, default_data_collator

from nlp_ssl.benchmarks import contenders
from nlp_ssl.benchmarks.contenders import Parts, TakesTurns
from nlp_ssl.benchmarks.contest import OURS, Answers, contest, ratios
from nlp_ssl.benchmarks.settings import FINETUNING_TRAINERS, FinetuneBenchmarkConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.length_batching import PAD_TO_MULTIPLE_OF
from nlp_ssl.models.loading import build_model
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.runs.finetuning import Prepared, prepare, start
from nlp_ssl.training.device import training_device
from nlp_ssl.training.loop import train
from nlp_ssl.training.optimizers import build_optimizer


def compare_finetuning(config: FinetuneBenchmarkConfig) -> dict[str, Any]:
    """Rows a second of this project and of the Trainers, in alternation, each in a process of its own.

    Raises:
        UserError: an unknown Trainer, a number that must be positive, or what a fine-tuning run refuses.
    """
    for name in config.against:
        if name not in FINETUNING_TRAINERS:
            raise UserError(f"--against {name}: there are {', '.join(FINETUNING_TRAINERS)}")
    if min(config.rounds, config.steps) < 1:
        raise UserError("--rounds and --steps must be at least 1")
    task = prepare(config, Classification)  # once, and seen; the contenders find it
    lengths = task.rows["train"]["length"][:]
    with contest(config, contend) as everyone:
        pass
    rows = []
    for contender in everyone:
        # a step's rows are as long as they happen to be, so the mean of a turn, and the median of these
        seconds = statistics.median(statistics.mean(step["seconds"] for step in turn) for turn in contender.turns)
        found = ratios(contender, everyone[0], statistics.mean)
        spread = f"{statistics.median(found):.2f} ({min(found):.2f} - {max(found):.2f})"
        rows.append(
            {
                "": contender.name if contender.name == OURS else f"Trainer, {contender.name}",
                "rows/s": f"{config.train.global_batch_size / seconds:,.0f}",
                "ms per step": f"{seconds * 1e3:.1f}",
                "peak GB": f"{contender.peak_memory / 1e9:.2f}",
                "times slower": "1" if contender.name == OURS else spread,
            }
        )
    mean = statistics.mean(lengths)
    notes = [
        f"rows have {mean:.0f} tokens on average, {max(lengths)} at most; batches of {config.train.global_batch_size}"
    ]
    return {"rows": rows, "notes": notes, "turns": {each.name: each.turns for each in everyone}}


def contend(name: str, config: FinetuneBenchmarkConfig, connection: Connection) -> None:
    """Train when it is this contender's turn; runs in a process of its own."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            parts = Parts(training_device())
            answers = Answers(connection, parts)
            task = prepare(config, Classification)
            if name == OURS:
                for _ in _ours(config, task):
                    if not answers.step_done({}):
                        return
            _trainer(name, config, task, TakesTurns(lambda: answers.step_done({}))).train()
        except Exception:  # whatever it is, the process that asked must say it
            connection.send(traceback.format_exc())


def _ours(config: FinetuneBenchmarkConfig, task: Prepared) -> Iterator[Any]:
    config.train.steps, config.train.epochs = 10**9, None
    run = start(config, task)
    chosen = run.config
    optimizer = build_optimizer(run.objective, chosen.optimizer, run.transfer)
    module, optimizer = run.accelerator.prepare(run.objective, optimizer)
    yield from train(
        module,
        optimizer,
        run.batches.steps(0),
        accelerator=run.accelerator,
        schedule=chosen.schedule,
        horizon=run.horizon,
        max_grad_norm=chosen.optimizer.max_grad_norm,
    )


def _trainer(name: str, config: FinetuneBenchmarkConfig, task: Prepared, watch: TakesTurns) -> Trainer:
    names = [key for key in ("input_ids", "token_type_ids", "labels") if key in task.rows["train"].column_names]
    rows = task.rows["train"].select_columns(names)
    model = build_model(
        config.model,
        task.model_config,
        task.objective.auto_class,
        isolated=False,
        seed=config.seed,
        keep_head=task.keep_head,
    )
    collate: Any = DataCollatorWithPadding(task.tokenizer, pad_to_multiple_of=PAD_TO_MULTIPLE_OF)
    more: dict[str, Any] = {"train_sampling_strategy": "group_by_length"}
    if name == "script":
        rows, collate, more = _padded(rows, task, config.max_length), default_data_collator, {}
    more |= {"torch_compile": False}  # every batch has a shape of its own
    arguments = contenders.trainer_arguments(name, config, learning_rate=5e-5, **more)
    return Trainer(model, arguments, collate, rows, callbacks=[watch])


def _padded(rows: Dataset, task: Prepared, length: int) -> Dataset:
    """Every row as long as the model reads, which is what the script does unless told otherwise."""

    def pad(row: dict[str, Any]) -> dict[str, Any]:
        padded = task.tokenizer.pad(row, padding="max_length", max_length=length)
        return {key: padded[key] for key in padded}

    return rows.select(range(min(len(rows), contenders.ROWS))).map(pad, desc="pad")
