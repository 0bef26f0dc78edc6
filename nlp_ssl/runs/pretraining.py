"""One pretraining run on prepared rows, start to end: model, training, card, a look at the result."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig

from nlp_ssl.config.common import to_dict
from nlp_ssl.config.pretraining import MaskingConfig, MLMConfig, PhaseConfig, PretrainConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.data.sequences.batches import held_out_batches, held_out_rows
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.data.tokens.checksums import Verification
from nlp_ssl.evaluation.held_out import bits_per_byte, evaluate
from nlp_ssl.evaluation.samples import continue_texts, fill_masks
from nlp_ssl.models import presets
from nlp_ssl.models.checks import check_isolation, check_varlen
from nlp_ssl.models.loading import build_model, describe, is_from_scratch
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.models.varlen_attention import HALF
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.objective import ObjectiveModule
from nlp_ssl.publishing.card import model_card
from nlp_ssl.publishing.local_paths import hide
from nlp_ssl.runs.pretraining_data import AUTO_CLASS, Kind, PretrainingData
from nlp_ssl.runs.resuming import run_identity
from nlp_ssl.runs.run import Run
from nlp_ssl.training.device import DTYPES, make_accelerator, train_batches, training_device, why_not_compiled
from nlp_ssl.training.micro_batch import find_micro_batch
from nlp_ssl.training.optimizers import WEIGHT_DECAY
from nlp_ssl.training.schedules import Horizon

HELD_OUT_SEED = 0  # held-out masks are the same in every run, whatever its seed


# ---------------------------------------------------------------------------------------------------------------------
# how it learns


def derive(config: PretrainConfig, kind: Kind, model_config: PreTrainedConfig, world_size: int) -> None:
    """Fill in what the configuration left open, and say what was chosen and why."""
    train, optimizer, device = config.train, config.optimizer, training_device()
    gpu = device.type != "cpu"
    scratch = is_from_scratch(config.model)
    preset = presets.split_name(config.model.name)
    hidden, length = model_config.hidden_size, config.tokens.row_length
    chosen: list[tuple[str, Any, str]] = []

    def fill(part: Any, name: str, value: Any, why: str) -> None:
        if getattr(part, name) is None:
            setattr(part, name, value)
            section = next(f.name for f in dataclasses.fields(config) if getattr(config, f.name) is part)
            chosen.append((f"{section}.{name}", value, why))

    if all(getattr(train, budget) is None for budget in ("steps", "tokens", "minutes", "epochs")):
        fill(train, "minutes", 5.0, "a first look")
    tokens = (4096 if hidden <= 512 else 16_384) if not gpu else (65_536 if hidden <= 512 else 262_144)
    fill(train, "batch_size", max(world_size, tokens // length), f"{tokens:,} tokens a step for width {hidden}")
    at_once = tokens_at_once(model_config, kind, device)
    share = math.ceil(train.batch_size / world_size)
    fits = even_share(share, max(1, at_once // length))
    if train.micro_batch == "auto" and device.type != "cuda":
        train.micro_batch = None  # a CPU has no limit to be found
    fill(train, "micro_batch", fits, "changes memory and speed, not the result")
    why_not = why_not_compiled(device)
    if gpu:
        fill(train, "compile", why_not is None, why_not or "kernels made for this model and its shapes")
    for phase in config.phases:
        phase.batch_size = phase.batch_size or train.batch_size
    if (smallest := min([train.batch_size, *(phase.batch_size for phase in config.phases)])) < world_size:
        raise UserError(f"a batch of {smallest} rows is smaller than the {world_size} processes")
    fill(train, "workers", 2 if gpu else 0, "batches are made ahead on a GPU machine")
    family = presets.FAMILIES[preset[0]] if preset else None
    fill(optimizer, "name", family.optimizer if family else "adamw", f"for {config.model.name}")
    fill(optimizer, "weight_decay", WEIGHT_DECAY[optimizer.name], f"with {optimizer.name}")
    rate = (0.5 if scratch else 0.1) / hidden
    fill(optimizer, "lr", rate, f"{0.5 if scratch else 0.1} / width, {'from scratch' if scratch else 'going on'}")
    tried = train.micro_batch == "auto"
    fill(config.evaluation, "batch_size", fits if tried else train.micro_batch, "the micro-batch")
    for name, value, why in chosen:
        console.say(f"  {name} = {f'{value:.3g}' if isinstance(value, float) else value} ({why})")


def even_share(rows: int, fitting: int) -> int:
    """Rows of a micro-batch, at most so many, that split a batch into few and equal parts: into few shapes."""
    if fitting >= rows:
        return rows
    divisor = next(n for n in range(fitting, 0, -1) if rows % n == 0)
    return divisor if 2 * divisor > fitting else math.ceil(rows / math.ceil(rows / fitting))


def tokens_at_once(model_config: PreTrainedConfig, kind: Kind, device: torch.device) -> int:
    """Tokens whose forward and backward pass fit on a device: a rough rule of ours, on the safe side.

    Half of a GPU's memory, over the bytes that a token leaves for the backward pass: about 40 a layer and hidden unit,
    and 10 for every logit (bf16, its float32 copy, the gradient), of which a masked model has 15 % or so.
    """
    if device.type != "cuda":
        return 4096
    logits = model_config.vocab_size * (10 if kind == "clm" else 3)
    a_token = 40 * model_config.num_hidden_layers * model_config.hidden_size + logits
    return int(torch.cuda.get_device_properties(device).total_memory / 2 / a_token)


def start(config: PretrainConfig, kind: Kind, data: PretrainingData) -> Run:
    """Make the model and everything that training needs; nothing is written yet."""
    accelerator = make_accelerator(config)
    derive(config, kind, data.model_config, accelerator.num_processes)
    auto_class = AUTO_CLASS[kind]
    model = build_model(config.model, data.model_config, auto_class, isolated=data.isolated, seed=config.seed)
    console.say(f"model: {describe(model)}")
    packed_model = PackedModel(model, data.isolated)
    if data.isolated:
        difference = check_isolation(packed_model, len(data.tokenizer), config.tokens.row_length)
        console.say(f"packing: documents of a row cannot see each other; alone, logits differ by {difference:.0e}")
        packed_model.varlen = packed_model.pairwise is None and _use_varlen(config, model.config, accelerator)
    learning = build_objective(config, kind, data, config.seed, source=0)
    scoring = build_objective(config, kind, data, HELD_OUT_SEED, source=1)
    module = ObjectiveModule(packed_model, learning)
    if config.train.micro_batch == "auto":
        share = math.ceil(config.train.batch_size / accelerator.num_processes)
        found = find_micro_batch(module, data.train, learning.collate, share, accelerator)
        config.train.micro_batch = found
        console.say(f"  train.micro_batch = {found} (the largest that fits, found by trying)")
    phases = plan(config, data)
    verification = Verification()
    if accelerator.is_main_process:
        verification.start({k: v for rows in (*data.rows.values(), data.held_out) for k, v in rows.digests.items()})

    def measure(module: ObjectiveModule, stop: Callable[[], bool]) -> dict[str, float]:
        verification()
        rows = held_out_rows(len(data.held_out), config.evaluation.max_rows)
        held_out = held_out_batches(
            data.held_out,
            scoring.collate,
            batch_size=config.evaluation.batch_size,
            max_rows=config.evaluation.max_rows,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        total = math.ceil(len(rows) / accelerator.num_processes / config.evaluation.batch_size)
        result = evaluate(module, held_out, scoring.num_targets, accelerator, total, stop)
        if kind == "mlm":
            return {"held_out_loss": result.loss, "masked_accuracy": result.metrics["correct"] / result.num_targets}
        bits = bits_per_byte(result.metrics["text_loss_sum"], data.held_out.num_bytes(rows))
        return {"held_out_loss": result.loss, "perplexity": math.exp(min(result.loss, 100)), "bits_per_byte": bits}

    return Run(
        config=config,
        folder=Path(config.output_dir),
        accelerator=accelerator,
        model=model,
        module=module,
        objective=learning,
        tokenizer=data.tokenizer,
        batches=train_batches(config, phases, learning.collate, accelerator, check=verification),
        horizon=Horizon.of(config.train, phases),
        measure=measure,
        card=lambda facts: pretraining_card(config, kind, data, facts),
        reference={"unigram entropy": data.unigram},
        identity=run_identity(
            config,
            model,
            data=fingerprint(sorted(rows.fingerprint for rows in data.rows.values())),
            tokenizer=data.train.tokens.manifest["tokenizer"],
            files=data.files,
        ),
    )


def _use_varlen(config: PretrainConfig, model_config: PreTrainedConfig, accelerator: Accelerator) -> bool:
    """Whether documents are laid end to end in attention instead of masked: on a GPU that proves to be right at it."""
    device, dtype = accelerator.device, DTYPES[config.train.mixed_precision]
    if device.type != "cuda" or dtype not in HALF:
        return False
    right, found = check_varlen(model_config, config.tokens.row_length, dtype, device)
    console.say(f"attention: documents laid end to end, {found}" if right else f"attention: under a mask, as {found}")
    return right


def build_objective(
    config: PretrainConfig, kind: Kind, data: PretrainingData, seed: int, source: int
) -> MaskedLanguageModeling | CausalLanguageModeling:
    """What is asked of the model; `seed` and `source` decide the masks."""
    if kind == "mlm":
        masking = getattr(config, "masking", MaskingConfig())
        return MaskedLanguageModeling(MaskingCollator(data.tokenizer, masking, seed=seed, source=source))
    return CausalLanguageModeling(data.tokenizer, data.tokenizer.pad_token_id)


def _phase_collate(config: PretrainConfig, data: PretrainingData, phase: PhaseConfig) -> Callable | None:
    """How a phase that asks something else of the model makes its batches, or `None`."""
    if phase.causal:
        return CausalLanguageModeling(data.tokenizer, data.tokenizer.pad_token_id).collate
    if phase.mask_probability is None:
        return None
    assert isinstance(config, MLMConfig)  # `prepare` refuses such a phase in causal pretraining
    masking = dataclasses.replace(config.masking, probability=phase.mask_probability)
    return MaskedLanguageModeling(MaskingCollator(data.tokenizer, masking, seed=config.seed)).collate


def plan(config: PretrainConfig, data: PretrainingData) -> Phases:
    """The phases of a run; micro-batches of other rows hold as many tokens."""
    length = config.tokens.row_length
    tokens = config.train.micro_batch * length
    phases = [
        Phase(
            data.rows[phase.row_length],
            phase.batch_size,
            max(1, tokens // phase.row_length),
            phase.steps,
            _phase_collate(config, data, phase),
        )
        for phase in config.phases
    ]
    return Phases([*phases, Phase(data.train, config.train.batch_size, config.train.micro_batch)])


# ---------------------------------------------------------------------------------------------------------------------
# what came out


def pretraining_card(config: PretrainConfig, kind: Kind, data: PretrainingData, facts: dict[str, Any]) -> str:
    """The model card of a pretrained model at some step."""
    manifest, stats = data.train.tokens.manifest, data.train.stats
    loss = facts.pop("held_out_loss", None)
    facts.pop("masked_accuracy", None)
    return model_card(
        config.hub.repo_id or Path(config.output_dir).resolve().name,
        pipeline_tag={"mlm": "fill-mask", "clm": "text-generation"}[kind],
        model=config.hub.repo_id or Path(config.output_dir).name,
        curves=facts.pop("curves", None),
        base_model=None if is_from_scratch(config.model) else config.model.name,
        facts={
            "architecture": data.model_config.model_type,
            "preset": config.model.name if presets.split_name(config.model.name) else None,
            "layers": data.model_config.num_hidden_layers,
            "hidden_size": data.model_config.hidden_size,
            "vocab_size": data.model_config.vocab_size,
            "corpus": hide(data.description, to_dict(config)),
            "corpus_fingerprint": manifest["corpus"].split("/")[0],
            "documents": manifest["documents"],
            "corpus_tokens": manifest["tokens"],
            "corpus_bytes": manifest["bytes"],
            "held_out_documents": data.held_out.tokens.num_documents,
            "packing": str(stats),
            "objective": {"mlm": "masked language modelling", "clm": "causal language modelling"}[kind],
            "batch_size": config.train.batch_size,
            "row_length": config.tokens.row_length,
            "optimizer": config.optimizer.name,
            "lr": config.optimizer.lr,
            "muon_lr": config.optimizer.muon_lr if config.optimizer.name == "muon" else None,
            "schedule": config.schedule.name,
            "warmup": config.schedule.warmup,
            "weight_decay": config.optimizer.weight_decay,
            "max_grad_norm": config.optimizer.max_grad_norm,
            "precision": config.train.mixed_precision,
            "seed": config.seed,
            {"mlm": "masked_loss", "clm": "causal_loss"}[kind]: loss,
            "unigram_entropy": data.unigram,
            **facts,
        },
    )


def show(run: Run, data: PretrainingData, kind: Kind) -> None:
    """Print what the finished model makes of held-out text, through plain transformers, and end the run."""
    if run.accelerator.is_main_process:
        console.say(_headline(run.results, data, kind))
        look = fill_masks if kind == "mlm" else continue_texts
        for line in look(run.folder, data.held_out.tokens, data.tokenizer):
            console.say(f"  {line}")
    console.say(f"done: {run.folder} is a model that transformers loads")
    run.close()


def _headline(results: dict[str, float], data: PretrainingData, kind: Kind) -> str:
    """The result beside what a model without context (a unigram model of the training text) reaches."""
    found, reference, unit = results["held_out_loss"], data.unigram, "nats a masked token"
    if kind == "clm":
        manifest = data.held_out.tokens.manifest
        found, unit = results["bits_per_byte"], "bits a byte"
        reference = bits_per_byte(data.unigram * manifest["tokens"], manifest["bytes"])
    beaten = "below" if found < reference else "NOT below"
    return f"held-out loss {found:.3f} {unit}, {beaten} the {reference:.3f} of a model without context (unigram)"
