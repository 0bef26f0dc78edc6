"""One fine-tuning run, start to end: labelled data, a head on a pretrained model, training, metrics, a look at it."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerFast, pipeline

from nlp_ssl import console
from nlp_ssl.config import FinetuneConfig
from nlp_ssl.console import UserError
from nlp_ssl.data.batches import Batch, held_out_batches, held_out_rows
from nlp_ssl.data.labelled import LabelledData, open_classification, open_tagging
from nlp_ssl.data.phases import Phase, Phases
from nlp_ssl.data.tokenising import tokenizer_fingerprint
from nlp_ssl.data.tokenizer import load_tokenizer
from nlp_ssl.data.tokens import fingerprint
from nlp_ssl.evaluation.metrics import METRICS
from nlp_ssl.machine import in_turn, make_accelerator, train_batches, training_device
from nlp_ssl.models import presets
from nlp_ssl.models.loading import architecture, build_model, describe, is_from_scratch
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.objective import ObjectiveModule
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.publishing.card import Metric, model_card
from nlp_ssl.publishing.report import format_table
from nlp_ssl.run import Run
from nlp_ssl.run_settings import check_run, run_identity
from nlp_ssl.training.optimizers import WEIGHT_DECAY
from nlp_ssl.training.schedules import Horizon

Task = Literal["classification", "ner"]


class FinetuningRun:
    """A labelled task, and the run that learns it.

    Args:
        config: its open fields are filled in.
        task: what to learn.

    Raises:
        UserError: see `open_classification`, `open_tagging`, `load_tokenizer`, `architecture`.
    """

    def __init__(self, config: FinetuneConfig, task: Task) -> None:
        self.config = config
        self.details: dict[str, dict[str, float]] = {}  # the last evaluation's numbers by entity type
        self._prepare(task)
        self.run = self._make_run()

    def _prepare(self, task: Task) -> None:
        config = self.config
        check_run(config)
        _check_model_name(config.model.name)
        self.tokenizer: PreTrainedTokenizerFast = load_tokenizer(config.model.name, config.model.revision)
        self.data: LabelledData = in_turn(
            lambda: open_classification(config.data) if task == "classification" else open_tagging(config.data)
        )
        data = self.data
        console.say(f"data: {data.description}")
        if task == "classification":
            self.objective = Classification(self.tokenizer, data.labels, data.text_columns, config.max_length)
        else:
            self.objective = Tagging(self.tokenizer, data.labels, config.max_length)
        self.model_config = architecture(
            config.model, self.objective.auto_class, self.tokenizer, config.max_length, config.model.dropout
        )
        self.model_config.update(self.objective.config_kwargs())
        sets = {"train": data.train, "validation": data.validation, "test": data.test}
        self.rows: dict[str, Dataset] = in_turn(
            lambda: {name: self.objective.prepare(part) for name, part in sets.items() if part is not None}
        )

    def _make_run(self) -> Run:
        config, objective = self.config, self.objective
        accelerator, model_config = make_accelerator(config), self.model_config
        derive(config, model_config.hidden_size, accelerator.num_processes, len(self.rows["train"]))
        model = build_model(config.model, model_config, objective.auto_class, isolated=False, seed=config.seed)
        console.say(f"model: {describe(model)}")
        phases = Phases([Phase(self.rows["train"], config.train.batch_size, config.train.micro_batch)])
        self.accelerator = accelerator
        return Run(
            config=config,
            folder=Path(config.output_dir),
            accelerator=accelerator,
            model=model,
            module=ObjectiveModule(model, objective),
            objective=objective,
            tokenizer=self.tokenizer,
            batches=train_batches(config, phases, objective.collate, accelerator),
            horizon=Horizon.of(config.train, phases),
            measure=lambda module, stop: self.score(module, "validation", stop),
            card=self._card,
            identity=run_identity(
                config,
                model,
                data=fingerprint([self.rows["train"]._fingerprint, len(self.rows["train"])]),
                tokenizer=tokenizer_fingerprint(self.tokenizer),
            ),
        )

    def train(self) -> dict[str, float]:
        """To the end of the budget; see `Run.train`."""
        return self.run.train()

    @torch.no_grad()
    def score(self, module: nn.Module, part: str, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """The task's metrics and the mean loss on `"validation"` or `"test"`, every row once, over all processes.

        Raises:
            Interrupted: `stop` said so, which every process asks before each batch.
        """
        accelerator = self.accelerator
        inner = accelerator.unwrap_model(module, keep_fp32_wrapper=True)
        was_training = inner.training
        inner.eval()
        model = _Once(inner.model)
        predictions, references, loss_sum, count = [], [], 0.0, 0
        for batch in self._batches(part, stop):
            count += self.objective.num_targets(batch)
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            with accelerator.autocast():
                loss_sum += self.objective.loss(model, batch)[0].item()
                found = self.objective.predictions(model, batch)
            predictions += found[0]
            references += found[1]
        inner.train(was_training)
        if accelerator.num_processes > 1:
            parts: list[Any] = [None] * accelerator.num_processes
            dist.all_gather_object(parts, (predictions, references, loss_sum, count))
            predictions = [p for part in parts for p in part[0]]
            references = [r for part in parts for r in part[1]]
            loss_sum, count = sum(part[2] for part in parts), sum(part[3] for part in parts)
        results: dict[str, Any] = {}
        for name in self.data.metrics:
            results |= METRICS[name]().compute(predictions=predictions, references=references)
        self.details = {key: value for key, value in results.items() if isinstance(value, dict)}
        scores = {key.removeprefix("overall_"): float(v) for key, v in results.items() if not isinstance(v, dict)}
        return scores | {"held_out_loss": loss_sum / max(1, count)}

    def _batches(self, part: str, stop: Callable[[], bool]) -> Iterator[Batch]:
        config, rows = self.config, self.rows[part]
        size = config.evaluation.batch_size
        most = config.evaluation.max_rows if part == "validation" else None
        shares = -(-len(held_out_rows(len(rows), most)) // self.accelerator.num_processes)
        batches = held_out_batches(
            rows,
            self.objective.collate,
            batch_size=size,
            max_rows=most,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        return console.until(stop, batches, math.ceil(shares / size), desc=f"evaluate {part}")

    def show(self) -> None:
        """Print the final numbers, the test set's too, and what plain transformers makes of a few validation rows."""
        run = self.run
        tables = [{"set": "validation", **run.results}]
        details = self.details
        if "test" in self.rows:
            test = self.score(run.module, "test")
            run.log.write("test", run.step, **test)
            tables.append({"set": "test", **test})
        console.say(format_table(tables))
        if details:
            console.say(format_table([{"type": name, **scores} for name, scores in details.items()]))
        if self.accelerator.is_main_process:
            predict = pipeline(self.objective.pipeline, str(run.folder), device="cpu")
            for row in list(self.data.validation.select(range(min(3, len(self.data.validation))))):
                console.say(f"  {_example(predict, self.data, row)}")
        console.say(f"done: {run.folder} is a model that transformers loads")
        run.close()

    def _card(self, facts: dict[str, Any]) -> str:
        config, data = self.config, self.data
        scores = {key: facts.pop(key) for key in self.run.results if key in facts}
        scores.pop("held_out_loss", None)
        return model_card(
            config.hub.repo_id or Path(config.output_dir).resolve().name,
            pipeline_tag=self.objective.pipeline,
            model=config.hub.repo_id or Path(config.output_dir).name,
            curves=facts.pop("curves", None),
            base_model=None if is_from_scratch(config.model) else config.model.name,
            metrics=[Metric(key, value, data.name, "validation") for key, value in scores.items()],
            facts={
                "labels": ", ".join(data.labels) if data.labels else None,
                "corpus": data.description,
                "train_rows": len(data.train),
                "objective": data.kind,
                "batch_size": config.train.batch_size,
                "row_length": config.max_length,
                "optimizer": config.optimizer.name,
                "lr": config.optimizer.lr,
                "schedule": config.schedule.name,
                "warmup": config.schedule.warmup,
                "weight_decay": config.optimizer.weight_decay,
                "max_grad_norm": config.optimizer.max_grad_norm,
                "precision": config.train.mixed_precision,
                "seed": config.seed,
                **facts,
            },
        )


def derive(config: FinetuneConfig, hidden: int, world_size: int, num_rows: int) -> None:
    """Fill in what the configuration left open, and say what was chosen and why.

    Args:
        config: is filled in.
        hidden: width of the model.
        world_size: processes.
        num_rows: training rows.
    """
    train = config.train
    if all(getattr(train, budget) is None for budget in ("steps", "tokens", "minutes", "epochs")):
        train.epochs = 3
        console.say("  epochs = 3 (the usual)")
    if config.optimizer.name is None:
        config.optimizer.name = "adamw"
    if config.optimizer.weight_decay is None:
        config.optimizer.weight_decay = WEIGHT_DECAY[config.optimizer.name]
    if config.optimizer.lr is None:
        config.optimizer.lr = min(2e-3, 31 / hidden**2)
        console.say(
            f"  lr = {config.optimizer.lr:.3g} (31 / width squared: the usual 5e-5 at 768, more for smaller models)"
        )
    if train.batch_size < world_size:
        raise UserError(f"--train.batch_size {train.batch_size} is smaller than the {world_size} processes")
    if train.micro_batch is None:
        train.micro_batch = math.ceil(train.batch_size / world_size)
    if train.workers is None:
        train.workers = 2 if training_device().type == "cuda" else 0
    if config.evaluation.every is None:
        config.evaluation.every = math.ceil(num_rows / train.batch_size)
        console.say(f"  evaluation.every = {config.evaluation.every:,} steps (an epoch)")
    if config.evaluation.batch_size is None:
        config.evaluation.batch_size = 2 * train.micro_batch


def _check_model_name(name: str | None) -> None:
    if name is None or presets.split_name(name):
        raise UserError("--model.name must be a trained model: a folder such as runs/mlm, or a Hub id")
    if name.startswith("runs/") and not Path(name, "config.json").exists():
        raise UserError(f"{name} holds no model yet; pretrain one (accelerate launch recipes/pretrain_mlm.py)")


class _Once(nn.Module):
    """Calls a model once a batch, though both its loss and its predictions are asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.last: tuple[torch.Tensor | None, Any] = (None, None)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if self.last[0] is not input_ids:
            self.last = (input_ids, self.model(input_ids=input_ids, **kwargs))
        return self.last[1]


def _example(predict: Any, data: LabelledData, row: dict[str, Any]) -> str:
    """One validation row, its true label and the prediction."""
    if data.kind == "tagging":
        found = predict(" ".join(row["tokens"]), aggregation_strategy="first")
        listed = ", ".join(f"{e['word'].strip()} ({e['entity_group']})" for e in found) or "none"
        truth = [
            f"{w} ({data.labels[t]})" for w, t in zip(row["tokens"], row["tags"], strict=True) if data.labels[t] != "O"
        ]
        return f"{' '.join(row['tokens'])[:100]}  ->  {listed}  (it was: {', '.join(truth) or 'none'})"
    texts = [row[column] for column in data.text_columns]
    inputs = {"text": texts[0], "text_pair": texts[1]} if len(texts) == 2 else texts[0]
    found = predict(inputs, truncation=True)
    found = found[0] if isinstance(found, list) else found
    truth = row["label"] if data.labels is None else data.labels[row["label"]]
    guess = f"{found['score']:.2f}" if data.labels is None else f"{found['label']} {found['score']:.0%}"
    return f"{' | '.join(t[:100] for t in texts)}  ->  {guess}  (it was: {truth})".replace("\n", " ")
