"""Vectors of texts by plain transformers, and the folder in which sentence-transformers finds how to make them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.samples import held_out_paragraphs

Pooling = Literal["mean", "cls"]
SHOWN = 60  # characters of a text


@torch.no_grad()
def text_vectors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    pooling: Pooling = "mean",
    *,
    max_length: int | None = None,
    batch_size: int = 64,
) -> Tensor:
    """A vector for each text, on the host.

    Args:
        model: without a head, on any device; put into evaluation mode.
        tokenizer: its.
        texts: what to read.
        pooling: the mean over a text's tokens, special ones included, or the first token's vector.
        max_length: tokens that are read of a text; what the tokenizer announces when `None`.
        batch_size: texts in a forward pass; texts of like length share one.

    Returns:
        float32 (N, hidden size).
    """
    model.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts), model.config.hidden_size)
    for begin in range(0, len(order), batch_size):
        some = order[begin : begin + batch_size]
        batch = tokenizer(
            [texts[i] for i in some], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        ).to(model.device)
        hidden, mask = model(**batch).last_hidden_state.float(), batch["attention_mask"][..., None]
        pooled = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
        found[some] = pooled.cpu()
    return found


def sentence_transformers_files(pooling: Pooling, width: int, max_length: int) -> dict[str, str]:
    """What sentence-transformers reads beside a model: name -> JSON.

    Args:
        pooling: how the vector of a text is made.
        width: of a vector.
        max_length: tokens that are read of a text.
    """
    library = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{library}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{library}.Pooling"},
    ]
    pool = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    contents = {
        "modules.json": modules,
        "1_Pooling/config.json": pool,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}


def nearest_texts(
    folder: Path,
    tokens: TokenCorpus,
    tokenizer: PreTrainedTokenizerFast,
    pooling: Pooling,
    *,
    count: int = 5,
    among: int = 200,
) -> Iterator[str]:
    """The nearest neighbours of some held-out paragraphs, by plain transformers; one line each.

    Args:
        folder: of the finished model.
        tokens: the held-out text.
        tokenizer: its.
        pooling: how the vector of a text is made.
        count: paragraphs that are shown.
        among: paragraphs that are looked through.
    """
    texts = list(dict.fromkeys(held_out_paragraphs(tokens, tokenizer, among)))
    if len(texts) < 2:
        return
    model = AutoModel.from_pretrained(folder, trust_remote_code=False)
    vectors = F.normalize(text_vectors(model, tokenizer, texts, pooling), dim=-1)
    cosines = (vectors @ vectors.T).fill_diagonal_(-1)
    for i in range(0, len(texts), max(1, len(texts) // count))[:count]:
        nearest = int(cosines[i].argmax())
        yield f"{_shown(texts[i])}  ->  {_shown(texts[nearest])}  (cosine {cosines[i, nearest]:.2f})"


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line[:SHOWN]}..."' if len(line) > SHOWN else f'"{line}"'
