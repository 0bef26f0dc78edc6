"""Options of span corruption (`objectives/span_corruption.py`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import Derived, options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class NoiseSection:
    """What is taken out of a text, and what is to be written."""

    kind: Literal["spans", "infilling"] = "spans"
    """`spans`: every span is replaced by a blank of its own (`<extra_id_0>`, ...), and the spans are written (T5).
    `infilling`: every span is replaced by the mask token, some masks stand for nothing, and the whole text is written
    (BART)."""
    share: float | Derived = None
    """Share of the tokens to take out. Derived: 0.15; 0.3 with infilling."""
    mean_span: float = 3.0
    """Mean length of a span in tokens; with infilling lengths are drawn from Poisson's distribution."""
    permute_sentences: bool = False
    """Shuffle the sentences of what is read (infilling)."""


@options
class SpanCorruptionConfig(PretrainConfig):
    """One pretraining run with span corruption."""

    output_dir: str = "runs/seq2seq"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    noise: NoiseSection = field(default_factory=NoiseSection)
