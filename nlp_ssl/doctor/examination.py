"""What the doctor examines: isolation of packed documents, parity of split batches, runs stopped and resumed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from accelerate import Accelerator

from nlp_ssl.config.common import (
    CheckpointConfig,
    EvaluationConfig,
    HubConfig,
    ResumeConfig,
    TrackingConfig,
    TrainConfig,
    plain,
    to_dict,
)
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.doctor.many_ranks import WORLDS, same_for_all
from nlp_ssl.doctor.proofs import isolation, parity
from nlp_ssl.models.checks import has_experts
from nlp_ssl.models.loading import dropouts
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.objective import PretrainingObjective, find_objective
from nlp_ssl.publishing.curves import read_log
from nlp_ssl.runs import pretraining, pretraining_data
from nlp_ssl.runs.folder import LOG_FILE
from nlp_ssl.runs.pretraining_data import Objective, PretrainingData
from nlp_ssl.training.optimizers import build_optimizer

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}  # what summing in another order may do to a few steps
TOKENS = 2048  # in a step of the proofs
ROWS = 1024  # in a step that as many processes share
Module = TypeVar("Module", bound=torch.nn.Module)
STEPS = 10  # of the runs that are stopped and resumed
RUN = "NLP_SSL_DOCTOR_RUN"  # set in a process that is one of these runs


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    question: str
    measured: str
    holds: bool


def examine(config: PretrainConfig, name: str | None = None) -> list[Finding]:
    """Everything, one after the other; the configuration's output folder is not touched.

    Args:
        config: of the objective's pretraining recipe.
        name: of the objective; by default the one that the model is usually trained with.
    """
    objective = _objective(config, name)
    config = pretraining_data.with_options_of(objective, config)
    with tempfile.TemporaryDirectory(prefix="nlp_ssl-doctor-") as folder:
        config.output_dir = f"{folder}/run"
        config.hub, config.tracking = HubConfig(), TrackingConfig()  # nothing of this is published
        data = pretraining_data.prepare(config, objective)
        config = data.resolved(config)
        findings = [
            *_apart(config, objective, data),
            *_split(config, objective, data),
            _many_ranks(config, objective, data),
            *_stopped(config, objective, Path(folder), data),
        ]
    return findings


def _objective(config: PretrainConfig, name: str | None) -> Objective:
    found = find_objective(name) if name else pretraining_data.infer_objective(config)
    return found.for_config(config)


def own_run(config: PretrainConfig, name: str | None = None) -> None:
    """One of the runs that are stopped and resumed, in this process."""
    objective = _objective(config, name)
    pretraining.start(config, objective, pretraining_data.prepare(config, objective)).train()


# ---------------------------------------------------------------------------------------------------------------------
# documents of a row do not see each other


def _apart(config: PretrainConfig, objective: Objective, data: PretrainingData) -> list[Finding]:
    if not data.isolated:
        return [Finding("documents apart", "one document a row: there is no other to see", True)]
    spread = np.unique(np.linspace(0, len(data.train) - 1, 2000).astype(int)).tolist()
    several = [row for row in spread if len(data.train.row_pieces(row)) > 1]
    several = several[:: max(1, len(several) // 4)][:4]
    if not several:
        return [Finding("documents apart", "no row holds two documents", True)]
    say(f"doctor: replacing documents in {len(several)} packed rows")
    found = isolation(_model(config, objective, data), data.train, several)
    pairs = f"{found.leaks} of {found.num_pairs} pairs changed a bit (longest document: {found.longest} tokens)"
    alone = f"logits differ by {found.alone:.0e} from stock attention on the document alone"
    # experts multiply what tokens of all documents are routed to them, and round as their number has it
    apart = found.leaks == 0 or has_experts(data.model_config)
    return [Finding("documents apart", pairs, apart), Finding("alone the same", alone, found.alone < 1e-4)]


def _model(config: PretrainConfig, objective: Objective, data: PretrainingData) -> PackedModel:
    return without_dropout(pretraining.packed_model(config, objective, data))


def without_dropout(model: Module) -> Module:
    """The same module, its dropout turned off."""
    for module in model.modules():  # a proof compares numbers that dropout would draw anew
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name or isinstance(module, torch.nn.Dropout)):
                setattr(module, name, 0.0)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# one batch = micro-batches of any size


def _split(config: PretrainConfig, objective: Objective, data: PretrainingData) -> list[Finding]:
    batch_size = min(16, max(4, TOKENS // config.tokens.sequence_length))
    sizes = sorted({batch_size, batch_size // 4, 3}, reverse=True)
    say(f"doctor: taking 3 steps of {batch_size} rows in micro-batches of {', '.join(map(str, sizes))}")
    # grouped products of experts have no float64
    dtype = torch.float32 if has_experts(data.model_config) else torch.float64
    streams = objective.streams(data.tokenizer, config, seed=config.seed)

    def make(micro_batch: int) -> tuple[PretrainingObjective, torch.optim.Optimizer, TrainBatches]:
        module = without_dropout(objective(_model(config, objective, data), data.tokenizer, config)).to(dtype)
        optimizer = build_optimizer(module, replace(config.optimizer, name="adamw", lr=1e-3))
        train = replace(config.train, global_batch_size=batch_size, micro_batch_size=micro_batch)
        phases = pretraining.plan(replace(config, phases=[], train=train), data, [], streams)
        return module, optimizer, TrainBatches(phases, streams[0].collator, seed=config.seed)

    differences = parity(make, sizes, Accelerator(cpu=True, mixed_precision="no"))
    return [
        Finding(
            f"micro-batches of {rows} = one of {sizes[0]}",
            f"loss {d.loss:.0e}, gradient {d.gradient:.0e}, weights {d.parameters:.0e} apart ({str(dtype)[6:]})",
            max(d.loss, d.gradient, d.parameters) < ROUNDING[dtype],
        )
        for rows, d in differences.items()
    ]


# ---------------------------------------------------------------------------------------------------------------------
# one process = a thousand


def _many_ranks(config: PretrainConfig, objective: Objective, data: PretrainingData) -> Finding:
    streams = objective.streams(data.tokenizer, config, seed=config.seed)
    train = replace(config.train, global_batch_size=ROWS, micro_batch_size=64)
    phases = pretraining.plan(replace(config, phases=[], train=train), data, [], streams)
    smallest = min(stream.batch_size for phase in phases.phases for stream in phase.streams)
    worlds = [world for world in WORLDS if world <= smallest] or [smallest]
    steps = sorted({0, len(data.train) // ROWS, 10_000_000})  # the second reads the end of an epoch
    listed = ", ".join(f"{world:,}" for world in worlds)
    say(f"doctor: the rows of {len(steps)} steps on {listed} processes, one after the other")

    def make(rank: int, world_size: int) -> TrainBatches:
        return TrainBatches(phases, streams[0].collator, seed=config.seed, rank=rank, world_size=world_size)

    differing = same_for_all(make, steps, worlds)
    where = "; ".join(f"step {step:,} on {world:,}" for step, world in differing)
    said = f"other rows, masks or targets: {where}" if differing else f"same rows, masks, targets in steps {steps}"
    return Finding(f"{listed} processes = 1", said, not differing)


# ---------------------------------------------------------------------------------------------------------------------
# stopped and resumed = never stopped: real runs, real signals


def _stopped(config: PretrainConfig, objective: Objective, folder: Path, data: PretrainingData) -> list[Finding]:
    batch_size = max(4, TOKENS // config.tokens.sequence_length)
    train = TrainConfig(steps=STEPS, global_batch_size=batch_size, log_every=1, micro_batch_size=batch_size)
    train.mixed_precision, train.cpu_threads = config.train.mixed_precision, 1
    short = replace(
        config,
        phases=[],
        train=train,
        evaluation=EvaluationConfig(every=STEPS, max_rows=8),
        checkpoint=CheckpointConfig(every=STEPS, keep_last=1),
        resume=ResumeConfig(),
    )
    say(f"doctor: {STEPS} steps of {batch_size} rows, three times: through, stopped and resumed, on 2 processes")
    whole, again, two = (folder / name for name in ("whole", "again", "two"))
    _go(short, objective, whole)
    at = _go(short, objective, again, stop_after=STEPS // 3)
    _go(short, objective, again, resume=True)
    same = _steps(again, "loss", "grad_norm", "lr", "digest") == _steps(whole, "loss", "grad_norm", "lr", "digest")
    weights = (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    bits = "log and weights the same bits" if same and weights else "log or weights differ"
    split = replace(short, train=replace(train, micro_batch_size=3), model=replace(config.model, dropout=0.0))
    if max(dropouts(data.model_config), default=0):  # another split draws other masks of dropout: both go without
        whole = folder / "whole-without-dropout"
        _go(replace(short, model=split.model), objective, whole)
    at_two = _go(split, objective, two, processes=2, stop_after=STEPS // 3)
    _go(replace(split, train=replace(train, workers=2)), objective, two, resume=True)
    digests = sum(a == b for a, b in zip(_steps(two, "digest"), _steps(whole, "digest"), strict=True))
    (one,), (other,) = _steps(whole, "loss")[0], _steps(two, "loss")[0]
    return [
        Finding(f"stopped at step {at}, resumed", bits, same and weights),
        Finding(
            f"2 processes, stopped at step {at_two}, then 1 with 2 workers",
            f"same rows and masks in {digests} of {STEPS} steps; first loss {abs(one - other) / one:.0e} apart",
            digests == STEPS and abs(one - other) / one < 1e-2,
        ),
    ]


def _go(
    config: PretrainConfig,
    objective: Objective,
    out: Path,
    *,
    processes: int = 1,
    resume: bool = False,
    stop_after: int | None = None,
) -> int | None:
    """A run in processes of its own; returns the step at which a SIGTERM stopped it, if it was to be stopped."""
    settings = out.with_name(f"{out.name}.yaml")
    named = replace(config, output_dir=str(out), resume=ResumeConfig(enabled=resume))
    known = {f.name for f in fields(objective.Config)}  # the doctor's own options may be those of another objective
    settings.write_text(
        yaml.safe_dump({name: v for name, v in plain(to_dict(named)).items() if name in known}), encoding="utf-8"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "nlp_ssl.doctor", "--config", str(settings)]
    command += ["--objective", objective.__module__.rpartition(".")[2]]
    environment = {**os.environ, RUN: "1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with open(out.with_name(f"{out.name}.txt"), "w+", encoding="utf-8") as printed:
        with subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.STDOUT) as process:
            try:
                while stop_after is not None and process.poll() is None:
                    if len(_steps(out, "step")) >= stop_after:
                        process.send_signal(signal.SIGTERM)
                        break
                    time.sleep(0.02)
                process.wait()
            except BaseException:
                process.terminate()
                raise
        status_file = out / "run_status.json"
        status = json.loads(status_file.read_text(encoding="utf-8")) if status_file.exists() else {}
        if status.get("status") != ("finished" if stop_after is None else "interrupted"):
            printed.seek(0)
            raise UserError(f"a run of the doctor's ended without result:\n{printed.read()[-3000:]}")
    return status["step"]


def _steps(out: Path, *names: str) -> list[tuple[Any, ...]]:
    """These values of every logged step."""
    if not (out / LOG_FILE).exists():
        return []
    lines = read_log(out / LOG_FILE)  # perhaps of a run that is just writing one
    return [tuple(line[name] for name in names) for line in lines if line["event"] == "step"]
