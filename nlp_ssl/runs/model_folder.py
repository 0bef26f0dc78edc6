"""Everything that makes a folder a model of the Hub: weights, tokenizer, configuration, card."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.common import ResumeConfig, plain, to_dict
from nlp_ssl.models.loading import save_model
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.runs.folder import CONFIG_FILE, RunConfig


@dataclass(frozen=True)
class ModelFolder:
    """Writes the published models of a run.

    Attributes:
        objective: says which they are.
        tokenizer: goes with each.
        config: of the run, resolved.
        card: model card from the facts of a moment: `(facts) -> markdown`.
    """

    objective: Objective
    tokenizer: PreTrainedTokenizerFast
    config: RunConfig
    card: Callable[[dict[str, Any]], str]

    def write(self, folder: Path, weights: dict[str, dict[str, torch.Tensor]], facts: dict[str, Any]) -> None:
        """Write all of it; called on a thread.

        Args:
            folder: is there.
            weights: of every published model, by its name.
            facts: for the card.
        """
        for name, model in self.objective.published().items():
            save_model(model, folder / name, weights[name])
            self.tokenizer.save_pretrained(folder / name)
        settings = plain(to_dict(self.config)) | {"resume": plain(to_dict(ResumeConfig()))}
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "README.md").write_text(self.card(facts))
