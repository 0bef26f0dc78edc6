"""Models that have a head already: random ones, what plain transformers says by them, the same in another order."""

from pathlib import Path
from typing import Any

import torch
from launch import WORDS
from toys import tiny_config
from toys import tokenizer as toy_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

CLS, NER = AutoModelForSequenceClassification, AutoModelForTokenClassification
CIRCLE = 2 * WORDS
PAIRS = [(" ".join(CIRCLE[i : i + 3]), " ".join(CIRCLE[i + j : i + j + 2])) for i in range(12) for j in (1, 4, 7, 9)]
TEXTS = [first for first, _ in PAIRS[::4]] + [f"{second} {first}" for first, second in PAIRS[:36]]


def write_model(folder: Path, labels: list[str], auto_class: Any = CLS, texts: Any = TEXTS, **fields: Any) -> Path:
    """A random model whose outputs are balanced over the texts, so that it predicts every label for some of them."""
    tokenizer = toy_tokenizer("wordpiece")
    torch.manual_seed(0)
    config = tiny_config("bert", len(tokenizer), id2label=dict(enumerate(labels)), pad_token_id=tokenizer.pad_token_id)
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.update(fields)
    model = auto_class.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)  # or every text would be read alike
        encoded = tokenizer(*zip(*texts, strict=True)) if isinstance(texts[0], tuple) else tokenizer(texts)
        logits = torch.cat([model(**one(encoded, i)).logits.flatten(0, -2) for i in range(len(texts))])
        model.classifier.bias.copy_(-logits.quantile(0.5, dim=0, interpolation="midpoint"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one(encoded: Any, row: int) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([value[row]]) for key, value in encoded.items()}


def reorder(source: Path, folder: Path, order: list[int], names: list[str] | None = None) -> Path:
    """The same model with its labels in another order, and perhaps of other names."""
    auto_class = NER if "TokenClassification" in AutoConfig.from_pretrained(source).architectures[0] else CLS
    model = auto_class.from_pretrained(source)
    labels = [model.config.id2label[i] for i in order] if names is None else names
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.copy_(parameter[order].clone())
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.save_pretrained(folder)
    toy_tokenizer("wordpiece").save_pretrained(folder)
    return folder


def said_by(folder: Path, texts: list[Any]) -> list[str]:
    """The labels that plain transformers gives."""
    inputs = [{"text": t[0], "text_pair": t[1]} if isinstance(t, tuple) else t for t in texts]
    return [found["label"] for found in pipeline("text-classification", str(folder), device="cpu")(inputs)]
