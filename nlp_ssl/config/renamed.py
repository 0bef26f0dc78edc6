"""Options that had another name, or have another one in transformers: who gives it reads ours, and older checkpoints
are read."""

import re
from collections.abc import Container
from typing import Any

# the old name -> the new one
RENAMED = {
    "tokens.row_length": "tokens.sequence_length",
    "train.batch_size": "train.global_batch_size",
    "train.micro_batch": "train.micro_batch_size",
}
# of an entry of `phases`
RENAMED_OF_PHASES = {"row_length": "sequence_length", "batch_size": "global_batch_size", "causal": "objective"}

# the name in the scripts and TrainingArguments of transformers -> ours; the first whose options the recipe has
IN_TRANSFORMERS: dict[str, tuple[str, ...]] = {
    "model_name_or_path": ("--model.name",),
    "model_type": ("--model.name",),
    "config_name": ("--model.name",),
    "config_overrides": ("--model.overrides",),
    "model_revision": ("--model.revision",),
    "attn_implementation": ("--model.attention",),
    "tokenizer_name": ("--tokenizer.path",),
    "dataset_name": ("--data.sources", "--data.task"),
    "task_name": ("--data.task", "--tasks"),
    "dataset_config_name": ("--data.subset",),
    "dataset_revision": ("--data.revision",),
    "train_file": ("--data.sources", "--data.train_file"),
    "validation_file": ("--data.held_out", "--data.validation_file"),
    "test_file": ("--data.test_file",),
    "validation_split_percentage": ("--data.held_out_fraction",),
    "text_column_name": ("--data.text_column", "--data.tokens_column"),
    "text_column_names": ("--data.text_columns",),
    "label_column_name": ("--data.label_column",),
    "max_train_samples": ("--data.max_train", "--max_train"),
    "max_eval_samples": ("--evaluation.max_rows",),
    "line_by_line": ("--data.txt_documents line",),
    "max_seq_length": ("--tokens.sequence_length", "--max_length"),
    "block_size": ("--tokens.sequence_length", "--max_length"),
    "preprocessing_num_workers": ("--tokens.num_proc",),
    "mlm_probability": ("--masking.probability",),
    "num_train_epochs": ("--train.epochs",),
    "max_steps": ("--train.steps",),
    "per_device_train_batch_size": (
        "--train.micro_batch_size, and --train.global_batch_size the batch over all devices and gradient accumulation",
    ),
    "gradient_accumulation_steps": ("--train.global_batch_size, from which the steps follow",),
    "per_device_eval_batch_size": ("--evaluation.batch_size",),
    "learning_rate": ("--optimizer.lr", "--lr"),
    "weight_decay": ("--optimizer.weight_decay",),
    "adam_beta1": ("--optimizer.betas",),
    "adam_beta2": ("--optimizer.betas",),
    "adam_epsilon": ("--optimizer.eps",),
    "optim": ("--optimizer.name",),
    "lr_scheduler_type": ("--schedule.name",),
    "warmup_ratio": ("--schedule.warmup",),
    "warmup_steps": ("--schedule.warmup",),
    "fp16": ("--train.mixed_precision fp16", "--mixed_precision fp16"),
    "bf16": ("--train.mixed_precision bf16", "--mixed_precision bf16"),
    "torch_compile": ("--train.compile",),
    "dataloader_num_workers": ("--train.workers",),
    "full_determinism": ("--train.deterministic",),
    "logging_steps": ("--train.log_every",),
    "eval_steps": ("--evaluation.every",),
    "metric_for_best_model": ("--evaluation.metric",),
    "load_best_model_at_end": ("--checkpoint.keep_best",),
    "save_steps": ("--checkpoint.every",),
    "save_total_limit": ("--checkpoint.keep_last",),
    "resume_from_checkpoint": ("--resume",),
    "overwrite_output_dir": ("another --output_dir, or --resume: a run is never overwritten",),
    "report_to": ("--tracking.trackers",),
    "run_name": ("--tracking.run_name",),
    "push_to_hub": ("--hub.repo_id user/name",),
    "hub_model_id": ("--hub.repo_id",),
    "hub_private_repo": ("--hub.private",),
    "do_train": ("not needed: training is what --train.steps, minutes or epochs ask for",),
    "do_eval": ("not needed: --evaluation.every says how often",),
}


def name_here(key: str, known: Container[str]) -> str | None:
    """What an option of transformers is called in a recipe that has the options `known`; `None` where it has none."""
    for ours in IN_TRANSFORMERS.get(key.rpartition(".")[2], ()):
        if all(name in known or f"{name}.enabled" in known for name in re.findall(r"--([\w.]+)", ours)):
            return ours
    return None


def what_is_it_now(key: str) -> str | None:
    """What to write instead of an old option, or key of a phase; `None` of another one."""
    if key in RENAMED:
        return f"--{RENAMED[key]}"
    if key in RENAMED_OF_PHASES:
        return "'objective: clm'" if key == "causal" else f"'{RENAMED_OF_PHASES[key]}'"
    return None


def renamed(flat: dict[str, Any]) -> dict[str, Any]:
    """The options of an earlier run, with dotted keys, under the names that they have now."""
    found = {RENAMED.get(key, key): value for key, value in flat.items()}
    if found.get("phases"):
        found["phases"] = [_phase(phase) for phase in found["phases"]]
    return found


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    new = {RENAMED_OF_PHASES.get(name, name): value for name, value in phase.items() if name != "causal"}
    return {**new, "objective": "clm" if phase.get("causal") else new.get("objective")}
