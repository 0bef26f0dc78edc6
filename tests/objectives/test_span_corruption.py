"""Span corruption: the noise against T5's formula and the text itself, the loss beside plain transformers."""

import copy
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / folder)
    for folder in (".", "equivalence", "objectives", "objectives/cases")
)
from launch import events, execute, run, write_corpus
from parity_cases import BEGIN, END, ROW_LENGTH, SEED, TOKENIZER, documents, packed_row
from span_corruption import BLANKS, FRAME, WITH_BLANKS, collator, objective
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.config.span_corruption import NoiseSection, SpanCorruptionConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.objectives.objective import find_objective
from nlp_ssl.objectives.span_collator import CorruptingCollator
from nlp_ssl.objectives.span_corruption import SpanCorruption
from nlp_ssl.objectives.span_noise import Bodies, SpanNoise, blank
from nlp_ssl.runs.pretraining_data import infer_objective, with_options_of

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]
BLANK_IDS = [WITH_BLANKS.convert_tokens_to_ids(blank(i)) for i in range(BLANKS)]
MASK = TOKENIZER.mask_token_id


def bodies(sizes, seed=0):
    sizes = np.array(sizes)
    keys = np.arange(len(sizes), dtype=np.uint64) + np.uint64(1000 * seed)
    return Bodies(keys, sizes, np.arange(sizes.sum()) + 5)


def batch_of(numbers, epoch=0, rows=ROWS, make=collator, **noise):
    numbers = np.array(numbers)
    return make(**noise)(Selection(rows, numbers, np.full_like(numbers, epoch)))


def each_document(batch):
    """(row, source, target) of every document, as lists."""
    for row in range(len(batch["input_ids"])):
        for number in sorted({*batch["document_ids"][row].tolist()} - {0}):
            source = batch["input_ids"][row][batch["document_ids"][row] == number].tolist()
            target = batch["target_ids"][row][batch["target_document_ids"][row] == number].tolist()
            yield row, source, target


# ---------------------------------------------------------------------------------------------------------------------
# the noise


@pytest.mark.parametrize(("share", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.15, 1.0)])
def test_as_many_tokens_in_as_many_spans_as_in_t5(share, mean):
    sizes = np.arange(1, 700)
    spans = SpanNoise(NoiseSection(share=share, mean_span=mean), most=1000).spans(bodies(sizes))
    for n, hidden, count in zip(sizes[1:], spans.hidden[1:], spans.counts[1:], strict=True):
        tokens = min(max(int(np.round(n * share)), 1), n - 1)  # text-to-text-transfer-transformer's two lines
        assert hidden == tokens
        assert count == min(max(int(np.round(tokens / mean)), 1), n - tokens + 1)
    assert spans.hidden[0] == spans.counts[0] == 0
    assert (np.bincount(spans.documents, weights=spans.sizes, minlength=len(sizes)) == spans.hidden).all()
    assert spans.sizes.min() >= 1


def test_more_spans_than_blanks_become_longer_ones():
    spans = SpanNoise(NoiseSection(), most=10).spans(bodies([2000, 60]))
    assert spans.counts.tolist() == [10, 3]
    assert spans.hidden.tolist() == [300, 9]


def test_all_masks_of_a_length_are_equally_likely():
    """Of 8 tokens 3 in 2 spans: 2 ways to divide them, 15 ways to place them; both ends are as likely as the middle."""
    noise, found = SpanNoise(NoiseSection(share=0.375, mean_span=1.5)), Counter()
    for seed in range(30):
        b = bodies([8] * 1000, seed)
        spans = noise.spans(b)
        mask = np.zeros((1000, 8), dtype=bool)
        for document, begin, size in zip(spans.documents, spans.begins, spans.sizes, strict=True):
            mask[document, begin : begin + size] = True
        found.update(map(bytes, mask))
    assert len(found) == 30
    counts = np.array([*found.values()])
    assert ((counts - 1000) ** 2 / 1000).sum() < 58.3  # chi squared of 29 degrees of freedom, 0.1 %


def test_fifteen_percent_in_spans_of_three():
    sizes = np.random.default_rng(0).integers(20, 400, 1000)
    spans = SpanNoise(NoiseSection()).spans(bodies(sizes))
    assert abs(spans.hidden.sum() / sizes.sum() - 0.15) < 0.002
    assert abs(spans.sizes.mean() - 3) < 0.05
    assert spans.sizes.std() > 1.5  # not all alike


def test_infilling_takes_thirty_percent_in_spans_of_poissons_lengths():
    sizes = np.full(1000, 300)
    spans = SpanNoise(NoiseSection(kind="infilling")).spans(bodies(sizes))
    assert (spans.hidden == 90).all()
    assert (np.bincount(spans.documents, weights=spans.sizes) == 90).all()
    is_last = np.append(spans.documents[1:] != spans.documents[:-1], True)
    found = np.bincount(spans.sizes[~is_last], minlength=8)[:8] / (~is_last).sum()
    truth = [np.exp(-3) * 3.0**k / np.prod(np.arange(1, k + 1, dtype=float)) for k in range(8)]
    assert np.abs(found - truth).max() < 0.02  # a last one ends what fits, so long ones are a little rarer


@pytest.mark.parametrize(
    "noise", [{}, {"kind": "infilling"}, {"kind": "infilling", "permute_sentences": True}], ids=str
)
def test_what_is_read_and_what_is_written_restore_the_text_of_a_thousand_documents(noise):
    whole, seen = [d.ids for row in documents(True) for d in row], 0
    for epoch in range(1 + 1000 // len(whole)):
        batch = batch_of(range(len(ROWS)), epoch, **noise)
        for text, (_, source, target) in zip(whole, each_document(batch), strict=True):
            seen += 1
            if len(text) == 3:  # a body of one token: nothing is left to read
                assert (source, target) == (text, [])
                continue
            assert target[-1] == END
            if noise:
                assert target == text
                kept = Counter(source) - Counter({MASK: len(source)})
                assert not kept - Counter(text)
                hidden = len(text) - sum(kept.values())
                assert hidden == max(1, round(0.3 * (len(text) - 2)))
                assert MASK in source
                continue
            assert source[0] == BEGIN
            restored, spans = [], {}
            for token in target[:-1]:
                if token in BLANK_IDS:
                    spans[(at := token)] = []
                else:
                    spans[at].append(token)
            assert [*spans] == BLANK_IDS[: len(spans)] == [token for token in source if token in BLANK_IDS]
            for token in source:
                restored += spans.get(token, [token])
            assert restored == text
    assert seen > 1000


def test_sentences_are_shuffled_as_wholes():
    words = copy.deepcopy(TOKENIZER)
    dot = words.add_tokens(["."]) and words.convert_tokens_to_ids(".")
    sentences = [[10, 11, dot], [12, dot, dot], [13, 14, 15, dot], [16, 17]]
    ids = [t for s in sentences for t in s]
    ends = np.zeros(len(words), dtype=bool)
    ends[dot] = True
    noise, seen = SpanNoise(NoiseSection(kind="infilling", permute_sentences=True), ends=ends), set()
    for key in range(200):
        b = Bodies(np.array([key], dtype=np.uint64), np.array([len(ids)]), np.array(ids))
        order = noise.order(b)
        shuffled, found = b.tokens[order].tolist(), []
        while shuffled:
            sentence = next(s for s in sentences if shuffled[: len(s)] == s)
            found.append(sentences.index(sentence))
            del shuffled[: len(sentence)]
        assert sorted(found) == [0, 1, 2, 3]
        seen.add(tuple(found))
    assert len(seen) == 24


@pytest.mark.parametrize("noise", [{}, {"kind": "infilling"}], ids=str)
def test_the_noise_of_a_row_does_not_depend_on_its_batch_and_is_new_in_every_epoch(noise):
    alone = [list(each_document(batch_of([i], **noise))) for i in (3, 4, 5)]
    together = list(each_document(batch_of([3, 4, 5], **noise)))
    assert [(s, t) for _, s, t in together] == [(s, t) for part in alone for _, s, t in part]
    assert together != list(each_document(batch_of([3, 4, 5], epoch=1, **noise)))
    parts = sum(int(batch_of([i], **noise)["digest"]) for i in (3, 4, 5))
    assert parts == int(batch_of([5, 3, 4], **noise)["digest"])
    assert pickle.loads(pickle.dumps(collator(**noise))).usual(64) == collator(**noise).usual(64)


def test_few_shapes_and_little_padding():
    long = [packed_row([type(documents(True)[0][0])([BEGIN, *range(5, 43 - 5), END], False)], 40)] * 64
    shapes = {tuple(value.shape for value in batch_of(range(n, n + 16), rows=long).values()) for n in (0, 16, 32)}
    assert len(shapes) == 1
    batch = batch_of(range(16), rows=long)
    assert (batch["labels"] >= 0).float().mean() > 0.6  # of slots by 64, in rows of 40
    assert batch["target_ids"].shape[1] <= 16
    tiny = [packed_row([type(documents(True)[0][0])([BEGIN, 5, 6, END], False)] * 10, 40)] * 4
    batch = batch_of(range(4), rows=tiny)  # three tokens in the target of each: more than of a long text
    assert batch["target_ids"].shape[1] == 32
    assert collator().counts(batch) == {"seq2seq": 4 * 10 * 3}


# ---------------------------------------------------------------------------------------------------------------------
# the loss


@torch.no_grad()
@pytest.mark.parametrize("noise", [{}, {"kind": "infilling"}], ids=str)
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_losses_are_those_of_plain_transformers_on_one_document_at_a_time(name, noise):
    module = objective(name, **noise).eval()
    batch = batch_of(range(8), **noise)
    found = module(batch)
    marks = torch.zeros(batch["target_ids"].numel(), dtype=torch.long)
    real = batch["labels"] >= 0
    marks[batch["label_positions"][real].long()] = batch["spans"][real].long()
    expected, hidden, right, spans, at = 0.0, 0.0, 0, 0, 0
    places = [torch.nonzero(row > 0)[:, 0] + i * len(row) for i, row in enumerate(batch["target_document_ids"])]
    order = torch.cat(places)
    for _, source, target in each_document(batch):
        if not target:
            continue
        labels = torch.tensor([target])
        output = module.model.model(input_ids=torch.tensor([source]), labels=labels)
        losses = F.cross_entropy(output.logits[0], labels[0], reduction="none")
        expected += float(output.loss) * len(target)
        of = marks[order[at : at + len(target)]]
        at += len(target)
        hidden += float(losses[of > 0].sum())
        likeliest = output.logits[0].argmax(-1) == labels[0]
        for span in set(of.tolist()) - {0}:
            spans += 1
            right += bool(likeliest[of == span].all())
    assert float(found["seq2seq"]) == pytest.approx(expected, rel=1e-7)  # T5's norm is float32 inside
    assert float(found["hidden"]) == pytest.approx(hidden, rel=1e-7)
    assert (int(found["right"]), int(found["num_spans"])) == (right, spans)
    counts = collator(**noise).counts(batch)
    scores = module.evaluate(found, counts, 1.0)
    assert scores["held_out_loss"] == pytest.approx(expected / counts["seq2seq"], rel=1e-7)
    assert scores["hidden_loss"] == pytest.approx(hidden / int((marks > 0).sum()), rel=1e-7)
    if not noise:  # what is written is what was taken out, blanks and ends
        assert int((marks > 0).sum()) == sum(
            t not in (*BLANK_IDS, END) for _, _, ids in each_document(batch) for t in ids
        )


@pytest.mark.parametrize("name", ["t5", pytest.param("bart", marks=pytest.mark.long)])
def test_a_step_is_one_graph(name):
    torch.compiler.reset()
    explained = torch._dynamo.explain(objective(name).float())(batch_of(range(4)))
    assert explained.graph_break_count == 0, explained.break_reasons


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ({"share": 1.0}, r"--noise.share is 1.0; it must lie between 0 and 1"),
        ({"share": -0.1}, r"--noise.share is -0.1"),
        ({"mean_span": 0.5}, r"--noise.mean_span is 0.5; it must lie between 1 and 100 tokens"),
        ({"permute_sentences": True}, r"--noise.permute_sentences is for --noise.kind infilling"),
    ],
)
def test_noise_that_cannot_be_is_refused(noise, said):
    with pytest.raises(UserError, match=said):
        SpanCorruption.completed(SpanCorruptionConfig(noise=NoiseSection(**noise)))


def test_a_tokenizer_without_what_stands_for_a_span_is_refused():
    with pytest.raises(UserError, match=r"has no <extra_id_0>, which stands for a span"):
        SpanCorruption.frame(TOKENIZER, SpanCorruptionConfig())
    no_mask = copy.deepcopy(WITH_BLANKS)
    no_mask.mask_token = None
    with pytest.raises(UserError, match=r"has no mask token, which --noise.kind infilling needs"):
        SpanCorruption.frame(no_mask, SpanCorruptionConfig(noise=NoiseSection(kind="infilling")))
    with pytest.raises(UserError, match=r"no end-of-text token"):
        CorruptingCollator(no_end(), NoiseSection(), FRAME, seed=SEED)


def no_end():
    tokenizer = copy.deepcopy(WITH_BLANKS)
    tokenizer.eos_token = None
    return tokenizer


# ---------------------------------------------------------------------------------------------------------------------
# runs

SHAPE = ["--model.overrides.num_hidden_layers", "2", "--model.overrides.hidden_size", "32", "--tokens.sequence_length"]
SHAPE += ["48", "--data.held_out_fraction", "0.1", "--train.log_every", "1", "--train.cpu_threads", "1"]
SHAPE += ["--train.mixed_precision", "no", "--train.global_batch_size", "12", "--train.micro_batch_size", "5"]
SHAPE += ["--evaluation.every", "3", "--checkpoint.every", "3", "--schedule.name", "constant"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", documents=120)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    said = run("pretrain_seq2seq.py", "--data.sources", corpus, *SHAPE, "--train.steps", 6, "--output_dir", out)
    return out, said


def test_a_resumed_run_is_the_run_that_was_never_stopped(whole, corpus, tmp_path):
    for steps, more in ((3, []), (6, ["--resume.allow_changed"])):
        given = ["--data.sources", corpus, *SHAPE, "--train.steps", steps, *more, "--output_dir", tmp_path / "run"]
        run("pretrain_seq2seq.py", *given)
    keep = ("step", "digest", "loss", "seq2seq_targets", "grad_norm")
    once, resumed = (
        [[e[k] for k in keep if k in e] for e in events(out, "step")] for out in (whole[0], tmp_path / "run")
    )
    assert once == resumed
    weights = [(out / "model.safetensors").read_bytes() for out in (whole[0], tmp_path / "run")]
    assert weights[0] == weights[1]


def test_its_folder_is_a_t5_that_plain_transformers_loads_and_its_card_runs(whole):
    out, said = whole
    assert "documents of a row cannot see each other" in said
    assert "nats per token that was taken out" in said
    assert "it was: " in said
    last = events(out, "evaluation")[-1]
    assert {"held_out_loss", "hidden_loss", "span_accuracy"} <= last.keys()
    model, info = AutoModelForSeq2SeqLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("the<extra_id_0>")["input_ids"] == tokenizer("the <extra_id_0>")["input_ids"]
    assert tokenizer("the model")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.bos_token_id not in tokenizer("the model")["input_ids"]
    assert model.generation_config.decoder_start_token_id == tokenizer.pad_token_id
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text2text-generation" in card
    code = card.split("```python\n")[1].split("```")[0]
    written = execute([sys.executable, "-c", code], cwd=out.parent)  # the card names the folder alone
    assert tokenizer.pad_token in written


def test_it_continues_from_a_folder_and_says_what_does_not_fit(whole, corpus, tmp_path):
    out = tmp_path / "more"
    more = ["--model.name", whole[0], *SHAPE[4:], "--train.steps", 1, "--output_dir", out]
    assert "continuing from the weights" in run("pretrain_seq2seq.py", "--data.sources", corpus, *more)
    assert events(out, "evaluation")[0]["held_out_loss"] < 5.5  # of log 440 and what it had learnt
    infilling = ["--noise.kind", "infilling", "--train.steps", 1, "--output_dir", tmp_path / "bart"]
    said = run("pretrain_seq2seq.py", "--data.sources", corpus, "--model.name", "bart-tiny", *SHAPE[4:], *infilling)
    assert "BartForConditionalGeneration" in said
    card = (tmp_path / "bart" / "README.md").read_text()
    assert "text infilling" in card
    assert "tokenizer.mask_token" in card
    refused = [
        ("pretrain_seq2seq.py", "bert-tiny", "bert-tiny is an encoder, and span corruption trains an encoder-decoder"),
        ("pretrain_mlm.py", "t5-tiny", "recipes/pretrain_seq2seq.py`"),
    ]
    for recipe, name, sentence in refused:
        given = ["--data.sources", corpus, "--model.name", name, "--output_dir", tmp_path / "no"]
        assert sentence in " ".join(run(recipe, *given, expect=2).split())
    phases = [
        "--phases",
        "[{steps: 1, objective: clm}]",
        "--data.sources",
        corpus,
        *SHAPE,
        "--output_dir",
        tmp_path / "no",
    ]
    assert "different models" in run("pretrain_seq2seq.py", *phases, "--train.steps", 2, expect=2)


def test_an_encoder_decoder_is_known_where_no_recipe_names_its_objective(whole, corpus, tmp_path):
    for name in (str(whole[0]), "bart-base"):
        config = MLMConfig(model=ModelConfig(name=name))
        objective = infer_objective(config)
        assert objective is find_objective("span_corruption")
        assert with_options_of(objective, config) == SpanCorruptionConfig(model=config.model, output_dir="runs/mlm")
    said = run("prepare_tokens.py", "--data.sources", corpus, "--model.name", "t5-tiny", *SHAPE[4:8], expect=0)
    assert "documents in" in said
    refused = run("benchmark.py", "--data.sources", corpus, "--model.name", "t5-tiny", expect=2)
    assert "t5-tiny is no model that run_mlm.py or run_clm.py trains" in " ".join(refused.split())
