"""Options of span corruption (`objectives/span_corruption.py`), apart from it so that `--help` waits for no torch."""

from dataclasses import field
from typing import Literal

from nlp_ssl.config.common import Derived, options
from nlp_ssl.config.pretraining import PretrainConfig


@options
class NoiseSection:
    """Span corruption: what is removed from a text, and what the decoder writes."""

    kind: Literal["spans", "infilling"] = "spans"
    """How spans are replaced. `spans`: each by a sentinel of its own (`<extra_id_0>`, ...), and the decoder writes the
    spans (T5); `infilling`: each by one mask token, some masks stand for nothing, and the decoder writes the whole text
    (BART)."""
    share: float | Derived = None
    """Share of the tokens to remove. Derived: 0.15; 0.3 with infilling."""
    mean_span: float = 3.0
    """Mean length of a span in tokens; with infilling, lengths follow a Poisson distribution."""
    permute_sentences: bool = False
    """Shuffle the sentences of the encoder's input (infilling)."""


@options
class SpanCorruptionConfig(PretrainConfig):
    """One pretraining run with span corruption."""

    output_dir: str = "runs/seq2seq"
    """Folder of the run: checkpoints, logs and, at its top, the finished model."""
    noise: NoiseSection = field(default_factory=NoiseSection)
