"""Tagging: no word is lost, in any tokenizer and at any length; the loss is a sum over words under any split."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

from nlp_ssl.core.errors import UserError
from nlp_ssl.objectives.tagging import Tagging, TaggingCollator

TAGS = ["O", "B-PER", "I-PER"]
TEXTS = ["Unbelievably the cats of Christopher Robin sat on Brussels mats .", "naïve 東京 😀 don't stop"] * 20
SENTENCE = ["Christopher", "Robin", "saw", "東京", "😀", "unbelievably", "fast"]
SPECIALS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}


def frame(core, names):
    ids = [(token, core.token_to_id(token)) for token in names[:2]]
    core.post_processor = processors.TemplateProcessing(single=f"{names[0]} $A {names[1]}", special_tokens=ids)
    return core


def wordpiece():
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
    core.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=names))
    return PreTrainedTokenizerFast(tokenizer_object=frame(core, names), **SPECIALS)


def byte_level():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names, alphabet = ["<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet)
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=frame(core, names), bos_token="<s>", eos_token="</s>")


def unigram():
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>")
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=frame(core, ["<s>", "</s>"]), unk_token="<unk>", eos_token="</s>")


TOKENIZERS = [wordpiece, byte_level, unigram]


def sentences(count):
    rng = np.random.default_rng(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    lengths = rng.integers(1, 60, count)
    return Dataset.from_dict(
        {
            "tokens": [rng.choice(words, n).tolist() for n in lengths],
            "tags": [rng.integers(0, 3, n).tolist() for n in lengths],
        }
    )


class Oracle(torch.nn.Module):
    """A model that knows the labels of its batch: what comes back shows what was lost on the way."""

    def __init__(self, batch):
        super().__init__()
        self.logits = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), len(TAGS)).float()

    def forward(self, **_):
        return self


def tiny(reader):
    """An objective over a tiny model."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(reader.tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, **reader.config_kwargs(),
    )  # fmt: skip
    return Tagging(Tagging.auto_class.from_config(config), reader).eval()


def both(reader, batch):
    """What comes back of a model that knows the labels: predicted and true tags."""
    objective = Tagging(Oracle(batch), reader)
    found = objective.predictions(objective.logits(batch), batch)
    return [each.predicted for each in found], [each.reference for each in found]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("max_length", [8, 16, 512])
def test_every_word_comes_back_once_at_any_length(make, max_length):
    reader, data = TaggingCollator(make(), TAGS, max_length), sentences(30)
    batch = reader(list(reader.tokenize(data)))
    assert batch["input_ids"].shape[1] <= max_length
    assert reader.counts(batch) == {"loss": sum(map(len, data["tags"]))}
    predicted, references = both(reader, batch)
    assert references == [[TAGS[tag] for tag in row] for row in data["tags"]]
    assert predicted == references


@pytest.mark.parametrize("make", TOKENIZERS)
def test_tokens_are_those_of_the_running_text_and_labels_stand_on_first_subwords(make):
    tokenizer = make()
    reader = TaggingCollator(tokenizer, TAGS, 128)
    row = reader.tokenize(Dataset.from_dict({"tokens": [SENTENCE], "tags": [[1, 2, 0, 1, 0, 0, 0]]}))[0]
    text = " ".join(SENTENCE)
    encoded = tokenizer(text)
    assert row["input_ids"] == [encoded["input_ids"]]  # as `pipeline` tokenises what a person types
    starts = [i for i, label in enumerate(row["labels"][0]) if label != -100]
    assert [row["labels"][0][i] for i in starts] == [1, 2, 0, 1, 0, 0, 0]
    # the text between one labelled token and the next is exactly a word
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    starts = [offsets[i][0] for i in starts]
    assert [text[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] == SENTENCE


def test_alignment_equals_the_word_ids_of_transformers():
    tokenizer = wordpiece()
    encoded = tokenizer(SENTENCE, is_split_into_words=True)
    word_ids, tags = encoded.word_ids(), [1, 2, 0, 1, 0, 0, 0]
    expected = [
        -100 if word is None or (i and word_ids[i - 1] == word) else tags[word] for i, word in enumerate(word_ids)
    ]
    row = TaggingCollator(tokenizer, TAGS).tokenize(Dataset.from_dict({"tokens": [SENTENCE], "tags": [tags]}))[0]
    assert (row["input_ids"], row["labels"]) == ([encoded["input_ids"]], [expected])


def test_windows_overlap_and_say_so(capsys):
    reader = TaggingCollator(wordpiece(), TAGS, 18)
    words = ["cats"] * 40
    pieces = len(reader.tokenizer("cats", add_special_tokens=False)["input_ids"])
    row = reader.tokenize(Dataset.from_dict({"tokens": [words, ["cats"]], "tags": [[1] * 40, [0]]}), "validation")[0]
    seen = sum(len(window) - 2 for window in row["input_ids"]) // pieces
    assert seen > 40  # some words stand in two windows, as context
    assert sum(label == 1 for window in row["labels"] for label in window) == 40
    assert "validation: 1 of 2 sentences are longer than 18 tokens" in capsys.readouterr().out


def test_words_that_the_tokenizer_drops_or_that_are_too_long(capsys):
    readers = [TaggingCollator(make(), TAGS, 16) for make in (wordpiece, byte_level)]
    words, tags = ["the", "\u200b", "x", "", "😀" * 200, "cats"], [0, 1, 2, 1, 2, 0]
    for reader in readers:
        batch = reader(list(reader.tokenize(Dataset.from_dict({"tokens": [words], "tags": [tags]}))))
        assert both(reader, batch)[1] == [[TAGS[tag] for tag in tags]]
    said = capsys.readouterr().out
    assert "2 words of characters that the tokenizer drops" in said
    assert "1 words longer than 16 tokens" in said


@pytest.mark.parametrize("max_length", [16, 128])
def test_any_split_gives_the_same_loss_and_gradient(max_length):
    reader = TaggingCollator(wordpiece(), TAGS, max_length)
    rows, objective = list(reader.tokenize(sentences(16))), tiny(reader)
    results = []
    for size in (16, 4, 3):
        objective.zero_grad()
        total = 0.0
        for i in range(0, 16, size):
            loss_sum = objective(reader(rows[i : i + size]))["loss"]
            loss_sum.backward()
            total += loss_sum.item()
        results.append((total, torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])))
    for total, gradient in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-5)
        assert (gradient - results[0][1]).norm() / results[0][1].norm() < 1e-5


def test_loss_is_the_closed_form_sentence_by_sentence():
    reader = TaggingCollator(wordpiece(), TAGS, 512)
    rows, objective = list(reader.tokenize(sentences(5))), tiny(reader)
    sums = objective(reader(rows))
    expected, correct = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = objective.model(torch.tensor(row["input_ids"])).logits[0]
        for position, (label, continued) in enumerate(zip(row["labels"][0], row["continued"][0], strict=True)):
            assert -100 in (label, continued)
            for target in {label, continued} - {-100}:
                expected -= (logits[position] - logits[position].exp().sum().log())[target].item()
            correct += label != -100 and int(logits[position].argmax()) == label
    assert sums["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert sums["correct"].item() == correct


def test_predictions_feed_the_entity_metric():
    from nlp_ssl.evaluation.metrics import EntityF1

    reader, data = TaggingCollator(wordpiece(), TAGS, 16), sentences(20)
    predicted, references = both(reader, reader(list(reader.tokenize(data))))
    assert EntityF1().compute(predictions=predicted, references=references)["overall_f1"] == 1


def test_the_tokenizer_is_left_as_it_was(tmp_path):
    tokenizer = byte_level()
    before = tokenizer.backend_tokenizer.to_str()
    TaggingCollator(tokenizer, TAGS, 32).tokenize(sentences(3))
    assert tokenizer.backend_tokenizer.to_str() == before
    core = tokenizer.backend_tokenizer.to_str()
    gpt2 = GPT2TokenizerFast(tokenizer_object=Tokenizer.from_str(core), bos_token="<s>", eos_token="</s>")
    rows = TaggingCollator(gpt2, TAGS, 32).tokenize(
        sentences(3)
    )  # transformers' own way stops here without add_prefix_space
    assert len(rows) == 3


def test_mistakes():
    with pytest.raises(UserError, match="leaves no room"):
        TaggingCollator(wordpiece(), TAGS, 2)

    class Slow(BertTokenizer):
        is_fast = False

    with pytest.raises(UserError, match="fast tokenizer"):
        TaggingCollator(Slow(), TAGS)
