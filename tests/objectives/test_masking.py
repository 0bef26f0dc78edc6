"""The masking collator: its shares against 15 % and 80/10/10, and against transformers' own collator."""

import math
import pickle
import unicodedata

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from toys import texts, tiny_model, tokenizer, word_tokenizer
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from nlp_ssl.config.pretraining import MaskingConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.tokens.tokenizer import train_tokenizer
from nlp_ssl.data.tokens.word_boundaries import word_tables
from nlp_ssl.objectives.masking import IGNORE, MaskingCollator

VOCAB, ROWS, LENGTH = 1000, 2100, 512  # 2100 x (512 - 2 - 10) is over a million ordinary tokens


@pytest.fixture(scope="module")
def rows():
    """Rows as long as they are in training, with special tokens inside."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, VOCAB, (ROWS, LENGTH))
    ids[:, 0], ids[:, -1] = 1, 2
    ids[:, rng.choice(np.arange(1, LENGTH - 1), 10, replace=False)] = rng.integers(0, 5, (ROWS, 10))
    return ids


def collator(unit="token", seed=0, **more):
    return MaskingCollator(word_tokenizer(VOCAB), MaskingConfig(unit=unit), seed=seed, **more)


def masked(collate, ids, epoch=0, first_row=0):
    keys = collate.row_keys(np.full(len(ids), epoch), first_row + np.arange(len(ids)))
    return collate.mask(ids, keys)


def shares(ids, out, labels, mask_id, num_ordinary):
    """(chosen, masked, random, kept) with how many there were to choose from."""
    chosen = labels != IGNORE
    hidden = chosen & (out == mask_id)
    changed = chosen & ~hidden & (out != ids)
    kept = chosen & (out == ids)
    ordinary = ids >= 5
    random = changed.sum() * num_ordinary / (num_ordinary - 1)  # one in this many draws the token that was there
    return {
        "chosen": (chosen.sum(), ordinary.sum()),
        "mask": (hidden.sum(), chosen.sum()),
        "random": (random, chosen.sum()),
        "kept": (kept.sum() - (random - changed.sum()), chosen.sum()),
    }


def z(count, total, share, together=1.0):
    """Standard deviations between a share and what it should be; `together` tokens are decided at once."""
    return abs(count - total * share) / math.sqrt(total * share * (1 - share) * together)


@pytest.mark.parametrize(("unit", "together"), [("token", 1.0), ("word", 3.0), ("span", 10.0)])
def test_fifteen_percent_and_80_10_10_over_a_million_tokens(rows, unit, together):
    collate = collator(unit)
    if unit == "word":  # words of two tokens on average: lengths are geometric, E[n^2] / E[n] = 3
        collate.words.begins[:] = np.random.default_rng(1).random(len(collate.words.begins)) < 0.5
    out, labels = masked(collate, rows)
    found = shares(rows, out, labels, collate.tokenizer.mask_token_id, VOCAB - 5)
    assert found["chosen"][1] >= 1_000_000
    for name, share in {"chosen": 0.15, "mask": 0.8, "random": 0.1, "kept": 0.1}.items():
        assert z(*found[name], share, together) < 4, (name, found[name][0] / found[name][1])
    assert (labels[labels != IGNORE] == rows[labels != IGNORE]).all()
    assert (out[labels == IGNORE] == rows[labels == IGNORE]).all()


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_special_tokens_are_neither_masked_nor_drawn(rows, unit):
    out, labels = masked(collator(unit), rows)
    special = rows < 5
    assert (labels[special] == IGNORE).all()
    drawn = out[(labels != IGNORE) & (out != rows)]
    assert set(np.unique(drawn[drawn < 5])) == {collator().tokenizer.mask_token_id}


def test_draws_are_uniform_over_ordinary_tokens(rows):
    collate = collator()
    out, labels = masked(collate, rows)
    draws = out[(labels != IGNORE) & (out != rows) & (out != collate.tokenizer.mask_token_id)]
    counts = np.bincount(draws, minlength=VOCAB)[5:]
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    degrees = VOCAB - 6
    assert abs(chi_square - degrees) < 4 * math.sqrt(2 * degrees)


def test_the_stock_collator_finds_the_same_shares(rows):
    t = word_tokenizer(VOCAB)
    stock = DataCollatorForLanguageModeling(t, mlm_probability=0.15, seed=0)
    batch = stock([{"input_ids": row} for row in rows.tolist()])
    theirs = shares(rows, batch["input_ids"].numpy(), batch["labels"].numpy(), t.mask_token_id, VOCAB)
    ours = shares(rows, *masked(collator(), rows), t.mask_token_id, VOCAB - 5)
    for name in ours:
        (a, m), (b, n) = ours[name], theirs[name]
        # the stock collator draws special tokens too, so its few are counted as random here in both
        p = (a + b) / (m + n)
        assert abs(a / m - b / n) / math.sqrt(p * (1 - p) * (1 / m + 1 / n)) < 4, name


def test_other_shares_are_kept_as_asked(rows):
    config = MaskingConfig(probability=0.3, mask_share=0.5, random_share=0.5)
    collate = MaskingCollator(word_tokenizer(VOCAB), config)
    found = shares(rows, *masked(collate, rows), collate.tokenizer.mask_token_id, VOCAB - 5)
    for name, share in {"chosen": 0.3, "mask": 0.5, "random": 0.5}.items():
        assert z(*found[name], share) < 4


# ---------------------------------------------------------------------------------------------------------------------
# a function of (seed, source, epoch, row, position)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_the_batch_does_not_matter(unit):
    t, collate = tokenizer("wordpiece"), MaskingCollator(tokenizer("wordpiece"), MaskingConfig(unit=unit), seed=4)
    features = [{**t(text), "row": i, "epoch": 2} for i, text in enumerate(texts()[:40])]
    together = collate(features)
    for i in (0, 7, 31):
        alone = collate([features[i]])
        length = alone["input_ids"].shape[1]
        for key in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(together[key][i, :length], alone[key][0])
    backwards = collate(features[::-1])
    assert torch.equal(backwards["labels"].flip(0), together["labels"])


def test_another_epoch_seed_source_or_row_is_another_mask(rows):
    some = rows[:200]
    reference = masked(collator(), some)[1] != IGNORE
    others = {
        "epoch": masked(collator(), some, epoch=1),
        "seed": masked(collator(seed=1), some),
        "source": masked(collator(source=1), some),
        "row": masked(collator(), some, first_row=10_000),
    }
    for name, (_, labels) in others.items():
        both = (reference & (labels != IGNORE)).sum()
        assert z(both, (some >= 5).sum(), 0.15**2) < 4, name  # independent: 2.25 % in both


def test_masks_are_not_correlated_over_positions_or_rows():
    ids = np.full((2000, 256), 7)
    chosen = (masked(collator(), ids)[1] != IGNORE).astype(float)
    centred = chosen - 0.15
    for shift in (1, 2, 3, 17):
        for a, b in ((centred[:, shift:], centred[:, :-shift]), (centred[shift:], centred[:-shift])):
            assert abs((a * b).sum()) / (0.15 * 0.85 * math.sqrt(a.size)) < 4
    assert np.abs(chosen.mean(0) - 0.15).max() < 5 * math.sqrt(0.15 * 0.85 / 2000)  # no position is favoured
    assert np.abs(chosen.mean(1) - 0.15).max() < 5.5 * math.sqrt(0.15 * 0.85 / 256)


def test_how_a_token_is_hidden_does_not_depend_on_what_is_drawn():
    ids = np.full((2000, 256), 7)
    out, labels = masked(collator(), ids)
    replaced = out[(labels != IGNORE) & (out != 7) & (out != 4)]
    assert abs(replaced.mean() - (5 + VOCAB - 1) / 2) < 4 * VOCAB / math.sqrt(12 * len(replaced))


# ---------------------------------------------------------------------------------------------------------------------
# words and spans


def whole_words(t, sentence):
    """Masks the sentence until every word has been chosen; asserts that no word was ever cut."""
    collate = MaskingCollator(t, MaskingConfig(unit="word"))
    encoding = t(sentence)
    ids = np.array([encoding["input_ids"]] * 400)
    chosen = masked(collate, ids)[1] != IGNORE
    return encoding, chosen


def test_wordpiece_words_are_masked_whole():
    t = tokenizer("wordpiece")
    encoding, chosen = whole_words(t, " ".join(texts()[:6]) + " borghoshidorkaquistant vapolomi")
    words = np.array([-1 if w is None else w for w in encoding.word_ids()])
    sizes = [int((words == w).sum()) for w in range(words.max() + 1)]
    assert max(sizes) > 2
    tokens = np.array(encoding["input_ids"])
    for w in range(words.max() + 1):
        columns = chosen[:, (words == w) & (tokens != t.unk_token_id)]
        assert (columns == columns[:, :1]).all()
    neighbours = (chosen[:, :-1] != chosen[:, 1:]).any(0)  # other words are chosen independently
    assert neighbours[(words[:-1] != words[1:]) & (words[:-1] >= 0) & (words[1:] >= 0)].mean() > 0.95


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_words_between_spaces_are_masked_whole(kind):
    t = tokenizer(kind)
    sentence = " ".join(w for text in texts()[:40] for w in text.split() if w.isascii() and w.isalpha())
    encoding, chosen = whole_words(t, sentence)
    begins = [0, *(i + 1 for i, c in enumerate(sentence) if c == " ")]
    ends = [end - (sentence[start:end] != " ") for start, end in encoding.encodings[0].offsets]  # a space opens a word
    word = np.array([sum(begin <= end for begin in begins) for end in ends])
    word[0] = word[-1] = -1
    cut = 0
    for w in set(word.tolist()) - {-1}:
        columns = chosen[:, word == w]
        cut += not (columns == columns[:, :1]).all()
    assert len(set(word.tolist())) > 100
    assert max(np.bincount(word[word > 0])) > 2
    assert cut == 0
    assert abs(chosen[:, 1:-1].mean() - 0.15) < 0.01  # 15 % of the tokens, not of the words


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_chinese_sentence_is_not_one_word(kind):
    t = tokenizer(kind)
    _, chosen = whole_words(t, "中文分词漢字中文漢字")
    inner = chosen[:, 1:-1]
    assert inner.any()
    assert not (inner == inner[:, :1]).all()
    assert len({tuple(column) for column in inner.T}) >= 4


UNSPACED = {
    "Thai": "ภาษาไทยเขียนติดกันไม่มีช่องว่างระหว่างคำ",
    "Lao": "ພາສາລາວຂຽນຕິດກັນບໍ່ມີຊ່ອງຫວ່າງ",
    "Khmer": "ភាសាខ្មែរសរសេរជាប់គ្នាគ្មានដកឃ្លា",
    "Burmese": "မြန်မာဘာသာကိုစာလုံးများကပ်၍ရေးသည်",
    "Chinese": "中文的词之间没有空格，所以一句话不是一个词。",
    "Japanese": "カタカナとひらがなと漢字を続けて書きます",
}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("script", UNSPACED)
def test_a_sentence_written_without_spaces_is_many_words(script, kind):
    sentence = UNSPACED[script]
    t = train_tokenizer([sentence, *sentence] * 3, kind, 20, min_frequency=2, exact=False)
    encoding, chosen = whole_words(t, sentence)
    words = {tuple(column) for column in chosen[:, 1:-1].T}
    marks = sum(unicodedata.category(c).startswith("M") for c in sentence)
    assert len(words) >= 0.6 * min(len(encoding["input_ids"]) - 2, len(sentence) - marks)
    if kind == "bpe":  # byte by byte it is not known what a character is
        return
    # a vowel sign or a tone is hidden with its letter
    for column, (start, end) in enumerate(encoding.encodings[0].offsets):
        if column and start < end and unicodedata.category(sentence[start]).startswith("M"):
            assert (chosen[:, column] == chosen[:, column - 1]).all()


def test_tokens_added_as_plain_text_are_words_of_their_own():
    t = pickle.loads(pickle.dumps(tokenizer("bpe")))
    t.add_tokens(["    ", "日本", "joined"])  # as ModernBERT's runs of spaces
    begins, joins, _ = word_tables(t)
    space, japan, joined = t.convert_tokens_to_ids(["    ", "日本", "joined"])
    assert begins[space]
    assert not joins[space]
    assert begins[japan]
    assert not joins[japan]
    assert joins[joined]


def test_spans_are_as_long_as_spanbert_says():
    ids = np.full((2000, 512), 7)
    chosen = np.pad(masked(MaskingCollator(word_tokenizer(VOCAB), MaskingConfig(0.02, unit="span")), ids)[1] != -100, 1)
    starts, ends = np.argwhere(chosen[:, 1:] & ~chosen[:, :-1]), np.argwhere(chosen[:, :-1] & ~chosen[:, 1:])
    inside = (starts[:, 1] > 10) & (ends[:, 1] < 500)
    lengths = (ends - starts)[inside, 1]
    assert abs(lengths.mean() - 3.8) < 0.2  # Joshi et al. 2019, section 3.1; at 2 % few spans touch
    assert lengths.max() <= 25


def test_a_span_is_replaced_as_a_whole():
    ids = np.full((500, 256), 7)
    collate = collator("span")
    out, labels = masked(collate, ids)
    for row, label in zip(out, labels, strict=True):
        edges = np.flatnonzero(np.diff(np.pad(label != IGNORE, 1).astype(int)))
        for begin, end in edges.reshape(-1, 2):
            kinds = {"mask" if t == 4 else "kept" if t == 7 else "random" for t in row[begin:end].tolist()}
            assert len(kinds - {"kept"}) <= 1  # a draw may be the token that was there
            assert kinds != {"mask", "kept"}


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_a_vocabulary_with_holes_has_masks_up_to_its_highest_id_and_draws_nothing_from_a_hole(unit):
    """As one from which entries were taken: `len(tokenizer)` is less than the highest id."""
    there = [*range(5), *range(8, 1000), 1003]
    core = Tokenizer(WordLevel({f"w{i}": i for i in there}, unk_token="w1"))
    names = {"unk_token": "w1", "cls_token": "w2", "sep_token": "w3", "mask_token": "w4", "pad_token": "w0"}
    t = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    ids = np.full((200, 64), 1003)
    out, labels = masked(MaskingCollator(t, MaskingConfig(0.5, random_share=0.2, unit=unit)), ids)
    assert (labels == 1003).any()
    drawn = set(out[out != 1003].tolist()) - {4}
    assert len(drawn) > 500
    assert drawn <= {*range(8, 1000)}


# ---------------------------------------------------------------------------------------------------------------------
# alone


def test_in_a_data_loader_with_a_generator():
    t = tokenizer("bpe")
    features = [t(text) for text in texts()[:64]]

    def batches(generator):
        collate = MaskingCollator(t, generator=generator, pad_to_multiple_of=8)
        return list(torch.utils.data.DataLoader(features, batch_size=16, collate_fn=collate))

    first = batches(torch.Generator().manual_seed(1))
    again = batches(torch.Generator().manual_seed(1))
    other = batches(torch.Generator().manual_seed(2))
    for a, b, c in zip(first, again, other, strict=True):
        assert a["input_ids"].shape[1] % 8 == 0
        assert torch.equal(a["labels"], b["labels"])
        assert not torch.equal(a["labels"], c["labels"])
        assert a["labels"].dtype == torch.int64
        assert (a["labels"][a["attention_mask"] == 0] == IGNORE).all()
        whole = torch.where(a["labels"] == IGNORE, a["input_ids"], a["labels"])
        padded = t.pad([{"input_ids": i} for i in [f["input_ids"] for f in features]], return_tensors="pt")
        assert {tuple(r[r != t.pad_token_id].tolist()) for r in whole} <= {
            tuple(r[r != t.pad_token_id].tolist()) for r in padded["input_ids"]
        }


def test_special_tokens_mask_protects_more():
    t = tokenizer("bpe")
    feature = {**t("ka lo mi ren tus va po shi"), "row": 0, "epoch": 0}
    feature["special_tokens_mask"] = [1] * len(feature["input_ids"])
    batch = MaskingCollator(t, MaskingConfig(0.9))([feature])
    assert "special_tokens_mask" not in batch
    assert (batch["labels"] == IGNORE).all()


def test_in_transformers_trainer(tmp_path):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    t = tokenizer("bpe")
    data = Dataset.from_list([dict(t(text, truncation=True, max_length=60)) for text in texts()[:16]])
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=8, report_to=[], use_cpu=True, save_strategy="no",
        logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    model = tiny_model("bert", vocab_size=len(t))
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=MaskingCollator(t))
    assert trainer.train().global_step == 2
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


def test_mistakes():
    t = pickle.loads(pickle.dumps(tokenizer("bpe")))
    with pytest.raises(UserError, match="between 0 and 1"):
        MaskingCollator(t, MaskingConfig(probability=1.5))
    with pytest.raises(UserError, match="shares"):
        MaskingCollator(t, MaskingConfig(mask_share=0.9, random_share=0.2))
    t.mask_token = None
    with pytest.raises(UserError, match="no mask token"):
        MaskingCollator(t)


def test_every_entry_of_a_vocabulary_of_words_is_a_word():
    begins, joins, attaches = word_tables(word_tokenizer(20))
    assert begins.all()
    assert not joins.any()
    assert not attaches.any()
