"""Classification: the summed loss in closed form, the same under any split, for texts and pairs, classes and scores."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    XLNetConfig,
)

from nlp_ssl.core.errors import UserError
from nlp_ssl.objectives.classification import Classification, ClassificationCollator

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "fast", "slow", "on", "mat"]
VOCAB = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}


def word_tokenizer(vocab=VOCAB, **kwargs):
    core = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=names, **specials, **kwargs)


def tiny(config_class, reader, **kwargs):
    """An objective over a tiny model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if config_class is XLNetConfig:
        sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
    if config_class is GPT2Config:
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    config = config_class(vocab_size=len(VOCAB), **sizes, **kwargs, **reader.config_kwargs())
    return Classification(Classification.auto_class.from_config(config), reader).eval()


def predicted(objective, batch):
    return objective.predictions(objective.logits(batch), batch)


def without_labels(rows):
    return [{key: row[key] for key in row if key != "labels"} for row in rows]


def texts(count):
    generator = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(0, len(WORDS), (n,), generator=generator)  # noqa: E731
    return [" ".join(WORDS[i] for i in draw(3 + k % 9)) for k in range(count)]


def classes(count=16):
    reader = ClassificationCollator(word_tokenizer(), ["no", "maybe", "yes"], ["text"])
    rows = reader.tokenize(Dataset.from_dict({"text": texts(count), "label": [i % 3 for i in range(count)]}))
    return reader, list(rows)


def scores(count=16):
    reader = ClassificationCollator(word_tokenizer(), None, ["one", "two"])
    data = {"one": texts(count), "two": texts(count)[::-1], "label": [i / 4 for i in range(count)]}
    return reader, list(reader.tokenize(Dataset.from_dict(data)))


def loss_and_gradient(objective, rows, size):
    objective.zero_grad()
    total = 0.0
    for i in range(0, len(rows), size):
        loss_sum = objective(objective.collator(rows[i : i + size]))["loss"]
        loss_sum.backward()
        total += loss_sum.item()
    return total, torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


@pytest.mark.parametrize("make", [classes, scores])
@pytest.mark.parametrize("config_class", [BertConfig, ModernBertConfig, GPT2Config])
def test_any_split_gives_the_same_loss_and_gradient(make, config_class):
    reader, rows = make()
    special = {"sep_token_id": 3, "cls_token_id": 2} if config_class is ModernBertConfig else {}
    objective = tiny(config_class, reader, **special)
    whole, gradient = loss_and_gradient(objective, rows, 16)
    assert gradient.norm() > 0
    for size in (4, 3):
        split, other = loss_and_gradient(objective, rows, size)
        assert split == pytest.approx(whole, rel=1e-5)
        assert (other - gradient).norm() / gradient.norm() < 1e-5


def test_loss_of_classes_is_the_closed_form_row_by_row():
    reader, rows = classes(7)
    objective = tiny(BertConfig, reader)
    sums = objective(reader(rows))
    expected, correct = 0.0, 0
    for row in rows:  # alone, without padding or a mask
        with torch.no_grad():
            logits = objective.model(
                torch.tensor([row["input_ids"]]), token_type_ids=torch.tensor([row["token_type_ids"]])
            ).logits[0]
        expected -= torch.log(torch.exp(logits) / torch.exp(logits).sum())[row["labels"]].item()
        correct += int(logits.argmax()) == row["labels"]
    assert sums["loss"].dtype == torch.float32
    assert sums["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert sums["correct"].item() == correct
    assert reader.counts(reader(rows)) == {"loss": 7}


def test_loss_of_scores_is_the_closed_form_and_pairs_have_segments():
    reader, rows = scores(5)
    objective = tiny(BertConfig, reader)
    batch = reader(rows)
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}
    found, sums = predicted(objective, batch), objective(batch)
    expected = sum((each.predicted - each.reference) ** 2 for each in found)
    assert sums["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert sums["squared_error"].item() == pytest.approx(expected, rel=1e-5)
    assert [each.reference for each in found] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert objective.model.config.problem_type == "regression"


@pytest.mark.parametrize("make", [classes, scores])
def test_rows_without_a_label_are_no_targets(make):
    reader, rows = make(6)
    objective = tiny(BertConfig, reader)
    known = objective(reader(rows[:4]))
    batch = reader(rows[:4] + without_labels(rows[4:]))
    sums = objective(batch)
    assert sums.keys() == known.keys()
    for name, value in sums.items():
        assert value.item() == pytest.approx(known[name].item(), rel=1e-5)
    assert reader.counts(batch) == {"loss": 4}
    found = predicted(objective, batch)
    assert [each.reference is None for each in found] == [False] * 4 + [True] * 2
    assert all(each.predicted is not None for each in found)
    sums["loss"].backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def several(count=12):
    reader = ClassificationCollator(word_tokenizer(), ["x", "y", "z"], ["text"], several=True)
    labels = [[j for j in range(3) if (i >> j) & 1] for i in range(count)]
    return reader, list(reader.tokenize(Dataset.from_dict({"text": texts(count), "label": labels})))


def test_several_classes_a_row_have_the_loss_of_transformers():
    reader, rows = several()
    objective = tiny(BertConfig, reader)
    batch = reader(rows)
    theirs = objective.model(**{k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids", "labels")})
    sums = objective(batch)
    assert objective.model.config.problem_type == "multi_label_classification"
    assert sums["loss"].item() / 12 == pytest.approx(theirs.loss.item(), rel=1e-5)
    found = predicted(objective, batch)
    assert [each.predicted for each in found] == (theirs.logits > 0).int().tolist()
    assert [each.reference for each in found] == [[(i >> j) & 1 for j in range(3)] for i in range(12)]
    assert torch.tensor([each.probabilities for each in found]).allclose(theirs.logits.sigmoid(), atol=1e-6)
    assert sums["correct"].item() == sum(each.predicted == each.reference for each in found)
    unknown = reader(rows[:4] + without_labels(rows[4:]))
    known = objective(reader(rows[:4]))["loss"]
    assert objective(unknown)["loss"].item() == pytest.approx(known.item(), rel=1e-5)
    assert reader.counts(unknown) == {"loss": 4}
    assert [each.reference is None for each in predicted(objective, unknown)] == [False] * 4 + [True] * 8


def test_weights_of_classes_multiply_their_rows():
    reader, rows = classes()
    plain = tiny(BertConfig, reader)
    weighted = Classification(plain.model, reader, class_weights=[0.5, 2.0, 3.0])
    expected = sum(
        weight * plain(reader([row for row in rows if row["labels"] == label]))["loss"].item()
        for label, weight in enumerate([0.5, 2.0, 3.0])
    )
    assert weighted(reader(rows))["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_segments_stay_away_from_models_that_have_none():
    reader, rows = scores(4)
    batch = reader(rows)
    objective = tiny(GPT2Config, reader)  # would add the embedding of word 1 to every token of the second text
    with_segments = predicted(objective, batch)
    del batch["token_type_ids"]
    assert predicted(objective, batch) == with_segments


def test_long_pairs_lose_from_the_longer_text_and_are_counted(capsys):
    reader = ClassificationCollator(word_tokenizer(), ["x", "y"], ["one", "two"], max_length=10)
    data = {"one": ["cat " * 20, "cat"], "two": ["dog dog", "dog"], "label": [0, 1]}
    before = reader.tokenizer.backend_tokenizer.to_str()
    rows = reader.tokenize(Dataset.from_dict(data))
    assert reader.tokenizer.backend_tokenizer.to_str() == before
    cat, dog = VOCAB["cat"], VOCAB["dog"]
    assert rows[0]["input_ids"] == [2, *[cat] * 5, 3, dog, dog, 3]
    assert "1 of 2 texts are cut to 10 tokens" in capsys.readouterr().out


def test_padding_is_a_multiple_of_eight_and_masked():
    reader, rows = classes(9)
    batch = reader(rows)
    assert batch["input_ids"].shape[1] == 16  # the longest has 13
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == VOCAB["[PAD]"]).all()


def test_tokenised_rows_are_found_again_unless_something_changed():
    data = Dataset.from_dict({"text": texts(4), "label": [0, 1, 2, 0]})
    one = ClassificationCollator(word_tokenizer(), ["a", "b", "c"], ["text"], max_length=16)
    file = one.tokenize(data).cache_files[0]["filename"]
    one.tokenizer("cat", truncation=True, max_length=5)  # leaves its mark in a fast tokenizer
    again = Dataset.from_dict({"text": texts(4), "label": [0, 1, 2, 0]})
    assert one.tokenize(again).cache_files[0]["filename"] == file
    shorter = ClassificationCollator(word_tokenizer(), ["a", "b", "c"], ["text"], max_length=6)
    assert shorter.tokenize(data).cache_files[0]["filename"] != file
    assert max(map(len, shorter.tokenize(data)["input_ids"])) == 6
    renumbered = VOCAB | dict(zip(WORDS, range(len(VOCAB) - 1, 3, -1), strict=True))
    other = ClassificationCollator(word_tokenizer(renumbered), ["a", "b", "c"], ["text"], max_length=16)
    assert other.tokenize(data)["input_ids"][:] == [other.tokenizer(text)["input_ids"] for text in texts(4)]


def test_the_configuration_names_the_classes(tmp_path):
    reader, _ = classes(3)
    tiny(BertConfig, reader).published()[""].save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert loaded.config.label2id["yes"] == 2
    assert loaded.num_labels == 3


def test_mistakes(capsys):
    with pytest.raises(UserError, match="--max_length 512 is beyond the model's 64 positions"):
        ClassificationCollator(word_tokenizer(model_max_length=64), None, ["text"], max_length=512)
    with pytest.raises(UserError, match="leaves no room"):
        ClassificationCollator(word_tokenizer(), None, ["text"], max_length=2)
    core = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
    ClassificationCollator(PreTrainedTokenizerFast(tokenizer_object=core), None, ["one", "two"])
    assert "nothing between the two texts" in capsys.readouterr().err


def test_a_text_that_the_tokenizer_drops_is_still_a_row():
    core = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[SEP]")
    reader = ClassificationCollator(tokenizer, ["x", "y"], ["text"])
    rows = list(reader.tokenize(Dataset.from_dict({"text": ["\u2003", "cat dog"], "label": [0, 1]})))
    assert [row["input_ids"] for row in rows] == [[3], [VOCAB["cat"], VOCAB["dog"]]]
    model = tiny(GPT2Config, reader).model  # no padding token of its own: the end of text pads, and the model knows
    batch = reader(rows)
    with torch.no_grad():
        alone = model(torch.tensor([rows[1]["input_ids"]])).logits
        together = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.allclose(alone[0], together[1], atol=1e-6)


@pytest.mark.parametrize("config_class", [XLNetConfig, BertConfig, GPT2Config, ModernBertConfig])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_row_gets_does_not_depend_on_its_padding_whatever_side_the_tokenizer_announces(config_class, side):
    """XLNet reads its last position, and counts none: it is padded on the left; the others count from the left."""
    reader = ClassificationCollator(word_tokenizer(padding_side=side), ["no", "yes"], ["text"])
    objective = tiny(config_class, reader)
    rows = list(reader.tokenize(Dataset.from_dict({"text": texts(6), "label": [0, 1] * 3})))
    with torch.no_grad():
        together = objective.logits(reader(rows))
        for row, logits in zip(rows, together, strict=True):
            given = {"input_ids": row["input_ids"]}
            if config_class in (BertConfig, XLNetConfig):
                given["token_type_ids"] = row["token_type_ids"]
            alone = objective.model(**{name: torch.tensor([ids]) for name, ids in given.items()}).logits[0]
            assert torch.allclose(logits, alone, atol=1e-5)
