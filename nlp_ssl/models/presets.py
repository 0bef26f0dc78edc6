"""Named sizes: `bert-tiny` ... `bert-large`, and the same for eight more families.

Widths and depths follow the papers where there is one (BERT: Turc et al. 2019 and Devlin et al. 2018; ELECTRA: Clark et
al. 2020; GPT-2: Radford et al. 2019; ModernBERT: Warner et al. 2024; Llama: the shapes of SmolLM and TinyLlama; T5: the
ones of version 1.1, Raffel et al. 2020; BART: Lewis et al. 2020), and scale them down where not.
"""

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from nlp_ssl.core.errors import UserError

SIZES = ("tiny", "mini", "small", "base", "large")


@dataclass(frozen=True)
class Family:
    """An architecture and its sizes.

    Attributes:
        model_type: as transformers names it.
        kind: whether its tokens see both sides or their past, or whether it has a stack of each.
        tokenizer: kind of tokenizer it is trained with by convention.
        shapes: one (hidden size, layers, heads, feed-forward size) for each of `SIZES`; layers in each stack.
        sequence_lengths: tokens in a packed row, for each of `SIZES`.
        optimizer: what trains it well from scratch.
        scale_parameter: whether a weight's learning rate follows its size: where the sizes differ much.
        fixed: fields of its configuration that are the same in every size.
    """

    model_type: str
    kind: Literal["encoder", "decoder", "encoder-decoder"]
    tokenizer: Literal["wordpiece", "bpe", "unigram"]
    shapes: tuple[tuple[int, int, int, int], ...]
    sequence_lengths: tuple[int, ...] = (128, 128, 512, 512, 512)
    optimizer: Literal["adamw", "muon"] = "adamw"
    scale_parameter: bool = False
    fixed: tuple[tuple[str, Any], ...] = ()


_BERT = ((128, 2, 2, 512), (256, 4, 4, 1024), (512, 4, 8, 2048), (768, 12, 12, 3072), (1024, 24, 16, 4096))
_PRE_NORM_ENCODER = ((128, 6, 2, 384), (256, 8, 4, 512), (512, 12, 8, 768), (768, 22, 12, 1152), (1024, 28, 16, 2624))
_ELECTRA = ((128, 2, 2, 512), (256, 4, 4, 1024), (256, 12, 4, 1024), (768, 12, 12, 3072), (1024, 24, 16, 4096))
_GPT2 = ((128, 4, 2, 512), (256, 6, 4, 1024), (768, 12, 12, 3072), (1024, 24, 16, 4096), (1280, 36, 20, 5120))
_LLAMA = ((128, 6, 2, 384), (256, 8, 4, 704), (576, 30, 9, 1536), (960, 32, 15, 2560), (2048, 22, 32, 5632))
_KEY_VALUE_HEADS = (2, 4, 3, 5, 4)
_T5 = ((128, 4, 2, 384), (256, 6, 4, 704), (512, 8, 6, 1024), (768, 12, 12, 2048), (1024, 24, 16, 2816))
_BART = ((128, 2, 2, 512), (256, 4, 4, 1024), (512, 4, 8, 2048), (768, 6, 12, 3072), (1024, 12, 16, 4096))

FAMILIES = {
    "bert": Family("bert", "encoder", "wordpiece", _BERT),
    "roberta": Family("roberta", "encoder", "bpe", _BERT),
    "modernbert": Family(
        "modernbert", "encoder", "bpe", _PRE_NORM_ENCODER, (128, 256, 1024, 1024, 1024), "muon",
        fixed=(("max_position_embeddings", 8192),),
    ),
    "deberta-v2": Family(
        "deberta-v2", "encoder", "unigram", _BERT,
        fixed=(
            ("relative_attention", True), ("pos_att_type", ["p2c", "c2p"]), ("position_buckets", 256),
            ("norm_rel_ebd", "layer_norm"), ("share_att_key", True), ("position_biased_input", False),
            ("type_vocab_size", 0),
        ),
    ),
    "electra": Family("electra", "encoder", "wordpiece", _ELECTRA),
    "gpt2": Family(
        "gpt2", "decoder", "bpe", _GPT2, (256, 256, 1024, 1024, 1024),
        fixed=(("activation_function", "gelu_pytorch_tanh"),),  # the same function as gelu_new, in one kernel
    ),
    "llama": Family(
        "llama", "decoder", "bpe", _LLAMA, (256, 256, 1024, 2048, 2048), "muon",
        fixed=(("max_position_embeddings", 4096),),
    ),
    "t5": Family(  # its head is the embeddings: transformers 5 ties those of every new T5
        "t5", "encoder-decoder", "unigram", _T5, scale_parameter=True, fixed=(("feed_forward_proj", "gated-gelu"),)
    ),
    "bart": Family("bart", "encoder-decoder", "bpe", _BART),
}  # fmt: skip


def split_name(name: str) -> tuple[str, str] | None:
    """`"deberta-v2-base"` -> `("deberta-v2", "base")`; `None` when it names no preset."""
    family, _, size = name.rpartition("-")
    return (family, size) if family in FAMILIES and size in SIZES else None


def preset_names() -> list[str]:
    """Every preset."""
    return [f"{family}-{size}" for family in FAMILIES for size in SIZES]


def described() -> str:
    """All presets, in short."""
    return f"{', '.join(FAMILIES)}, each in {', '.join(SIZES[:-1])} or {SIZES[-1]}"


def nearest(name: str) -> str | None:
    """The preset that a name is most like; `None` where it is like none."""
    if (family := name.rpartition("-")[0]) in FAMILIES:  # of another size: the largest that there is for a large one
        return f"{family}-{(difflib.get_close_matches(name.rpartition('-')[2], SIZES, n=1) or SIZES[-1:])[0]}"
    found = difflib.get_close_matches(name, preset_names(), n=1, cutoff=0.75)
    return found[0] if found else None


def sequence_length(name: str) -> int:
    """Tokens in a packed row of this preset."""
    family, _, size = name.rpartition("-")
    return FAMILIES[family].sequence_lengths[SIZES.index(size)]


def preset_config(name: str, vocab_size: int, **fields: Any) -> PreTrainedConfig:
    """The transformers configuration of a preset.

    Args:
        name: one of `preset_names()`.
        vocab_size: entries of the vocabulary.
        fields: further fields, such as the ids of special tokens; they come before the preset's.

    Raises:
        UserError: an unknown name.
    """
    if not (parts := split_name(name)):
        raise UserError(f"no preset is called '{name}'; there are {described()}")
    family, size = FAMILIES[parts[0]], SIZES.index(parts[1])
    hidden, layers, heads, feed_forward = family.shapes[size]
    if family.model_type == "gpt2":
        shape = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": feed_forward}
    elif family.model_type == "t5":
        shape = {"d_model": hidden, "num_layers": layers, "num_heads": heads, "d_ff": feed_forward}
        shape |= {"decoder_start_token_id": fields.get("pad_token_id", 0)}
    elif family.model_type == "bart":
        shape = {"d_model": hidden}
        for stack in ("encoder", "decoder"):
            shape |= {f"{stack}_layers": layers, f"{stack}_attention_heads": heads, f"{stack}_ffn_dim": feed_forward}
        shape |= dict.fromkeys(("decoder_start_token_id", "forced_eos_token_id"), fields.get("eos_token_id", 2))
    else:
        shape = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": feed_forward,
        }
    if family.model_type == "llama":
        shape |= {"num_key_value_heads": _KEY_VALUE_HEADS[size], "tie_word_embeddings": True}
    if family.model_type == "electra":
        shape |= {"embedding_size": 128 if hidden < 768 else hidden}
    if family.model_type == "roberta":
        shape |= {"max_position_embeddings": 512 + fields.get("pad_token_id", 1) + 1, "type_vocab_size": 1}
    names = CONFIG_MAPPING[family.model_type].attribute_map  # GPT-2 calls its hidden_size n_embd
    fields = {names.get(key, key): value for key, value in fields.items()}
    return AutoConfig.for_model(
        family.model_type, **{"vocab_size": vocab_size, **shape, **dict(family.fixed), **fields}
    )
