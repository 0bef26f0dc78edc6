"""The contract of a training objective: everything that the rest of the project must know about it.

Adding one is one new file here that subclasses `PretrainingObjective`, says `OBJECTIVE = TheClass` at its end, and a
recipe that hands the class over. Nothing else asks which objective it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.config.pretraining import CorpusConfig, PhaseConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import Batch, Collator
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.sequences.phases import Rows
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.publishing.card import CardText

Sums = dict[str, Tensor]
Metrics = Mapping[str, Literal["min", "max"]]


class Objective(nn.Module):
    """One way to train a model: the module that DDP, FSDP and `torch.compile` wrap, and that the optimizer trains.

    It never averages. `forward` gives a sum for every loss term, the collator counts the targets of every term on the
    host, and the loss of a step is `sum(terms[k] * sum_k / count_k)`, each sum and count over all micro-batches and
    processes: one batch of 64 is eight of 8 in every term.

    Whatever else it needs is a submodule or a buffer of its own (a head, a generator, a teacher, a queue): it is moved,
    trained and checkpointed with the model, and stays out of the published folder.

    Args:
        model: what is trained; a `PackedModel` in pretraining.

    Attributes:
        auto_class: the `transformers.AutoModelFor...` that makes the model.
        card: what the model card says of such a model.
        metrics: the numbers of `evaluate`, the main one first, and whether a low or a high one is good.
        two_pass: the loss needs the vectors of the whole step at once (negatives in the batch): in training `forward`
            gives `{"vectors": (N, ...)}`, and `loss_of_vectors` the losses of those of all micro-batches and processes.
            May be set for an instance, where it depends on the options.
        collected: what `forward` gives in evaluation that is not summed over batches and processes, but put together:
            tensors whose first axis may differ from batch to batch; their order depends on the processes.
        unsaved: names of submodules that no checkpoint holds: those that never change, such as a teacher.
    """

    auto_class: ClassVar[Any]
    card: ClassVar[CardText]
    metrics: ClassVar[Metrics] = {"held_out_loss": "min"}
    two_pass: bool = False
    collected: ClassVar[frozenset[str]] = frozenset()
    unsaved: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    @property
    def terms(self) -> dict[str, float]:
        """Names of the loss terms and their weights."""
        return {"loss": 1.0}

    def forward(self, batch: Batch) -> Sums:
        """Losses of a batch; where `two_pass` is set, called twice for every micro-batch of a step.

        Returns:
            For each term that the batch has, the loss summed over its targets (0-d): float32 whatever the precision of
            the model, but for a float64 model, whose loss is float64. In evaluation also what `evaluate` reads: tensors
            of any shape, the same for every batch, that can be summed over batches, and those that are `collected`.
        """
        raise NotImplementedError

    def loss_of_vectors(self, vectors: Tensor) -> Sums:
        """The losses of all vectors of a step, where `two_pass` is set; summed over the targets of each term.

        Args:
            vectors: (N, ...), those of all micro-batches and processes; the order of the step's rows is not kept.
        """
        raise NotImplementedError

    def before_step(self) -> None:
        """Called on every process before a step's first micro-batch: forget what one that was not applied left."""

    def after_step(self, step: int) -> None:
        """Called on every process when optimizer step `step` (from 1) has been applied: moving averages, queues."""

    def published(self) -> dict[str, PreTrainedModel]:
        """What becomes a model of the Hub, by its folder: `""` for the run's own, `"generator"` for a subfolder."""
        inner = self.model if isinstance(self.model, PreTrainedModel) else self.model.model  # of a PackedModel
        return {"": inner}

    def files(self) -> dict[str, str]:
        """Small texts that are published beside the model, by their names in its folder (see `publishing.pushed`)."""
        return {}

    def identity(self) -> dict[str, str]:
        """What must be as it was when a run is resumed and no checkpoint holds: what it is, and its fingerprint."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the card says of this run besides the usual, by name, such as its teacher.

        A `base_model` among them is what the model began with where `model.name` does not say it.
        """
        return {}

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The numbers of an evaluation.

        Args:
            sums: what `forward` gave, summed over all held-out batches, or put together; float64, on the host.
            counts: targets of each term, likewise.
            num_bytes: of the text that was read.

        Returns:
            `held_out_loss`, weighted as in training, and what the objective adds.
        """
        return {"held_out_loss": sum(w * float(sums[k]) / max(1, counts[k]) for k, w in self.terms.items())}


@dataclass(frozen=True)
class Stream:
    """Rows that steps learn from, and what makes batches of them.

    Attributes:
        collator: makes them.
        share: of the sequences of a global batch, beside the shares of the other streams of packed sequences.
        corpus: the name of its text among `corpora`; the run's own when `None`.
        rows: rows of its own instead of packed sequences, with a batch size of their own.
        held_out: of those.
        batch_size: of those.
    """

    collator: Collator
    share: float = 1.0
    corpus: str | None = None
    rows: Rows | None = None
    held_out: Rows | None = None
    batch_size: int = 0


class PretrainingObjective(Objective):
    """An objective for text without labels, on packed sequences.

    Args:
        model: the packed model.
        tokenizer: the run's.
        config: the run's, an instance of `Config`.

    Attributes:
        Config: the run's options: `PretrainConfig` with a section of the objective's own.
        trains: which of the presets it can train.
        packed: what calls the model on packed rows.
        default_models: the preset for a machine without and with a GPU.
        is_labelled: it learns from labelled rows, and so only beside an objective for text (see `mixture`).
    """

    Config: ClassVar[Any]
    trains: ClassVar[Literal["encoder", "decoder", "encoder-decoder"]] = "encoder"
    packed: ClassVar[Any] = PackedModel
    is_labelled: ClassVar[bool] = False
    default_models: ClassVar[dict[str, str]] = {"cpu": "modernbert-tiny", "gpu": "modernbert-base"}

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: Any) -> None:
        super().__init__(model)

    # what it needs of tokenizer and text

    @classmethod
    def for_config(cls, config: Any) -> "type[PretrainingObjective]":
        """The class that a run with these options trains: this one, unless head or card depend on them."""
        return cls

    @classmethod
    def needs_mask_token(cls) -> bool:
        """Whether the tokenizer must have a mask token."""
        return False

    @classmethod
    def special_tokens(cls, config: Any) -> list[str]:
        """Special tokens that the tokenizer must have besides the usual ones; a new one is trained with them."""
        return []

    @classmethod
    def completed(cls, config: Any) -> Any:
        """The run's options with those of `model`, `tokenizer` and `tokens` that follow from the objective's own.

        A copy; what the user gave stays.
        """
        return config

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before and after every document: the tokenizer's own, such as CLS and SEP."""
        body, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        at = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
        return tuple(whole[:at]), tuple(whole[at + len(body) :])

    @classmethod
    def collator(cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0) -> Collator:
        """Makes batches; what it draws is a hash of (seed, source, epoch, sequence, position).

        Args:
            tokenizer: the run's.
            config: the run's, or that of a phase.
            seed: decides what is drawn.
            source: tells apart data sets under one seed, such as training (0) and held-out (1) text.
        """
        raise NotImplementedError

    @classmethod
    def streams(cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0) -> "list[Stream]":
        """What every step learns from, the first of it packed sequences: all of them, unless it says otherwise.

        Arguments are those of `collator`.
        """
        return [Stream(cls.collator(tokenizer, config, seed=seed, source=source))]

    @classmethod
    def corpora(cls, config: Any) -> "dict[str, CorpusConfig]":
        """Text besides the run's that streams learn from, by a name."""
        return {}

    @classmethod
    def in_phase(cls, config: Any, phase: PhaseConfig) -> Any:
        """The run's options as they hold in a phase.

        Raises:
            UserError: the phase asks for something that this objective does not have.
        """
        if phase.mask_probability is not None:
            raise UserError(f"phases: mask_probability is for objectives that mask, not for {cls.card.objective}")
        return config

    @classmethod
    def fewest_sequences(cls, config: Any) -> int:
        """Sequences that a step must have for the loss to mean something, where it tells them apart; else 1.

        It is what `train.global_batch_size` is derived to at least.
        """
        return 1

    @classmethod
    def labels_per_token(cls, config: Any) -> float:
        """About how many of the tokens get logits over the vocabulary: what the memory of a step depends on."""
        return 1.0

    # what came out

    @classmethod
    def about(cls, config: Any) -> CardText:
        """What the card of a run says; `card`, unless it depends on the run's options."""
        return cls.card

    def reference(self, unigram: float) -> dict[str, float]:
        """Levels to draw beside the losses, by name.

        Args:
            unigram: nats per token of a unigram model of the training text on the held-out text.
        """
        return {}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """The result beside that of a model without context.

        Args:
            results: of the last evaluation.
            held_out: the text that it was measured on.
            unigram: nats per token of a unigram model of the training text on it.
        """
        return compared("held-out loss", results["held_out_loss"], "per target")

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Lines that show what the finished model in a folder makes of held-out text."""
        return iter(())


def compared(what: str, found: float, unit: str, reference: float | None = None) -> str:
    """A held-out number in a sentence, beside that of a model without context where there is one."""
    said = f"{what} {found:.3f} {unit}"
    if reference is None:
        return said
    beaten = "below" if found < reference else "NOT below"
    return f"{said}, {beaten} the {reference:.3f} of a model without context (unigram)"


def find_objective(name: str) -> type[PretrainingObjective]:
    """The pretraining objective in a file of this folder, by the file's name, such as `"mlm"`.

    Raises:
        UserError: there is none of that name.
    """
    where = f"nlp_ssl.objectives.{name}"
    found = getattr(import_module(where), "OBJECTIVE", None) if name.isidentifier() and find_spec(where) else None
    if found is None:
        files = sorted(path for path in Path(__file__).parent.glob("*.py"))
        known = ", ".join(path.stem for path in files if "\nOBJECTIVE = " in path.read_text(encoding="utf-8"))
        raise UserError(f"'{name}' is no pretraining objective; there are {known}")
    return found


def loss_precision(logits: Tensor) -> Tensor:
    """Logits as losses are made of them: half precision becomes float32, and float64, as proofs use it, stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def digest_of(rows: np.ndarray, epochs: np.ndarray, seen: np.ndarray) -> Tensor:
    """What a batch teaches, as one number: the sum over its rows of a 32-bit hash of each.

    A sum does not depend on how the rows are ordered, or split over micro-batches and processes. Two steps of equal
    digest learnt from the same rows under the same masks. A row is hashed by a sum of its entries, each times a random
    odd number of its position, modulo 2^64 (multilinear hashing: Carter and Wegman 1979).

    Args:
        rows: numbers of the rows, (B,).
        epochs: theirs, (B,).
        seen: int64 (B, S): what the model sees and what its targets are; 0 where padded.

    Returns:
        int64, 0-d; below 2^53 for any batch of fewer than two million rows, so exact in float64.
    """
    sums = (seen.view(np.uint64) * _odd_numbers(seen.shape[1])).sum(axis=1)
    return torch.tensor(int((hash64(rows, epochs, sums) >> np.uint64(32)).sum()))


@lru_cache(maxsize=64)
def _odd_numbers(count: int) -> np.ndarray:
    return hash64(np.arange(count)) | np.uint64(1)


def packing_of(batch: Batch) -> Batch:
    """What a `PackedModel` must know of a batch besides its tokens: where documents are."""
    return {key: batch[key] for key in ("document_ids", "position_ids", "cu_seqlens")}


def narrow(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model reads of packed rows, as int32: half the bytes on their way to a device."""
    return {key: rows[key].astype(np.int32) for key in ("input_ids", "document_ids", "position_ids")}


def to_tensors(arrays: dict[str, Any]) -> Batch:
    """NumPy arrays as CPU tensors that share their memory."""
    return {key: torch.from_numpy(value) for key, value in arrays.items()}
