"""Who is measured: this project's loop, and `transformers.Trainer` as its script sets it and with its best flags.

All learn from the same tokens with the same architecture and batch. The Trainer gets what `run_mlm.py` makes: documents
with their special tokens one behind the other, cut into rows (`group_texts`), masked by the stock collator.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from nlp_ssl.benchmarks.settings import BenchmarkConfig
from nlp_ssl.config.common import ModelConfig
from nlp_ssl.config.finetuning import FinetuneConfig
from nlp_ssl.models.loading import build_model
from nlp_ssl.runs.pretraining import start
from nlp_ssl.runs.pretraining_data import Objective, PretrainingData
from nlp_ssl.training.device import compile_module, training_device
from nlp_ssl.training.loop import train
from nlp_ssl.training.optimizers import build_optimizer
from nlp_ssl.training.throughput import Work

ROWS = 20_000  # of the Trainer's data set: as many as a benchmark may visit
PARTS = ("data", "forward", "backward", "optimizer")


class Parts:
    """Seconds that the parts of a step take; what is left of it is the rest.

    Args:
        device: is waited for around every part while `apart`, so that they do not overlap.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.apart = device, False
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the block's seconds to a part."""
        begun = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - begun

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, its seconds counted to a part."""

        @functools.wraps(function)  # the Trainer reads a model's signature
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return function(*args, **kwargs)

        return call

    def take(self) -> dict[str, float]:
        """The seconds since the last time."""
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken

    def _now(self) -> float:
        if self.apart and self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def ours(
    config: BenchmarkConfig, objective: Objective, data: PretrainingData, parts: Parts
) -> Iterator[dict[str, Any]]:
    """Steps of the loop that a run takes, on the batches that it makes: tokens, operations, loss."""
    run = start(config, objective, data)
    work = Work.of(run.objective.published()[""], causal=objective.trains == "decoder")
    chosen = run.config
    optimizer = build_optimizer(run.objective, chosen.optimizer)
    if chosen.train.compile:
        compile_module(run.objective)
    accelerator: Accelerator = run.accelerator
    module, optimizer = accelerator.prepare(run.objective, optimizer)
    asked: list[float] = []

    def batches() -> Iterator[Any]:
        steps = run.batches.steps(0)
        while True:
            with parts.of("data"):
                micro_batches = next(steps)
            asked.append(sum(work.of_batch(b.inputs, sum(b.counts.values())) for b in micro_batches))
            yield micro_batches

    accelerator.backward = parts.timed("backward", accelerator.backward)
    optimizer.step = parts.timed("optimizer", optimizer.step)
    run.objective.forward = parts.timed("forward", run.objective.forward)  # type: ignore[method-assign]
    schedule, clip = chosen.schedule, chosen.optimizer.max_grad_norm
    for step in train(
        module, optimizer, batches(),
        accelerator=accelerator, schedule=schedule, horizon=run.horizon, max_grad_norm=clip,
    ):  # fmt: skip
        yield {"tokens": step.num_tokens, "operations": asked.pop(0), "loss": step.loss}


def trainer_arguments(which: str, config: BenchmarkConfig | FinetuneConfig, **more: Any) -> TrainingArguments:
    """The Trainer's settings.

    Args:
        which: `script`, `bf16` or `best`.
        config: gives the batch.
        more: further arguments.
    """
    gpu = training_device().type == "cuda"
    bf16 = {} if which == "script" else {"bf16": True}
    best = {} if which != "best" else {"torch_compile": True, "dataloader_num_workers": 1, "tf32": gpu or None}
    return TrainingArguments(
        output_dir=str(Path(config.output_dir).parent / which),
        per_device_train_batch_size=config.train.global_batch_size,
        use_cpu=not gpu,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=config.seed,
        **{"max_steps": 10**6, **bf16, **best, **more},
    )


def trainer(
    arguments: TrainingArguments,
    model: PreTrainedModel,
    objective: Objective,
    data: PretrainingData,
    *callbacks: TrainerCallback,
) -> Trainer:
    """A `Trainer` on rows as its script makes them."""
    collator = DataCollatorForLanguageModeling(data.tokenizer, mlm=objective.needs_mask_token(), mlm_probability=0.15)
    return Trainer(model, arguments, collator, grouped_rows(data), callbacks=list(callbacks))


def trainer_model(config: BenchmarkConfig, objective: Objective, model_config: PreTrainedConfig) -> PreTrainedModel:
    """A new model of an architecture, with the attention that transformers gives it."""
    scratch = ModelConfig(name=config.model.name, from_scratch=True)
    return build_model(scratch, model_config, objective.auto_class, isolated=False, seed=config.seed)


def grouped_rows(data: PretrainingData, limit: int = ROWS) -> Dataset:
    """What `group_texts` of the scripts makes of the corpus: full rows, cut wherever they end."""
    length, tokens = data.train.sequence_length, data.train.tokens
    rows: list[np.ndarray] = []
    held: list[Any] = []
    size = 0
    for document in range(tokens.num_documents):
        held += [data.train.prefix, tokens.document(document), data.train.suffix]
        size += sum(map(len, held[-3:]))
        if size >= 1000 * length:
            flat = np.concatenate(held).astype(np.int64)
            rows.append(flat[: len(flat) // length * length].reshape(-1, length))
            held, size = [flat[rows[-1].size :]], len(flat) - rows[-1].size
            if sum(map(len, rows)) >= limit:
                break
    else:
        flat = np.concatenate(held).astype(np.int64)
        rows.append(flat[: len(flat) // length * length].reshape(-1, length))
    ids = np.concatenate(rows)[:limit]
    special = np.isin(ids, data.tokenizer.all_special_ids).astype(np.int8)
    columns = {"input_ids": ids, "attention_mask": np.ones_like(special), "special_tokens_mask": special}
    return Dataset.from_dict(columns)


class TakesTurns(TrainerCallback):
    """Reports every step of a Trainer, and lets the caller say when the next one may begin.

    Args:
        on_step: called behind every step; the Trainer ends when it returns False.
    """

    def __init__(self, on_step: Callable[[], bool]) -> None:
        self.on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report; transformers calls this."""
        if not self.on_step():  # where it continues, the Trainer may still have reached its own end
            control.should_training_stop = True


def time_parts(trainer: Trainer, parts: Parts) -> None:
    """Count the seconds of a Trainer's parts."""
    trainer.get_batch_samples = parts.timed("data", trainer.get_batch_samples)
    trainer.model.forward = parts.timed("forward", trainer.model.forward)
    trainer.accelerator.backward = parts.timed("backward", trainer.accelerator.backward)
    create = trainer.create_optimizer

    def create_timed(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        optimizer.step = parts.timed("optimizer", optimizer.step)
        return optimizer

    trainer.create_optimizer = create_timed
