"""Sentence order: pairs that can be put back together, labels in balance, losses beside plain transformers."""

import importlib.util
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from scipy.stats import binomtest
from transformers import AutoModelForMaskedLM

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence", "objectives"))
from launch import ROOT, TINY, WORDS, events, run
from parity_cases import BEGIN, END, ROLES, SEED, VOCABULARY, documents
from toys import tiny_model, tokenizer, word_tokenizer

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.sentence_order import SentenceOrderConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.packing import pack
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.data.tokens.tokenizer import train_tokenizer
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.sentence_order import ORDER, SentenceOrder, wilson_interval
from nlp_ssl.objectives.sentence_pairs import PairFrame

spec = importlib.util.spec_from_file_location("its_cases", Path(__file__).parent / "cases" / "sentence_order.py")
its = importlib.util.module_from_spec(spec)
spec.loader.exec_module(its)
TEXTS = [[document.ids[1:-1] for document in row] for row in documents(True)]
MASK = its.pair_tokenizer().mask_token_id


def batch_of(task="sop", epoch=0, numbers=range(20), between=1, source=0):
    reader = SentenceOrder.collator(its.pair_tokenizer(between), its.options(task), seed=SEED, source=source)
    numbers = np.array(numbers)
    return reader, reader(Selection(its.rows(between), numbers, np.full_like(numbers, epoch)))


def restored(batch):
    """The token ids as they were before masks."""
    ids = batch["input_ids"].flatten().clone()
    used = batch["labels"] != IGNORE
    ids[batch["label_positions"][used].long()] = batch["labels"][used].int()
    return ids.view_as(batch["input_ids"])


def pairs_of(batch, between=1):
    """(row, ids, types, label, place) of every document; label `None` where it is no pair."""
    ids, length = restored(batch), batch["input_ids"].shape[1]
    labels = {
        int(place): int(label)
        for place, label in zip(batch["pair_positions"], batch["pair_labels"], strict=True)
        if label != IGNORE
    }
    for row, numbers in enumerate(batch["document_ids"]):
        for number in range(1, int(numbers.max()) + 1):
            here = (numbers == number).nonzero().flatten().tolist()
            assert here == list(range(here[0], here[0] + len(here)))
            assert batch["position_ids"][row][here].tolist() == list(range(len(here)))
            types = batch["token_type_ids"][row][here].tolist() if "token_type_ids" in batch else None
            yield row, ids[row][here].tolist(), types, labels.get(row * length + here[0]), here[0]


def parts(ids, between=1, begin=BEGIN, end=END):
    """The two texts of a pair."""
    assert ids[0] == begin
    assert ids[-1] == end
    at = ids.index(end)
    assert ids[at : at + between] == [end] * between
    return ids[1:at], ids[at + between : -1]


# ---------------------------------------------------------------------------------------------------------------------
# pairs


@pytest.mark.parametrize("between", [1, 2])
def test_a_pair_is_its_document_cut_where_a_sentence_begins(between):
    cuts = set()
    for epoch in range(30):
        _, batch = batch_of(epoch=epoch, between=between)
        for i, (row, ids, types, label, _) in enumerate(pairs_of(batch)):
            text = [text for texts in TEXTS for text in texts][i]
            stops = [n for n, token in enumerate(text, 1) if token in its.STOPS]
            last, stops = (stops or [0])[-1], stops[:-1]  # what follows the last end is no whole sentence
            if label is None:
                assert not stops
                assert ids == [BEGIN, *text, END]
                assert set(types) == {0}
                continue
            a, b = parts(ids, between)
            assert types == [0] * (1 + len(a) + between) + [1] * (len(b) + 1)
            first, second = (b, a) if label else (a, b)
            assert first + second == text[:last]  # and never another document's
            assert len(first) in stops
            cuts.add((row, i, len(first)))
    ends = [sum(token in its.STOPS for token in text) for texts in TEXTS for text in texts]
    possible = sum(max(0, each - 1) for each in ends)
    assert len(cuts) > 0.9 * possible  # any of them may be the place


def test_half_of_the_pairs_are_not_in_order():
    many = its.rows() * 50
    numbers = np.arange(len(many))
    for task, enough in (("sop", 40_000), ("nsp", 20_000)):
        reader = SentenceOrder.collator(its.pair_tokenizer(), its.options(task), seed=SEED)
        made = [reader(Selection(many, numbers, np.full_like(numbers, epoch))) for epoch in range(40)]
        labels = torch.cat([batch["pair_labels"] for batch in made])
        labels = labels[labels != IGNORE].double()
        assert len(labels) >= enough
        assert labels.mean().item() == pytest.approx(0.5, abs=0.015)


def test_the_second_part_of_another_document_comes_from_the_same_row_and_keeps_its_length():
    crossed = 0
    for epoch in range(10):
        _, batch = batch_of("nsp", epoch=epoch)
        rows = {}
        for row, ids, _, label, _ in pairs_of(batch):
            rows.setdefault(row, []).append((ids, label))
        for row, found in rows.items():
            whole = [tuple(text) for text in TEXTS[row]]
            texts = [text[: max((n for n, t in enumerate(text, 1) if t in its.STOPS), default=0)] for text in whole]
            halves = {(text[:n], text[n:]) for text in texts for n in range(1, len(text))}
            pairs = [tuple(map(tuple, parts(ids))) for ids, label in found if label is not None]
            for pair, label in zip(pairs, [label for _, label in found if label is not None], strict=True):
                assert (pair in halves) == (label == 0)
                crossed += label
            assert len(pairs) % 2 == 0
            alone = [tuple(ids[1:-1]) for ids, label in found if label is None]
            assert set(alone) <= set(whole)
            # no part is twice, and none is lost
            seen = sorted(token for ids, _ in found for token in ids if token not in (BEGIN, END))
            kept = [uncut if pair[1] is None else cut for cut, uncut, pair in zip(texts, whole, found, strict=True)]
            assert seen == sorted(token for text in kept for token in text)
    assert crossed > 50


def test_a_row_of_one_document_has_no_pair_of_two_documents():
    single = [row for row, texts in enumerate(TEXTS) if len(texts) == 1]
    reader, batch = batch_of("nsp", numbers=single)
    assert reader.counts(batch)["order"] == 0
    assert batch["pair_labels"].tolist() == [IGNORE]
    assert batch_of("sop", numbers=single)[0].counts(batch_of("sop", numbers=single)[1])["order"] > 2


def test_a_pair_belongs_to_its_row_however_the_batch_is_split():
    for task in ("sop", "nsp"):
        _, together = batch_of(task, 1, [3, 6, 7])
        _, alone = batch_of(task, 1, [6])
        for name in ("input_ids", "document_ids", "position_ids", "token_type_ids"):
            assert torch.equal(together[name][1], alone[name][0])
        _, other = batch_of(task, 2, [6])
        assert not torch.equal(other["input_ids"], alone["input_ids"])


def test_special_tokens_are_those_of_the_tokenizers_own_pairs():
    for kind in ("wordpiece", "bpe", "unigram"):
        t = tokenizer(kind)
        frame = PairFrame.of(t)
        whole = t.encode("ka lo", "mi")
        one, two = (t.encode(text, add_special_tokens=False) for text in ("ka lo", "mi"))
        assert [*frame.prefix, *one, *frame.middle, *two, *frame.suffix] == whole
        assert SentenceOrder.frame(t, None) == (frame.prefix, frame.middle + frame.suffix)
        assert PairFrame.of(t).types == (0, 0, 0, 1, 1) or kind != "wordpiece"
    with pytest.raises(UserError, match="sets no tokens before a pair of texts"):
        PairFrame.of(word_tokenizer(30))


KINDS = ("wordpiece", "bpe", "unigram")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_what_is_said_tells_which_part_was_first(kind, tmp_path):
    """Both parts are whole sentences, also of documents that packing cut, with a space before and none behind."""
    rng = random.Random(0)
    sentences = [f"{rng.choice(WORDS).capitalize()} {' '.join(rng.choices(WORDS, k=5))}." for _ in range(3000)]
    texts = ["".join(s + rng.choice([" ", " ", "\n", "\n\n"]) for s in rng.sample(sentences, 12)) for _ in range(300)]
    t = train_tokenizer(texts, kind, 800, min_frequency=1, exact=False)
    tokens = tokenize_corpus(Dataset.from_dict({"text": texts}), t, tmp_path / "tokens", "toy")
    prefix, suffix = SentenceOrder.frame(t, None)
    rows = pack(tokens, 48, prefix, suffix, t.pad_token_id)
    reader = SentenceOrder.collator(t, its.options(), seed=SEED)
    numbers = np.arange(len(rows))
    batch = reader(Selection(rows, numbers, 0 * numbers))
    frame = len(PairFrame.of(t).middle), t.cls_token_id, t.sep_token_id
    pairs = [parts(ids, *frame) for _, ids, _, label, _ in pairs_of(batch) if label is not None]
    assert len(pairs) > 300
    assert 0 < int(batch["num_left_out"]) < 0.4 * batch["input_ids"].numel()
    for pair in pairs:
        for part in pair:
            text = t.decode(part)
            assert text.strip()[0].isupper()
            assert text.endswith(".")
            spelled = t.convert_ids_to_tokens(part[0])
            assert kind == "wordpiece" or spelled[0] in "\u0120\u2581"


# ---------------------------------------------------------------------------------------------------------------------
# losses


@pytest.mark.parametrize("task", ["sop", "nsp"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "roberta", "albert"])
def test_losses_and_gradient_are_those_of_plain_transformers_a_pair_at_a_time(name, task):
    module = its.make(name, its.options(task), between=1).train()
    plain = tiny_model(name, vocab_size=VOCABULARY, **ROLES).double().train()
    has_types = getattr(plain.config, "type_vocab_size", 0) == 2
    assert has_types or name == "modernbert"
    kept = []
    plain.base_model.register_forward_hook(lambda module, given, output: kept.append(output[0]))
    reader, batch = batch_of(task, epoch=1)
    sums = module(batch)
    (sums["mlm"] / 100 + sums["order"] / 10).backward()
    labels = torch.full((batch["input_ids"].numel(),), IGNORE)
    used = batch["labels"] != IGNORE
    labels[batch["label_positions"][used].long()] = batch["labels"][used]
    labels = labels.view_as(batch["input_ids"])
    masked = order = 0.0
    count = 0
    for row, ids, types, label, at in pairs_of(batch):
        here = slice(at, at + len(ids))
        segments = {"token_type_ids": torch.tensor([types])} if has_types else {}
        seen = batch["input_ids"][row, here].long()[None]
        out = plain(input_ids=seen, **segments)
        masked = masked + F.cross_entropy(out.logits[0], labels[row, here], reduction="sum", ignore_index=IGNORE)
        if label is not None:
            score = module.head.score(torch.tanh(module.head.dense(kept[-1][0, 0])))[0]
            order = order - (F.logsigmoid(score) if label else F.logsigmoid(-score))
            count += 1
    assert reader.counts(batch) == {"mlm": int(used.sum()), "order": count}
    assert sums["mlm"].item() == pytest.approx(masked.item(), rel=1e-12)
    assert sums["order"].item() == pytest.approx(order.item(), rel=1e-12)
    (masked / 100 + order / 10).backward()
    for parameter, value in plain.named_parameters():
        ours = module.model.model.get_parameter(parameter).grad
        if value.grad is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, value.grad, rtol=1e-9, atol=1e-11)


def test_an_evaluation_counts_pairs_told_right_and_asks_a_next_sentence_model_for_order():
    module = its.make("bert", its.options("nsp")).eval()
    reader, batch = batch_of("nsp", source=1)
    with torch.no_grad():
        found = module.evaluate({k: v.double() for k, v in module(batch).items()}, reader.counts(batch), 1000.0)
        scores, asked = (module._read(some)[1] for some in (batch, batch_of("sop", source=1)[1]))
    real, labels = batch["pair_labels"] != IGNORE, batch["pair_labels"]
    assert found["next_accuracy"] == pytest.approx(((scores > 0) == labels)[real].double().mean().item())
    labels = batch[f"{ORDER}pair_labels"]
    assert torch.equal(labels, batch_of("sop", source=1)[1]["pair_labels"])
    right = ((asked > 0) == labels)[labels != IGNORE]
    assert found["order_accuracy"] == pytest.approx(right.double().mean().item())
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    assert (found["order_accuracy_low"], found["order_accuracy_high"]) == pytest.approx(interval, rel=1e-6)
    assert found["num_pairs"] == int(real.sum())


@pytest.mark.parametrize(("right", "total"), [(0, 7), (7, 7), (60, 100)])
def test_the_interval_is_wilsons(right, total):
    expected = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-7)


@pytest.mark.parametrize("task", ["sop", pytest.param("nsp", marks=pytest.mark.long)])
def test_a_step_is_one_graph(task):
    torch.compiler.reset()
    module = its.make("bert", its.options(task)).float().train()
    explained = torch._dynamo.explain(module)(batch_of(task, numbers=range(4))[1])
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(UserError, match=r"--sentence_order.weight is .*; it must be above 0"):
        SentenceOrder.collator(its.pair_tokenizer(), its.options(weight=weight), seed=0)


def test_next_sentences_need_several_documents_in_a_sequence():
    config = its.options("nsp")
    config.tokens.packing = "one_document"
    with pytest.raises(UserError, match=r"--tokens.packing one_document there is none; give sop"):
        SentenceOrder.collator(its.pair_tokenizer(), config, seed=0)


# ---------------------------------------------------------------------------------------------------------------------
# runs

SHORT = ["--train.steps", 6, "--train.global_batch_size", 12, "--train.micro_batch_size", 5, "--evaluation.every", 3]
SHORT += ["--checkpoint.every", 3, "--schedule.name", "constant"]


def write_sentences(path, stop, documents=150):
    rng = random.Random(0)
    texts = []
    for _ in range(documents):
        sentences = [" ".join(rng.choices(WORDS, k=rng.randint(3, 7))).capitalize() for _ in range(rng.randint(1, 4))]
        texts.append(" ".join(sentence + stop for sentence in sentences))
    path.write_text("\n\n".join(texts))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_sentences(tmp_path_factory.mktemp("corpus") / "corpus.txt", ".")


def test_a_resumed_run_is_the_run_that_was_never_stopped_and_plain_transformers_load_it(corpus, tmp_path):
    given = ["--data.sources", corpus, *TINY, *SHORT, "--model.name", "bert-tiny", "--tokenizer.vocab_size", 120]
    said = run("pretrain_sentence_order.py", *given, "--output_dir", tmp_path / "whole")
    assert "order of sentences: " in said
    assert "told right (95 % interval " in said
    assert "% of the documents made none" in said
    run("pretrain_sentence_order.py", *given, "--train.steps", 3, "--output_dir", tmp_path / "run")
    run("pretrain_sentence_order.py", *given, "--resume.allow_changed", "--output_dir", tmp_path / "run")
    keep = ("step", "digest", "loss", "mlm_loss", "order_loss", "mlm_targets", "order_targets", "grad_norm")
    whole, resumed = ([[e[k] for k in keep] for e in events(tmp_path / name, "step")] for name in ("whole", "run"))
    assert whole == resumed
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    last = events(tmp_path / "run", "evaluation")[-1]
    assert last["order_accuracy_low"] < last["order_accuracy"] < last["order_accuracy_high"]
    assert 0.2 < last["pairs_per_document"] < 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "nlp-ssl pretrain-sentence-order --config" in card
    assert "Share of held-out pairs whose order is recognised" in card


def test_an_order_that_can_be_told_is_learnt(tmp_path):
    rng = random.Random(0)
    texts = [[f"{word} {' '.join(rng.choices(WORDS, k=4))}." for word in ("First", "Then")] for _ in range(400)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(map(" ".join, texts)))
    given = ["--data.sources", corpus, *TINY, "--tokenizer.kind", "wordpiece", "--tokenizer.vocab_size", 70]
    given += ["--train.steps", 200, "--train.global_batch_size", 16, "--output_dir", tmp_path / "run"]
    given += ["--data.held_out_fraction", 0.25]  # pairs enough
    run("pretrain_sentence_order.py", *given)
    first, last = (events(tmp_path / "run", "evaluation")[i] for i in (0, -1))
    assert first["order_accuracy_low"] < 0.5 < first["order_accuracy_high"]
    assert last["num_pairs"] > 40
    assert last["order_accuracy_low"] > 0.7


def test_the_shipped_configuration_is_read():
    assert parse(SentenceOrderConfig, argv=["--config", str(ROOT / "recipes/configs/sentence_order_own_corpus.yaml")])


def test_next_sentence_prediction_is_warned_of_and_asked_for_order(corpus, tmp_path):
    given = ["--data.sources", corpus, *TINY, *SHORT, "--tokens.sequence_length", 96, "--output_dir", tmp_path / "run"]
    given += ["--tokenizer.kind", "wordpiece", "--tokenizer.vocab_size", 120]
    said = run("pretrain_sentence_order.py", *given, "--sentence_order.task", "nsp", "--train.steps", 2)
    assert "warning: --sentence_order.task nsp is solved by telling topics apart" in said
    assert "next sentence: " in said
    assert "asked for the order of sentences: " in said


def test_text_without_sentences_is_refused_before_it_is_learnt_from(tmp_path):
    endless = write_sentences(tmp_path / "endless.txt", "")
    given = ["--data.sources", endless, *TINY, *SHORT, "--output_dir", tmp_path / "run"]
    said = run("pretrain_sentence_order.py", *given, expect=2)
    assert "no held-out document has two sentences to make a pair of" in said
    assert not list((tmp_path / "run").glob("checkpoints/*"))
