"""Every option of a fine-tuning run beyond those that `common.py` has for all runs."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import (
    CheckpointConfig,
    EvaluationConfig,
    FilesConfig,
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
    """`builtin` (true labels read off the documentation of the installed Python packages), a name such as `glue/sst2`,
    `imdb` or `conll2003`, or any Hub dataset id. Not used when `train_file` is given."""
    train_file: str | list[str] | None = None
    """A local .csv, .tsv, .json, .jsonl, .parquet or .conll file (also .gz or .zst), a folder or a glob of them instead
    of `task`; or a list of these."""
    validation_file: str | list[str] | None = None
    """Its validation file. Without it, a tenth of the training rows is held out by a hash of their text."""
    test_file: str | list[str] | None = None
    """Its test file, evaluated once, at the end."""
    glue_dir: str | None = None
    """Folder with the files of the GLUE benchmark as it was published (`CoLA/train.tsv`, ...), instead of the Hub, for
    the tasks `glue/...`."""
    subset: str | None = None
    """Configuration of a Hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    text_columns: list[str] | None = None
    """Classification: the column with the text, or the two columns of a pair. Derived from the columns there are."""
    tokens_column: str | None = None
    """Tagging: the column with the words. Derived: `tokens`, `words`, `token`, `word`; of a .conll file, whose columns
    are called `1`, `2`, ..., the first that is no running number."""
    label_column: str | None = None
    """Column with the label, score or tags. Derived: `label`, `labels`, `score`, `ner_tags`, `tags`, `ner`, `tag`; of a
    .conll file the last."""
    kind: Literal["classification", "multilabel", "regression"] | None = None
    """Classification: whether the labels are a class a row, lists of classes, or scores. Derived: lists are several
    classes, numbers with fractions are scores, all else is a class, also a few whole numbers such as 0.0 and 1.0."""
    max_train: int | None = None
    """Use at most so many training rows."""
    max_validation: int | None = None
    """Use at most so many validation rows."""


@options
class TransferConfig:
    """Layer-wise learning rates, gradual unfreezing, LoRA."""

    head_lr: float | None = None
    """Peak learning rate of the new head. Derived: `optimizer.lr`."""
    layer_decay: float = 1.0
    """Layer-wise learning-rate decay: the peak learning rate of a layer is this times that of the layer above it, such
    as 0.9."""
    unfreeze: Literal["at_once", "by_layers", "never"] = "at_once"
    """`by_layers`: gradual unfreezing, the head alone is trained at first, then one more layer from the top at a time,
    over the first half of the run (Howard and Ruder 2018); `never`: the layers are frozen, only the head is trained."""
    lora_rank: int | None = None
    """LoRA (Hu et al. 2021): freeze the layers, and train a product of this rank beside each of their matrices, such
    as 8; merged into the model that is saved. Needs `pip install peft`."""


@options
class FinetuneConfig:
    """One fine-tuning run."""

    output_dir: str = "runs/finetune"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    seed: int = 0
    """Decides the new head's weights, dropout and the order of rows."""
    seeds: list[int] | None = None
    """Run once with each of these seeds, each in a folder of its own in `output_dir`, and report mean, standard
    deviation and interval; such as `[0, 1, 2]`."""
    data: LabelledConfig = field(default_factory=LabelledConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="runs/mlm"))
    head_labels: list[str] | None = None
    """What the classes or tags of a trained head are called, in the order of its outputs, such as
    `[negative, positive]`. Derived: the model's `id2label`. The head is kept where it has all labels of the data."""
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

    output_dir: str = "runs/classification"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    pooling: Literal["cls", "mean"] | None = None
    """What the head reads: the first token or the mean of all, where the architecture lets one choose (ModernBERT)."""
    class_weights: Literal["balanced"] | None = None
    """`balanced`: in the loss each class counts as much as any other, however many rows it has."""


@options
class NERConfig(FinetuneConfig):
    """One fine-tuning run for tagging."""

    output_dir: str = "runs/ner"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""


@options
class GlueConfig:
    """One measurement of a model on GLUE."""

    output_dir: str = "runs/glue"
    """Folder of the measurement: a folder a task, `results.json`, and the files for the benchmark's server."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="runs/mlm"))
    protocol: str = "cramming"
    """Whose hyperparameters, metrics and average: `devlin`, `cramming` or `mosaic`."""
    tasks: list[str] | None = None
    """Which tasks, such as `[cola, rte]`. Derived: all whose files there are, all nine from the Hub."""
    glue_dir: str | None = None
    """Folder with the files of the benchmark as it was published (`CoLA/train.tsv`, ...), instead of the Hub."""
    seeds: list[int] | None = None
    """Run each task with these seeds instead of the protocol's."""
    lr: list[float] | None = None
    """Rates to try instead of the protocol's, which are for models of about 768; the best on the development set
    counts."""
    max_train: int | None = None
    """Use at most so many training rows of a task (for a quick try)."""
    parallel: int | None = None
    """How many tasks run at once, each in a process of its own. Derived: the number of GPUs, at least 1."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Arithmetic of the matrix products; see `train.mixed_precision` of the fine-tuning recipes."""
