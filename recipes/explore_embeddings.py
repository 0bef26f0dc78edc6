"""Look at a model's vectors of labelled texts: a map, and what a linear probe and the nearest neighbours make of them.

    python recipes/explore_embeddings.py --model.name runs/mlm

takes the built-in task (which library a text documents); rows of your own: --data.train_file train.csv. Nothing is
fine-tuned: the vectors are computed once and kept. Without pretraining, for comparison: add --model.from_scratch.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import Groups, ModelConfig
from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core import console, program
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import make_folder, replace
from nlp_ssl.core.libraries import importing

SHOWN = 200  # characters of a text, under its point


@dataclass
class EmbeddingsConfig:
    """One look at the vectors of a model."""

    EVERYDAY: ClassVar[Groups] = {
        "Labelled data": (
            *("data.task", "data.train_file", "data.validation_file", "data.text_columns", "data.label_column"),
            *("data.max_train", "data.max_validation"),
        ),
        "Vectors": (
            *("model.name", "model.from_scratch", "max_length", "pooling", "batch_size", "seed", "output_dir"),
        ),
    }
    output_dir: str = "runs/embeddings"
    """Folder of `map.html`, `map.png` and `results.json`; older ones are replaced."""
    data: LabelledConfig = field(default_factory=LabelledConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="runs/mlm"))
    max_length: int = 128
    """Longest input in tokens; longer ones are cut and counted."""
    pooling: Literal["mean", "cls"] = "mean"
    """The vector of a text: the mean over its tokens, or its first token's."""
    batch_size: int = 64
    """Texts in one forward pass."""
    seed: int = 0
    """Random seed of new weights, with `--model.from_scratch`."""


def main(config: EmbeddingsConfig) -> None:
    """Vectors of training and validation texts, numbers, a picture."""
    with importing():
        import numpy as np
        import torch
        from transformers import AutoModel

        from nlp_ssl.data.labelled.labelled_data import open_classification
        from nlp_ssl.data.tokens.tokenizer import load_tokenizer
        from nlp_ssl.evaluation.embeddings import SAMPLE, embed, load_sklearn, maps, measure_embeddings
        from nlp_ssl.models.loading import architecture, build_model
        from nlp_ssl.objectives.classification import ClassificationCollator
        from nlp_ssl.publishing.plots import plot_maps
        from nlp_ssl.publishing.tables import format_table, to_json
        from nlp_ssl.reports.figures import draw_points
        from nlp_ssl.reports.page import Page, Picture, Section
        from nlp_ssl.training.device import training_device

    load_sklearn()  # or say that it is missing, before minutes of work
    tokenizer = load_tokenizer(config.model.name, config.model.revision)
    data = open_classification(config.data)
    if not data.kind.exclusive:
        raise UserError(f"a map needs one class per text; this is {data.kind.name}")
    console.say(f"data: {data.description}")
    reader = ClassificationCollator(tokenizer, data.labels, data.text_columns, config.max_length)
    shape = architecture(config.model, AutoModel, tokenizer, config.max_length, config.model.dropout)
    model = build_model(config.model, shape, AutoModel, isolated=False, seed=config.seed).to(training_device())

    sets = {"train": data.train, "validation": data.validation}
    rows = {name: reader.tokenize(part, name) for name, part in sets.items()}
    with torch.autocast(model.device.type, enabled=False):
        found = {
            name: embed(model, part, reader.pad_id, pooling=config.pooling, batch_size=config.batch_size)
            for name, part in rows.items()
        }
    labels = {name: np.asarray(part["label"][:]) for name, part in sets.items()}
    measured = measure_embeddings(found["train"], labels["train"], found["validation"], labels["validation"])
    commonest = float((labels["validation"] == np.bincount(labels["train"]).argmax()).mean())

    folder = Path(config.output_dir)
    make_folder(folder)
    numbers = dataclasses.asdict(measured) | {"commonest class": commonest}
    console.say(format_table([numbers]))
    replace(folder / "results.json", to_json(numbers | {"model": config.model.name, "data": data.description}))
    some = np.arange(min(SAMPLE, len(rows["validation"])))
    console.say("drawing the map")
    drawn, classes = maps(found["validation"][some]), labels["validation"][some]
    plot_maps(drawn, classes, data.names, folder / "map.png")
    texts = [" | ".join(str(row[c]) for c in data.text_columns)[:SHOWN] for row in data.validation.select(some)]
    pictures = {title: draw_points(points, [data.names[i] for i in classes], texts) for title, points in drawn.items()}
    page = Page(
        title=f"Vectors of {Path(config.model.name).name}",
        subtitle=data.description,
        numbers=[(name, value, "") for name, value in numbers.items()],
        sections=[
            Section("Maps", [Picture(svg, f"{name}: every point a text") for name, svg in pictures.items() if svg])
        ],
    )
    console.say(f"map: {page.write(folder / 'map.html')}; all numbers: {folder / 'results.json'}")


if __name__ == "__main__":
    program.run(main, lambda: parse(EmbeddingsConfig, __doc__))
