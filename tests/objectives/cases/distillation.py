"""Distillation of masked and of causal models."""

import tempfile
from pathlib import Path

from parity_cases import ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.distillation import DistillationConfig, DistillationSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.distillation import Distillation

FOLDER = tempfile.TemporaryDirectory()


def teacher(name):
    """The folder of a model of three layers; made before there are several processes, of which one would write."""
    folder = Path(FOLDER.name) / name
    tiny_model(name, vocab_size=VOCABULARY, **ROLES).save_pretrained(folder)
    return str(folder)


TEACHERS = {name: teacher(name) for name in ("bert", "modernbert", "gpt2")}


def config(name, **options):
    found = DistillationConfig(distillation=DistillationSection(teacher=TEACHERS[name], **options))
    found.model.name, found.model.from_scratch = TEACHERS[name], True
    found.tokens.sequence_length = ROW_LENGTH
    return found


def student(name, layers=2):
    field = "n_layer" if name == "gpt2" else "num_hidden_layers"
    return PackedModel(tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES, **{field: layers}), True)


def case(name, **options):
    def make():
        chosen = config(name, **options)
        return Distillation.for_config(chosen)(student(name), TOKENIZER, chosen).double()

    return SplitCase(make, lambda: Distillation.for_config(config(name)).collator(TOKENIZER, config(name), seed=SEED))


CASES = {f"distillation {name}": case(name) for name in TEACHERS}
CASES["distillation of relations"] = case("modernbert", relation_weight=1.0)
