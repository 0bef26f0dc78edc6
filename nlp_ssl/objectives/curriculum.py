"""Objectives that take turns in one run, phase after phase, over one model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import Batch, Collator
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.objective import PretrainingObjective, Sums

FOR = "objective "  # begins the name of the entry that says which objective a batch is for


@dataclass
class InPhase:
    """A collator whose batches say which objective of a `Curriculum` they are for; picklable.

    They say it by the name of an entry, which the host knows without reading a device.

    Attributes:
        collator: makes them.
        number: of the objective.
    """

    collator: Collator
    number: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """The batch, and an empty tensor `objective 1`."""
        return {**self.collator(rows), f"{FOR}{self.number}": torch.empty(0)}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Those of the collator."""
        return self.collator.counts(batch)


class Curriculum(PretrainingObjective):
    """Objectives of one run that take turns over one model: that of the run, and those that phases ask for.

    It is the run's objective in every way, but that a batch of `InPhase` goes to another one.

    Args:
        main: of the run.
        others: over the same model, those of batches numbered 1, 2, ...

    Raises:
        UserError: they cannot take turns: one reads all vectors of a step, has weights besides the model's, which
            would be without gradient while it is not its turn, or has a term of another's name and another weight.
    """

    def __init__(self, main: PretrainingObjective, others: Sequence[PretrainingObjective]) -> None:
        nn.Module.__init__(self)
        self.model = main.model
        self._no_split_modules = main._no_split_modules
        self.main, self.turns = main, (main, *others)
        self.objectives = nn.ModuleList(self.turns)
        self.metrics, self.card, self.collected = main.metrics, main.card, main.collected  # type: ignore[misc]
        self.about = main.about  # type: ignore[method-assign]
        parts = {"main": main} | {f"objectives.{i}": each for i, each in enumerate(self.turns)}
        self.unsaved = tuple(f"{at}.{name}" for at, each in parts.items() for name in each.unsaved)  # type: ignore[misc]
        shared = {id(p) for p in main.model.parameters()}
        weights: dict[str, float] = {}
        for each in self.turns:
            own = [name for name, p in each.named_parameters() if p.requires_grad and id(p) not in shared]
            if each.two_pass or own or any(weights.setdefault(n, w) != w for n, w in each.terms.items()):
                raise UserError(f"phases: {each.card.objective} cannot take turns with another objective in one run")

    @property
    def terms(self) -> dict[str, float]:
        """Of all of them."""
        return {name: weight for each in self.turns for name, weight in each.terms.items()}

    def forward(self, batch: Batch) -> Sums:
        """What the batch's objective makes of it."""
        number = next((int(name.removeprefix(FOR)) for name in batch if name.startswith(FOR)), 0)
        return self.turns[number]({name: value for name, value in batch.items() if not name.startswith(FOR)})

    def before_step(self) -> None:
        """Of all of them."""
        for each in self.turns:
            each.before_step()

    def after_step(self, step: int) -> None:
        """Of all of them."""
        for each in self.turns:
            each.after_step(step)

    def published(self) -> dict[str, PreTrainedModel]:
        """Of the run's."""
        return self.main.published()

    def files(self) -> dict[str, str]:
        """Of the run's."""
        return self.main.files()

    def identity(self) -> dict[str, str]:
        """Of the run's."""
        return self.main.identity()

    def facts(self) -> dict[str, Any]:
        """Of the run's."""
        return self.main.facts()

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """Of the run's."""
        return self.main.evaluate(sums, counts, num_bytes)

    def reference(self, unigram: float) -> dict[str, float]:
        """Of the run's."""
        return self.main.reference(unigram)

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Of the run's."""
        return self.main.headline(results, held_out, unigram)

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Of the run's."""
        return self.main.samples(folder, held_out, tokenizer)
