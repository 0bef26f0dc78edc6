"""Encoder-decoders on packed rows: documents are apart in all three attentions, and as plain transformers has them."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from transformers import AutoConfig, T5GemmaConfig, T5GemmaForConditionalGeneration

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / folder)
    for folder in (".", "equivalence", "objectives", "objectives/cases")
)
from span_corruption import WITH_BLANKS, seq2seq
from toys import tiny_model, word_tokenizer

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.models.checks import check_isolation
from nlp_ssl.models.loading import architecture, describe
from nlp_ssl.models.packed_seq2seq import PackedSeq2Seq
from nlp_ssl.objectives.span_corruption import SpanCorruption

OLD = pytest.mark.skipif(
    Version(version("transformers")) < Version("5.20"),
    reason="5.17 mixes up UMT5's rows; a run refuses it",
)
FAMILIES = ("t5", "mt5", pytest.param("umt5", marks=OLD), "bart", "mbart", "pegasus")
SHAPE = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SHAPE |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
T5_LIKE = ("t5", "mt5", "umt5", "longt5")


def model(name):
    return seq2seq(name, **({} if name in T5_LIKE else SHAPE))


def rows(ids, numbers, targets, target_numbers):
    """Of lists, with positions from 0 in every document."""
    return {
        "input_ids": torch.tensor([ids]),
        "document_ids": torch.tensor([numbers]),
        "position_ids": torch.tensor([positions(numbers)]),
        "target_ids": torch.tensor([targets]),
        "target_document_ids": torch.tensor([target_numbers]),
        "target_position_ids": torch.tensor([positions(target_numbers)]),
    }


def positions(numbers):
    return [0 if n == 0 else i - numbers.index(n) for i, n in enumerate(numbers)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_document_is_read_as_if_it_were_alone(name):
    packed = PackedSeq2Seq(model(name), True).double()
    sources = ([7, 8, 9, 10, 11, 2], [12, 13, 2], [14, 15, 16, 17, 2])
    targets = ([0, 20, 21], [0, 22, 23, 24, 25], [0, 26])
    ids, numbers = zip(*[(token, i + 1) for i, part in enumerate(sources) for token in part], strict=True)
    written, of = zip(*[(token, i + 1) for i, part in enumerate(targets) for token in part], strict=True)
    batch = rows([*ids, 0, 0], [*numbers, 0, 0], [*written, 0, 0, 0], [*of, 0, 0, 0])
    logits = packed(**batch)[0]
    assert logits.isfinite().all()
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = packed.model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0]
        there = batch["target_document_ids"][0] == i + 1
        torch.testing.assert_close(logits[there], alone, rtol=1e-6, atol=1e-6)  # T5's norm is float32 inside
    chosen = torch.tensor([7, 1])
    picked = packed(**batch, label_positions=chosen)
    assert picked.shape[:2] == (1, 2)
    torch.testing.assert_close(picked[0], logits[chosen])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_proof_on_the_model_itself_holds(name, attention):
    made = model(name)
    made.set_attn_implementation(attention)
    assert check_isolation(PackedSeq2Seq(made, True), len(WITH_BLANKS), 45) < 1e-5


def without_pairs(packed):
    packed.model.get_decoder()._forward_pre_hooks.clear()


def without_positions(packed):
    for name, module in packed.named_modules():
        if name.endswith("embed_positions"):
            module._forward_hooks.clear()


@pytest.mark.parametrize(
    ("broken", "said"), [(without_pairs, "changes logits|must match"), (without_positions, "alone")]
)
def test_the_proof_finds_what_is_not_apart(broken, said):
    packed = PackedSeq2Seq(model("bart"), True)
    broken(packed)
    with pytest.raises(UserError, match=rf"cannot keep packed documents apart.*({said})"):
        check_isolation(packed, len(WITH_BLANKS), 45)


def test_architectures_of_other_attentions_are_refused_and_read_one_document_a_row():
    packed = PackedSeq2Seq(model("longt5"), True)
    with pytest.raises(
        UserError, match=r"LongT5\w+ cannot keep packed documents apart; give --tokens.packing one_document"
    ):
        check_isolation(packed, len(WITH_BLANKS), 45)
    small = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    small |= {"num_key_value_heads": 1, "intermediate_size": 64, "sliding_window": 8}
    gemma = T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=small, decoder=small, vocab_size=99))
    with pytest.raises(UserError, match=r"T5Gemma\w+ cannot keep packed documents apart"):
        check_isolation(PackedSeq2Seq(gemma, True), 99, 45)
    alone = PackedSeq2Seq(model("longt5"), False)
    batch = rows([7, 8, 9, 2, 0, 0], [1, 1, 1, 1, 0, 0], [0, 5, 0, 0], [1, 1, 0, 0])
    plain = alone.model(input_ids=batch["input_ids"][:, :4], decoder_input_ids=batch["target_ids"][:, :2]).logits
    torch.testing.assert_close(alone(**batch)[:, :2], plain, rtol=1e-5, atol=1e-5)


def test_a_model_without_a_second_stack_is_refused():
    with pytest.raises(UserError, match=r"BertForMaskedLM has no encoder whose states a decoder reads"):
        PackedSeq2Seq(tiny_model("bert"), True)


def test_its_stacks_are_described():
    assert "2 + 1 layers of 32" in describe(seq2seq("t5"))
    assert "2 + 1 layers of 32" in describe(seq2seq("bart"))


@pytest.mark.parametrize(("name", "role"), [("t5", "pad"), ("bart", "eos")])
def test_a_decoder_begins_with_the_token_of_the_same_role_under_another_tokenizer(name, role, tmp_path):
    foreign = {
        "pad_token_id": 7,
        "bos_token_id": 8,
        "eos_token_id": 9,
        "decoder_start_token_id": {"pad": 7, "eos": 9}[role],
    }
    AutoConfig.for_model(name, vocab_size=20, **foreign).save_pretrained(tmp_path)
    tokenizer = word_tokenizer(50)
    for chosen in (ModelConfig(name=str(tmp_path), from_scratch=True), ModelConfig(name=f"{name}-tiny")):
        made = architecture(chosen, SpanCorruption.auto_class, tokenizer, 32, None)
        assert made.decoder_start_token_id == getattr(tokenizer, f"{role}_token_id")
        assert made.vocab_size == 50
