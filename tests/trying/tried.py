"""A folder with a tiny model of every task, as a run leaves one."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from toys import texts, tiny_model, tokenizer
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from nlp_ssl.data.tokens.tokenizer import add_bos_only, add_eos_only, train_tokenizer
from nlp_ssl.objectives.infilling import SENTINELS
from nlp_ssl.objectives.text_vectors import sentence_transformers_files

TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
BLANKS = [f"<extra_id_{number}>" for number in range(3)]
ESCAPING = "neutral\x1b[31m"


def save(folder: Path, model: Any, tokens: Any, **files: str) -> Path:
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def shaken(model: Any) -> Any:
    """Weights large enough that a text decides what comes out."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def headed(auto_class: Any, name: str = "bert", **config: Any) -> Any:
    return shaken(tiny_model(name, vocab_size=400, auto_class=auto_class, **config))


def sequence_to_sequence(folder: Path, kind: str) -> Path:
    blanks = train_tokenizer(texts(), "bpe", 600, min_frequency=1, special_tokens=BLANKS if kind == "t5" else [])
    ids = {"pad_token_id": 1, "eos_token_id": 2, "vocab_size": len(blanks)}
    torch.manual_seed(0)
    if kind == "t5":
        config = T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=1, **ids)
        return save(folder, shaken(T5ForConditionalGeneration(config)), add_eos_only(blanks))
    shape = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    shape |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "d_model": 32}
    config = BartConfig(**shape, decoder_start_token_id=2, bos_token_id=0, forced_eos_token_id=None, **ids)
    return save(folder, shaken(BartForConditionalGeneration(config)), blanks)


def vectors(folder: Path, pooling: Any) -> Path:
    save(folder, headed(AutoModel), tokenizer("wordpiece"))
    for name, content in sentence_transformers_files(pooling, 32, 16).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def make(folder: Path, task: str) -> Path:
    """A new folder with a model of a task."""
    words, pairs = tokenizer("wordpiece"), tokenizer("bpe")
    if task in ("t5", "bart"):
        return sequence_to_sequence(folder, task)
    if task in ("mean", "cls"):
        return vectors(folder, task)
    if task == "fim":
        tokens = train_tokenizer(texts(), "bpe", 600, min_frequency=1, special_tokens=SENTINELS)
        return save(folder, shaken(tiny_model("gpt2", vocab_size=600)), add_bos_only(tokens))
    labels = {"id2label": {0: "bad", 1: ESCAPING, 2: "good"}, "label2id": {"bad": 0, ESCAPING: 1, "good": 2}}
    classifier = AutoModelForSequenceClassification
    model = {
        "masked": lambda: shaken(tiny_model("bert", vocab_size=400)),
        "bpe": lambda: shaken(tiny_model("modernbert", vocab_size=600)),
        "causal": lambda: shaken(tiny_model("llama", vocab_size=600)),
        "classes": lambda: headed(classifier, **labels),
        "several": lambda: headed(classifier, problem_type="multi_label_classification", **labels),
        "number": lambda: headed(classifier, num_labels=1),
        "tags": lambda: headed(AutoModelForTokenClassification, id2label=TAGS),
        "questions": lambda: headed(AutoModelForQuestionAnswering),
        "replaced": lambda: headed(AutoModelForPreTraining, "electra"),
        "body": lambda: headed(AutoModel),
    }[task]()
    tokens = {"bpe": pairs, "causal": add_bos_only(copy.deepcopy(pairs))}.get(task, words)
    return save(folder, model, tokens)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
