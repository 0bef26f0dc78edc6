"""One fine-tuning run, start to end: labelled data, a head on a pretrained model, training, metrics, a look at it."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, pipeline

from nlp_ssl.config.common import to_dict
from nlp_ssl.config.finetuning import FinetuneConfig, TransferConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.data.labelled.labelled_data import LabelledData, open_classification, open_tagging
from nlp_ssl.data.sequences.batches import held_out_rows
from nlp_ssl.data.sequences.length_batching import LengthBatching
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
from nlp_ssl.data.tokens.tokenizing import tokenizer_fingerprint
from nlp_ssl.evaluation.intervals import bootstrap, scorer
from nlp_ssl.evaluation.metrics import MAIN
from nlp_ssl.evaluation.predict import in_own_order, measure, predict
from nlp_ssl.evaluation.predictions import PREDICTIONS_FILE, example, worst_errors, write_predictions
from nlp_ssl.evaluation.tagger_readings import TaggerReadings, read_tagger
from nlp_ssl.models import presets
from nlp_ssl.models.loading import architecture, build_model, describe, find_config, is_from_scratch
from nlp_ssl.models.padding_free import unpad
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.label_matching import fit_head
from nlp_ssl.objectives.labelled import Prediction
from nlp_ssl.objectives.objective import ObjectiveModule
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.objectives.word_tokens import choose_reading
from nlp_ssl.publishing.card import Metric, model_card
from nlp_ssl.publishing.local_paths import hide
from nlp_ssl.publishing.plots import plot_confusion
from nlp_ssl.publishing.tables import format_table
from nlp_ssl.runs.resuming import run_identity
from nlp_ssl.runs.run import Run
from nlp_ssl.training.adapters import HIGHEST_LR, LR_FACTOR, add_adapters, check_peft
from nlp_ssl.training.device import make_accelerator, train_batches, training_device
from nlp_ssl.training.distributed import rank_zero_first
from nlp_ssl.training.layerwise import freeze
from nlp_ssl.training.optimizers import WEIGHT_DECAY
from nlp_ssl.training.schedules import Horizon

Task = Literal["classification", "ner"]
OVERHEAD = {"cpu": 256, "cuda": 4096}  # tokens that cost about as much as one more micro-batch
READ_BACK = 100  # validation sentences that plain transformers reads at the end of a tagger's run
FEWEST_STEPS, MOST_EPOCHS = 1000, 20  # small sets need more steps than the usual three epochs (Zhang et al. 2020)


@dataclass(frozen=True)
class Prepared:
    """A labelled task, read and tokenised: what the runs of all seeds share.

    Attributes:
        tokenizer: the model's.
        data: the task.
        objective: what is asked of the model.
        rows: tokenised, by set: `"train"`, `"validation"`, and `"test"` and `"hidden"` where there are any.
        model_config: the architecture, with the task's labels.
        keep_head: whether the model has a head of these labels; otherwise it gets a new one.
    """

    tokenizer: PreTrainedTokenizerFast
    data: LabelledData
    objective: Classification | Tagging
    rows: dict[str, Dataset]
    model_config: PreTrainedConfig
    keep_head: bool


def prepare(config: FinetuneConfig, task: Task) -> Prepared:
    """Open a labelled task and tokenise its rows.

    Raises:
        UserError: see `open_classification`, `open_tagging`, `load_tokenizer`, `architecture`, `fit_head`.
    """
    _check(config)
    tokenizer = load_tokenizer(config.model.name, config.model.revision)
    read = open_classification if task == "classification" else open_tagging
    data: LabelledData = rank_zero_first(lambda: read(config.data))
    console.say(f"data: {data.description}")
    keep_head = False
    if not is_from_scratch(config.model):
        stored = find_config(config.model.name, config.model.revision)
        auto_class = (Classification if task == "classification" else Tagging).auto_class
        data, keep_head = fit_head(config.model.name, stored, auto_class, data, config.head_labels)
    objective: Classification | Tagging
    if task == "classification":
        weights = _balanced_weights(data) if getattr(config, "class_weights", None) else None
        several = data.kind == "multilabel"
        objective = Classification(tokenizer, data.labels, data.text_columns, config.max_length, several, weights)
    else:
        reading = choose_reading(tokenizer, data.train["tokens"])
        objective = Tagging(tokenizer, data.names, config.max_length, reading)
    model_config = architecture(config.model, objective.auto_class, tokenizer, config.max_length, config.model.dropout)
    model_config.update(objective.config_kwargs())
    if pooling := getattr(config, "pooling", None):
        if not hasattr(model_config, "classifier_pooling"):
            raise UserError(f"--pooling {pooling}: {model_config.model_type} has one way to read a text, its own")
        model_config.classifier_pooling = pooling
    sets = {name: getattr(data, name) for name in ("train", "validation", "test", "hidden")}
    rows = rank_zero_first(lambda: {name: objective.prepare(part) for name, part in sets.items() if part is not None})
    return Prepared(tokenizer, data, objective, rows, model_config, keep_head)


class FinetuningRun:
    """One run on a labelled task.

    Args:
        config: passed by `check_run`; its open fields are filled in.
        task: from `prepare`.
    """

    def __init__(self, config: FinetuneConfig, task: Prepared) -> None:
        self.config, self.task = config, task
        self.readings: TaggerReadings | None = None
        self.accelerator = accelerator = make_accelerator(config)
        rows, objective = task.rows["train"], task.objective
        derive(config, task, accelerator.num_processes)
        model, padding = self._build_model(accelerator.device)
        freeze(model, config.transfer)
        console.say(f"model: {describe(model)}")
        if config.transfer.lora_rank is not None:
            add_adapters(model, config.transfer.lora_rank)
            learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
            console.say(f"adapters: {learnt / 1e6:.2f} M parameters are trained, head included (--transfer.lora_rank)")
        cut = LengthBatching(
            np.asarray(rows["length"][:]),
            capacity=config.train.micro_batch * config.max_length,
            overhead=OVERHEAD.get(accelerator.device.type, OVERHEAD["cuda"]),
            width=None if padding else task.model_config.hidden_size,
        )
        phases = Phases([Phase(rows, config.train.batch_size, config.train.micro_batch, cut=cut)])
        self.run = Run(
            config=config,
            folder=Path(config.output_dir),
            accelerator=accelerator,
            model=model,
            module=ObjectiveModule(model, objective),
            objective=objective,
            tokenizer=task.tokenizer,
            batches=train_batches(config, phases, objective.collate, accelerator),
            horizon=Horizon.of(config.train, phases),
            measure=self._evaluate,
            card=self._card,
            look=self._look,
            identity=run_identity(
                config,
                model,
                data=fingerprint([rows._fingerprint, len(rows)]),
                tokenizer=tokenizer_fingerprint(task.tokenizer),
            ),
        )

    def _build_model(self, device: torch.device) -> tuple[PreTrainedModel, bool]:
        """The model, and whether its rows are padded."""
        config, task = self.config, self.task
        auto_class, head = task.objective.auto_class, task.keep_head
        model = build_model(
            config.model, task.model_config, auto_class, isolated=False, seed=config.seed, keep_head=head
        )
        # on a GPU it would be a read a batch, and what it saves is not measured
        as_usual = device.type != "cpu" or config.train.compile or config.model.attention is not None
        difference = None if as_usual else unpad(model, config.max_length)
        if difference is not None:
            console.say(f"rows: laid end to end, without padding; logits differ by {difference:.0e} from padded rows")
        return model, difference is None

    def train(self) -> dict[str, float]:
        """To the end of the budget; see `Run.train`."""
        return self.run.train()

    def _evaluate(self, module: nn.Module, stop: Callable[[], bool]) -> dict[str, float]:
        predictions, loss = self.predict(module, "validation", stop)
        data = self.task.data
        return _numbers(measure(data.metrics, in_own_order(data, predictions)), loss)

    def _look(self, folder: Path) -> dict[str, Any]:
        """Let plain transformers read validation sentences with a finished tagger, beside what the run says of them."""
        objective, rows = self.task.objective, self.task.rows["validation"]
        if not isinstance(objective, Tagging):
            return {}
        looked_at = held_out_rows(len(rows), READ_BACK)
        chosen = [int(i) for i in looked_at if len(rows[int(i)]["labels"]) == 1]  # windows are the run's alone
        if not chosen:
            return {}
        found, _ = predict(
            self.run.module,
            rows.select(chosen),
            self.accelerator,
            batch_size=self.config.evaluation.batch_size,
            desc="read validation sentences",
        )
        if self.accelerator.is_main_process:
            sentences = self.task.data.validation.select(chosen)["tokens"][:]
            try:
                self.readings = read_tagger(folder, objective, sentences, found)
            except Exception as error:  # whatever plain transformers makes of the folder, the run is finished
                said = " ".join(str(error).split())[:200]
                console.warn(f"plain pipeline could not read the validation sentences ({type(error).__name__}: {said})")
        return {"readings": self.readings}

    def predict(
        self, module: nn.Module, part: str, stop: Callable[[], bool] = lambda: False
    ) -> tuple[list[Prediction], float]:
        """Predictions for a set and their mean loss; see `nlp_ssl.evaluation.predict.predict`."""
        return predict(
            module,
            self.task.rows[part],
            self.accelerator,
            batch_size=self.config.evaluation.batch_size,
            max_rows=self.config.evaluation.max_rows if part == "validation" else None,
            stop=stop,
            desc=f"evaluate {part}",
        )

    def show(self, *, last: bool = True) -> None:
        """Predict every row, print the final numbers, and let plain transformers read a few validation rows.

        Args:
            last: whether no other run follows in this process.
        """
        run, data, tables = self.run, self.task.data, []
        found: dict[str, list[Prediction]] = {}
        self.config.evaluation.max_rows = None
        for part in [part for part in ("validation", "test", "hidden") if part in self.task.rows]:
            found[part], loss = self.predict(run.module, part)
            if part == "hidden":
                continue
            measured = measure(data.metrics, in_own_order(data, found[part]))
            numbers = _numbers(measured, loss)
            tables.append({"set": part, **numbers, **_interval(data, found[part])})
            run.log.write(part, run.step, **numbers)
            if part == "validation":
                by_type = [{"type": name, **scores} for name, scores in measured.items() if isinstance(scores, dict)]
        console.say(format_table(tables))
        if by_type:
            console.say(format_table(by_type))
        if self.accelerator.is_main_process:
            write_predictions(run.folder / PREDICTIONS_FILE, data, found)
            self._show_errors(found["validation"])
            if run.publisher is not None and data.kind == "classification":  # the confusion matrix was not there before
                run.publisher.push(run.folder, message=f"Trained for {run.step:,} steps: confusion matrix")
                run.publisher.finish()
            self._show_readings()
            reader = pipeline(self.task.objective.pipeline, str(run.folder), device="cpu", trust_remote_code=False)
            for row in list(data.validation.select(range(min(3, len(data.validation))))):
                console.say(f"  {example(reader, data, row, self.task.objective)}")
        console.say(
            f"done: {run.folder} is a model that transformers loads; what it says of each row: {PREDICTIONS_FILE}"
        )
        run.close(last=last)

    def _show_readings(self) -> None:
        if (found := self.readings) is None:
            return
        console.say(f"{found.num_sentences} validation sentences, read by plain transformers from {self.run.folder}:")
        console.say(format_table(found.rows()))
        if found.why is not None:
            console.say(f"pipeline's {found.metric} is not the run's: {found.why}")

    def _show_errors(self, predictions: list[Prediction]) -> None:
        data, folder = self.task.data, self.run.folder
        errors = worst_errors(data, predictions)
        if errors:
            console.say("most wrong:")
            console.say(format_table(errors[:3]))
        replace(folder / "errors.jsonl", "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors))
        if data.kind == "classification":
            pairs = [(p.reference, p.predicted) for p in predictions if p.reference is not None]
            plot_confusion(pairs, data.names, folder / "confusion.png")

    def _card(self, facts: dict[str, Any]) -> str:
        config, data, objective = self.config, self.task.data, self.task.objective
        scores = {key: facts.pop(key) for key in self.run.results if key in facts}
        scores.pop("held_out_loss", None)
        readings: TaggerReadings | None = facts.pop("readings", None)
        return model_card(
            config.hub.repo_id or Path(config.output_dir).resolve().name,
            pipeline_tag=objective.pipeline,
            model=config.hub.repo_id or Path(config.output_dir).name,
            curves=facts.pop("curves", None),
            aggregation_strategy=getattr(objective, "reading", None),
            limits=[] if readings is None else [readings.advice()],
            base_model=None if is_from_scratch(config.model) else config.model.name,
            metrics=[
                Metric(key, value, hide(data.name, to_dict(config)), "validation") for key, value in scores.items()
            ],
            facts={
                "labels": ", ".join(data.labels) if data.labels else None,
                "corpus": hide(data.description, to_dict(config)),
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
                "lora_rank": config.transfer.lora_rank,
                **facts,
            },
        )


def derive(config: FinetuneConfig, task: Prepared, world_size: int) -> None:
    """Fill in what the configuration left open, and say what was chosen and why.

    Args:
        config: is filled in.
        task: what is learnt.
        world_size: processes.
    """
    train, hidden = config.train, task.model_config.hidden_size
    an_epoch = math.ceil(len(task.rows["train"]) / train.batch_size)
    if all(getattr(train, budget) is None for budget in ("steps", "tokens", "minutes", "epochs")):
        train.epochs = max(3, min(MOST_EPOCHS, math.ceil(FEWEST_STEPS / an_epoch)))
        why = "the usual" if train.epochs == 3 else "a small set needs more than the usual 3"
        console.say(f"  epochs = {train.epochs} ({why})")
    if config.optimizer.name is None:
        config.optimizer.name = "adamw"
    if config.optimizer.weight_decay is None:
        config.optimizer.weight_decay = WEIGHT_DECAY[config.optimizer.name]
    if config.optimizer.lr is None:
        config.optimizer.lr = min(2e-3, 31 / hidden**2)
        console.say(
            f"  lr = {config.optimizer.lr:.3g} (31 / width squared: the usual 5e-5 at 768, more for smaller models)"
        )
        if config.transfer.lora_rank is not None:
            config.transfer.head_lr = config.transfer.head_lr or config.optimizer.lr
            config.optimizer.lr = min(HIGHEST_LR, LR_FACTOR * config.optimizer.lr)
            why = f"{LR_FACTOR} times as much, {HIGHEST_LR:g} at most"
            console.say(f"  lr of the adapters = {config.optimizer.lr:.3g} ({why})")
    if train.batch_size < world_size:
        raise UserError(f"--train.batch_size {train.batch_size} is smaller than the {world_size} processes")
    if train.micro_batch in (None, "auto"):
        train.micro_batch = math.ceil(train.batch_size / world_size)
    if train.workers is None:
        train.workers = 2 if training_device().type == "cuda" else 0
    if config.evaluation.every is None:
        config.evaluation.every = an_epoch
        console.say(f"  evaluation.every = {an_epoch:,} steps (an epoch)")
    if config.evaluation.batch_size is None:
        config.evaluation.batch_size = 2 * train.micro_batch
    if config.evaluation.metric is None:
        config.evaluation.metric = MAIN.get(task.data.metrics[0], task.data.metrics[0])


def _check(config: FinetuneConfig) -> None:
    name, transfer = config.model.name, config.transfer
    if name is None or presets.split_name(name):
        raise UserError("--model.name must be a trained model: a folder such as runs/mlm, or a Hub id")
    if name.startswith("runs/") and not Path(name, "config.json").exists():
        raise UserError(f"{name} holds no model yet; pretrain one (accelerate launch recipes/pretrain_mlm.py)")
    if not 0 < transfer.layer_decay <= 1:
        raise UserError(f"--transfer.layer_decay is {transfer.layer_decay}; it must be above 0 and at most 1")
    if transfer.lora_rank is not None:
        if transfer.lora_rank < 1 or transfer.unfreeze != "at_once":
            raise UserError(
                f"--transfer.lora_rank is {transfer.lora_rank}; it must be at least 1, with unfreeze at_once"
            )
        check_peft()
    if config.optimizer.name == "muon" and transfer != TransferConfig():
        raise UserError("the options of --transfer need --optimizer.name adamw")


def _balanced_weights(data: LabelledData) -> list[float]:
    """As many rows as an even split would give a class, over the rows that it has; of mean 1 over the rows."""
    if data.kind != "classification":
        raise UserError(f"--class_weights balanced is for one class a row; this is {data.kind}")
    counts = Counter(data.train["label"])
    return [len(data.train) / (len(counts) * max(1, counts[i])) for i in range(len(data.names))]


def _numbers(measured: dict[str, Any], loss: float) -> dict[str, float]:
    """The metrics of a set, without those by entity type, and the mean loss."""
    return {k: float(v) for k, v in measured.items() if not isinstance(v, dict)} | {"held_out_loss": loss}


def _interval(data: LabelledData, predictions: list[Prediction]) -> dict[str, str]:
    """The main metric's 95 % interval over other rows of this number."""
    metric = data.metrics[0]
    known = [p for p in in_own_order(data, predictions) if p.reference is not None]
    one = scorer(metric, [p.predicted for p in known], [p.reference for p in known])
    low, high = bootstrap([one], len(known))
    return {f"95 % of {MAIN.get(metric, metric)}": f"{low:.4f} - {high:.4f}"}
