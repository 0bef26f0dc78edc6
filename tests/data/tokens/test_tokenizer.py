"""Tokenizers: the same file every time, what plain transformers makes of it, and numbers a hand can check."""

import argparse
import gzip
import json
import random
import re
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import forks
import pytest
from huggingface_hub.constants import HF_HUB_CACHE
from launch import environment, run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertTokenizerFast,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
)

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.tokens import tokenizer as tokenizer_module
from nlp_ssl.data.tokens.tokenizer import (
    derive_vocab_size,
    load_tokenizer,
    num_text_bytes,
    save_tokenizer,
    train_tokenizer,
)
from nlp_ssl.data.tokens.tokenizer_audit import audit, format_audit, pieces

REPO = Path(__file__).resolve().parents[3]
SHARED = REPO.parent / "shared" / "data"
KINDS = ["wordpiece", "bpe", "unigram"]

# English that every machine has, and the scripts and accents that it lacks.
ENGLISH = Path(argparse.__file__).read_text(encoding="utf-8").split("\n\n")
OTHER = ["Größe, naïve café, Łódź, İstanbul", "语言模型 和 中文字符。東京", "Привет, мир: язык", "👩‍👩‍👧‍👦 ☃ 🎉 α β γ"]
TEXTS = [text for text in ENGLISH if text.strip()] + OTHER * 3

HOSTILE = [
    "",
    " ",
    " lead and trail ",
    "a\n\n\tb\r\n c  d",
    "nul \0 inside",
    "\ufeffbom \u2028 \u0085 \u00a0 \u200b",
    "👩‍👩‍👧‍👦🏳️‍🌈 ☃",
    "中文没有空格的句子",
    "e\u0301 é ﬁ Å ½",
    "<0x41> ▁ ## [UNK",
    "\U0010ffff\ue000",
    "x" * 100_000,
]


@pytest.fixture(scope="module")
def trained():
    """One tokenizer of each kind."""
    return {kind: train_tokenizer(TEXTS, kind, 900, model_max_length=128) for kind in KINDS}


def run_python(code: str, *args: str, **env: str) -> str:
    done = forks.run([sys.executable, "-c", code, *args], env=environment() | env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


# ---------------------------------------------------------------------------------------------------------------------
# the same file every time


TRAIN_AND_HASH = """
import argparse, hashlib, json, pathlib, sys
from nlp_ssl.data.tokens.tokenizer import save_tokenizer, train_tokenizer
texts = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").split("\\n\\n")
digests = {}
for kind in ("wordpiece", "bpe", "unigram"):
    folder = pathlib.Path(sys.argv[2]) / kind
    save_tokenizer(train_tokenizer(texts, kind, 1200, special_tokens=["<|user|>"]), folder)
    digests[kind] = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())]
print(json.dumps(digests))
"""


def test_every_process_writes_the_same_bytes(tmp_path):
    (tmp_path / "text").write_text("\n\n".join(TEXTS), encoding="utf-8")
    runs = [
        json.loads(
            run_python(
                TRAIN_AND_HASH,
                str(tmp_path / "text"),
                str(tmp_path / seed),
                PYTHONHASHSEED=seed,
                TOKENIZERS_PARALLELISM=parallel,
            )
        )
        for seed, parallel in (("1", "false"), ("2", "true"))
    ]
    for kind in KINDS:
        assert len(runs[0][kind]) == 2  # tokenizer.json and tokenizer_config.json
        assert runs[0][kind] == runs[1][kind], kind


# ---------------------------------------------------------------------------------------------------------------------
# what plain transformers makes of it


READ_BACK = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert not any(name.startswith("nlp_ssl") for name in sys.modules)
print(json.dumps({
    "class": type(tokenizer).__name__, "length": len(tokenizer), "max": tokenizer.model_max_length,
    "pair": dict(tokenizer("the café ", "naïve 中文")), "names": tokenizer.model_input_names,
    "roles": tokenizer.special_tokens_map, "tokens": tokenizer.tokenize("set the " + tokenizer.mask_token + " value"),
}))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_autotokenizer_of_another_process_reads_it(trained, kind, tmp_path):
    tokenizer = trained[kind]
    save_tokenizer(tokenizer, tmp_path / kind)
    read = json.loads(run_python(READ_BACK, str(tmp_path / kind)))
    assert read["class"] == PreTrainedTokenizerFast.__name__
    assert (read["length"], read["max"]) == (len(tokenizer), 128) == (900, 128)
    assert read["pair"] == dict(tokenizer("the café ", "naïve 中文"))
    assert read["names"] == list(read["pair"])
    assert {"cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "mask_token", "unk_token"} <= {
        *read["roles"]
    }
    mask = tokenizer.mask_token
    place = read["tokens"].index(mask if kind == "wordpiece" else f" {mask}")  # with its space, as RoBERTa's
    assert read["tokens"][place + 1] in ("value", "Ġvalue", "▁value")


def test_unigram_words_begin_together_with_their_blank(trained):
    tokenizer = trained["unigram"]
    words = [word for text in TEXTS for word in text.split()] + ["Zxq", "QUARK", "{x}", "~", "Größe", "Привет"]
    lone = [word for word in words if tokenizer.tokenize(f"a {word}")[1] == "▁" and word[0] in tokenizer.get_vocab()]
    assert len(lone) < len(words) / 100
    assert not [word for word in lone if word[0].isascii()]
    assert tokenizer.tokenize("a  b") == ["▁a", "▁", "▁b"]  # a blank that no word follows


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta-v2", "gpt2", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_model_folder_changes_it(trained, kind, model_type, tmp_path):
    trained[kind].save_pretrained(tmp_path)
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert type(read) is PreTrainedTokenizerFast
    assert read.backend_tokenizer.to_str() == trained[kind].backend_tokenizer.to_str()


def test_special_token_ids(trained):
    assert trained["wordpiece"].convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for kind in ("bpe", "unigram"):
        assert trained[kind].convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    more = train_tokenizer(TEXTS, "bpe", 500, special_tokens=["<|user|>"])
    assert more.convert_tokens_to_ids("<|user|>") == 5
    assert more.tokenize("a<|user|>b") == ["a", "<|user|>", "b"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_is_what_bert_makes_of_the_same_vocabulary(lowercase):
    ours = train_tokenizer(TEXTS, "wordpiece", 900, lowercase=lowercase)
    bert = BertTokenizerFast(vocab=ours.get_vocab(), do_lower_case=lowercase)
    for first in [*TEXTS[:100], *OTHER, *HOSTILE]:
        for pair in ((first,), (first, "The second [MASK] one")):
            assert dict(ours(*pair)) == dict(bert(*pair))
    types = ours("the first", "second")["token_type_ids"]
    assert types == sorted(types)
    assert {*types} == {0, 1}


def test_bpe_is_what_roberta_makes_of_the_same_merges(trained):
    ours = trained["bpe"]
    model = json.loads(ours.backend_tokenizer.to_str())["model"]
    roberta = RobertaTokenizerFast(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    for first in [*TEXTS[:100], *OTHER, *HOSTILE]:
        for pair in ((first,), (first, "The second")):
            assert dict(ours(*pair)) == dict(roberta(*pair))


def test_unigram_frames_a_pair_as_roberta(trained):
    tokenizer = trained["unigram"]
    alone = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the first", "second")]
    assert tokenizer("the first")["input_ids"] == [0, *alone[0], 2]
    assert tokenizer("the first", "second")["input_ids"] == [0, *alone[0], 2, 2, *alone[1], 2]
    assert {*tokenizer("the first", "second", return_token_type_ids=True)["token_type_ids"]} == {0}


def test_case_accents_and_chinese():
    cased = train_tokenizer(TEXTS, "wordpiece", 900)
    lower = train_tokenizer(TEXTS, "wordpiece", 900, lowercase=True)
    unigram = train_tokenizer(TEXTS, "unigram", 900, lowercase=True)
    assert lower("Größe CAFÉ")["input_ids"] == lower("große cafe")["input_ids"] != lower("grosse cafe")["input_ids"]
    assert cased("CAFÉ")["input_ids"] != cased("café")["input_ids"] != cased("cafe")["input_ids"]
    assert cased.tokenize("模型a中文") == ["模", "型", "a", "中", "文"]
    assert unigram("Größe ﬁ CAFÉ")["input_ids"] == unigram("große fi cafe")["input_ids"]


# ---------------------------------------------------------------------------------------------------------------------
# text nobody meant for it


def test_bytes_come_back(trained):
    tokenizer = trained["bpe"]
    for text in [*HOSTILE, *(chr(c) for c in range(0x250)), *TEXTS, "a line of 3 MB " * 200_000]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_unigram_falls_back_to_bytes(trained):
    tokenizer = trained["unigram"]
    for text in HOSTILE:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    for text in ("a\n\nb ☃ 🎉", "never seen: ꙮ \U0010ffff", "<0x41>"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.tokenize("ꙮ")[1:] == ["<0xEA>", "<0x99>", "<0xAE>"]


def test_shared_hostile_text_comes_back(trained):
    strings, languages = SHARED / "hostile" / "blns.json", SHARED / "udhr_multilingual" / "udhr.jsonl.gz"
    if not (strings.exists() and languages.exists()):
        pytest.skip("no shared data here")
    texts = json.loads(strings.read_text(encoding="utf-8"))
    with gzip.open(languages, "rt", encoding="utf-8") as lines:
        texts += [json.loads(line)["text"] for line in lines]
    for kind in ("bpe", "unigram"):
        for ids, text in zip(trained[kind](texts, add_special_tokens=False)["input_ids"], texts, strict=True):
            assert trained[kind].unk_token_id not in ids
            assert kind == "unigram" or trained[kind].decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_long_words_do_not_hold_training_up(kind):
    letters = random.Random(0)
    blob = "".join(letters.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(100_000))
    tokenizer = train_tokenizer([*TEXTS, blob, "word " * 200_000, "\0 \0"], kind, 900)
    assert len(tokenizer) == 900


# ---------------------------------------------------------------------------------------------------------------------
# what is trained on


def test_sample_is_bounded_whatever_the_stream(capsys):
    documents = [f"document {i} " + chr(97 + i % 26) * 500 for i in range(20_000)]
    tracemalloc.start()
    sample = tokenizer_module._sample(iter(documents), 1e6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.4e6 < sum(map(len, sample)) <= 1e6
    assert peak < 3e6
    assert {data.decode() for data in sample} <= {*documents}
    assert {*sample} == {*tokenizer_module._sample(reversed(documents), 1e6)}
    assert f"read 20,000 documents, 10.3 MB; sampled {len(sample):,} of them" in capsys.readouterr().out


def test_sample_takes_all_that_fits_and_never_nothing():
    assert tokenizer_module._sample(TEXTS, 1e9) == [text.encode() for text in TEXTS]
    assert tokenizer_module._sample(["same text"] * 1000, 1000) == [b"same text"]
    one_long = "中文 of one document " * 100_000
    sample = tokenizer_module._sample([one_long], 1e6)
    assert 0 < sum(map(len, sample)) <= 1e6
    assert all(data.decode() in one_long for data in sample)  # cut between characters


# ---------------------------------------------------------------------------------------------------------------------
# mistakes


@pytest.mark.parametrize(
    ("texts", "kind", "vocab_size", "options", "message"),
    [
        ([], "bpe", 500, {}, "no text to train a tokenizer on: the corpus gave 0 documents"),
        (["", " \n"], "unigram", 500, {}, "the corpus gave 2 documents"),
        (TEXTS, "bpe", 260, {}, "need at least 261"),
        (TEXTS, "wordpiece", 20, {}, r"need at least \d+"),
        (TEXTS, "unigram", 262, {}, r"need at least \d+"),
        (TEXTS, "bpe", 500, {"lowercase": True}, "choose wordpiece or unigram"),
        (TEXTS, "bpe", 500, {"special_tokens": ["<s>"]}, "must be different"),
        (TEXTS, "wordpiece", 500, {"special_tokens": ["<a>", "<a>"]}, "must be different"),
        (TEXTS, "word", 500, {}, "choose one of wordpiece, bpe, unigram"),
        (["fine", "half \ud800"], "bpe", 500, {}, "document 2 has half a surrogate pair at character 5"),
    ],
)
def test_mistakes_get_a_sentence(texts, kind, vocab_size, options, message):
    with pytest.raises(UserError, match=message) as raised:
        train_tokenizer(texts, kind, vocab_size, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_the_text_cannot_fill(kind):
    texts = TEXTS[:60]
    with pytest.raises(UserError, match="lower the vocabulary size") as raised:
        train_tokenizer(texts, kind, 50_000)
    possible = int(str(raised.value).split("fills only ")[1].split(" of ")[0].replace(",", ""))
    assert len(train_tokenizer(texts, kind, possible)) == possible  # the advice holds


@pytest.mark.parametrize("kind", KINDS)
def test_smallest_vocabulary_that_the_message_names_works(kind):
    with pytest.raises(UserError, match="at least") as raised:
        train_tokenizer(TEXTS, kind, 6)
    least = int(str(raised.value).rsplit(" ", 1)[1].replace(",", ""))
    assert len(train_tokenizer(TEXTS, kind, least)) == least


def test_loading_refuses_with_a_sentence(trained, tmp_path):
    for name, content in {"config.json": '{"model_type": "bert"}', "tokenizer.json": '{"added_tokens": []}'}.items():
        (tmp_path / name.split(".")[0]).mkdir()
        (tmp_path / name.split(".")[0] / name).write_text(content)
    (tmp_path / "empty").mkdir()
    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    for folder, message in {
        "nowhere": "does not exist",
        "config/config.json": "is a file, not a folder",
        "empty": "cannot load a tokenizer from the folder",
        "tokenizer": "cannot use the tokenizer in the folder",
        "config": "holds a model but no tokenizer",  # transformers would hand out an empty vocabulary
        "slow": "only a slow tokenizer",
    }.items():
        with pytest.raises(UserError, match=message):
            load_tokenizer(str(tmp_path / folder))


def test_loading_without_a_network_says_what_works():
    code = """
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.tokens.tokenizer import load_tokenizer
try:
    load_tokenizer("some/tokenizer", revision="v1")
except UserError as error:
    print(error)
"""
    for offline in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        message = run_python(code, **offline)
        assert "'some/tokenizer' at revision 'v1'" in message
        assert "cannot be reached: offline, give a folder" in message


def test_loading_a_causal_tokenizer(tmp_path, capsys):
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "<|endoftext|>"
    assert "padding with <|endoftext|>" in capsys.readouterr().out
    with pytest.raises(UserError, match="no mask token"):
        load_tokenizer(str(tmp_path), needs_mask=True)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="neither a padding nor an end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_saving_replaces_a_tokenizer_and_nothing_else(trained, tmp_path):
    folder = tmp_path / "runs" / "tokenizer"
    save_tokenizer(trained["bpe"], folder)
    save_tokenizer(trained["wordpiece"], folder)
    assert load_tokenizer(str(folder), needs_mask=True).mask_token == "[MASK]"
    (folder / "model.safetensors").touch()
    before = (folder / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match=r"something else than a tokenizer \(model.safetensors\)"):
        save_tokenizer(trained["bpe"], folder)
    assert (folder / "tokenizer.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]  # nothing half-written


# ---------------------------------------------------------------------------------------------------------------------
# numbers a hand can check


def test_derived_vocabulary():
    sizes = [derive_vocab_size(n) for n in (0, 10**6, 50 * 10**6, 200 * 10**6, 10**9, 10**12)]
    assert sizes == [512, 8_192, 8_192, 16_384, 32_768, 50_304]
    text = "\n\n".join(TEXTS)
    derived = derive_vocab_size(len(text.encode()))
    assert len(train_tokenizer([text], "bpe", derived)) == derived  # a first try on a small file works


def test_text_bytes(tmp_path):
    from datasets import Dataset

    documents = Dataset.from_dict({"text": TEXTS, "source": ["here"] * len(TEXTS)})
    expected = sum(len(text.encode()) for text in TEXTS)
    assert num_text_bytes(documents) == num_text_bytes(documents.to_iterable_dataset(3)) == expected


def test_audit_by_hand():
    entries = ["[PAD]", "[UNK]", "the", "cat", "##s", "sat", "zebra"]
    backend = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    # the | cat ##s | sat | [UNK] (.)   and   the | [UNK] (dög)
    measured = audit(tokenizer, ["the cats sat.", "", "the dög"])
    assert (measured.num_texts, measured.num_bytes, measured.num_tokens) == (3, 13 + 8, 7)
    assert measured.fertility == 7 / 5
    assert measured.bytes_per_token == 21 / 7
    assert measured.unknown_rate == 2 / 7
    assert measured.whole_words == 3 / 5  # the, sat, the; not cat-s, and an unknown word is not kept
    assert measured.unused == 1 / 5  # zebra, of the five that are not special
    assert measured.longest_pieces[0] == "zebra"
    assert measured.vocab_size == 7

    letters = Tokenizer(models.WordPiece({c: i for i, c in enumerate("thecatsd.ög?")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("", behavior="isolated")]
    )
    single = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?")
    against = audit(tokenizer, ["the cats sat."], baseline=single)
    assert against.tokens_to_baseline == 5 / 11
    table = format_audit({"ours": measured, "pairs": against})
    little = ", which is little: below 1.0 MB more text would use more of the entries"
    assert table.endswith(little)
    assert little not in format_audit({"ours": replace(measured, num_bytes=2_000_000)})
    assert "tokens per word" in table
    assert "1.400" in table
    assert "0.455" in table


@pytest.mark.parametrize("kind", KINDS)
def test_audit_finds_words_whole_in_every_kind(trained, kind):
    tokenizer = trained[kind]
    measured = audit(tokenizer, TEXTS)
    words = [word for text in TEXTS for word in text.split()]
    assert measured.num_tokens == sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in TEXTS)
    assert measured.fertility == pytest.approx(measured.num_tokens / len(words))
    # a token with its own space still counts as one word
    whole = [w for w in ("self", "None", "parser") if len(tokenizer.tokenize(f" {w}")) == 1]
    assert whole
    assert audit(tokenizer, [f"{w} " * 2 for w in whole]).whole_words >= 0.5
    assert audit(tokenizer, []).num_tokens == 0


# ---------------------------------------------------------------------------------------------------------------------
# the recipe


def test_recipe_trains_saves_and_audits(trained, tmp_path):
    source, other, folder = tmp_path / "text.txt", tmp_path / "other", tmp_path / "runs" / "tokenizer"
    source.write_text("\n\n".join(TEXTS), encoding="utf-8")
    save_tokenizer(trained["wordpiece"], other)
    command = [sys.executable, str(REPO / "recipes" / "train_tokenizer.py")]
    command += ["--config", str(REPO / "recipes" / "configs" / "tokenizer_bpe_32k.yaml"), "--data.sources", str(source)]
    command += ["--data.held_out_fraction", "0.2", "--output_dir", str(folder), "--compare", f"[{other}]"]
    refused = forks.run(command, env=forks.ENVIRONMENT, timeout=120)
    assert refused.returncode == 2  # this text does not fill 32,768 entries
    assert "lower the vocabulary size" in refused.stderr.splitlines()[-1]
    assert not folder.exists()

    done = forks.run([*command, "--tokenizer.vocab_size", "1000"], env=forks.ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "words kept whole" in done.stdout
    assert "tokens to baseline's" in done.stdout
    assert len(AutoTokenizer.from_pretrained(folder)) == 1000


HAN = ["".join(map(chr, range(begin, begin + 60))) for begin in range(0x4E00, 0x4E00 + 3000, 60)] * 3


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_derived_size_fits_the_alphabet_of_the_text_and_what_the_text_fills(kind):
    derived = derive_vocab_size(sum(len(text.encode()) for text in HAN))
    t = train_tokenizer(HAN, kind, derived, exact=False)
    assert t.unk_token_id not in t(HAN[0])["input_ids"]
    assert t.decode(t(HAN[0])["input_ids"], skip_special_tokens=True).replace(" ", "") == HAN[0]
    assert len(train_tokenizer(["a few words " * 9] * 9, kind, 5_000, exact=False)) < 5_000


def test_a_given_size_that_the_alphabet_does_not_fit_is_refused_also_when_a_derived_one_was_fitted(tmp_path):
    (tmp_path / "han.txt").write_text("\n\n".join(HAN))
    options = ["--model.name", "bert-tiny", "--data.sources", tmp_path / "han.txt", "--data.held_out_fraction", "0.1"]
    options += ["--tokens.sequence_length", "32", "--output_dir", tmp_path / "run"]
    size = derive_vocab_size(sum(len(text.encode()) for text in HAN))
    run("prepare_tokens.py", *options)
    said = run("prepare_tokens.py", *options, "--tokenizer.vocab_size", size, expect=2)
    assert f"a vocabulary of {size:,} is too small" in said


def missing_special(rules):
    rules["post_processor"] = {"type": "BertProcessing", "sep": ["</s>", 70_000], "cls": ["<s>", 0]}


BROKEN = {
    "not JSON": None,
    "a template of ids that there are not": missing_special,
    "a charsmap that is none": lambda rules: rules.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "a pre-tokenizer that panics": lambda rules: rules.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tokenizer_file_gets_one_sentence(trained, tmp_path, name):
    trained["bpe"].save_pretrained(tmp_path)
    file, spoil = tmp_path / "tokenizer.json", BROKEN[name]
    rules = json.loads(file.read_text())
    if spoil:
        spoil(rules)
    file.write_text(json.dumps(rules) if spoil else "{")
    with pytest.raises(UserError, match=re.escape(f"cannot use the tokenizer in the folder {tmp_path} (")):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("where", ["folder", "Hub"])
def test_a_sentencepiece_model_without_its_package_says_what_to_install(where, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "find_spec", lambda name: None)
    name, folder = str(tmp_path), tmp_path
    if where == "Hub":  # as it lies in the cache of what was downloaded
        name, repository = "tester/sentencepiece-only", Path(HF_HUB_CACHE, "models--tester--sentencepiece-only")
        folder = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
        folder.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(folder.name)
    (folder / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "AlbertTokenizer"}')
    (folder / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(UserError, match=rf"{name} is a SentencePiece model \(spm.model\).*pip install sentencepiece"):
        load_tokenizer(name)


def test_pieces_are_shown_as_the_text_that_they_are():
    texts = ["die Ehrenstraßer prüften alles"] * 50
    text = "die Ehrenstraßer prüften Öl"
    read = pieces(train_tokenizer(texts, "bpe", 330, exact=False), text)
    assert read[:3] == ["die", "▁Ehrenstraßer", "▁prüften"]
    assert r"\xc3" in read  # half of a letter
    for kind in ("unigram", "wordpiece"):
        tokenizer = train_tokenizer(texts, kind, 330, exact=False)
        assert pieces(tokenizer, text) == tokenizer.tokenize(text)
