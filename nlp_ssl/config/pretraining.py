"""The options of a pretraining run."""

from dataclasses import field
from typing import ClassVar, Literal

from nlp_ssl.config.common import (
    CheckpointConfig,
    Derived,
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
class CorpusConfig(FilesConfig):
    """Where the text comes from."""

    sources: str | list[str] = "builtin"
    """Text: `builtin` (documentation of the installed Python packages), a Hub dataset id, a file, a folder or a glob.
    Files are .txt, .jsonl, .csv, .tsv or .parquet, each plain, .gz or .zst. Several sources are a list."""
    weights: list[float] | None = None
    """One number per source: how many times an epoch sees its documents; 2 is twice, 0.5 is a fixed half of them."""
    subset: str | None = None
    """Configuration of a Hub dataset, such as `wikitext-103-raw-v1`."""
    split: str = "train"
    """Split of a Hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    text_column: str = "text"
    """Column that holds the text, in .jsonl, .csv, .parquet and Hub datasets."""
    txt_documents: Literal["blank_line", "line", "file"] = "blank_line"
    """What ends a document in a .txt file: a blank line, every line, or the end of the file."""
    on_bad_text: Literal["stop", "skip"] = "stop"
    """What to do with bytes that are not UTF-8, NUL characters and rows that do not parse: stop and say where, or skip
    the document and count it."""
    streaming: bool = False
    """Read the sources as a stream instead of making a memory-mapped copy in the cache first."""
    max_documents: int | None = None
    """Read at most this many documents (for a quick try)."""
    held_out: str | list[str] | None = None
    """Sources of held-out text. Derived: `held_out_fraction` of the documents, chosen by a hash of their text."""
    held_out_fraction: float | None = None
    """Share of the documents to hold out where `held_out` names no source. Derived: 0.01, and in a corpus of fewer than
    some 2,000 documents more, for about 30 of them, at most 0.2."""


@options
class TokenizerConfig:
    """The tokenizer: an existing one, or one trained on the corpus."""

    path: str | None = None
    """Hub id or folder of an existing tokenizer. Derived: the model's own, or a new one trained on the corpus."""
    kind: Literal["wordpiece", "bpe", "unigram"] | Derived = None
    """Algorithm of a new tokenizer: WordPiece with BERT's normalisation, byte-level BPE, or Unigram with byte fallback.
    Derived from the model family."""
    vocab_size: int | Derived = None
    """Number of entries of a new tokenizer, special tokens included. Derived from the size of the corpus."""
    lowercase: bool = False
    """Lowercase and strip accents (WordPiece and Unigram)."""
    special_tokens: list[str] = field(default_factory=list)
    """Additional special tokens, such as `['<|user|>']`. Where the corpus spells one out, that is text and not the
    token."""
    sample_mb: float = 256.0
    """Train on about this many megabytes of text; its documents are chosen by a hash."""
    model_max_length: int | None = None
    """Longest input in tokens, as the tokenizer states it. Derived from the model's positions."""


@options
class TokensConfig:
    """Tokenising and packing the corpus, once, onto disk."""

    folder: str | None = None
    """Folder of the tokenised corpus. Derived: in the cache, named by its fingerprint."""
    sequence_length: int | Derived = None
    """Tokens in a packed sequence, special tokens included. Derived from the model."""
    packing: Literal["packed", "one_document"] | Derived = None
    """`packed`: several whole documents per sequence, isolated from each other; `one_document`: one document (or piece
    of one) per sequence, padded. Derived: packed wherever the architecture can isolate documents."""
    num_proc: int | None = None
    """Processes that tokenise. Derived: the machine's cores."""
    shard: int = 0
    """Which of `num_shards` parts of the corpus this machine tokenises, from 0 (`prepare_tokens.py`)."""
    num_shards: int = 1
    """Number of parts of the corpus that several machines tokenise into one shared folder."""


@options
class MaskingConfig:
    """Masking: which tokens are hidden and predicted (Devlin et al. 2018, section 3.1)."""

    probability: float = 0.15
    """Share of the ordinary tokens to predict."""
    mask_share: float = 0.8
    """Of these, the share replaced by the mask token."""
    random_share: float = 0.1
    """Of these, the share replaced by a random ordinary token; the rest is left unchanged."""
    unit: Literal["token", "word", "span"] = "token"
    """What is masked as a whole: single tokens, whole words, or spans of 3.8 tokens on average (Joshi et al. 2019)."""


@options
class PhaseConfig:
    """A curriculum phase at the beginning of a run: sequences, batches or an objective of its own."""

    steps: int
    """Length of the phase in optimizer steps."""
    global_batch_size: int | Derived = None
    """Sequences per optimizer step. Derived: `train.global_batch_size`."""
    sequence_length: int | Derived = None
    """Tokens in a sequence. Derived: `tokens.sequence_length`."""
    mask_probability: float | None = None
    """Share of the tokens to predict, in masked pretraining. Derived: `masking.probability`."""
    objective: str | None = None
    """Another training objective for the same model: with `clm`, in masked pretraining, every token predicts the next
    one and sees only its past. Derived: that of the run."""


@options
class PretrainConfig:
    """One pretraining run. Attributes: EVERYDAY: which options `--help` shows; those that a class which extends this
    one adds are shown beside them, unless it says otherwise."""

    EVERYDAY: ClassVar[Groups] = {
        "The run": ("output_dir", "resume.enabled", "seed"),
        "Text, tokenizer and model": (
            *("data.sources", "data.text_column", "tokenizer.path", "tokens.sequence_length", "model.name"),
        ),
        "Training": (
            *("train.steps", "train.tokens", "train.minutes", "train.global_batch_size", "train.micro_batch_size"),
            *("train.mixed_precision", "optimizer.lr"),
        ),
        "Evaluation, tracking, publishing": ("evaluation.every", "tracking.trackers", "hub.repo_id"),
    }
    output_dir: str = ""
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    seed: int = 0
    """Random seed of the initial weights, the order of sequences and the masks."""
    data: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    phases: list[PhaseConfig] = field(default_factory=list)
    """Curriculum phases at the beginning of the run, in order, within its budget of steps; after the last one `train`
    and `tokens` apply. Each takes steps, global_batch_size, sequence_length, mask_probability and objective. A batch
    ramp: `--phases '[{steps: 500, global_batch_size: 64}]'`; short sequences first: `[{steps: 5000, sequence_length:
    128}]`; an encoder that begins as a decoder (Gisserot-Boukhlef et al. 2025): `[{steps: 5000, objective: clm}]`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    hub: HubConfig = field(default_factory=HubConfig)


@options
class MLMConfig(PretrainConfig):
    """One masked pretraining run."""

    output_dir: str = "runs/mlm"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)


@options
class CLMConfig(PretrainConfig):
    """One causal pretraining run."""

    output_dir: str = "runs/clm"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
