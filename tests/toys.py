"""A toy corpus, a toy tokenizer of every kind, tiny models: made in a second, the same in every run."""

import random
from functools import cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from nlp_ssl.data.sequences.packing import PackedRows, pack
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.data.tokens.tokenizer import train_tokenizer
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus

SYLLABLES = ["ka", "lo", "mi", "ren", "tus", "va", "po", "shi", "dor", "el", "an", "qu", "ist", "ber", "gho"]
PUNCTUATION = ["", "", "", ",", ".", "!", " -"]


@cache
def texts(count: int = 300, seed: int = 0) -> tuple[str, ...]:
    """Documents of 1 to 200 words, some with Chinese, accents and an emoji; every 50th is empty."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.choice((1, 1, 2, 2, 3, 4)))) for _ in range(400)]
    words += ["straße", "naïve", "ПРИВЕТ", "😀", "中文分词", "漢字", "かな"]
    documents = []
    for i in range(count):
        length = 0 if i % 50 == 49 else min(200, int(rng.lognormvariate(3, 1)) + 1)
        chosen = rng.choices(words, weights=[1 / (n + 5) for n in range(len(words))], k=length)
        documents.append(" ".join(word + rng.choice(PUNCTUATION) for word in chosen))
    return tuple(documents)


def dataset(count: int = 300, seed: int = 0) -> Dataset:
    return Dataset.from_dict({"text": list(texts(count, seed))})


@cache
def tokenizer(kind: str, vocab_size: int = 0) -> Any:
    """A tokenizer of each kind trained on the toy texts; treat it as read-only."""
    size = vocab_size or {"wordpiece": 400, "bpe": 600, "unigram": 500}[kind]
    return train_tokenizer(texts(), kind, size, min_frequency=1)


@cache
def word_tokenizer(vocab_size: int) -> Any:
    """One entry a word `w0`, `w1`, ...: any vocabulary size at once."""
    from transformers import PreTrainedTokenizerFast

    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<m>"}
    names = [*roles.values(), *(f"w{i}" for i in range(vocab_size - len(roles)))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **roles)


def token_corpus(folder: Any, kind: str = "bpe", **more: Any) -> TokenCorpus:
    return tokenize_corpus(dataset(), tokenizer(kind), folder, "toy", **more)


def packed_rows(folder: Any, kind: str = "bpe", sequence_length: int = 64, **more: Any) -> PackedRows:
    t = tokenizer(kind)
    tokens = token_corpus(folder, kind)
    return pack(tokens, sequence_length, (t.cls_token_id,), (t.sep_token_id,), t.pad_token_id, **more)


class Lengths:
    """Stands in for a `TokenCorpus` where only lengths matter: document d holds the tokens d * 1000 + 0, 1, 2, ..."""

    def __init__(self, lengths: Any, folder: Any) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])
        self.folder = folder
        self.manifest = {"fingerprint": "lengths"}
        self.document_bytes = np.diff(self.offsets) * 4

    def copy(self, starts: np.ndarray, lengths: np.ndarray, into: np.ndarray, at: np.ndarray) -> None:
        documents = np.searchsorted(self.offsets, starts, side="right") - 1
        for i, document in enumerate(documents):
            first = starts[i] - self.offsets[document]
            into[at[i] : at[i] + lengths[i]] = document * 100_000 + first + np.arange(lengths[i])


# ---------------------------------------------------------------------------------------------------------------------
# tiny models

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
_SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True}
_DEBERTA |= {"norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0}

MASKED: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 64},
    "roberta": {"max_position_embeddings": 66},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "max_position_embeddings": 64},
    "deberta-v2": _DEBERTA | {"max_position_embeddings": 64},
    "albert": {"embedding_size": 16, "max_position_embeddings": 64},
    "electra": {"embedding_size": 16, "max_position_embeddings": 64},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "mpnet": {"max_position_embeddings": 66},
}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_inner": 64, "n_positions": 64},
    "llama": {"num_key_value_heads": 1, "max_position_embeddings": 64},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 5, "max_position_embeddings": 64},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64},
}
NO_SHAPE = ("gpt2", "distilbert")
NO_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
NO_DROPOUT += ("attn_pdrop", "embd_pdrop", "resid_pdrop", "classifier_dropout_prob")


def tiny_config(name: str, vocab_size: int = 100, dropout: float = 0.0, **more: Any) -> Any:
    fields = _SPECIAL | ({} if name in NO_SHAPE else _SHAPE) | (MASKED | CAUSAL)[name] | more
    config = AutoConfig.for_model(name, vocab_size=vocab_size, **fields)
    for key in NO_DROPOUT:
        if hasattr(config, key):
            setattr(config, key, dropout)
    return config


def tiny_model(
    name: str,
    *,
    isolated: bool = False,
    vocab_size: int = 100,
    dropout: float = 0.0,
    auto_class: Any = None,
    **more: Any,
) -> PreTrainedModel:
    """A model of three layers of 32, weights large enough that attention matters; by default for language modelling."""
    config = tiny_config(name, vocab_size, dropout, **more)
    auto_class = auto_class or (AutoModelForCausalLM if name in CAUSAL else AutoModelForMaskedLM)
    by_name = isolated and name not in ("deberta-v2", "mpnet")
    torch.manual_seed(0)
    model = auto_class.from_config(config, **({"attn_implementation": "isolated"} if by_name else {}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()
