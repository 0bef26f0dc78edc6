"""Every option of a fine-tuning run beyond those that `common.py` has for all runs."""

from dataclasses import field
from typing import ClassVar, Literal

from nlp_ssl.config.common import (
    CheckpointConfig,
    EvaluationConfig,
    FilesConfig,
    Groups,
    HubConfig,
    ModelConfig,
    OptimizerConfig,
    ResumeConfig,
    ScheduleConfig,
    TrackingConfig,
    TrainConfig,
    options,
)


@options
class LabelledConfig(FilesConfig):
    """Labelled data for fine-tuning."""

    task: str = "builtin"
    """`builtin` (labels from the documentation of the installed Python packages), or a Hub dataset id such as
    `glue/sst2`, `imdb` or `conll2003`. Not used where `train_file` is given."""
    train_file: str | list[str] | None = None
    """A local file, a folder or a glob, or a list of these, instead of `task`. Files are .csv, .tsv, .json, .jsonl,
    .parquet or .conll, each plain, .gz or .zst."""
    validation_file: str | list[str] | None = None
    """Validation file or files. Derived: a tenth of the training rows, chosen by a hash of their text."""
    test_file: str | list[str] | None = None
    """Test file or files, evaluated once, at the end."""
    glue_dir: str | None = None
    """Folder with the published files of the GLUE benchmark (`CoLA/train.tsv`, ...), read instead of the Hub for the
    tasks `glue/...`."""
    subset: str | None = None
    """Configuration of a Hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    text_columns: list[str] | None = None
    """Classification: the column with the text, or the two columns of a pair. Derived from the columns that the data
    have."""
    tokens_column: str | None = None
    """Tagging: the column with the words. Derived: `tokens`, `words`, `token`, `word`; of a .conll file, whose columns
    are called `1`, `2`, ..., the first that does not count rows."""
    label_column: str | None = None
    """Column with the label, score or tags. Derived: `label`, `labels`, `score`, `ner_tags`, `tags`, `ner`, `tag`; of a
    .conll file the last."""
    kind: Literal["classification", "multilabel", "regression"] | None = None
    """Classification: whether the labels are one class per row, several classes per row, or scores. Derived: lists are
    several classes, numbers with fractions are scores, anything else is a class, also a few whole numbers such as 0.0
    and 1.0."""
    max_train: int | None = None
    """Use at most this many training rows."""
    max_validation: int | None = None
    """Use at most this many validation rows."""


@options
class TransferConfig:
    """Layer-wise learning rates, gradual unfreezing, LoRA."""

    head_lr: float | None = None
    """Peak learning rate of the new head. Derived: `optimizer.lr`."""
    layer_decay: float = 1.0
    """Layer-wise learning-rate decay: the peak learning rate of a layer is this times that of the layer above it, such
    as 0.9."""
    unfreeze: Literal["at_once", "by_layers", "never"] = "at_once"
    """When the layers below the head are trained. `by_layers`: gradual unfreezing from the top, over the first half of
    the run (Howard and Ruder 2018); `never`: they stay frozen."""
    lora_rank: int | None = None
    """LoRA: freeze the layers and train a product of this rank, such as 8, beside each of their matrices (Hu et al.
    2021). It is merged into the saved model. Needs `pip install peft`."""


@options
class FinetuneConfig:
    """One fine-tuning run."""

    EVERYDAY: ClassVar[Groups] = {
        "The run": ("output_dir", "resume.enabled", "seeds"),
        "Labelled data and model": (
            *("data.task", "data.train_file", "data.validation_file", "data.test_file", "data.label_column"),
            *("model.name", "model.from_scratch", "max_length"),
        ),
        "Training": (
            *("train.epochs", "train.steps", "train.global_batch_size", "train.mixed_precision"),
            *("optimizer.lr", "transfer.unfreeze", "transfer.lora_rank"),
        ),
        "Evaluation, tracking, publishing": ("checkpoint.keep_best", "tracking.trackers", "hub.repo_id"),
    }
    output_dir: str = "runs/finetune"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    seed: int = 0
    """Random seed of the new head's weights, dropout and the order of rows."""
    seeds: list[int] | None = None
    """Random seeds to run once with each, such as `[0, 1, 2]`, for mean, standard deviation and interval. Each run has
    a folder of its own in `output_dir`."""
    data: LabelledConfig = field(default_factory=LabelledConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="runs/mlm"))
    head_labels: list[str] | None = None
    """Names of the classes or tags of a trained head, in the order of its outputs, such as `[negative, positive]`.
    Derived: the model's `id2label`. The head is kept where it has all labels of the data."""
    max_length: int = 128
    """Longest input in tokens; longer ones are cut and counted."""
    transfer: TransferConfig = field(default_factory=TransferConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", betas=(0.9, 0.999)))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(name="linear", warmup=0.1))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(global_batch_size=32))
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(max_rows=None))
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hub: HubConfig = field(default_factory=HubConfig)


@options
class ClassificationConfig(FinetuneConfig):
    """One fine-tuning run for classification or regression."""

    EVERYDAY: ClassVar[Groups] = {
        **FinetuneConfig.EVERYDAY,
        "Classification": ("data.text_columns", "pooling", "class_weights"),
    }
    output_dir: str = "runs/classification"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    pooling: Literal["cls", "mean"] | None = None
    """Input of the head: the first token or the mean of all, where the architecture has the choice (ModernBERT).
    Derived: the model's own."""
    class_weights: Literal["balanced"] | None = None
    """`balanced`: every class has the same weight in the loss, however many rows it has."""


@options
class NERConfig(FinetuneConfig):
    """One fine-tuning run for tagging."""

    EVERYDAY: ClassVar[Groups] = {**FinetuneConfig.EVERYDAY, "Tagging": ("data.tokens_column",)}
    output_dir: str = "runs/ner"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""


@options
class GlueConfig:
    """One measurement of a model on GLUE."""

    EVERYDAY: ClassVar[Groups] = {
        "The measurement": ("output_dir", "resume.enabled", "model.name", "model.from_scratch", "protocol", "tasks"),
        "Instead of what the protocol says": ("glue_dir", "seeds", "lr", "max_train", "parallel", "mixed_precision"),
    }
    output_dir: str = "runs/glue"
    """Folder of the results: one folder per task, `results.json`, and the files for the benchmark's server."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="runs/mlm"))
    protocol: str = "cramming"
    """Hyperparameters, metrics and average of a published evaluation: `devlin`, `cramming` or `mosaic`."""
    tasks: list[str] | None = None
    """Tasks, such as `[cola, rte]`. Derived: all whose files are in `glue_dir`, or all nine from the Hub."""
    glue_dir: str | None = None
    """Folder with the published files of the benchmark (`CoLA/train.tsv`, ...), read instead of the Hub."""
    seeds: list[int] | None = None
    """Random seeds to run each task with. Derived from the protocol."""
    lr: list[float] | None = None
    """Peak learning rates to try; the best on the development set counts. Derived from the protocol, for models of a
    width of about 768."""
    max_train: int | None = None
    """Use at most this many training rows per task (for a quick try)."""
    parallel: int | None = None
    """Number of tasks that run at once, each in a process of its own. Derived: the number of GPUs, at least 1."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Precision of the matrix products. Derived: bf16 where the hardware multiplies it, fp16 on older GPUs."""
