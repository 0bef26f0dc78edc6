"""How long until a held-out loss: this project's default recipe, and a Trainer on the same text and tokenizer."""

import json
import statistics
import tempfile
import time
from dataclasses import replace
from typing import Any

from transformers import set_seed

from nlp_ssl.benchmarks import contenders
from nlp_ssl.benchmarks.settings import BenchmarkConfig
from nlp_ssl.config.common import ModelConfig
from nlp_ssl.core.console import say
from nlp_ssl.data.sequences.batches import held_out_batches
from nlp_ssl.evaluation.held_out import evaluate
from nlp_ssl.models.loading import architecture
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.runs import pretraining, pretraining_data, resolve
from nlp_ssl.runs.pretraining import HELD_OUT_SEED
from nlp_ssl.runs.pretraining_data import Objective, PretrainingData
from nlp_ssl.training.device import make_accelerator

Curve = list[tuple[float, float]]  # (seconds of training, held-out loss)
WARM_UP = 6  # steps that show how long one takes


def compare_losses(config: BenchmarkConfig) -> dict[str, Any]:
    """Seconds of training (evaluations not counted) until a held-out loss of `target`.

    This project runs first, to the end of its budget; a Trainer is given `patience` times the seconds that it took, its
    learning rate falling linearly to 0 over as many steps as fit. Both are measured on the same masked rows, the
    Trainer with its own attention.
    """
    objective = pretraining_data.infer_objective(config)
    data = pretraining_data.prepare(config, objective)
    config = resolve.pretraining(resolve.precision(data.resolved(config)), objective, data.model_config, world_size=1)
    curves = {"nlp_ssl": _ours(config, objective, data)}
    reached = _reaches(curves["nlp_ssl"], config.target)
    if reached:
        for name in config.against:
            curves[name] = _trainer(name, config, objective, data, config.patience * reached)
    measured = {
        "target": config.target,
        "curves": curves,
        "seconds": {n: _reaches(c, config.target) for n, c in curves.items()},
    }
    notes = ["seconds of training on the same text, tokenizer and masked held-out rows; evaluations are not counted"]
    return measured | {"rows": _table(measured), "notes": notes}


def _table(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What a person reads of it."""
    own = measured["seconds"]["nlp_ssl"]
    rows = []
    for name, curve in measured["curves"].items():
        seconds, last = measured["seconds"][name], curve[-1][0]
        ratio = f"{seconds / own:.1f}" if seconds and own else f"> {last / own:.1f}" if own else "-"
        found = {f"seconds to {measured['target']}": round(seconds) if seconds else f"not in {last:.0f}"}
        rows.append({"": name, **found, "lowest loss": min(loss for _, loss in curve), "times ours": ratio})
    return rows


def _reaches(curve: Curve, target: float) -> float | None:
    return next((seconds for seconds, loss in curve if loss <= target), None)


def _ours(config: BenchmarkConfig, objective: Objective, data: PretrainingData) -> Curve:
    with tempfile.TemporaryDirectory() as folder:
        run = pretraining.start(replace(config, output_dir=f"{folder}/run"), objective, data)
        run.train()
        lines = [json.loads(line) for line in run.log.path.read_text(encoding="utf-8").splitlines()]
        run.close()
    elapsed = {line["step"]: line["seconds"] for line in lines if line["event"] == "step"} | {0: 0.0}
    # the run's clock keeps running while it evaluates, but for the evaluation before the first step
    curve, evaluating = [], 0.0
    for line in lines:
        if line["event"] == "evaluation" and line["step"] in elapsed:
            curve.append((elapsed[line["step"]] - evaluating, line["held_out_loss"]))
            evaluating += line["seconds"] if line["step"] else 0.0
    return curve


def _trainer(name: str, config: BenchmarkConfig, objective: Objective, data: PretrainingData, limit: float) -> Curve:
    """A Trainer's held-out losses, until it reaches the target or its time is over."""
    model_config = data.model_config
    if config.trainer_model:
        chosen = ModelConfig(name=config.trainer_model, overrides=config.model.overrides)
        dropout = None if name == "script" else 0.0
        model_config = architecture(chosen, objective.auto_class, data.tokenizer, data.train.sequence_length, dropout)
    scoring = objective.collator(data.tokenizer, config, seed=HELD_OUT_SEED, source=1)
    accelerator = make_accelerator(config)

    def attempt(max_steps: int, until: float, curve: Curve) -> list[float]:
        """Seconds of every step; fills the curve."""
        set_seed(config.seed)
        model = contenders.trainer_model(config, objective, model_config)
        module = objective(PackedModel(model, isolated=False), data.tokenizer, config)
        steps, state = [], {"begun": time.perf_counter(), "elapsed": 0.0, "next": 0.0}

        def on_step() -> bool:
            steps.append(time.perf_counter() - state["begun"])
            state["elapsed"] += steps[-1]
            if len(steps) > WARM_UP and (state["elapsed"] >= state["next"] or state["elapsed"] >= until):
                batches = held_out_batches(data.held_out, scoring, batch_size=32, max_rows=256)
                found = evaluate(module, batches, accelerator, 8)
                loss = module.evaluate(found.sums, found.counts, 1.0)["held_out_loss"]
                curve.append((state["elapsed"], loss))
                say(f"Trainer, {name}: {state['elapsed']:.0f} s, step {len(steps)}: held-out loss {loss:.3f}")
                state["next"] = state["elapsed"] + until / 40
            state["begun"] = time.perf_counter()
            return state["elapsed"] < until and not (curve and curve[-1][1] <= config.target)

        arguments = contenders.trainer_arguments(
            name, config, max_steps=max_steps, learning_rate=config.trainer_lr, warmup_steps=0.05 * max_steps
        )
        contenders.trainer(arguments, model, objective, data, contenders.TakesTurns(on_step)).train()
        return steps

    seconds = statistics.median(attempt(WARM_UP, 10**9, [])[2:])
    curve: Curve = []
    attempt(max(10, int(limit / seconds)), limit, curve)
    return curve or [(limit, float("inf"))]
