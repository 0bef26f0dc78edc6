"""Span corruption and text infilling, on a T5 and a BART whose tokenizer has its blanks in falling order."""

import copy

import torch
from parity_cases import BEGIN, END, PAD, SEED, TOKENIZER
from splits import SplitCase
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from nlp_ssl.config.span_corruption import NoiseSection, SpanCorruptionConfig
from nlp_ssl.models.packed_seq2seq import PackedSeq2Seq
from nlp_ssl.objectives.span_collator import CorruptingCollator
from nlp_ssl.objectives.span_corruption import SpanCorruption
from nlp_ssl.objectives.span_noise import blank

FRAME = ((BEGIN,), (END,))
BLANKS = 12
WITH_BLANKS = copy.deepcopy(TOKENIZER)
WITH_BLANKS.add_special_tokens({"extra_special_tokens": [blank(i) for i in reversed(range(BLANKS))]})
_ROLES = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
SHAPES = {
    "t5": {"d_model": 32, "d_kv": 8, "num_heads": 2, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1}
    | {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "decoder_start_token_id": PAD}
    | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    | {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
    | {"dropout": 0.0, "decoder_start_token_id": END, "forced_eos_token_id": END},
}


def seq2seq(name, **more):
    """A model of a few layers of 32, weights large enough that attention matters."""
    fields = SHAPES[name if name in SHAPES else "t5"] | _ROLES | more
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=len(WITH_BLANKS), **fields)
    model = AutoModelForSeq2SeqLM.from_config(config)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    return model.eval()


def options(**noise):
    return SpanCorruptionConfig(noise=NoiseSection(**noise))


def collator(**noise):
    return CorruptingCollator(WITH_BLANKS, NoiseSection(**noise), FRAME, seed=SEED)


def objective(name, **noise):
    return SpanCorruption(PackedSeq2Seq(seq2seq(name), True), WITH_BLANKS, options(**noise)).double()


def case(name, **noise):
    return SplitCase(lambda: objective(name, **noise), lambda: collator(**noise))


CASES = {
    "span corruption t5": case("t5"),
    "span corruption bart": case("bart"),
    "text infilling t5": case("t5", kind="infilling", permute_sentences=True),
}
