"""Where labels stand: whatever the tokenizer, `pipeline` reads the entities of a model that knows its labels."""

from functools import cache

import pytest
import torch
from datasets import Dataset
from published_tokenizers import PUBLISHED
from transformers import BertConfig, BertForTokenClassification, TokenClassificationPipeline

from nlp_ssl.data.labelled.detokenize import as_typed, as_written
from nlp_ssl.data.labelled.tag_schemes import entities
from nlp_ssl.evaluation.tagger_readings import read_tagger
from nlp_ssl.objectives.tagging import Tagging, TaggingCollator
from nlp_ssl.objectives.word_tokens import choose_reading, word_tokens

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = [
    ("Carla Smith went to New York", "B-PER I-PER O O B-LOC I-LOC"),
    ("Carla Carla and Jean-Luc O'Brien", "B-PER B-PER O B-PER I-PER"),
    ("( U.S. ) 's $ 1,200.50 , 50% of AT&T 2 !", "O B-LOC O O O O O O O B-PER I-PER O"),
    ("Zoë Łukasz 東京 Привет 😀 x", "B-PER I-PER B-LOC O O B-LOC"),
    ("3M Quark zulu", "B-PER I-PER B-LOC"),
]
CHINESE = (["昨天", "王小明", "去", "了", "上海", "市", "3", "月", "。"], "O B-PER O O B-LOC I-LOC O O O")
TEXTS = ["Carla went to New York by train and paid", "the film was good, said Smith", "昨天 去 上海"] * 20


@cache
def tokenizer(name):
    return PUBLISHED[name](TEXTS)


class Knows(torch.nn.Module):
    """A model that knows the labels of its text, and is wrong by intent about every token that has none."""

    def __init__(self, collator, row):
        super().__init__()
        config = BertConfig(hidden_size=4, num_hidden_layers=0, num_attention_heads=1, vocab_size=4)
        config.update(collator.config_kwargs())
        self.inner = BertForTokenClassification(config)
        (labels,), (continued,) = row["labels"], row["continued"]
        wrong = torch.randint(0, len(TAGS), (len(labels),), generator=torch.Generator().manual_seed(0))
        both = [label if label != -100 else other for label, other in zip(labels, continued, strict=True)]
        targets = torch.where(torch.tensor(both) == -100, wrong, torch.tensor(both))
        self.logits = 9.0 * torch.nn.functional.one_hot(targets, len(TAGS))[None].float()
        self.inner.forward = self.answer

    def answer(self, input_ids, **_):
        assert input_ids.shape[1] == self.logits.shape[1]  # as many tokens as were labelled
        return {"logits": self.logits}


def read(collator, words, tags):
    """What a pipeline of transformers makes of the sentence, as (type, text)."""
    row = collator.tokenize(Dataset.from_dict({"tokens": [words], "tags": [[TAGS.index(tag) for tag in tags]]}))[0]
    knows = Knows(collator, row)
    reader = TokenClassificationPipeline(model=knows.inner, tokenizer=collator.tokenizer, device="cpu")
    text, spans = as_written(words)
    found = [
        (group["entity_group"], text[group["start"] : group["end"]].strip())
        for group in reader(text, aggregation_strategy=collator.reading)
    ]
    true = [(e.type, text[spans[e.start][0] : spans[e.end - 1][1]]) for e in entities(tags)]
    return found, true


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("reading", ["first", "simple"])
def test_pipeline_reads_what_was_labelled(name, reading):
    collator = TaggingCollator(tokenizer(name), TAGS, 128, reading)
    for text, tags in SENTENCES:
        found, true = read(collator, text.split(), tags.split())
        assert found == true, text


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("name", ["bert", "our wordpiece", "our unigram"])
def test_text_without_blanks_is_read_as_it_is_written(name):
    words, tags = CHINESE
    reading = choose_reading(tokenizer(name), [words])
    assert reading == ("simple" if name == "our unigram" else "first")
    found, true = read(TaggingCollator(tokenizer(name), TAGS, 128, reading), words, tags.split())
    assert found == true == [("PER", "王小明"), ("LOC", "上海市")]


def test_a_token_that_runs_into_the_next_word_belongs_to_the_word_where_it_begins():
    words = CHINESE[0]
    assert choose_reading(tokenizer("xlm-roberta"), [words]) == "simple"
    (found,) = word_tokens(tokenizer("xlm-roberta"), [words])  # unknown characters in a row are one token
    assert found.run_on == ["市3月。"]
    assert found.first[words.index("3")] is None
    assert found.has_token[words.index("3")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_first_token_of_a_word_has_a_character_of_it(name):
    words = ["Quark", "東", "x", "zulu", "$", "Carla"]
    (found,) = word_tokens(tokenizer(name), [words])
    text, spans = as_written(words)
    encoded = tokenizer(name)(text, add_special_tokens=False, return_offsets_mapping=True)
    assert found.ids == encoded["input_ids"]
    for at, (start, end) in zip(found.first, spans, strict=True):
        token = tokenizer(name).convert_ids_to_tokens(found.ids[at])
        assert token.strip("▁Ġ") != ""
        first, last = encoded["offset_mapping"][at]
        assert max(first, start) < min(last, end)
        earlier = [i for i in range(at) if encoded["offset_mapping"][i][1] > start]
        assert all(tokenizer(name).convert_ids_to_tokens(found.ids[i]).strip("▁Ġ") == "" for i in earlier)


def test_words_without_a_token_of_their_own_are_what_pipeline_makes_of_them():
    collator = TaggingCollator(tokenizer("bert"), TAGS, 64)
    words, tags = ["Carla", "\u200b", "Smith", "\ufe0f", "x"], ["B-PER", "I-PER", "I-PER", "B-LOC", "O"]
    data = Dataset.from_dict({"tokens": [words], "tags": [[TAGS.index(tag) for tag in tags]]})
    row = collator.tokenize(data)[0]
    assert row["input_ids"] == [tokenizer("bert")(as_written(words)[0])["input_ids"]]  # nothing is added to the text
    batch = collator([row])

    class Oracle(torch.nn.Module):
        def forward(self, **_):
            self.logits = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), len(TAGS)).float()
            return self

    objective = Tagging(Oracle(), collator)
    (prediction,) = objective.predictions(objective.logits(batch), batch)
    assert prediction.reference == tags
    assert prediction.predicted == ["B-PER", "I-PER", "I-PER", "O", "O"]  # inside of the entity that goes on; missed
    assert read(collator, words, tags)[0] == [("PER", "Carla \u200b Smith")]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("He said : Paris !", "He said : Paris !"),
        ("我 爱 北京 天安门 。", "我爱北京天安门。"),
        ("使用 Python 3 编程 ， 2024 年", "使用 Python 3编程，2024年"),
        ("他 在 New York 的 Apple 公司", "他在 New York 的 Apple 公司"),
        ("価格 は 10 20 円", "価格は10 20円"),
        ("วันนี้ สมชาย ไป กรุงเทพ", "วันนี้สมชายไปกรุงเทพ"),
        ("ຂ້ອຍ ໄປ ວຽງຈັນ", "ຂ້ອຍໄປວຽງຈັນ"),
        ("나는 서울 에 간다", "나는 서울 에 간다"),
        ("He lives in 東京 now", "He lives in 東京 now"),
        ("N B A 球 员", "NBA球员"),
        ("A", "A"),
    ],
)
def test_sentences_are_written_as_their_script_is(words, text):
    words = words.split()
    written, spans = as_written(words)
    assert written == text
    assert [written[start:end] for start, end in spans] == words


def test_other_sentences():
    assert as_written([]) == ("", [])
    assert as_written(["a", "", "b"]) == ("a  b", [(0, 1), (2, 2), (3, 4)])
    assert as_written(["서", "울", " ", "에"])[0] == "서울 에"  # given character by character, blanks among them
    typed, spans = as_typed(["He", "said", ":", "(", "no", ")", "'s", "$", "5", ",", "ok", "."])
    assert typed == "He said: (no)'s $5, ok."
    assert typed[slice(*spans[-2])] == "ok"


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_readings_of_a_folder_name_who_is_wrong_and_why(tmp_path):
    from nlp_ssl.objectives.labelled import Prediction

    torch.manual_seed(0)
    collator = TaggingCollator(tokenizer("gpt2"), TAGS, 64)
    config = BertConfig(
        vocab_size=len(collator.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, **collator.config_kwargs(),
    )  # fmt: skip
    BertForTokenClassification(config).save_pretrained(tmp_path)
    collator.tokenizer.save_pretrained(tmp_path)
    words, tags = ["Carla", "Smith", "paid", "$", "5", "."], ["B-PER", "I-PER", "O", "O", "O", "O"]
    found = read_tagger(tmp_path, collator, [words], [Prediction(tags, tags)])
    assert (found.run, found.num_sentences, found.reading) == (1.0, 1, "first")
    assert found.pipeline < 1  # an untrained model
    assert "the model predicts another tag" in found.why
    assert found.typed is not None
    assert len(found.rows()) >= 3
