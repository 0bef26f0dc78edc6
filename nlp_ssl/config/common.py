"""The options that all runs have, in one dataclass a part; `command_line.py` reads them.

A field that is `None` is derived when the run starts, and the run prints what it chose and why. Defaults that are not
`None` are the ones that the field has settled on.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, dataclass_transform

Config = TypeVar("Config", bound="DataclassInstance")
Section = TypeVar("Section")
Scalar = bool | int | float | str | None

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
    """How local files are read, where neither their names nor their first bytes tell."""

    format: str | None = None
    """Format of files whose names do not tell: txt, jsonl, json, csv, tsv, parquet or conll. Derived from their first
    bytes."""
    encoding: str = "utf-8"
    """Encoding of all local text files of the run, such as `latin-1`, `cp1252` or `utf-16`."""
    delimiter: str | None = None
    """What separates the fields of a csv, such as `;` or `\\t`. Derived from its first rows."""
    column_names: list[str] | None = None
    """Names of the columns of a csv or tsv without a header, such as `[label, text]`: its first line is then a row."""


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
    """Dropout everywhere. Derived: 0 from scratch in pretraining, otherwise the model's own."""
    attention: str | None = None
    """`attn_implementation` of transformers for unpacked rows. Packed rows use our isolated attention."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""


@options
class OptimizerConfig:
    """The optimizer, its learning rates, weight decay and gradient clipping."""

    name: Literal["adamw", "muon"] | Derived = None
    """`adamw`, or `muon`: Muon for the matrices inside the layers, AdamW for the rest. Derived: Muon for ModernBERT and
    Llama from scratch, AdamW otherwise."""
    lr: float | Derived = None
    """Peak learning rate of AdamW. Derived: 0.5 / width from scratch, 0.1 / width in continued pretraining, 31 / width²
    in fine-tuning; 0.02 with `scale_parameter`."""
    scale_parameter: bool | Derived = None
    """Multiply AdamW's learning rate of every weight by its root mean square as training begins, 0.001 at least
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
    """Decay linearly, by a cosine, or stay flat and decay linearly at the end (warm-up, stable, decay)."""
    warmup: float = 0.05
    """Share of the run that warms up linearly; 1 or more is a number of steps."""
    decay: float = 0.4
    """Share of the run that decays at its end (`wsd`)."""
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
    """Budget in minutes of training; becomes a number of steps from measured throughput."""
    epochs: float | None = None
    """Budget in passes over the data."""
    global_batch_size: int | Derived = None
    """Sequences (labelled rows in fine-tuning) in a global batch: over all processes and gradient accumulation."""
    micro_batch_size: int | Auto | Derived = None
    """Sequences in one forward and backward pass of one process; the rest is gradient accumulation. Does not change the
    result, only memory and speed. Derived by a rule from the memory; `auto` tries, when pretraining starts on a GPU."""
    mixed_precision: Literal["no", "bf16", "fp16"] | Derived = None
    """Arithmetic of the matrix products. Derived: bf16 where the hardware multiplies it, fp16 on older GPUs. `no` is
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
    """Ask torch for deterministic kernels on a GPU."""
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    """A step whose loss or gradient is not finite is always skipped. Then: stop, continue without it, or rewind to the
    newest checkpoint and skip the sequences that led to it."""
    spike_factor: float | None = None
    """Loss spikes: a step whose gradient norm is above so many times the median of the last 128 steps is skipped; such
    as 10. The first 16 steps are never taken for spikes."""
    on_spike: Literal["stop", "skip", "rewind"] = "skip"
    """What a loss spike leads to; as `on_nonfinite`."""
    incident_texts: bool = False
    """Write the texts of the rows in such a step to `incidents.jsonl`, not only the numbers of their documents."""
    log_every: int = 10
    """Steps between two lines of the log."""


@options
class EvaluationConfig:
    """Measuring on held-out data while training goes on."""

    every: int | Derived = None
    """Steps between two evaluations. Derived: about ten in a pretraining run, one an epoch in fine-tuning. The first
    comes before the first step."""
    max_rows: int | None = 256
    """Evaluate on at most so many held-out rows; all of them when null."""
    batch_size: int | Derived = None
    """Rows in one forward pass. Derived: the micro-batch."""
    metric: str | Derived = None
    """The number that says which evaluation is the best, such as `accuracy`; a loss is best when it is low, any other
    number when it is high. Derived: `held_out_loss` in pretraining, the task's first metric in fine-tuning."""
    patience: int | None = None
    """Early stopping: end the run after so many evaluations in a row without a new best; the best is kept
    (`keep_best`)."""


@options
class CheckpointConfig:
    """Saving a run so that nothing is lost."""

    every: int | None = None
    """Steps between two checkpoints. Derived: a fifth of the run, and at least every half hour."""
    keep_last: int = 2
    """How many of the newest to keep; older ones go only after the new one is complete and on disk."""
    keep_every: int | None = None
    """Also keep every checkpoint whose step is a multiple of this."""
    keep_best: bool = False
    """Also save at every evaluation that is the best so far (`evaluation.metric`), and keep the best of these; in the
    end it, not the last one, is the model at the top of the folder."""


@options
class ResumeConfig:
    """Resuming an interrupted run; a bare `--resume` is enough."""

    enabled: bool = False
    """Resume from the newest complete checkpoint in `output_dir`; `--resume` alone means this."""
    allow_changed: bool = False
    """Resume though something was changed that changes the result, such as the learning rate or the corpus."""


@options
class TrackingConfig:
    """Where the numbers go, besides `log.jsonl`, which is always written."""

    trackers: list[str] = field(default_factory=list)
    """Any of `tensorboard`, `trackio`, `wandb`."""
    project: str = "nlp_ssl"
    """Project name for trackio and wandb."""
    run_name: str | None = None
    """Name of the run. Derived: the name of the output folder."""


@options
class HubConfig:
    """Publishing to the Hugging Face Hub."""

    repo_id: str | None = None
    """`user/name` of the model repository to push to; nothing is pushed without it."""
    private: bool = False
    """Make the repository private when it is created."""
    overwrite: bool = False
    """Push to a repository whose branches hold somebody else's commits, too: their files may be replaced or removed."""
    push_checkpoints: bool = True
    """Push every kept checkpoint as branch `step-N`; the last one goes to `main` either way."""


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
