"""Text that spells special tokens is text, whatever the kind of tokenizer."""

import copy

import pytest
from datasets import Dataset
from published_tokenizers import PUBLISHED
from tokenizers import AddedToken

from nlp_ssl.core.vocabulary import num_ids, special_ids
from nlp_ssl.data.tokens.text_only import text_only
from nlp_ssl.data.tokens.tokenizer_audit import audit
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus
from nlp_ssl.objectives.classification import ClassificationCollator
from nlp_ssl.objectives.tagging import TaggingCollator

# every character that the names of special tokens have, so that none is unknown
LETTERS = "[ C L S E P U N K M A D I ] < s / u n k > p a d m a s k | e n d o f t e x t _ b e g i n"
TEXTS = ["the quick brown fox jumps over the lazy dog, [a] <b> |c| a/b"] * 20 + [LETTERS, LETTERS.replace(" ", "")] * 20
ORDINARY = ["the lazy fox, a <b> |c|", "  two  blanks\n\nand a line ", "", "Über 中文 ไทย \U0001f98a", "[a] / b"]


@pytest.fixture(scope="module", params=PUBLISHED)
def tokenizer(request):
    return PUBLISHED[request.param](TEXTS)


def spellings(tokenizer):
    names = tokenizer.convert_ids_to_tokens(special_ids(tokenizer))
    return [form for name in names for form in (name, f"a {name} b", f"a{name}b", name * 2, name.lower())]


def test_no_special_token_comes_out_of_text(tokenizer):
    ids = text_only(tokenizer)(spellings(tokenizer), add_special_tokens=False)["input_ids"]
    assert not {i for row in ids for i in row} & set(special_ids(tokenizer))


def test_other_text_is_read_as_by_the_tokenizer_itself_template_and_places_too(tokenizer):
    found, own = (each(ORDINARY, return_offsets_mapping=True) for each in (text_only(tokenizer), tokenizer))
    assert found.data == own.data
    assert text_only(tokenizer)("a fox", "a dog")["input_ids"] == tokenizer("a fox", "a dog")["input_ids"]


def test_the_tokenizer_itself_stays_as_it_was(tokenizer):
    before, names = tokenizer.backend_tokenizer.to_str(), tokenizer.all_special_tokens
    text_only(tokenizer)(spellings(tokenizer), truncation=True, max_length=4)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer.convert_tokens_to_ids(names) == tokenizer.all_special_ids
    assert tokenizer(names[0], add_special_tokens=False)["input_ids"] == [tokenizer.all_special_ids[0]]


def test_a_special_token_that_is_a_word_of_the_text_is_that_word(tokenizer):
    """As a role given to a word that the vocabulary has already: BPE would make it of its parts, Unigram find it."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": [AddedToken("quick", special=True, normalized=False)]})
    quick = tokenizer.convert_tokens_to_ids("quick")
    assert quick in special_ids(tokenizer)
    assert quick < num_ids(tokenizer)
    assert quick not in text_only(tokenizer)("the quick brown fox")["input_ids"]
    assert quick in tokenizer("the quick brown fox")["input_ids"]


def test_a_corpus_and_an_audit_read_text_as_text(tokenizer, tmp_path):
    texts = [*spellings(tokenizer), *ORDINARY]
    tokens = tokenize_corpus(Dataset.from_dict({"text": texts}), tokenizer, tmp_path, "texts", num_proc=1)
    found = [tokens.document(i).tolist() for i in range(tokens.num_documents)]
    assert found == text_only(tokenizer)(texts, add_special_tokens=False)["input_ids"]
    assert audit(tokenizer, spellings(tokenizer)).unknown_rate == 0


@pytest.mark.parametrize("pair", [False, True])
def test_labelled_texts_are_text_inside_of_the_template(tokenizer, pair, monkeypatch, tmp_path):
    monkeypatch.setenv("NLP_SSL_CACHE", str(tmp_path))
    names = ["first", "second"][: 1 + pair]
    spelt = [f"{form} fox" for form in spellings(tokenizer)]
    dataset = Dataset.from_dict(dict.fromkeys(names, spelt))
    rows = ClassificationCollator(tokenizer, ["a", "b"], names, 64).tokenize(dataset)
    frame = tokenizer(*["fox"] * len(names))["input_ids"]
    special = set(special_ids(tokenizer))
    for ids in rows["input_ids"]:
        assert sum(i in special for i in ids) == sum(i in special for i in frame)


def test_tagged_words_are_text(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("NLP_SSL_CACHE", str(tmp_path))
    sentences = [["the", form.strip(), "fox"] for form in spellings(tokenizer)]
    collator = TaggingCollator(tokenizer, ["O", "B-X", "I-X"], 64)
    rows = collator.tokenize(Dataset.from_dict({"tokens": sentences, "tags": [[0, 1, 0]] * len(sentences)}))
    special = set(special_ids(tokenizer))
    frame = len(collator.prefix) + len(collator.suffix)
    for windows in rows["input_ids"]:
        assert sum(i in special for i in windows[0]) == frame
