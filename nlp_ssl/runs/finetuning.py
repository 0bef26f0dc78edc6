"""One fine-tuning run, start to end: labelled data, a head on a pretrained model, training, metrics, a look at it."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, pipeline
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from nlp_ssl.config.common import flatten, plain, to_dict
from nlp_ssl.config.finetuning import FinetuneConfig, TransferConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import replace
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.core.invocation import command_of
from nlp_ssl.data.labelled.detokenize import as_written
from nlp_ssl.data.labelled.labelled_data import LabelledData
from nlp_ssl.data.labelled.sources import TASKS
from nlp_ssl.data.sequences.batches import held_out_rows
from nlp_ssl.data.sequences.length_batching import LengthBatching
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.data.text.languages import languages
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
from nlp_ssl.data.tokens.tokenizer_audit import UnknownText, sample_of
from nlp_ssl.data.tokens.tokenizing import tokenizer_fingerprint
from nlp_ssl.evaluation.intervals import bootstrap, scorer
from nlp_ssl.evaluation.metrics import MAIN
from nlp_ssl.evaluation.predict import in_own_order, measure, predict
from nlp_ssl.evaluation.predictions import worst_errors, write_predictions
from nlp_ssl.evaluation.tagger_readings import TaggerReadings, read_tagger
from nlp_ssl.models import presets
from nlp_ssl.models.loading import (
    architecture,
    build_model,
    describe,
    find_config,
    is_from_scratch,
    longest_input,
    models_beside,
)
from nlp_ssl.models.padding_free import unpad
from nlp_ssl.objectives.label_matching import fit_head
from nlp_ssl.objectives.labelled import LabelledCollator, LabelledObjective, Prediction
from nlp_ssl.objectives.tagging import TaggingCollator
from nlp_ssl.publishing.card import Metric
from nlp_ssl.publishing.local_paths import hide
from nlp_ssl.publishing.plots import plot_confusion
from nlp_ssl.publishing.tables import format_table, is_number
from nlp_ssl.reports.record import ERRORS_FILE, PREDICTIONS_FILE, RunFacts
from nlp_ssl.runs import resolve
from nlp_ssl.runs.card_facts import again, body, detected, names, procedure
from nlp_ssl.runs.ending import card_of, write_card
from nlp_ssl.runs.folder import text_mode
from nlp_ssl.runs.reporting import changed, histogram
from nlp_ssl.runs.resuming import run_identity
from nlp_ssl.runs.run import Run
from nlp_ssl.training.adapters import add_adapters, check_peft
from nlp_ssl.training.device import evaluating, make_accelerator, train_batches
from nlp_ssl.training.distributed import rank_zero_first
from nlp_ssl.training.layerwise import freeze
from nlp_ssl.training.schedules import Horizon

OVERHEAD = {"cpu": 256, "cuda": 4096}  # tokens that cost about as much as one more micro-batch
FEW = 100  # rows whose scores are worth a warning
READ_BACK = 100  # validation sentences that plain transformers reads at the end of a tagger's run


@dataclass(frozen=True)
class Prepared:
    """A labelled task, read and tokenised: what the runs of all seeds share.

    Attributes:
        tokenizer: the model's.
        data: the task.
        objective: trains the model.
        collator: reads the task's rows.
        rows: tokenised, by set: `"train"`, `"validation"`, and `"test"` and `"hidden"` where there are any.
        model_config: the architecture, with the task's labels.
        keep_head: whether the model has a head of these labels; otherwise it gets a new one.
        spoken: shares of the languages of the texts, on rank 0.
    """

    tokenizer: PreTrainedTokenizerFast
    data: LabelledData
    objective: type[LabelledObjective]
    collator: LabelledCollator
    rows: dict[str, Dataset]
    model_config: PreTrainedConfig
    keep_head: bool
    spoken: dict[str, float]


def prepare(config: FinetuneConfig, objective: type[LabelledObjective]) -> Prepared:
    """Open a labelled task and tokenize its rows.

    Args:
        config: of the run.
        objective: reads the rows, and trains the model.

    Raises:
        UserError: see `open_classification`, `open_tagging`, `load_tokenizer`, `architecture`, `fit_head`.
    """
    _check(config)
    stored = find_config(config.model.name, config.model.revision)  # a broken one is named before its tokenizer is
    tokenizer = load_tokenizer(config.model.name, config.model.revision)
    data = rank_zero_first(lambda: objective.read(config.data))
    console.say(f"data: {data.description}")
    spoken: dict[str, float] = {}
    if console.rank() == 0:
        texts = list(_some_texts(data))
        UnknownText.of(tokenizer, texts).say()
        spoken = languages(texts)
    keep_head = False
    if not is_from_scratch(config.model):
        data, keep_head = fit_head(config.model.name, stored, objective.auto_class, data, config.head_labels)
    model_config = architecture(config.model, objective.auto_class, tokenizer, 1, config.model.dropout)
    # saved with the model, so that whoever lets the tokenizer cut gets what the model can read
    tokenizer.model_max_length = longest_input(tokenizer, model_config) or VERY_LARGE_INTEGER
    collator = objective.reader(tokenizer, data, config)
    model_config.update(collator.config_kwargs())
    objective.adapt(model_config, config)
    sets = {name: getattr(data, name) for name in ("train", "validation", "test", "hidden")}
    rows = rank_zero_first(lambda: {n: collator.tokenize(part, n) for n, part in sets.items() if part is not None})
    return Prepared(tokenizer, data, objective, collator, rows, model_config, keep_head, spoken)


def _some_texts(data: LabelledData) -> list[str]:
    """Of training rows, as they are written."""
    values = (row[column] for row in sample_of(data.train) for column in data.text_columns)
    return [as_written(value)[0] if isinstance(value, list) else value for value in values]


def start(config: FinetuneConfig, task: Prepared) -> Run:
    """Make the model and everything that training needs; nothing is written yet.

    Args:
        config: passed by `check_run`.
        task: from `prepare`.
    """
    asked = flatten(plain(to_dict(config)))
    config = resolve.precision(resolve.implied(config))
    accelerator = make_accelerator(config)
    rows = task.rows["train"]
    metric = MAIN.get(task.data.metrics[0], task.data.metrics[0])
    processes, hidden = accelerator.num_processes, task.model_config.hidden_size
    config = resolve.finetuning(config, len(rows), hidden, metric, processes)
    model, padding = _build_model(config, task, accelerator.device)
    freeze(model, config.transfer)
    console.say(f"model: {describe(model)}")
    if config.transfer.lora_rank is not None:
        add_adapters(model, config.transfer.lora_rank)
        learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
        console.say(f"adapters: {learnt / 1e6:.2f} M parameters are trained, head included (--transfer.lora_rank)")
    cut = LengthBatching(
        np.asarray(rows["length"][:]),
        capacity=config.train.micro_batch_size * config.max_length,
        overhead=OVERHEAD.get(accelerator.device.type, OVERHEAD["cuda"]),
        width=None if padding else task.model_config.hidden_size,
    )
    phases = Phases([Phase(rows, config.train.global_batch_size, config.train.micro_batch_size, cut=cut)])

    def evaluate(module: nn.Module, stop: Callable[[], bool]) -> dict[str, float]:
        rows = config.evaluation.max_rows
        predictions, loss = predict_set(module, task, "validation", accelerator, config, stop=stop, max_rows=rows)
        return _numbers(measure(task.data.metrics, in_own_order(task.data, predictions)), loss)

    horizon = Horizon.of(config.train, phases)
    return Run(
        config=config,
        folder=Path(config.output_dir),
        accelerator=accelerator,
        objective=task.objective.over(model, task.collator, task.data, config),
        tokenizer=task.tokenizer,
        batches=train_batches(config, phases, task.collator, accelerator),
        horizon=horizon,
        measure=evaluate,
        card=partial(finetuning_card, config, task, horizon),
        look=partial(_read_back, config, task, accelerator),
        about=_about(asked, config, task),
        transfer=config.transfer,
        identity=run_identity(
            config,
            model,
            data=fingerprint([rows._fingerprint, len(rows)]),
            tokenizer=tokenizer_fingerprint(task.tokenizer),
            lora_rank=config.transfer.lora_rank,
        ),
    )


def _build_model(config: FinetuneConfig, task: Prepared, device: torch.device) -> tuple[PreTrainedModel, bool]:
    """The model, and whether its rows are padded."""
    auto_class, head = task.objective.auto_class, task.keep_head
    model = build_model(config.model, task.model_config, auto_class, isolated=False, seed=config.seed, keep_head=head)
    # on a GPU it would be a read a batch, and what it saves is not measured
    as_usual = device.type != "cpu" or config.train.compile or config.model.attention is not None
    difference = None if as_usual else unpad(model, config.max_length)
    if difference is not None:
        console.say(f"rows: laid end to end, without padding; logits differ by {difference:.0e} from padded rows")
    return model, difference is None


def predict_set(
    module: nn.Module, task: Prepared, part: str, accelerator: Accelerator, config: FinetuneConfig, **more: Any
) -> tuple[list[Prediction], float]:
    """Predictions for a set and their mean loss; see `nlp_ssl.evaluation.predict.predict`, which `more` is given to."""
    size = config.evaluation.batch_size
    with evaluating(config):
        return predict(module, task.rows[part], accelerator, batch_size=size, desc=f"evaluate {part}", **more)


# ---------------------------------------------------------------------------------------------------------------------
# what came out


def _read_back(
    config: FinetuneConfig, task: Prepared, accelerator: Accelerator, module: nn.Module, folder: Path
) -> dict[str, Any]:
    """Let plain transformers read validation sentences with a finished tagger, beside what the run says of them."""
    collator, rows = task.collator, task.rows["validation"]
    if not isinstance(collator, TaggingCollator):
        return {}
    looked_at = held_out_rows(len(rows), READ_BACK)
    chosen = [int(i) for i in looked_at if len(rows[int(i)]["labels"]) == 1]  # windows are the run's alone
    if not chosen:
        return {}
    size = config.evaluation.batch_size
    with evaluating(config):
        found, _ = predict(module, rows.select(chosen), accelerator, batch_size=size, desc="read validation sentences")
    readings = None
    if accelerator.is_main_process:
        sentences = task.data.validation.select(chosen)["tokens"][:]
        try:
            readings = read_tagger(folder, collator, sentences, found)
        except Exception as error:  # whatever plain transformers makes of the folder, the run is finished
            said = " ".join(str(error).split())[:200]
            console.warn(f"plain pipeline could not read the validation sentences ({type(error).__name__}: {said})")
    return {"readings": readings}


def show(run: Run, task: Prepared, *, last: bool = True) -> None:
    """Predict every row, print the final numbers, let plain transformers read a few validation rows, and end the run.

    Args:
        run: trained.
        task: its task.
        last: whether no other run follows in this process.
    """
    config, data, tables, by_type = run.config, task.data, [], []
    assert isinstance(config, FinetuneConfig)
    found: dict[str, list[Prediction]] = {}
    for part in [part for part in ("validation", "test", "hidden") if part in task.rows]:
        found[part], loss = predict_set(run.module, task, part, run.accelerator, config)
        if part == "hidden":
            continue
        measured = measure(data.metrics, in_own_order(data, found[part]))
        numbers = _numbers(measured, loss)
        tables.append({"set": part, **numbers, **_interval(data, found[part])})
        run.log.write(part, run.state.step, **numbers)
        _say_if_few(part, len(task.rows[part]))
        by_type += [{"set": part, "type": name, **each} for name, each in measured.items() if isinstance(each, dict)]
    console.say(format_table(tables))
    if by_type:
        console.say(format_table(by_type))
    if run.accelerator.is_main_process:
        mode = text_mode(config)
        write_predictions(run.folder / PREDICTIONS_FILE, data, found, mode)
        _show_errors(run.folder, data, found["validation"], mode)
        run.seen["scores"] = tables
        write_card(run.folder, card_of(run))
        if run.publisher is not None:  # scores of all rows, and a confusion matrix, were not there before
            run.publisher.push(run.folder, message=f"Trained for {console.counted(run.state.step, 'step')}: scores")
            run.publisher.finish()
        _show_readings(run.seen.get("readings"), run.folder)
        with console.optional("what plain transformers says of the first rows"):
            reader = pipeline(task.objective.card.pipeline_tag, str(run.folder), device="cpu", trust_remote_code=False)
            for row in list(data.validation.select(range(min(3, len(data.validation))))):
                console.say(f"  {task.objective.show(reader, data, row, task.collator)}")
    run.about.scores = tables
    run.close(last=last)
    console.say(f"done: {run.folder} is a model that transformers loads; what it says of each row: {PREDICTIONS_FILE}")


def _say_if_few(part: str, rows: int) -> None:
    """Say how little the scores of a small set are worth: twice the standard error of a share of one half."""
    if rows < FEW:
        points = 100 / math.sqrt(rows)
        few = console.counted(rows, f"{part} row")
        console.warn(f"only {few}: a share such as accuracy may be {points:.0f} points off by chance")


def _show_errors(folder: Path, data: LabelledData, predictions: list[Prediction], mode: int) -> None:
    errors = worst_errors(data, predictions)
    if errors:
        console.say("most wrong of the validation set:")
        console.say(format_table(errors[:3], width=max(80, shutil.get_terminal_size((120, 24)).columns)))
    replace(folder / ERRORS_FILE, "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors), mode)
    if data.kind.exclusive:
        pairs = [(p.reference, p.predicted) for p in predictions if p.reference is not None]
        plot_confusion(pairs, data.names, folder / "confusion.png")


def _about(asked: dict[str, Any], config: FinetuneConfig, task: Prepared) -> RunFacts:
    """What a run's report says of it; `asked` are its options before they were resolved."""
    text = task.objective.about(task.collator)
    return RunFacts(
        program=text.recipe,
        what=text.what,
        mode=text_mode(config),
        settings=flatten(plain(to_dict(config))),
        changed=changed(asked, config),
        results=dict(text.results),
        metrics={MAIN.get(name, name): "max" for name in task.data.metrics},
        lengths=histogram(np.asarray(task.rows["train"]["length"][:])),
    )


def finetuning_card(config: FinetuneConfig, task: Prepared, horizon: Horizon, facts: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `model_card` for a fine-tuned model at some step."""
    data, text = task.data, task.objective.about(task.collator)
    results = facts.pop("results")
    readings: TaggerReadings | None = facts.pop("readings", None)
    dataset = hide(data.name, to_dict(config))
    return dict(
        **names(config, task.spoken, [TASKS[data.name].path if data.name in TASKS else data.name]),
        text=text,
        again=again(config, text.recipe, horizon),
        limits=[] if readings is None else [readings.advice()],
        metrics=[
            Metric(key, value, dataset, numbers["set"])
            for numbers in facts.pop("scores", None) or [{"set": "validation", **results}]
            for key, value in numbers.items()
            if is_number(value) and key != "held_out_loss"
        ],
        facts={
            **body(task.model_config),
            "labels": ", ".join(data.labels) if data.labels else None,
            "corpus": hide(data.description, to_dict(config)),
            "languages": detected(task.spoken),
            "train_rows": len(data.train),
            "objective": data.kind.name,
            **procedure(config, config.max_length),
            "lora_rank": config.transfer.lora_rank,
            **facts,
        },
    )


def _check(config: FinetuneConfig) -> None:
    name, transfer = config.model.name, config.transfer
    if name is None or presets.split_name(name):
        raise UserError("--model.name must be a trained model: a folder such as runs/mlm, or a Hub id")
    if name.startswith("runs/") and not Path(name, "config.json").exists():
        advice = models_beside(Path(name)) or f"; pretrain one (`{command_of('pretrain_mlm')}`)"
        raise UserError(f"{name} holds no model yet{advice}")
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


def _show_readings(found: TaggerReadings | None, folder: Path) -> None:
    if found is None:
        return
    console.say(
        f"{console.counted(found.num_sentences, 'validation sentence')}, read by plain transformers from {folder}:"
    )
    console.say(format_table(found.rows()))
    if found.why is not None:
        console.say(f"pipeline's {found.metric} is not the run's: {found.why}")


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
