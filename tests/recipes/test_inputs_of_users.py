"""Files, models and tokenizers as people have them, each given to its recipe: read as they are meant, or refused."""

import csv
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
import torch
import trained_heads
from launch import TINY, command, events, execute, run, write_corpus
from matplotlib.text import Text
from tokenizers import Tokenizer, processors
from toys import tiny_config
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    XLNetConfig,
    XLNetLMHeadModel,
    pipeline,
)

from nlp_ssl.data.labelled.tag_schemes import entities
from nlp_ssl.data.tokens.tokenizer import train_tokenizer
from nlp_ssl.publishing.plots import plot_confusion

CPU = ["--train.mixed_precision", "no", "--train.cpu_threads", 1]
CLASSIFY, TAG, MLM, CLM = "finetune_classification.py", "finetune_ner.py", "pretrain_mlm.py", "pretrain_clm.py"
WEATHER = {"sunny": ["bright", "hot", "clear"], "cloudy": ["grey", "dull", "hazy"], "rainy": ["wet", "damp", "pouring"]}
CITIES = ["Ghent", "Porto", "Turin", "Cork"]
PEOPLE = ["Ines", "Omar", "Petra", "Jonas"]
TEXTS = [
    f"a {word} day in {city}{',' * (hour % 3 > 0)} {hour} hours"
    for words in WEATHER.values()
    for word in words
    for city in CITIES
    for hour in range(12)
]
SENTENCES = [
    [("Hoy", "O"), ("Íñigo", "B-PER"), ("Muñoz", "I-PER"), ("visitó", "O"), (city, "B-LOC"), (".", "O")]
    for city in (*CITIES, "León", "Cádiz")
]  # fmt: skip


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def write_json(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Sequence[Any]], **options: Any) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows(rows)
    return path


def write_model(folder: Path, kind: str, tokenizer: Any, **fields: Any) -> Path:
    torch.manual_seed(0)
    config = tiny_config(
        kind, len(tokenizer), pad_token_id=tokenizer.pad_token_id, max_position_embeddings=64, **fields
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def weather(count: int, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)
    rows = [
        {"text": text, "label": kind} for text in TEXTS for kind, words in WEATHER.items() if text.split()[1] in words
    ]
    return rng.sample(rows, count)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [*TEXTS, *(" ".join(word for word, _ in sentence) for sentence in SENTENCES)]
    return write_model(tmp_path_factory.mktemp("bert"), "bert", train_tokenizer(texts, "wordpiece", 120))


def fine_tune(recipe: str, model: Path, file: Path, out: Path, *more: object, expect: int = 0) -> str:
    """Two steps on a file, which is validated on too."""
    options = ["--model.name", model, "--data.train_file", file, "--data.validation_file", file, "--output_dir", out]
    printed = run(
        recipe, *options, "--max_length", 64, "--train.steps", 2, "--train.global_batch_size", 4, *CPU, *more,
        expect=expect,
    )  # fmt: skip
    return refusal(printed, out) if expect else printed


def refusal(printed: str, out: Path) -> str:
    """The one sentence that a run ended with, which has written nothing."""
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in printed
    assert not out.exists()
    return last


def predictions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def texts_and_labels(out: Path) -> list[tuple[str, Any]]:
    return [(next(iter(row["texts"].values())), row["label"]) for row in predictions(out)]


def words_and_tags(out: Path) -> list[list[tuple[str, str]]]:
    return [list(zip(row["texts"]["tokens"], row["label"], strict=True)) for row in predictions(out)]


# ---------------------------------------------------------------------------------------------------------------------
# trained models


def test_a_head_is_matched_by_the_names_of_its_classes(tmp_path: Path) -> None:
    own, others = ["cats", "rain", "stone"], ["dogs", "snow", "wood"]
    whole = trained_heads.write_model(tmp_path / "whole", own)
    trained_heads.reorder(whole, tmp_path / "in another order", [2, 0, 1])
    trained_heads.reorder(whole, tmp_path / "of other names", [0, 1, 2], others)
    labels = trained_heads.said_by(whole, trained_heads.TEXTS)  # so that the model is right about every row
    rows = [{"text": text, "label": label} for text, label in zip(trained_heads.TEXTS, labels, strict=True)]
    file, found, printed = write_json(tmp_path / "a.jsonl", rows), {}, {}
    for name in ("in another order", "of other names"):
        out = tmp_path / f"run {name}"
        printed[name] = fine_tune(CLASSIFY, tmp_path / name, file, out, "--optimizer.lr", "1e-9", "--max_length", 48)
        found[name] = events(out, "evaluation")[0]
        assert found[name]["step"] == 0
    assert found["in another order"]["accuracy"] == 1
    assert "is kept" in printed["in another order"]
    assert found["of other names"]["accuracy"] < 0.9
    assert "made anew" in printed["of other names"]
    assert "new: cats, rain, stone; gone: dogs, snow, wood" in printed["of other names"]


def tagged(count: int, seed: int) -> list[dict[str, list[str]]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [
            "Monday",
            ",",
            rng.choice(PEOPLE),
            "Novak",
            "left",
            rng.choice(CITIES),
            "at",
            str(rng.randrange(24)),
            ".",
        ]
        rows.append({"tokens": words, "ner_tags": ["O", "O", "B-PER", "I-PER", "O", "B-LOC", "O", "O", "O"]})
    return rows


def laid_out(words: list[str], typed: bool) -> tuple[str, list[tuple[int, int]]]:
    """A sentence as text, with a blank before punctuation or as people type, and where its words stand."""
    text, spans = "", []
    for word in words:
        text += " " if text and not (typed and word in ",.") else ""
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans


def f1(rows: list[dict[str, Any]], find: Callable[[list[str]], set[tuple[str, int, int]]]) -> float:
    """Entity F1 of what is found, as (type, first word, word behind the last)."""
    hits = total = 0
    for row in rows:
        found, true = find(row["texts"]["tokens"]), {tuple(entity) for entity in entities(row["label"])}
        hits, total = hits + len(found & true), total + len(found) + len(true)
    return 2 * hits / total


def readers(folder: Path, strategy: str) -> dict[str, Callable[[list[str]], set[tuple[str, int, int]]]]:
    """Plain transformers: its pipeline on both layouts, and each word's first token of `is_split_into_words`."""
    plain = pipeline("token-classification", str(folder), aggregation_strategy=strategy, device="cpu")
    network, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def pipe(typed: bool) -> Callable[[list[str]], set[tuple[str, int, int]]]:
        def find(words: list[str]) -> set[tuple[str, int, int]]:
            text, spans = laid_out(words, typed)
            found = set()
            for group in plain(text):
                inside = text[group["start"] : group["end"]]
                start, end = group["end"] - len(inside.lstrip()), group["start"] + len(inside.rstrip())
                first = [i for i, span in enumerate(spans) if span[0] == start]
                last = [i + 1 for i, span in enumerate(spans) if span[1] == end]
                place = (first[0], last[0]) if first and last else (-start - 1, -end - 1)  # half a word is wrong
                found.add((group["entity_group"], *place))
            return found

        return find

    def split(words: list[str]) -> set[tuple[str, int, int]]:
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = network.eval()(**encoded).logits[0].argmax(-1).tolist()
        ids = encoded.word_ids(0)
        tags = [network.config.id2label[best[ids.index(word)]] for word in range(len(words))]
        return {tuple(entity) for entity in entities(tags)}

    return {"as in training": pipe(typed=False), "without blanks": pipe(typed=True), "is_split_into_words": split}


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_tagger_s_score_is_the_pipeline_s_and_other_readings_have_their_own(kind: str, tmp_path: Path) -> None:
    rows = tagged(240, 0)
    tokenizer = train_tokenizer([laid_out(row["tokens"], typed=False)[0] for row in rows], kind, 330)
    model = write_model(tmp_path / "model", "deberta-v2" if kind == "unigram" else "roberta", tokenizer)
    train, dev = write_json(tmp_path / "train.jsonl", rows), write_json(tmp_path / "dev.jsonl", tagged(40, 1))
    out = tmp_path / "run"
    printed = run(
        TAG, "--model.name", model, "--data.train_file", train, "--data.validation_file", dev, "--max_length", 48,
        "--train.steps", 80, "--train.global_batch_size", 16, "--optimizer.lr", "5e-3", *CPU, "--output_dir", out,
    )  # fmt: skip
    card = (out / "README.md").read_text()
    said = {line.rsplit(maxsplit=1)[0].strip(): float(line.split()[-1]) for line in printed.splitlines()
            if line.startswith(("this run, ", "pipeline(", "tokenizer("))}  # fmt: skip
    strategy = next(name for name in ("first", "simple") if f'aggregation_strategy="{name}"' in card)
    found = {name: f1(predictions(out), find) for name, find in readers(out, strategy).items()}
    own = f1(predictions(out), lambda words: next(
        {tuple(e) for e in entities(row["predicted"])} for row in predictions(out) if row["texts"]["tokens"] == words
    ))  # fmt: skip
    assert own == found["as in training"] == 1
    assert len(said) == 4
    for name, score in {"this run": own, **found}.items():
        (printed_score,) = (value for way, value in said.items() if name in way)
        assert printed_score == pytest.approx(score, abs=5e-5)
        assert f"{score:.4f}" in card


# ---------------------------------------------------------------------------------------------------------------------
# tagged words

BLANK = "\n\n"
LISTS = [[str([w for w, _ in s]), str([t for _, t in s])] for s in SENTENCES]
WORD_ROWS = [["" if i else f"Sentence: {n}", w, "X", t] for n, s in enumerate(SENTENCES) for i, (w, t) in enumerate(s)]
BMES = ["B-ORG", "M-ORG", "M-ORG", "E-ORG", "O", "B-NAME", "M-NAME", "E-NAME"]
CHINESE = [[*zip("东海大学有李小明", BMES, strict=True)]] * 6
CHINESE_IOB2 = [[(word, tag.replace("M-", "I-").replace("E-", "I-")) for word, tag in s] for s in CHINESE]


def columns(sentences: list[list[tuple[str, str]]], line: str = "{word} {tag}", head: str = "") -> str:
    blocks = ["\n".join(line.format(i=i, word=w, tag=t) for i, (w, t) in enumerate(s)) for s in sentences]
    return BLANK.join(head + block for block in blocks) + "\n"


TAGGED = {
    "an index first": ("a.conll", columns(SENTENCES, "{i}\t{word}\t{tag}"), []),
    "comments": ("a.conll", columns(SENTENCES, "{word} _ _ {tag}", "# id 7\tsource=web\n"), []),
    "lists as text": ("a.csv", [["tokens", "ner_tags"], *LISTS], []),
    "a word a row": ("a.csv", [["Sentence #", "Word", "POS", "Tag"], *WORD_ROWS], []),
    "a word a row, columns named": (
        "a.csv", [["Sentence #", "Word", "POS", "Tag"], *WORD_ROWS],
        ["--data.tokens_column", "Word", "--data.label_column", "Tag"],
    ),
    "BMES": ("a.conll", columns(CHINESE), []),
}  # fmt: skip


@pytest.mark.parametrize("form", TAGGED)
def test_tagged_words_are_read_whatever_their_file_looks_like(form: str, bert: Path, tmp_path: Path) -> None:
    name, content, options = TAGGED[form]
    file = (write if isinstance(content, str) else write_csv)(tmp_path / name, content)
    printed = fine_tune(TAG, bert, file, tmp_path / "run", *options)
    assert words_and_tags(tmp_path / "run") == (CHINESE_IOB2 if form == "BMES" else SENTENCES)
    assert "6 train, 6 validation rows, 2 types of entities" in printed


def test_the_encoding_of_tagged_words_is_guessed_in_the_refusal_and_read_when_it_is_given(bert, tmp_path) -> None:
    file = write(tmp_path / "a.conll", columns(SENTENCES), "latin-1")
    said = fine_tune(TAG, bert, file, tmp_path / "run", expect=2)
    assert "a.conll, line 2: 0xcd is not UTF-8 here; the file may be in latin-1: --data.encoding latin-1" in said
    fine_tune(TAG, bert, file, tmp_path / "run", "--data.encoding", "latin-1")
    assert words_and_tags(tmp_path / "run") == SENTENCES


# ---------------------------------------------------------------------------------------------------------------------
# labelled texts

READINGS = {
    "0 and 1 for each class": (
        [[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]], [["1"], ["0", "1"], [], ["2", "3"]],
        "4 classes, 1.25 of them a row",
    ),
    "whole numbers with a fraction": (
        [1.0, 0.0, 2.0, 1.0], ["1", "0", "2", "1"], "3 classes (0, 1, 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", READINGS)
def test_labels_are_read_as_they_are_meant_and_the_run_says_how(form: str, bert: Path, tmp_path: Path) -> None:
    written, meant, said = READINGS[form]
    rows = [(text, i % 4) for i, text in enumerate(TEXTS[:12])]
    if form == "whole numbers with a fraction":
        file = write_csv(tmp_path / "a.csv", [["text", "label"], *([text, written[i]] for text, i in rows)])
    else:
        file = write_json(tmp_path / "a.jsonl", ({"text": text, "label": written[i]} for text, i in rows))
    printed = fine_tune(CLASSIFY, bert, file, tmp_path / "run")
    assert texts_and_labels(tmp_path / "run") == [(text, meant[i]) for text, i in rows]
    assert said in printed


def test_a_label_that_is_no_number_is_no_class(bert: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": float("nan") if i == 4 else i % 3} for i, text in enumerate(TEXTS[:12])]
    said = fine_tune(CLASSIFY, bert, write_json(tmp_path / "a.jsonl", rows), tmp_path / "run", expect=2)
    assert "a.jsonl, line 5 has no label; give it one or remove the row" in said


def test_half_a_character_is_named_with_its_line(bert: Path, tmp_path: Path) -> None:
    rows = [{"text": text + "\ud83c" * (i == 6), "label": i % 3} for i, text in enumerate(TEXTS[:12])]
    said = fine_tune(CLASSIFY, bert, write_json(tmp_path / "a.jsonl", rows), tmp_path / "run", expect=2)
    assert "a.jsonl, line 7: a lone surrogate, \\ud83c, which UTF-8 cannot hold" in said


def test_dollars_of_class_names_are_drawn_and_stand_in_the_card(bert: Path, tmp_path: Path, monkeypatch: Any) -> None:
    names = ["$20_$40^", "$5-$20", "under $5"]
    rows = [{"text": text, "label": names[i % 3]} for i, text in enumerate(TEXTS[:12])]
    out = tmp_path / "run"
    printed = fine_tune(CLASSIFY, bert, write_json(tmp_path / "a.jsonl", rows), out)
    assert "could not be" not in printed
    assert "| Labels | \\$20\\_\\$40^, \\$5-\\$20, under \\$5 |" in (out / "README.md").read_text()
    drawn: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    pairs = [(names.index(row["label"]), names.index(row["predicted"])) for row in predictions(out)]
    plot_confusion(pairs, names, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (out / "confusion.png").read_bytes()
    assert set(names) <= {text.get_text() for text in drawn[0].findobj(Text)}


def test_fields_between_semicolons(bert: Path, tmp_path: Path) -> None:
    rows = [(f"{text}; not more, not less", list(WEATHER)[i % 3]) for i, text in enumerate(TEXTS[:12])]
    file = write_csv(tmp_path / "a.csv", [("text", "label"), *rows], delimiter=";")
    printed = fine_tune(CLASSIFY, bert, file, tmp_path / "run")
    assert "has its fields separated by ';' (--data.delimiter decides otherwise)" in printed
    assert texts_and_labels(tmp_path / "run") == rows


def test_a_table_without_a_header_loses_no_row(bert: Path, tmp_path: Path) -> None:
    rows = [(list(WEATHER)[i % 3], text) for i, text in enumerate(TEXTS[:12])]
    file = write_csv(tmp_path / "a.csv", rows, delimiter="\t")
    said = fine_tune(CLASSIFY, bert, file, tmp_path / "run", expect=2)
    assert "--data.column_names, if its first line is a row already" in said
    # named after its first row, as one may be tempted to
    named = fine_tune(CLASSIFY, bert, file, tmp_path / "named", "--data.label_column", "sunny")
    assert "warning" in named
    assert "column 'sunny' holds 'sunny' itself" in named
    printed = fine_tune(
        CLASSIFY, bert, file, tmp_path / "run", "--data.delimiter", "\\t", "--data.column_names", "[label, text]"
    )
    assert "itself" not in printed
    assert texts_and_labels(tmp_path / "run") == [(text, label) for label, text in rows]


# ---------------------------------------------------------------------------------------------------------------------
# corpora


def test_bits_per_byte_do_not_depend_on_whether_a_tag_is_also_a_special_token(tmp_path: Path) -> None:
    plain = write_corpus(tmp_path / "plain.txt").read_text()
    found = {}
    for tag in ("s", "q"):
        corpus = write(tmp_path / f"{tag}.txt", plain.replace(" and ", f" <{tag}>and</{tag}> "))
        folder = tmp_path / f"run-{tag}"
        options = ["--model.name", "llama-tiny", "--train.steps", 2, "--train.global_batch_size", 8]
        run(CLM, *TINY, *options, "--data.sources", corpus, "--output_dir", folder)
        found[tag] = [event["bits_per_byte"] for event in events(folder, "evaluation")]
    assert found["s"] == pytest.approx(found["q"], rel=0.03)


def test_an_open_quote_is_named_with_its_line(tmp_path: Path) -> None:
    lines = [f"{chr(34) * (i == 8)}document {i} of many" for i in range(60)]
    corpus, out = write(tmp_path / "a.csv", "\n".join(["text", *lines])), tmp_path / "tokenizer"
    printed = run(
        "train_tokenizer.py", "--data.sources", corpus, "--tokenizer.vocab_size", 280, "--output_dir", out, expect=2
    )
    assert "a.csv, line 10: not a row of a csv file (a quote that is never closed)" in refusal(printed, out)


LINES = {
    "every document was held out": ("one sentence\nand another\n" * 50, "0.1"),
    "no document was held out": ("one sentence\nand another\n\n" * 5, "1e-9"),
}


@pytest.mark.parametrize("said", LINES)
def test_one_sentence_a_line_is_what_leaves_too_few_documents(said: str, tmp_path: Path) -> None:
    content, fraction = LINES[said]
    options = ["--data.sources", write(tmp_path / "a.txt", content), "--data.held_out_fraction", fraction]
    out = tmp_path / "run"
    last = refusal(run(MLM, *options, "--train.steps", 2, "--output_dir", out, expect=2), out)
    assert said in last
    assert "--data.txt_documents line" in last


LAO = [consonant + vowel for consonant in "ກຂຄງຈສຊຍດຕຖທນບປຜຝພຟມຢຣລວຫອຮ" for vowel in "າິີຸູ"]


def test_long_words_of_a_script_without_blanks(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices(LAO, k=rng.randint(1, 3))) for _ in range(400)]
    texts = [" ".join("".join(rng.choices(words, k=rng.randint(5, 50))) for _ in range(4)) for _ in range(300)]
    corpus, out = write(tmp_path / "a.txt", BLANK.join(texts)), tmp_path / "run"
    printed = run(
        MLM, "--model.name", "roberta-tiny", "--data.sources", corpus, "--tokenizer.vocab_size", 1400,
        "--tokens.sequence_length", 512, "--train.steps", 2, "--train.global_batch_size", 2, *CPU, "--output_dir", out,
    )  # fmt: skip
    assert [event["step"] for event in events(out, "step")][-1] == 2
    (apart,) = (line for line in printed.splitlines() if "logits differ by" in line)
    assert float(apart.split("differ by")[1].split()[0].strip(";,")) < 1e-4


def test_a_derived_vocabulary_holds_the_characters_of_the_text(tmp_path: Path) -> None:
    rng = random.Random(0)
    characters = [chr(0x4E00 + i) for i in range(2500)]
    weights = [1 / (i + 5) for i in range(2500)]
    texts = ["".join(rng.choices(characters, weights, k=250)) for _ in range(200)]
    corpus, out = write(tmp_path / "a.txt", BLANK.join(texts)), tmp_path / "run"
    printed = run(
        MLM, "--model.name", "bert-tiny", "--data.sources", corpus, "--data.held_out_fraction", "0.1",
        "--tokens.sequence_length", 64, "--train.steps", 2, "--train.global_batch_size", 2, *CPU, "--output_dir", out,
    )  # fmt: skip
    lost = float(printed.split("unknown text: ")[1].split("%")[0])
    assert lost < 0.1
    assert len(AutoTokenizer.from_pretrained(out)) >= len(set("".join(texts[:100])))


# ---------------------------------------------------------------------------------------------------------------------
# models and tokenizers


def test_a_model_is_given_no_more_than_it_can_read(bert: Path, tmp_path: Path) -> None:
    """Though its tokenizer announces no length, as many published ones."""
    model = shutil.copytree(bert, tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    write(model / "tokenizer_config.json", json.dumps({**settings, "model_max_length": 10**30}))
    train = write_json(tmp_path / "train.jsonl", weather(30))
    long = write_json(tmp_path / "long.jsonl", ({**row, "text": f"{row['text']} " * 20} for row in weather(6)))
    fine_tune(CLASSIFY, model, train, tmp_path / "run", "--data.validation_file", long, "--seeds", "[0, 1]")
    for seed in (0, 1):
        out = tmp_path / "run" / f"seed-{seed}"
        assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 64
        assert pipeline("text-classification", str(out), device="cpu")("bright " * 200, truncation=True)
        assert len(predictions(out)) == 6


def test_a_vocabulary_with_a_hole(bert: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bert, tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    encoded = AutoTokenizer.from_pretrained(bert)(TEXTS)["input_ids"]
    unused = next(token for token, i in vocabulary.items() if i > 5 and not any(i in ids for ids in encoded))
    del vocabulary[unused]
    (model / "tokenizer.json").write_text(json.dumps(content))
    highest = max(vocabulary.values())
    assert len(AutoTokenizer.from_pretrained(model)) == highest
    corpus = write(
        tmp_path / "a.txt", BLANK.join(text for text, ids in zip(TEXTS, encoded, strict=True) if highest in ids)
    )
    out = tmp_path / "run"
    run(
        MLM, "--model.name", model, "--data.sources", corpus, "--tokens.sequence_length", 64, "--train.steps", 4,
        "--data.held_out_fraction", "0.1", "--train.global_batch_size", 8, *CPU, "--output_dir", out,
    )  # fmt: skip
    assert [event["step"] for event in events(out, "step")][-1] == 4


def test_a_model_without_a_longest_input_that_pads_on_the_left(tmp_path: Path) -> None:
    backend = Tokenizer.from_str(train_tokenizer(TEXTS, "wordpiece", 120).backend_tokenizer.to_str())
    names = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]:2", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=names
    )
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **roles)
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=120, d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=tokenizer.pad_token_id
    )
    XLNetLMHeadModel(config).save_pretrained(tmp_path / "xlnet")
    tokenizer.save_pretrained(tmp_path / "xlnet")
    file, out = write_json(tmp_path / "a.jsonl", weather(30)), tmp_path / "run"
    fine_tune(CLASSIFY, tmp_path / "xlnet", file, out)
    classify = pipeline("text-classification", str(out), device="cpu")
    for row in predictions(out):
        (theirs,) = classify([row["texts"]["text"]])
        assert row["probabilities"][theirs["label"]] == pytest.approx(theirs["score"], abs=1e-4)


def test_a_sentencepiece_model_alone_names_the_package_that_reads_it(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "run"
    folder.mkdir()
    (folder / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    write(folder / "tokenizer_config.json", '{"do_lower_case": false, "vocab_type": "spm"}')
    write(folder / "config.json", '{"model_type": "deberta-v2"}')
    options = ["--data.sources", write_corpus(tmp_path / "a.txt"), "--train.steps", 2, "--output_dir", out]
    recipe = command(MLM, "--tokenizer.path", folder, *options)[1:]
    without = "import runpy, sys; sys.modules['sentencepiece'] = None; del sys.argv[0]; "
    without += "runpy.run_path(sys.argv[0], run_name='__main__')"
    printed = execute([sys.executable, "-c", without, *recipe], expect=2)
    assert "is a SentencePiece model (spm.model) without a tokenizer.json" in refusal(printed, out)
    assert "pip install sentencepiece" in printed
