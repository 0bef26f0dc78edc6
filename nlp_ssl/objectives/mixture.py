"""Several objectives over one model in every step, each with its share of the sequences and its weight.

A step's loss is the weighted sum of all members' loss terms, each term a mean over its own targets in the whole step.
Members may have text of their own, and labelled texts may be among them. The step's sequences are divided before they
are split over processes, so that the mixture is as exact as its members.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.config import nested
from nlp_ssl.config.common import plain, to_dict
from nlp_ssl.config.mixture import MemberConfig, MixtureConfig
from nlp_ssl.config.pretraining import CorpusConfig, PhaseConfig, PretrainConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import Batch, Collator
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.objective import PretrainingObjective, Stream, Sums, find_objective
from nlp_ssl.publishing.card import CardText

OF = "member "  # begins the name of the entry that says which member a batch is for


@dataclass(frozen=True)
class Member:
    """An objective of a mixture.

    Attributes:
        name: in logs.
        kind: its class.
        config: its options, complete.
        given: those of the mixture about it.
    """

    name: str
    kind: type[PretrainingObjective]
    config: Any
    given: MemberConfig


@dataclass
class OfMember:
    """A collator whose batches say which member they are for, and count its terms under their names; picklable.

    Attributes:
        collator: makes them.
        number: of the member.
        name: likewise.
    """

    collator: Collator
    number: int
    name: str

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """The batch, and an empty tensor `member 1`."""
        return {**self.collator(rows), f"{OF}{self.number}": torch.empty(0)}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Those of the collator."""
        own = {name: value for name, value in batch.items() if not name.startswith(OF)}
        return {f"{self.name}.{term}": count for term, count in self.collator.counts(own).items()}


class Mixture(PretrainingObjective):
    """The objectives of a mixture over the model of the first one."""

    Config: ClassVar[Any] = MixtureConfig
    members: ClassVar[tuple[Member, ...]] = ()
    card: ClassVar[CardText] = CardText(
        pipeline_tag="feature-extraction",
        objective="a mixture of objectives",
        what="a model trained with several objectives",
        limit="Use it as a starting point for fine-tuning.",
        recipe="pretrain_mixture",
        example="'A text.'",
        snippet="",
    )

    @classmethod
    def for_config(cls, config: MixtureConfig) -> type[PretrainingObjective]:
        """With the members that the options name; the first one's head, presets and card."""
        members = _members(config)
        first, terms = members[0].kind, "; ".join(f"{m.name}: {m.kind.card.objective}" for m in members)
        metrics: dict[str, Any] = {"held_out_loss": "min"}
        metrics |= {f"{m.name}.{name}": way for m in members for name, way in m.kind.metrics.items()}
        results = {f"{members[0].name}.{name}": said for name, said in first.card.results.items()}
        card = replace(first.card, objective=f"a mixture ({terms})", recipe=cls.card.recipe, results=results)
        own = {"members": members, "card": card, "metrics": metrics, "__module__": cls.__module__}
        taken = ("auto_class", "trains", "packed", "default_models")
        return type(cls.__name__, (cls,), {name: getattr(first, name) for name in taken} | own)

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: MixtureConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.parts = tuple(member.kind(model, tokenizer, member.config) for member in self.members)
        self.objectives = nn.ModuleList(self.parts)
        self.collected = frozenset(f"{m.name}.{n}" for m, p in self._both() for n in p.collected)  # type: ignore[misc]
        self.unsaved = tuple(f"objectives.{i}.{n}" for i, p in enumerate(self.parts) for n in p.unsaved)  # type: ignore[misc]
        for member, part in self._both():
            if part.two_pass:
                raise UserError(
                    f"--members: {member.name} reads all vectors of a step at once, which a mixture cannot; for "
                    "contrast give it --contrastive.loss moco"
                )
        every = list(self.parameters())
        body = {id(p) for p in self.published()[""].base_model.parameters()}
        self._outside = [p for p in every if p.requires_grad and id(p) not in body]  # of the body, which all train

    def _both(self) -> Iterator[tuple[Member, PretrainingObjective]]:
        return zip(self.members, self.parts, strict=True)

    @property
    def terms(self) -> dict[str, float]:
        """Those of all members, by their names in the mixture, with both weights."""
        return {
            f"{member.name}.{term}": member.given.weight * weight
            for member, part in self._both()
            for term, weight in part.terms.items()
        }

    # what the members need of tokenizer and text

    @classmethod
    def needs_mask_token(cls) -> bool:
        """Whether a member does."""
        return any(member.kind.needs_mask_token() for member in cls.members)

    @classmethod
    def special_tokens(cls, config: MixtureConfig) -> list[str]:
        """Those of all members."""
        return list(dict.fromkeys(t for m in cls.members for t in m.kind.special_tokens(m.config)))

    @classmethod
    def completed(cls, config: MixtureConfig) -> MixtureConfig:
        """With what follows from the first member's options."""
        there, *_ = [member.kind.completed(member.config) for member in cls.members]
        return replace(config, model=there.model, tokenizer=there.tokenizer, tokens=there.tokens)

    @classmethod
    def frame(
        cls, tokenizer: PreTrainedTokenizerFast, config: MixtureConfig
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first member's, which all must share."""
        frames = [member.kind.frame(tokenizer, member.config) for member in cls.members]
        for member, frame in zip(cls.members, frames, strict=True):
            if frame != frames[0]:
                raise UserError(
                    f"--members: {member.name} sets other special tokens around a document than {cls.members[0].name}, "
                    "so they cannot share packed sequences"
                )
        return frames[0]

    @classmethod
    def labels_per_token(cls, config: MixtureConfig) -> float:
        """The most that a member has."""
        return max(member.kind.labels_per_token(member.config) for member in cls.members)

    @classmethod
    def in_phase(cls, config: MixtureConfig, phase: PhaseConfig) -> MixtureConfig:
        """A phase asks for nothing of a mixture's."""
        if phase.mask_probability is not None:
            raise UserError("phases: mask_probability is no option of a mixture; give it to a member")
        return config

    @classmethod
    def collator(cls, tokenizer: PreTrainedTokenizerFast, config: MixtureConfig, *, seed: int, source: int = 0) -> Any:
        """The first member's."""
        return cls.streams(tokenizer, config, seed=seed, source=source)[0].collator

    @classmethod
    def streams(
        cls, tokenizer: PreTrainedTokenizerFast, config: MixtureConfig, *, seed: int, source: int = 0
    ) -> list[Stream]:
        """Of each member its own, saying whose it is."""
        found = []
        for number, member in enumerate(cls.members):
            (stream,) = member.kind.streams(tokenizer, member.config, seed=seed, source=source)
            collator = OfMember(stream.collator, number, member.name)
            corpus = member.name if member.name in cls.corpora(config) else None
            found.append(replace(stream, collator=collator, share=member.given.share, corpus=corpus))
        return found

    @classmethod
    def corpora(cls, config: MixtureConfig) -> dict[str, CorpusConfig]:
        """Of members that name sources of their own."""
        named = {m.name: m.config.data for m in cls.members if any(key.startswith("data.") for key in m.given.options)}
        return {name: data for name, data in named.items() if name != cls.members[0].name}

    # steps

    def forward(self, batch: Batch) -> Sums:
        """What the batch's member makes of it, under the names of the mixture.

        In training with them, times 0, all weights outside of the body, since only other members may train them: where
        gradients are added up over processes, every weight must have one after every backward pass.
        """
        number = next(int(name.removeprefix(OF)) for name in batch if name.startswith(OF))
        sums = self.parts[number]({name: value for name, value in batch.items() if not name.startswith(OF)})
        name = self.members[number].name
        found = {f"{name}.{term}": value for term, value in sums.items()}
        if self.training and self._outside:
            first = next(iter(found))
            found[first] = found[first] + sum(p.flatten()[0] * 0.0 for p in self._outside)
        return found

    def before_step(self) -> None:
        """Of all members."""
        for part in self.parts:
            part.before_step()

    def after_step(self, step: int) -> None:
        """Of all members."""
        for part in self.parts:
            part.after_step(step)

    # what comes out

    def published(self) -> dict[str, PreTrainedModel]:
        """The model, and what members publish beside it."""
        return {name: model for part in reversed(self.parts) for name, model in part.published().items()}

    def files(self) -> dict[str, str]:
        """Those of all members."""
        return {name: text for part in self.parts for name, text in part.files().items()}

    def identity(self) -> dict[str, str]:
        """Those of all members."""
        return {f"{what} of {m.name}": digest for m, part in self._both() for what, digest in part.identity().items()}

    def facts(self) -> dict[str, Any]:
        """Those of all members."""
        return {name: fact for part in self.parts for name, fact in part.facts().items()}

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """Every member's numbers behind its name; `held_out_loss` is the weighted sum of theirs."""
        total = 0.0
        found: dict[str, float] = {}
        for member, part in self._both():
            numbers = part.evaluate(_own(member, sums), _own(member, counts), num_bytes)
            total += member.given.weight * numbers["held_out_loss"]
            found |= {f"{member.name}.{name}": number for name, number in numbers.items()}
        return {"held_out_loss": total} | found

    def reference(self, unigram: float) -> dict[str, float]:
        """None: the loss is a sum."""
        return {}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Every member's."""
        return "\n".join(
            f"{member.name}: {line}"
            for member, part in self._both()
            for line in part.headline(_own(member, results), held_out, unigram).splitlines()
        )

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """The first member's, whose head the model has."""
        return self.parts[0].samples(folder, held_out, tokenizer)


def _members(config: MixtureConfig) -> tuple[Member, ...]:
    """The members with their options.

    Raises:
        UserError: there is none, two have one name, a share or weight is negative or all are 0, an option is unknown.
    """
    if not config.members:
        raise UserError("--members is empty; give at least one objective")
    base = {f.name: value for f in fields(PretrainConfig) for value in [plain(to_dict(config))[f.name]]}
    found = []
    for given in config.members:
        name, kind = given.name or given.objective, find_objective(given.objective)
        options = {**base, "phases": []}
        nested.set_all(options, given.options)
        read = nested.read(kind.Config, options, f"--members, {name}")
        found.append(Member(name, kind.for_config(read), read, given))
    names = [member.name for member in found]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise UserError(f"--members: each needs a name of its own, of letters and digits; they are {', '.join(names)}")
    for what in ("share", "weight"):
        values = [getattr(member, what) for member in config.members]
        if min(values) < 0 or not any(values):
            raise UserError(f"--members: each {what} must be at least 0, and one above 0; they are {values}")
    if found[0].given.share <= 0:
        raise UserError(f"--members: {names[0]}, the first, needs a share of the sequences")
    if found[0].kind.is_labelled:
        raise UserError(f"--members: {names[0]} learns from labelled rows; name an objective for text before it")
    if without := [m.name for m in found if not m.given.share and not m.kind.is_labelled]:
        raise UserError(f"--members: {without[0]} has a share of 0 of the sequences; leave it out")
    for member in found:
        if member.kind.packed is not found[0].kind.packed:
            raise UserError(f"--members: {member.name} and {names[0]} are of different kinds of models")
    return tuple(found)


def _own(member: Member, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is a member's among values by name, under its own names."""
    prefix = f"{member.name}."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


OBJECTIVE = Mixture
