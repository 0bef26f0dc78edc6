"""Distillation of masked and of causal models."""

import tempfile
from functools import cache
from pathlib import Path

from parity_cases import ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.distillation import DistillationConfig, DistillationSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.distillation import objective_of

FOLDER = tempfile.TemporaryDirectory()


@cache
def teacher(name):
    """The folder of a model of three layers."""
    folder = Path(FOLDER.name) / name
    tiny_model(name, vocab_size=VOCABULARY, **ROLES).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def config(name, **options):
    found = DistillationConfig(distillation=DistillationSection(teacher=teacher(name), **options))
    found.model.name, found.model.from_scratch = teacher(name), True
    found.tokens.sequence_length = ROW_LENGTH
    return found


def student(name, layers=2):
    field = "n_layer" if name == "gpt2" else "num_hidden_layers"
    return PackedModel(tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES, **{field: layers}), True)


def case(name):
    def make():
        return objective_of(config(name))(student(name), TOKENIZER, config(name)).double()

    return SplitCase(make, lambda: objective_of(config(name)).collator(TOKENIZER, config(name), seed=SEED))


CASES = {f"distillation {name}": case(name) for name in ("bert", "modernbert", "gpt2")}
