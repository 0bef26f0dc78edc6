"""Tokenizers built as well-known ones are, each from a few texts in a moment: no network, the same rules."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertTokenizer,
    BertTokenizerFast,
    DebertaV2TokenizerFast,
    GPT2TokenizerFast,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
    XLMRobertaTokenizerFast,
)

from nlp_ssl.data.tokens.tokenizer import train_tokenizer

BYTES = pre_tokenizers.ByteLevel.alphabet()
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
LLAMA_3 += r"|\s+(?!\S)|\s+"


def bert(texts: Sequence[str]) -> Any:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names))
    return BertTokenizerFast(vocab=core.get_vocab(), do_lower_case=True)


def bpe(texts: Sequence[str], names: list[str], pre_tokenizer: Any = None) -> dict[str, Any]:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=BYTES))
    model = json.loads(core.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def roberta(texts: Sequence[str], **more: Any) -> Any:
    return RobertaTokenizerFast(**bpe(texts, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), **more)


def roberta_with_prefix(texts: Sequence[str]) -> Any:
    return roberta(texts, add_prefix_space=True)


def gpt2(texts: Sequence[str]) -> Any:
    return GPT2TokenizerFast(**bpe(texts, ["<|endoftext|>"]))


def llama3(texts: Sequence[str]) -> Any:
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    rules = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core = Tokenizer(models.BPE(**bpe(texts, [begin, end], rules), ignore_merges=True))
    core.pre_tokenizer, core.decoder = rules, decoders.ByteLevel()
    core.add_special_tokens([begin, end])
    template = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=begin, eos_token=end)


def llama2(texts: Sequence[str]) -> Any:
    """Blanks become `▁` before BPE; characters that are not in the vocabulary are bytes."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=340, special_tokens=names, limit_alphabet=30))
    core.pre_tokenizer = None
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pieces(texts: Sequence[str], names: list[str], unknown: str) -> list[tuple[str, float]]:
    core = Tokenizer(models.Unigram())
    core.normalizer, core.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=names, unk_token=unknown)
    core.train_from_iterator(texts, trainer)
    return [tuple(entry) for entry in json.loads(core.to_str())["model"]["vocab"]]


def albert(texts: Sequence[str]) -> Any:
    return AlbertTokenizer(vocab=pieces(texts, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "<unk>"))


def xlm_roberta(texts: Sequence[str]) -> Any:
    return XLMRobertaTokenizerFast(vocab=pieces(texts, ["<s>", "<pad>", "</s>", "<unk>"], "<unk>"))


def deberta_v3(texts: Sequence[str]) -> Any:
    return DebertaV2TokenizerFast(vocab=pieces(texts, ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]"))


def ours(kind: str) -> Callable[[Sequence[str]], Any]:
    return lambda texts: train_tokenizer(texts, kind, {"wordpiece": 90, "bpe": 300, "unigram": 340}[kind])


PUBLISHED: dict[str, Callable[[Sequence[str]], Any]] = {
    "bert": bert,
    "roberta": roberta,
    "roberta, add_prefix_space": roberta_with_prefix,
    "gpt2": gpt2,
    "llama-3": llama3,
    "llama-2": llama2,
    "albert": albert,
    "xlm-roberta": xlm_roberta,
    "deberta-v3": deberta_v3,
    "our wordpiece": ours("wordpiece"),
    "our bpe": ours("bpe"),
    "our unigram": ours("unigram"),
}
