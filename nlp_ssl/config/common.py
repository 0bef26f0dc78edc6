"""The options that all runs have, in one dataclass a part; `command_line.py` reads them.

A field that is `None` is derived when the run starts, and the run prints what it chose and why. Defaults that are not
`None` are the ones that the field has settled on.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, dataclass_transform

from nlp_ssl.core.restarts import started_again

Config = TypeVar("Config", bound="DataclassInstance")
Section = TypeVar("Section")
Scalar = bool | int | float | str | None
BUDGETS = ("steps", "tokens", "minutes", "epochs")  # of `train`, of which a run has one
Groups = Mapping[str, tuple[str, ...]]  # titles -> dotted names of options: how a run says which are for everyday

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    # filled in before they are read: a type checker is not to ask whether a field still is `None` or "auto"
    Derived: TypeAlias = Any
    Auto: TypeAlias = Any
else:
    Derived, Auto = None, Literal["auto"]


@dataclass_transform(field_specifiers=(field,))
def options(section: type[Section]) -> type[Section]:
    """Make a section of a configuration: a dataclass that `freeze` can close."""

    def set_open(self: Any, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen"):
            raise dataclasses.FrozenInstanceError(f"{name} of a resolved configuration; make a copy of it")
        object.__setattr__(self, name, value)

    section.__setattr__ = set_open  # type: ignore[method-assign]
    return dataclass(section)


# ---------------------------------------------------------------------------------------------------------------------
# the parts of a run


@options
class FilesConfig:
    """How local files are read."""

    format: str | None = None
    """Format of local files: txt, jsonl, json, csv, tsv, parquet or conll. Derived from their names, otherwise from
    their first bytes."""
    encoding: str = "utf-8"
    """Encoding of all local text files of the run, such as `latin-1`, `cp1252` or `utf-16`."""
    delimiter: str | None = None
    """Separator of the fields of a csv, such as `;` or `\\t`. Derived from its first rows."""
    column_names: list[str] | None = None
    """Names of the columns of a csv or tsv without a header, such as `[label, text]`; its first line is then read as a
    row."""


@options
class ModelConfig:
    """The model: a preset, a Hub id or a folder."""

    name: str | Derived = None
    """A preset such as `modernbert-tiny` or `gpt2-small`, a Hub id, or a folder. Derived from the machine."""
    from_scratch: bool = False
    """For a Hub id or folder: take its architecture but not its weights."""
    overrides: dict[str, Scalar] = field(default_factory=dict)
    """Fields of the model's configuration to change, such as `--model.overrides.num_hidden_layers 4` (from scratch)."""
    dropout: float | None = None
    """Dropout probability in all layers. Derived: 0 from scratch in pretraining, otherwise the model's own."""
    attention: str | None = None
    """`attn_implementation` of transformers for unpacked sequences; packed ones use this package's isolated
    attention."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""


@options
class OptimizerConfig:
    """The optimizer, its learning rates, weight decay and gradient clipping."""

    name: Literal["adamw", "muon"] | Derived = None
    """`adamw`, or `muon`: Muon for the matrices inside the layers, AdamW for the rest. Derived: Muon for ModernBERT and
    Llama from scratch, AdamW otherwise."""
    lr: float | Derived = None
    """Peak learning rate of AdamW. Derived: 0.5 / width from scratch, 0.1 / width continued, 31 / width² in
    fine-tuning. With `scale_parameter` it is 0.02."""
    scale_parameter: bool | Derived = None
    """Multiply AdamW's learning rate of every weight by its root mean square at the start of training, at least 0.001
    (Shazeer and Stern 2018). Derived: for T5 from scratch, whose weights differ in size by a factor of 100."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float | Derived = None
    """Decoupled weight decay; none on biases, norms and embeddings. Derived: 0.1 with Muon, 0.01 with AdamW alone."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm to this; 0 turns clipping off."""


@options
class ScheduleConfig:
    """The learning-rate schedule: warm-up and decay."""

    name: Literal["linear", "cosine", "wsd", "constant"] = "wsd"
    """Decay linearly, by a cosine, not at all, or only at the end, linearly (`wsd`: warm-up, stable, decay)."""
    warmup: float = 0.05
    """Share of the run for linear warm-up; 1 or more is a number of steps."""
    decay: float = 0.4
    """Share of the run for the decay at its end (`wsd`)."""
    final: float = 0.0
    """Learning rate at the end, as a share of the peak."""


@options
class TrainConfig:
    """Budget, batch sizes, precision, and what happens at skipped steps."""

    steps: int | None = None
    """Budget in optimizer steps."""
    tokens: float | None = None
    """Budget in tokens, such as `1e9`."""
    minutes: float | None = None
    """Budget in minutes of training. It becomes a number of steps by the measured throughput. Derived: 5 in pretraining
    without a budget."""
    epochs: float | None = None
    """Budget in passes over the data. Derived: 3 to 20 in fine-tuning without a budget, more for less data."""
    global_batch_size: int | Derived = None
    """Sequences (in fine-tuning labelled rows) per optimizer step. They are shared among processes and gradient
    accumulation. Derived in pretraining: 4,096 to 262,144 tokens, by width and device."""
    micro_batch_size: int | Auto | Derived = None
    """Sequences in one forward and backward pass of one process. The rest is gradient accumulation: memory and speed
    change, the result does not. Derived from the memory by a rule. `auto` tries out the largest that fits, in
    pretraining on a GPU."""
    mixed_precision: Literal["no", "bf16", "fp16"] | Derived = None
    """Precision of the matrix products. Derived: bf16 where the hardware multiplies it, fp16 on older GPUs. `no` is
    float32, on a CUDA GPU TF32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool | Derived = None
    """Compile the model with `torch.compile` (needs a C++ compiler on a CPU). Derived: in pretraining on a CUDA GPU."""
    workers: int | Derived = None
    """Processes that prepare batches. Derived: 0 on a CPU, 2 on a GPU."""
    cpu_threads: int | None = None
    """Threads of a process that trains on a CPU. Derived: the machine's cores, shared among its processes."""
    deterministic: bool = False
    """Use deterministic kernels on a GPU."""
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    """What follows a step whose loss or gradient is not finite, which is always skipped: stop, continue without it, or
    rewind to the newest checkpoint and skip the sequences that led to it."""
    spike_factor: float | None = None
    """Skip a step as a loss spike when its gradient norm exceeds this many times the median of the last 128 steps, such
    as 10. The first 16 steps are never skipped as spikes."""
    on_spike: Literal["stop", "skip", "rewind"] = "skip"
    """What follows a loss spike; see `on_nonfinite`."""
    incident_texts: bool = False
    """Write the texts of a skipped step to `incidents.jsonl`, not only the numbers of their documents."""
    log_every: int = 10
    """Steps between two lines of the log."""


@options
class EvaluationConfig:
    """Evaluation on held-out data during training."""

    every: int | Derived = None
    """Steps between two evaluations. Derived: about ten per pretraining run, one per epoch in fine-tuning. The first
    comes before the first step."""
    max_rows: int | None = 256
    """Evaluate on at most this many held-out sequences (labelled rows in fine-tuning, whose final scores are of all
    rows); null is all of them."""
    batch_size: int | Derived = None
    """Sequences or rows in one forward pass. Derived: `train.micro_batch_size`."""
    metric: str | Derived = None
    """Metric that decides which evaluation is the best, such as `accuracy`; the lowest loss, the highest of any other
    metric. Derived: `held_out_loss` in pretraining, the task's first metric in fine-tuning."""
    patience: int | None = None
    """Early stopping: end the run after this many evaluations without improvement; the best model is kept
    (`keep_best`)."""


@options
class CheckpointConfig:
    """Checkpoints, from which an interrupted run resumes."""

    every: int | None = None
    """Steps between two checkpoints. Derived: a fifth of the run, and at least every half hour."""
    keep_last: int = 2
    """Number of the newest checkpoints to keep; an older one is deleted only after the new one is complete and on
    disk."""
    keep_every: int | None = None
    """Also keep every checkpoint whose step is a multiple of this."""
    keep_best: bool = False
    """Keep the best model by `evaluation.metric`, not the last. It is saved at every evaluation that is the best so
    far, and is the model at the top of the folder in the end."""


@options
class ResumeConfig:
    """Resuming an interrupted run; a bare `--resume` is enough."""

    enabled: bool = field(default_factory=started_again)
    """Resume from the newest complete checkpoint in `output_dir`. Derived: if torchrun or Slurm starts it again."""
    allow_changed: bool = False
    """Resume even though an option that changes the result was changed, such as the learning rate or the corpus."""


@options
class TrackingConfig:
    """Experiment trackers, besides `log.jsonl`, which is always written."""

    trackers: list[str] = field(default_factory=list)
    """Experiment trackers: any of `tensorboard`, `trackio`, `wandb`."""
    project: str = "nlp_ssl"
    """Project name for trackio and wandb."""
    run_name: str | None = None
    """Name of the run. Derived: the name of the output folder."""


@options
class HubConfig:
    """Publishing to the Hugging Face Hub."""

    repo_id: str | None = None
    """`user/name` of the model repository to push to. Nothing is pushed without it."""
    private: bool = False
    """Make the repository private when it is created."""
    overwrite: bool = False
    """Also push to a repository whose branches hold somebody else's commits; their files may be replaced or removed."""
    license: str | None = None
    """Licence of the model, for its card, by the Hub's name for it, such as `apache-2.0` or `cc-by-sa-4.0`."""
    language: list[str] | None = None
    """Languages of the model, for its card, by their ISO 639-1 codes, such as `[sw]`. Derived: detected in the text."""
    push_checkpoints: bool = True
    """Push every kept checkpoint as branch `step-N`; the final model is pushed to `main` either way."""


# ---------------------------------------------------------------------------------------------------------------------
# the runs


def freeze(config: Config) -> Config:
    """The same configuration, which from now on cannot be written to, nor any part of it."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        for part in value if isinstance(value, list) else [value]:
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                freeze(part)
    config.__dict__["_frozen"] = True
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dictionaries, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML that `--config` reads again."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
