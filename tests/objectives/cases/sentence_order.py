"""Masked language modelling with sentence order."""

from functools import cache

import torch
from parity_cases import BEGIN, END, ROLES, ROW_LENGTH, SEED, VOCABULARY, documents, packed_row
from splits import SplitCase
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from toys import tiny_model
from transformers import PreTrainedTokenizerFast

from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.config.sentence_order import SentenceOrderConfig, SentenceOrderSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.sentence_order import SentenceOrder

STOPS = range(5, 30)  # words that end a sentence


@cache
def pair_tokenizer(between=1):
    """Words `w30` ..., and `w5.` ... `w29.`, which end sentences; as many SEPs between two texts."""
    roles = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<m>"}
    names = [*roles.values(), *(f"w{i}{'.' if i in STOPS else ''}" for i in range(5, VOCABULARY))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("<s>", BEGIN), ("</s>", END)]
    pair = f"<s> $A{between * ' </s>'} $B:1 </s>:1"
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=special)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **roles)


def rows(between=1):
    """Those of every case, with room for SEPs more behind every document."""
    longer = [[type(d)([*d.ids, *between * [END]], d.cut) for d in row] for row in documents(True)]
    return [packed_row(row, ROW_LENGTH + 4 * between) for row in longer]


def options(task="sop", weight=0.5):
    section = SentenceOrderSection(task=task, weight=weight)
    return SentenceOrderConfig(masking=MaskingConfig(probability=0.3), sentence_order=section)


def make(name, config, between=1):
    model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES)
    torch.manual_seed(2)
    return SentenceOrder(PackedModel(model, True), pair_tokenizer(between), config).double()


def case(name, task="sop", source=0):
    config = options(task)
    tokenizer = pair_tokenizer()
    return SplitCase(
        lambda: make(name, config),
        lambda: SentenceOrder.collator(tokenizer, config, seed=SEED, source=source),
        rows(),
    )


CASES = {f"sentence order {name}": case(name) for name in ("bert", "modernbert")}
CASES["next sentence bert"] = case("bert", "nsp")
CASES["next sentence bert, pairs of held-out text"] = case("bert", "nsp", source=1)
