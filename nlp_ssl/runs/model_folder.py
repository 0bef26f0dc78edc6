"""Everything that makes a folder a model of the Hub: weights, tokenizer, configuration, card."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.common import ResumeConfig, plain, to_dict
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import disk_error, remove, temporary_name
from nlp_ssl.models.loading import save_model
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.publishing.card import model_card
from nlp_ssl.runs.folder import CONFIG_FILE, RunConfig


@dataclass(frozen=True)
class ModelFolder:
    """Writes the published models of a run.

    Attributes:
        objective: says which they are.
        tokenizer: goes with each.
        config: of the run, resolved.
        card: arguments of `model_card` from the facts of a moment.
    """

    objective: Objective
    tokenizer: PreTrainedTokenizerFast
    config: RunConfig
    card: Callable[[dict[str, Any]], dict[str, Any]]

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
        self._describe(folder, facts)

    def rehearse(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write everything but the weights, and remove it: what cannot be saved is found before a run, not after hours.

        Args:
            folder: of the run.
            facts: for the card.

        Raises:
            OSError: the disk takes nothing.
            UserError: the tokenizer or the model's configuration cannot be saved.
        """
        trial = temporary_name(folder / "rehearsal")
        trial.mkdir()
        try:
            for model in self.objective.published().values():
                model.config.save_pretrained(trial)
            self.tokenizer.save_pretrained(trial)
            self._describe(trial, facts)
        except Exception as error:  # of a disk too; tokenizers has no narrower class
            if (disk := disk_error(error)) is not None:
                disk.filename = str(folder)
                raise disk from None
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"the tokenizer or the configuration of this model cannot be saved, and so no checkpoint "
                f"({type(error).__name__}: {said}); give another model or tokenizer"
            ) from None
        finally:
            remove(trial)

    def _describe(self, folder: Path, facts: dict[str, Any]) -> None:
        for name, text in self.objective.files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        settings = plain(to_dict(self.config)) | {"resume": plain(to_dict(ResumeConfig(enabled=False)))}
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        with console.optional("the model card"):
            (folder / "README.md").write_text(model_card(**self.card(facts)), encoding="utf-8")
