"""What models answer, beside `pipeline`, beside other code of ours, and computed by hand."""

import json
import math
import shutil

import pytest
import torch
from toys import CAUSAL, MASKED, texts, tiny_model, tokenizer
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline
from tried import BLANKS, ESCAPING, edit

from nlp_ssl.models import loading
from nlp_ssl.objectives.text_vectors import text_vectors
from nlp_ssl.trying.answers import Answer, CannotAnswer, Piece, describe, longest_input, open_model

TEXT = "kalo mi renva tus, po va ist"
LONG = " ".join(texts()[:8])


def written(answer: Answer) -> str:
    return "".join(piece.text for piece in answer.pieces)


def marked(answer: Answer) -> list[tuple[str, str]]:
    return [(piece.text, piece.label) for piece in answer.pieces if piece.label is not None]


def near(found, expected):
    """Names and numbers of a ranking are those, to the rounding of float32."""
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [number for _, number in found] == pytest.approx([number for _, number in expected], rel=1e-4, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# masked


@pytest.mark.parametrize("task", ["masked", "bpe"])
@pytest.mark.parametrize("mask", ["<mask>", "[MASK]", "___", "_"])
def test_a_mask_is_filled_as_the_pipeline_fills_it(folder, task, mask):
    expected = pipeline("fill-mask", str(folder(task)), top_k=5)
    answer = open_model(str(folder(task))).answer(f"kalo {mask} mi.")
    guesses = expected(f"kalo {expected.tokenizer.mask_token} mi.")
    (ranking,) = answer.rankings
    near(ranking.entries, [(g["token_str"].strip() or repr(g["token_str"]), g["score"]) for g in guesses])
    assert (answer.pieces[0], answer.pieces[2], answer.notes) == (Piece("kalo "), Piece(" mi."), ())


def test_several_masks_have_a_ranking_each_and_the_surest_is_filled_first(folder):
    read, model = (kind.from_pretrained(folder("masked")) for kind in (AutoTokenizer, AutoModelForMaskedLM))
    answer = open_model(str(folder("masked")), top=3).answer("kalo ___ mi ___ va.")
    ids = read("kalo [MASK] mi [MASK] va.", return_tensors="pt").input_ids
    places = (ids[0] == read.mask_token_id).nonzero()[:, 0].tolist()
    for title, ranking, place in zip(("mask 1", "mask 2"), answer.rankings, places, strict=True):
        best = model(ids).logits[0, place].softmax(-1).topk(3)
        assert ranking.title == title
        near(ranking.entries, [(read.decode([i]), p) for p, i in zip(best.values.tolist(), best.indices, strict=True)])
    while places:
        chances = model(ids).logits[0].detach()
        chances[:, read.all_special_ids] = -math.inf
        at = max(places, key=lambda place: float(chances[place].softmax(-1).max()))
        ids[0, at] = int(chances[at].argmax())
        places.remove(at)
    places = (read("kalo [MASK] mi [MASK] va.", return_tensors="pt").input_ids[0] == read.mask_token_id).nonzero()
    assert marked(answer) == [(read.decode([int(ids[0, place])]), "") for place in places]


def test_a_text_without_a_mask_is_told_how_to_write_one(folder):
    answer = open_model(str(folder("masked"))).answer("snake_case and __init__ are no masks")
    assert answer == Answer(notes=("write ___ or [MASK] where a word is missing, as in: Paris is the ___ of France.",))


def test_a_model_that_guesses_a_token_before_the_mask_is_read_there(folder, tmp_path):
    from nlp_ssl.objectives.hybrid import _READ_BEFORE

    shutil.copytree(folder("masked"), tmp_path / "hybrid")
    (tmp_path / "hybrid" / "README.md").write_text(_READ_BEFORE["snippet"].format(model="'x'", example="'y'"))
    read, model = (kind.from_pretrained(folder("masked")) for kind in (AutoTokenizer, AutoModelForMaskedLM))
    inputs = read("kalo [MASK] mi.", return_tensors="pt")
    mask = (inputs.input_ids[0] == read.mask_token_id).nonzero()[0, 0]
    best = model(**inputs).logits[0, mask - 1].softmax(-1).topk(5)
    (ranking,) = open_model(str(tmp_path / "hybrid")).answer("kalo _ mi.").rankings
    near(ranking.entries, [(read.decode([i]), p) for p, i in zip(best.values.tolist(), best.indices, strict=True)])


# ---------------------------------------------------------------------------------------------------------------------
# continued


def test_a_text_is_continued_as_the_pipeline_does_and_shown_as_it_grows(folder):
    generate = pipeline("text-generation", str(folder("causal")))
    settings = {"do_sample": False, "repetition_penalty": 1.3, "max_new_tokens": 40, "return_full_text": False}
    parts: list[str] = []
    answer = open_model(str(folder("causal"))).answer("kalo mi", show=parts.append)
    assert written(answer) == generate("kalo mi", **settings)[0]["generated_text"]
    assert "".join(parts) == written(answer)
    assert len(parts) > 1


def test_a_gap_is_filled_by_a_model_of_middles(folder):
    fills = open_model(str(folder("fim")))
    prompt = "<|fim_prefix|>kalo <|fim_suffix|> mi<|fim_middle|>"
    assert written(fills.answer("kalo ___ mi")) == written(fills.answer(prompt)) != written(fills.answer("kalo mi"))


# ---------------------------------------------------------------------------------------------------------------------
# classes, numbers, tags, answers


@pytest.mark.parametrize("line", [TEXT, "kalo mi\trenva tus", "kalo mi ||| renva tus"])
def test_classes_are_the_pipeline_s(folder, line):
    first, _, second = line.replace(" ||| ", "\t").partition("\t")
    given = {"text": first, "text_pair": second} if second else {"text": first}
    expected = pipeline("text-classification", str(folder("classes")), top_k=None)([given])[0]
    (ranking,) = open_model(str(folder("classes"))).answer(line).rankings
    near(ranking.entries, [(each["label"], each["score"]) for each in expected])
    assert (ranking.unit, ranking.chosen) == ("probability", 1)


def test_of_several_labels_those_above_a_half_are_the_answer(folder):
    expected = pipeline("text-classification", str(folder("several")), top_k=None, function_to_apply="sigmoid")
    answers = open_model(str(folder("several")))
    counts = set()
    for text in texts()[:20]:
        (ranking,) = answers.answer(text[:60]).rankings
        scores = [(each["label"], each["score"]) for each in expected([text[:60]], truncation=True)[0]]
        near(ranking.entries, scores)
        assert ranking.chosen == sum(score > 0.5 for _, score in scores)
        counts.add(ranking.chosen)
    assert len(counts) > 1


def test_one_output_is_a_number(folder):
    expected = pipeline("text-classification", str(folder("number")), function_to_apply="none")(TEXT)[0]
    (ranking,) = open_model(str(folder("number"))).answer(TEXT).rankings
    assert ranking.unit == "value"
    near(ranking.entries, [(expected["label"], expected["score"])])


@pytest.mark.parametrize("strategy", ["first", "simple", None])
def test_entities_are_read_as_the_card_says(folder, tmp_path, strategy):
    shutil.copytree(folder("tags"), tmp_path / "tags")
    if strategy:
        card = f'tag = pipeline("token-classification", model="x", aggregation_strategy="{strategy}")'
        (tmp_path / "tags" / "README.md").write_text(card)
    plain = pipeline("token-classification", str(folder("tags")), aggregation_strategy=strategy or "simple")
    text = " ".join(texts()[3].split()[:12])
    answer = open_model(str(tmp_path / "tags")).answer(text)
    assert marked(answer) == [(text[g["start"] : g["end"]], g["entity_group"]) for g in plain(text)] != []
    assert written(answer) == text


def test_a_question_is_answered_by_the_likeliest_span_of_the_text(folder):
    answers = open_model(str(folder("questions")), top=2)
    question, context = "kalo mi?", "renva tus, po va ist kalo"
    read = answers.tokenizer(question, context, return_tensors="pt")
    found, where = answers.model(**read), [i for i, s in enumerate(read.sequence_ids(0)) if s == 1]
    begins, ends = found.start_logits[0, where].softmax(0), found.end_logits[0, where].softmax(0)
    spans = [(float(begins[i] * ends[j]), i, j) for i in range(len(where)) for j in range(i, len(where))]
    expected = []
    for chance, i, j in sorted(spans, reverse=True)[:2]:
        text = context[read.token_to_chars(where[i]).start : read.token_to_chars(where[j]).end]
        expected.append((text, chance))
    answer = answers.answer(f"{question} ||| {context}")
    near(answer.rankings[0].entries, expected)
    assert marked(answer) == [(expected[0][0], "answer")]
    assert written(answer) == context
    assert "write a question" in answers.answer("kalo mi?").notes[0]


# ---------------------------------------------------------------------------------------------------------------------
# encoder-decoders, replaced words, vectors


def test_gaps_are_filled_with_what_an_encoder_decoder_writes_for_each(folder):
    answers = open_model(str(folder("t5")))
    read = answers.tokenizer(f"kalo{BLANKS[0]} mi{BLANKS[1]} va", return_tensors="pt")
    output = answers.tokenizer.decode(answers.model.generate(**read, max_new_tokens=32, do_sample=False)[0])
    spans = {}
    for name in BLANKS:
        if name in output:
            behind = output.split(name, 1)[1]
            for other in (*BLANKS, "</s>", "<pad>", "<mask>", "<s>", "<unk>"):
                behind = behind.split(other)[0]
            spans[name] = behind.strip()
    answer = answers.answer("kalo ___ mi ___ va")
    assert [text for text, _ in marked(answer)] == [spans.get(name) or "..." for name in BLANKS[:2]]
    assert "has names for 3" in answers.answer("_ _ _ _").notes[0]


def test_one_that_writes_whole_texts_writes_a_whole_text(folder):
    answers = open_model(str(folder("bart")))
    read = answers.tokenizer("kalo <mask> mi", return_tensors="pt")
    length = read["input_ids"].shape[1] + 16
    expected = answers.model.generate(**read, max_new_tokens=length, do_sample=False, num_beams=1)[0]
    assert written(answers.answer("kalo ___ mi")) == answers.tokenizer.decode(expected, skip_special_tokens=True)


def test_words_that_look_replaced_are_marked(folder):
    answers = open_model(str(folder("replaced")), top=100)
    found = set()
    for text in (" ".join(each.split()[:8]) for each in texts()[:6]):
        read = answers.tokenizer(text, return_tensors="pt")
        chances = answers.model(**read).logits[0].sigmoid().tolist()
        words: dict[tuple[int, int], float] = {}
        for token, word in enumerate(read.word_ids(0)):
            if word is not None:
                span = read.word_to_chars(word)
                words[span.start, span.end] = max(words.get((span.start, span.end), 0), chances[token])
        answer = answers.answer(text)
        assert marked(answer) == [(text[a:b], "") for (a, b), chance in words.items() if chance > 0.5]
        near(sorted(answer.rankings[0].entries), sorted((text[a:b], chance) for (a, b), chance in words.items()))
        found |= {chance > 0.5 for chance in words.values()}
    assert found == {True, False}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_neighbours_are_those_of_the_vectors_that_training_makes(folder, pooling):
    lines = [" ".join(text.split()[:9]) for text in texts()[:45] if text]
    read = AutoTokenizer.from_pretrained(folder(pooling))
    made = text_vectors(AutoModel.from_pretrained(folder(pooling)), read, [TEXT, *lines], pooling, max_length=16)
    cosines = torch.cosine_similarity(made[:1], made[1:])
    best = cosines.topk(5)
    answers = open_model(str(folder(pooling)))
    (ranking,) = answers.answer(TEXT, lines).rankings
    near(ranking.entries, [(lines[int(i)], float(c)) for c, i in zip(*best, strict=True)])
    assert answers.answer(TEXT, lines).rankings == (ranking,)  # from the vectors that it has kept
    assert answers.answer(TEXT, [TEXT]).notes == ("there is no other text yet to compare it with",)


def test_a_body_without_a_head_says_that_it_has_not_learnt_to_compare(folder):
    answers = open_model(str(folder("body")))
    assert "not what it learnt" in describe(answers)
    assert answers.answer("kalo", ["mi", "va"]).rankings[0].unit == "cosine"


def test_vectors_by_other_modules_are_refused(folder, tmp_path):
    shutil.copytree(folder("mean"), tmp_path / "dense")
    modules = json.loads((tmp_path / "dense" / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "dense" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CannotAnswer, match="makes vectors by Dense"):
        open_model(str(tmp_path / "dense"))
    shutil.copytree(folder("mean"), tmp_path / "both")
    edit(tmp_path / "both" / "1_Pooling" / "config.json", pooling_mode_max_tokens=True)
    with pytest.raises(CannotAnswer, match="pools its vectors by"):
        open_model(str(tmp_path / "both"))


# ---------------------------------------------------------------------------------------------------------------------
# limits, and what is none


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_the_longest_input_is_the_one_that_training_knows(name):
    model = tiny_model(name)
    assert longest_input(model, tokenizer("bpe")) == loading.longest_input(tokenizer("bpe"), model.config) == 64


@pytest.mark.parametrize("task", ["masked", "classes", "several", "number", "tags", "replaced", "mean", "causal"])
def test_a_long_text_is_cut_and_that_is_said(folder, task):
    line = f"kalo ___ {LONG}"
    answer = open_model(str(folder(task))).answer(line, ["va"])
    (note,) = answer.notes
    kept = {"causal": "only the last 24 of", "mean": "only the first 16 of"}.get(task, "only the first 64 of")
    assert note.startswith(kept)
    assert note.endswith("tokens were read: the model takes no more")
    assert answer.pieces or answer.rankings


def test_what_is_cut_is_the_text_and_not_the_question(folder):
    answers = open_model(str(folder("questions")))
    assert answers.answer(f"kalo mi? ||| {LONG}").notes[0].startswith("only the first 64 of")
    assert "the question alone has" in answers.answer(f"{LONG} ||| kalo").notes[0]


def test_a_mask_behind_the_cut_is_missed(folder):
    assert open_model(str(folder("masked"))).answer(f"{LONG} ___").notes[1] == "no mask is left in what is read"


EVERY = [
    "masked",
    "bpe",
    "causal",
    "fim",
    "classes",
    "several",
    "number",
    "tags",
    "questions",
    "t5",
    "bart",
    "replaced",
]


@pytest.mark.parametrize("task", [*EVERY, "cls"])
def test_no_text_is_too_strange(folder, task):
    answers = open_model(str(folder(task)))
    for text in ("", " ", "\x00\x1b[31m", "😀 中文 <s> </s> [SEP]", "_ ||| _"):
        answer = answers.answer(text, ["va"])
        assert answer.pieces or answer.rankings or answer.notes


def test_what_a_model_is_not_made_for_is_said(folder, tmp_path):
    for architectures, said in ([["BertForMultipleChoice"], "is a BertForMultipleChoice"], [None, "does not say"]):
        shutil.copytree(folder("masked"), tmp_path / "other", dirs_exist_ok=True)
        edit(tmp_path / "other" / "config.json", architectures=architectures)
        with pytest.raises(CannotAnswer, match=said):
            open_model(str(tmp_path / "other"))
    edit(tmp_path / "other" / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(CannotAnswer, match=r"have no .*: it is only a part of a BertForSequenceClassification"):
        open_model(str(tmp_path / "other"))


def test_labels_stay_data(folder):
    (ranking,) = open_model(str(folder("classes"))).answer(TEXT).rankings
    assert ESCAPING in dict(ranking.entries)
