"""Distillation: a student learns from a frozen teacher of the same vocabulary (DistilBERT: Sanh et al. 2019).

Three terms, each a mean over its own targets:

    kl      T^2 KL(softmax(teacher / T) || softmax(student / T)) at positions that have a label
    mlm     cross-entropy of the masked tokens, or `clm` of the next ones
    cosine  1 - cos(student's, teacher's last hidden state) of every token

and a fourth for those who ask for it: `relations` of every token (see `relations.py`).

DistilBERT's published command takes the first term over all tokens of a text by default, and over the masked ones with
`--restrict_ce_to_mask`; here it is the latter, so that neither model computes logits that no label asks for. A causal
model has a label at every token. Where the student has the teacher's shape but for the number of layers, it begins
with layers of the teacher, which is worth more than any of the terms (the ablation of Sanh et al. 2019).

This file distils a masked language model, `causal_distillation.py` a causal one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from nlp_ssl.config.distillation import DistillationConfig, DistillationSection
from nlp_ssl.core.console import counted, say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.data.sequences.batches import Collator
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
from nlp_ssl.models.checks import check_isolation
from nlp_ssl.models.loading import (
    architecture,
    find_config,
    is_from_scratch,
    max_positions,
    trained_model,
    weights_digest,
)
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.divergence import summed_divergence
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.objective import (
    Batch,
    Metrics,
    PretrainingObjective,
    Sums,
    compared,
    find_objective,
    loss_precision,
    packing_of,
)
from nlp_ssl.objectives.relations import Relations
from nlp_ssl.objectives.student_layers import begin_with_layers
from nlp_ssl.publishing.card import CardText
from nlp_ssl.publishing.local_paths import is_local, name_of

FILES = {AutoModelForMaskedLM: "distillation", AutoModelForCausalLM: "causal_distillation"}
RESULTS = {
    "student_loss": "Held-out loss of the student, nats per predicted token",
    "teacher_loss": "... of the teacher",
    "kl_to_teacher": "Divergence of the student's distribution from the teacher's, nats per predicted token",
    "agreement": "Share of predicted tokens for which both find the same one likeliest",
    "agreement_of_a_constant": "... which who always says the teacher's commonest token has, for comparison",
    "accuracy_kept": "Share of predicted tokens that the student gets right, over the teacher's",
}
METRICS: dict[str, Literal["min", "max"]] = {
    "held_out_loss": "min", "student_loss": "min", "kl_to_teacher": "min", "agreement": "max", "accuracy_kept": "max",
}  # fmt: skip


def _kind(options: DistillationSection) -> Any:
    """The auto class of the teacher."""
    if not options.teacher:
        raise UserError("--distillation.teacher is missing; give the folder or Hub id of a trained language model")
    shape = find_config(options.teacher, options.revision)
    for kind in FILES:
        if type(shape) in kind._model_mapping:
            return kind
    raise UserError(
        f"--distillation.teacher {options.teacher} ({shape.model_type}) is neither a masked nor a causal language model"
    )


@dataclass
class DistillationCollator:
    """Batches of another collator, with the counts of what a teacher says of them; picklable.

    Attributes:
        collator: makes them, and counts their labels.
    """

    collator: Collator

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Those of the collator."""
        return self.collator(rows)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Labels, the same for `kl`, and all tokens that are not padding for `cosine` and `relations`."""
        counts = self.collator.counts(batch)
        (labels,) = counts.values()
        tokens = int((batch["document_ids"] > 0).sum())
        return {**counts, "kl": labels, "cosine": tokens, "relations": tokens}


class Distillation(PretrainingObjective):
    """What distilling masked and causal models has in common; comes before the class of the plain objective.

    Args:
        model: the student.
        tokenizer: the run's, which has the teacher's vocabulary.
        config: names the teacher.

    Raises:
        UserError: weights or temperature make no loss, the teacher cannot be read, or does not go with the student.
    """

    Config: ClassVar[Any] = DistillationConfig
    metrics: ClassVar[Metrics] = METRICS
    unsaved = ("teacher",)

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: DistillationConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.options = options = config.distillation
        (self.label_term,) = super().terms
        _check_options(options)
        kind = type(self).auto_class
        self.teacher = PackedModel(
            trained_model(options.teacher, options.revision, kind, isolated=model.isolated), model.isolated
        )
        student, teacher = model.model, self.teacher.model
        heads = [(each.config.hidden_size, each.config.num_attention_heads) for each in (student, teacher)]
        self.teacher.varlen = model.varlen and heads[0] == heads[1]  # the kernel was proved for the student's heads
        self.num_entries = num_ids(tokenizer)  # logits of some models are padded to more
        self.same_width = heads[0][0] == heads[1][0]
        _check_widths(options, heads[0][0], heads[1][0])
        if model.isolated:
            check_isolation(self.teacher, self.num_entries, config.tokens.sequence_length or 96)
        self.relations = Relations.of(options, model, self.teacher) if options.relation_weight else None
        self.begun_with = begin_with_layers(student, teacher, options, is_from_scratch(config.model))
        whence = f"begins with its layers {self.begun_with}" if self.begun_with else "shares no weights with it"
        say(f"teacher: {options.teacher}, {_size(teacher)}; the student, {_size(student)}, {whence}")

    @property
    def terms(self) -> dict[str, float]:
        """All of them, without those of weight 0."""
        options = self.options
        weights = {"kl": options.kl_weight, self.label_term: options.label_weight, "cosine": options.cosine_weight}
        weights["relations"] = options.relation_weight
        return {name: weight for name, weight in weights.items() if weight}

    @classmethod
    def for_config(cls, config: DistillationConfig) -> type[PretrainingObjective]:
        """The objective that distils the kind of model that the teacher is.

        Raises:
            UserError: no teacher was given, or it is neither a masked nor a causal language model.
        """
        return find_objective(FILES[_kind(config.distillation)])

    @classmethod
    def completed(cls, config: DistillationConfig) -> DistillationConfig:
        """With the teacher's tokenizer, and its architecture with half the layers, where nothing else was given."""
        config = super().completed(config)
        options, model, tokenizer = config.distillation, config.model, config.tokenizer
        _check_options(options)
        if tokenizer.path is None:
            tokenizer = replace(tokenizer, path=options.teacher)
        if model.name is None:
            shape = find_config(options.teacher, options.revision)
            count = len(options.layers) if options.layers else max(1, shape.num_hidden_layers // 2)
            derived = {"num_hidden_layers": count, "vocab_size": shape.vocab_size}
            whence: dict[str, Any] = {"name": options.teacher, "revision": options.revision, "from_scratch": True}
            model = replace(model, **whence, overrides={**derived, **model.overrides})
        return replace(config, model=model, tokenizer=tokenizer)

    @classmethod
    def frame(
        cls, tokenizer: PreTrainedTokenizerFast, config: DistillationConfig
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """That of the plain objective, which must be what the teacher reads, too.

        Raises:
            UserError: the teacher has another vocabulary, reads shorter texts, or has no cosine with the student.
        """
        options = config.distillation
        theirs = load_tokenizer(options.teacher, options.revision, cls.needs_mask_token())
        _check_vocabulary(tokenizer, theirs, options.teacher)
        frame = super().frame(tokenizer, config)
        if frame != super().frame(theirs, config) or tokenizer.mask_token_id != theirs.mask_token_id:
            raise UserError(f"the tokenizer has other special tokens than {options.teacher}; use the teacher's own")
        longest = max([config.tokens.sequence_length, *(phase.sequence_length for phase in config.phases)])
        teacher = find_config(options.teacher, options.revision)
        if (limit := max_positions(teacher)) and longest > limit:
            raise UserError(f"rows of {longest} tokens are longer than the {limit} positions of {options.teacher}")
        student = architecture(config.model, cls.auto_class, tokenizer, longest, None)
        _check_widths(options, student.hidden_size, teacher.hidden_size)
        return frame

    @classmethod
    def collator(cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0) -> Any:
        """That of the plain objective, with more counts."""
        return DistillationCollator(super().collator(tokenizer, config, seed=seed, source=source))

    @classmethod
    def labels_per_token(cls, config: Any) -> float:
        """Twice those of the plain objective: the teacher's logits are there, too."""
        return 2 * super().labels_per_token(config)

    def train(self, mode: bool = True) -> "Distillation":
        """As always, but the teacher stays in evaluation mode: it has no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def identity(self) -> dict[str, str]:
        """The teacher's weights."""
        return {"the teacher (--distillation.teacher)": weights_digest(self.teacher.model)}

    def facts(self) -> dict[str, Any]:
        """Who taught, with what."""
        options, teacher = self.options, _shown(self.options.teacher)
        return {
            "teacher": f"{teacher}, {_size(self.teacher.model)}",
            "first_weights": f"layers {self.begun_with} of the teacher, from 0" if self.begun_with else None,
            "weights_of_the_losses": self.terms,
            "temperature": options.temperature,
            **({"base_model": options.teacher} if self.begun_with else {}),
        }

    def _read(self, model: Any, batch: Batch, layer: int | None) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Logits where there are labels, (N, vocabulary), hidden states of all tokens, and projections of a layer."""
        given: dict[str, Any] = packing_of(batch) | {"label_positions": batch.get("label_positions")}
        given["causal"] = self.trains == "decoder"
        if layer is None:
            logits, hidden = model.with_hidden(batch["input_ids"], **given)
            projections: tuple[Tensor, ...] = ()
        else:
            logits, hidden, projections = model.with_projections(layer, batch["input_ids"], **given)
        return logits.view(-1, logits.shape[-1]), hidden, projections

    def forward(self, batch: Batch) -> Sums:
        """The terms, in nats and cosines; in evaluation all of them, and what `evaluate` counts."""
        wanted = set(self.terms) if self.training else {"kl", "cosine", self.label_term, *self.terms}
        related = self.relations
        logits, hidden, ours_related = self._read(self.model, batch, related.student_layer if related else None)
        labels = batch["labels"].view(-1)
        sums = {self.label_term: summed_cross_entropy(logits, labels)}
        if wanted == {self.label_term}:
            return sums
        with torch.no_grad():
            taught, known, theirs_related = self._read(self.teacher, batch, related.teacher_layer if related else None)
        counted = labels != IGNORE
        ours, theirs = (each[:, : self.num_entries] for each in (logits, taught))
        if "kl" in wanted:
            sums["kl"] = summed_divergence(ours, theirs, counted, self.options.temperature)
        if "cosine" in wanted and self.same_width:
            cosines = F.cosine_similarity(loss_precision(hidden), loss_precision(known), dim=-1)
            sums["cosine"] = torch.where(batch["document_ids"] > 0, 1 - cosines, 0.0).sum()
        if related:
            sums["relations"] = related.divergence(ours_related, theirs_related, batch["document_ids"])
        if self.training:
            return sums
        guessed, expected = (each.argmax(-1) for each in (ours, theirs))
        return sums | self._more(logits, taught, labels) | {
            "nats": summed_divergence(ours, theirs, counted),
            "teacher": summed_cross_entropy(taught, labels),
            "agreed": (counted & (guessed == expected)).sum(),
            "said": torch.bincount(expected[counted], minlength=self.num_entries),
            "correct": (guessed == labels).sum(),
            "teacher_correct": (expected == labels).sum(),
        }  # fmt: skip

    def _more(self, logits: Tensor, taught: Tensor, labels: Tensor) -> Sums:
        """What else a kind of model is measured by."""
        return {}

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss; student and teacher on the true tokens; how far the student is from the teacher."""
        count = max(1, counts["kl"])
        correct, teachers = float(sums["correct"]), float(sums["teacher_correct"])
        found = {
            **PretrainingObjective.evaluate(self, sums, counts, num_bytes),
            "student_loss": float(sums[self.label_term]) / count,
            "teacher_loss": float(sums["teacher"]) / count,
            "kl_to_teacher": float(sums["nats"]) / count,
            "agreement": float(sums["agreed"]) / count,
            "agreement_of_a_constant": float(sums["said"].max()) / count,
            "student_accuracy": correct / count,
            "teacher_accuracy": teachers / count,
            "accuracy_kept": correct / max(1.0, teachers),
        }
        if self.same_width:
            found["cosine_distance"] = float(sums["cosine"]) / max(1, counts["cosine"])
        if self.relations:
            found["relation_divergence"] = float(sums["relations"]) / max(1, counts["relations"])
        return found

    def reference(self, unigram: float) -> dict[str, float]:
        """None: the loss is a sum of several."""
        return {}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """The student beside the teacher and a model without context."""
        loss = compared("student: held-out loss", results["student_loss"], "nats per predicted token", unigram)
        sizes = f"{_size(self.model.model)} of {_size(self.teacher.model)}"
        return (
            f"{loss}; the teacher's is {results['teacher_loss']:.3f}\n"
            f"likeliest token right in {results['student_accuracy']:.1%}, the teacher's in "
            f"{results['teacher_accuracy']:.1%}: {results['accuracy_kept']:.1%} kept by {sizes}\n"
            f"same likeliest token as the teacher in {results['agreement']:.1%} (always its commonest one: "
            f"{results['agreement_of_a_constant']:.1%}), KL {results['kl_to_teacher']:.3f} nats per predicted token"
        )


class MaskedDistillation(Distillation, MaskedLanguageModeling):
    """Distils a masked language model."""

    card = CardText(
        pipeline_tag="fill-mask",
        objective="distillation of a masked language model",
        papers=("1910.01108",),
        what="a masked language model that learnt from a larger one: it fills gaps in text, and is a body to fine-tune",
        limit="It predicts likely words, not true ones, and has the faults of its teacher.",
        recipe="distill",
        results=RESULTS,
        example=MaskedLanguageModeling.card.example,
        snippet=MaskedLanguageModeling.card.snippet,
    )


def _shown(teacher: str) -> str:
    """A teacher as the card names it: a Hub id, or a folder's last name."""
    return name_of(teacher) if is_local(teacher) else teacher


# ---------------------------------------------------------------------------------------------------------------------
# whether teacher and student go together


def _check_options(options: DistillationSection) -> None:
    names = ("kl_weight", "label_weight", "cosine_weight", "relation_weight")
    weights = {name: getattr(options, name) for name in names}
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise UserError(f"--distillation.{name} is {weight}; it must be 0 or more")
    if not options.kl_weight and not options.label_weight:
        raise UserError("--distillation.kl_weight and label_weight are both 0, so nothing would train the head")
    if not 0 < options.temperature < float("inf"):
        raise UserError(f"--distillation.temperature is {options.temperature}; it must be above 0")


def _check_widths(options: DistillationSection, student: int, teacher: int) -> None:
    if options.cosine_weight and student != teacher:
        raise UserError(
            f"hidden states of the student are {student} wide, the teacher's {teacher}: they have no cosine; give "
            "--distillation.cosine_weight 0, or a student of the teacher's width"
        )


def _check_vocabulary(ours: PreTrainedTokenizerFast, theirs: PreTrainedTokenizerFast, teacher: str) -> None:
    """Refuse a student whose ids mean other tokens than the teacher's."""
    here, there = ours.get_vocab(), theirs.get_vocab()
    if other := sorted(token for token in here.keys() | there.keys() if here.get(token) != there.get(token)):
        raise UserError(
            f"the tokenizer has another vocabulary than {teacher}: {len(other):,} entries differ, such as "
            f"{other[0]!r}; leave --tokenizer.path out, and the student reads the teacher's tokens"
        )


def _size(model: PreTrainedModel) -> str:
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    shown = f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters:,}"
    return f"{counted(config.num_hidden_layers, 'layer')} of {config.hidden_size}, {shown} parameters"


OBJECTIVE = MaskedDistillation
