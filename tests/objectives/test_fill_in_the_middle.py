"""Filling in the middle: what documents become, and the losses of plain transformers reading them one by one."""

import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence", "objectives"))
from infilling_rows import END_OF_MIDDLE, LENGTH, MIDDLE, PREFIX, ROWS, SIZE, SUFFIX, TOKENIZER
from launch import TINY, events, run, write_corpus
from parity_cases import BEGIN, END, NUM_ROWS, PAD, ROLES, SEED, documents, packed_row
from toys import packed_rows, texts, tiny_model, tokenizer

from nlp_ssl.config.fill_in_the_middle import InfillingConfig, InfillingSection
from nlp_ssl.config.pretraining import PhaseConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.packing import pack
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.fill_in_the_middle import HELD_OUT, ORDERS, FillInTheMiddle, InfillingCollator
from nlp_ssl.objectives.infilling import ROOM

SENTINEL_IDS = (PREFIX, SUFFIX, MIDDLE, END_OF_MIDDLE)


def options(rate=0.5):
    return InfillingConfig(fim=InfillingSection(rate=rate))


def objective(name="llama", rate=0.5):
    model = tiny_model(name, isolated=True, vocab_size=SIZE, **ROLES)
    return FillInTheMiddle(PackedModel(model, True), TOKENIZER, options(rate)).double()


def collator(rate=0.5, source=0):
    return FillInTheMiddle.collator(TOKENIZER, options(rate), seed=SEED, source=source)


def selected(numbers, rows=ROWS, epoch=0):
    numbers = np.array(numbers)
    return Selection(rows, numbers, np.full_like(numbers, epoch))


def of_documents(batch, row, name="input_ids"):
    """A field of every document of a row, as lists."""
    ids = batch["document_ids"][row]
    return [batch[name][row, ids == d].tolist() for d in ids.unique().tolist() if d > 0]


def restored(ids):
    """The text of a document, and its (prefix, middle, suffix) where it was rearranged."""
    assert ids[0] == BEGIN
    if ids[1] != PREFIX:
        assert not set(ids) & set(SENTINEL_IDS)
        assert ids[-1] == END
        return ids[1:-1], None
    assert ids[-1] == END_OF_MIDDLE
    assert [i for i in ids if i in SENTINEL_IDS] == [*SENTINEL_IDS]
    suffix_at, middle_at = ids.index(SUFFIX), ids.index(MIDDLE)
    prefix, suffix, middle = ids[2:suffix_at], ids[suffix_at + 1 : middle_at], ids[middle_at + 1 : -1]
    return prefix + middle + suffix, (prefix, middle, suffix)


# ---------------------------------------------------------------------------------------------------------------------
# what documents become


@pytest.fixture(scope="module")
def toy_rows(tmp_path_factory):
    """Packed rows of texts with a tokenizer of their own, and its sentinels: the last four ids, which no text has."""
    folder, t = tmp_path_factory.mktemp("rows"), tokenizer("bpe")
    clm = packed_rows(folder / "clm", sequence_length=64)
    suffix = (t.sep_token_id,) + (t.pad_token_id,) * ROOM
    roomy = pack(clm.tokens, 64, (t.cls_token_id,), suffix, t.pad_token_id, root=folder / "roomy")
    return t, roomy


def test_recombined_parts_restore_the_document_in_a_thousand_rows(toy_rows):
    t, rows = toy_rows
    sentinels = tuple(range(len(t), len(t) + 4))
    reader = InfillingCollator(t.pad_token_id, sentinels, 0.5, SEED)
    count = rearranged = 0
    orders, positions = set(), []
    for epoch in range(math.ceil(1000 / len(rows))):
        batch = reader(selected(range(len(rows)), rows, epoch))
        for row in range(len(rows)):
            count += 1
            found = of_documents(batch, row)
            pieces = rows.row_pieces(row)
            assert len(found) == len(pieces)
            for ids, (document, start, length) in zip(found, pieces.tolist(), strict=True):
                body = t(texts()[document], add_special_tokens=False)["input_ids"][start : start + length]
                assert ids[0] == t.cls_token_id
                if ids[1] != sentinels[0]:
                    assert ids == [t.cls_token_id, *body, t.sep_token_id]
                    continue
                rearranged += 1
                assert ids[-1] == sentinels[3]
                suffix_at, middle_at = ids.index(sentinels[1]), ids.index(sentinels[2])
                prefix, suffix, last = ids[2:suffix_at], ids[suffix_at + 1 : middle_at], ids[middle_at + 1 : -1]
                assert prefix + last + suffix == body
                orders.add(bool(prefix))
                if prefix:
                    positions.append(len(prefix) / length)
    assert count >= 1000
    assert orders == {True, False}  # PSM and SPM
    total = sum(len(rows.row_pieces(row)) for row in range(len(rows))) * math.ceil(1000 / len(rows))
    assert abs(rearranged / total - 0.5) < 5 * math.sqrt(0.25 / total)
    assert 0.25 < np.mean(positions) < 0.45  # the smaller of two uniform numbers: a third


def test_documents_lie_without_gaps_and_rows_keep_their_shape(toy_rows):
    t, rows = toy_rows
    reader = InfillingCollator(t.pad_token_id, tuple(range(len(t), len(t) + 4)), 0.5, SEED)
    batch = reader(selected(range(len(rows)), rows))
    assert batch["input_ids"].shape == (len(rows), 64)
    for row, ids in enumerate(batch["document_ids"]):
        used = int((ids > 0).sum())
        assert (ids[:used] > 0).all()
        assert (batch["input_ids"][row, used:] == t.pad_token_id).all()
        assert (batch["labels"][row, used:] == IGNORE).all()
        assert (ids[:used].diff() >= 0).all()
        for positions in of_documents(batch, row, "position_ids"):
            assert positions == list(range(len(positions)))
        assert used <= 64


def test_labels_are_the_next_tokens_but_no_sentinel_that_a_prompt_gives():
    batch = collator()(selected(range(NUM_ROWS)))
    cut = [document.cut for row in documents(True) for document in row]
    found = [
        pair
        for row in range(NUM_ROWS)
        for pair in zip(of_documents(batch, row), of_documents(batch, row, "labels"), strict=True)
    ]
    ends = 0
    for (ids, labels), is_cut in zip(found, cut, strict=True):
        expected = [IGNORE if i in SENTINEL_IDS[:3] or (i == END and is_cut) else i for i in ids[1:]]
        assert labels == [*expected, IGNORE]
        ends += labels.count(END_OF_MIDDLE)
    assert ends > 5
    assert collator().counts(batch) == {"clm": int((batch["labels"] != IGNORE).sum())}


def test_how_a_document_is_cut_does_not_depend_on_its_batch_and_changes_with_the_epoch():
    together = collator()(selected([3, 4, 5]))
    for i, number in enumerate([3, 4, 5]):
        assert torch.equal(together["input_ids"][i], collator()(selected([number]))["input_ids"][0])
    again = pickle.loads(pickle.dumps(collator()))(selected([3, 4, 5], epoch=1))
    assert not torch.equal(together["input_ids"], again["input_ids"])
    assert together["digest"] != again["digest"]


def test_a_rate_of_0_is_causal_language_modelling_to_the_bit():
    rows = [packed_row(row, LENGTH) for row in documents(True)]
    config = options(0.0)
    assert FillInTheMiddle.special_tokens(config) == []
    assert FillInTheMiddle.frame(TOKENIZER, config) == CausalLanguageModeling.frame(TOKENIZER, config)
    model = PackedModel(tiny_model("llama", isolated=True, vocab_size=SIZE, **ROLES), True)
    found = []
    for kind in (FillInTheMiddle, CausalLanguageModeling):
        batch = kind.collator(TOKENIZER, config, seed=SEED)(selected(range(8), rows))
        module = kind(model, TOKENIZER, config)
        evaluated = module.eval()(batch)
        model.zero_grad()
        loss = module.train()(batch)["clm"]
        loss.backward()
        found.append(
            [*batch.values(), loss.detach(), *evaluated.values(), *(p.grad.clone() for p in model.parameters())]
        )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_where_no_document_is_drawn_rows_are_those_of_causal_language_modelling():
    """Their room is padding at the end of the row."""
    plain = CausalCollator(PAD)(selected(range(NUM_ROWS), [packed_row(row, LENGTH) for row in documents(True)]))
    found = InfillingCollator(PAD, SENTINEL_IDS, 0.0, SEED)(selected(range(NUM_ROWS)))
    assert plain.keys() == found.keys()
    assert all(torch.equal(plain[name], found[name]) for name in plain)


# ---------------------------------------------------------------------------------------------------------------------
# the losses, beside plain transformers


def plain_losses(plain, ids):
    """Nats of every token of a document but the first, read alone."""
    logits = plain(torch.tensor([ids])).logits[0, :-1]
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def plain_model(module, name):
    plain = tiny_model(name, vocab_size=SIZE, **ROLES).double()
    plain.load_state_dict(module.model.model.state_dict())
    return plain


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_the_loss_is_that_of_plain_transformers_on_documents_alone(name):
    module = objective(name)
    plain, batch, expected = plain_model(module, name), collator()(selected(range(6))), 0.0
    for row in range(6):
        for ids, labels in zip(of_documents(batch, row), of_documents(batch, row, "labels"), strict=True):
            losses = plain_losses(plain, ids)
            expected += losses[torch.tensor(labels[:-1]) != IGNORE].sum().item()
    assert module.train()(batch)["clm"].item() == pytest.approx(expected, rel=1e-10)


@torch.no_grad()
def test_held_out_text_is_plain_and_the_middle_is_measured_with_and_without_its_suffix():
    module = objective("llama").eval()
    reader = collator(source=HELD_OUT)
    batch = reader(selected(range(8)))
    plain_rows = CausalCollator(PAD)(selected(range(8), [packed_row(row, LENGTH) for row in documents(True)]))
    assert all(torch.equal(batch[name], plain_rows[name]) for name in plain_rows)
    plain = plain_model(module, "llama")
    expected = dict.fromkeys(("psm", "spm", "plain"), 0.0)
    tokens = 0
    for row in range(8):
        orders = [of_documents(read(batch, order), row) for order in ORDERS]
        for same, psm, spm in zip(of_documents(batch, row), *orders, strict=True):
            text, (prefix, middle, suffix) = restored(psm)
            assert text == same[1 : 1 + len(text)]
            assert restored(spm) == (text, ([], prefix + middle, suffix))
            expected["plain"] += plain_losses(plain, same)[len(prefix) :][: len(middle)].sum().item()
            for order, ids in (("psm", psm), ("spm", spm)):  # the middle, and its end
                losses = plain_losses(plain, ids)
                expected[order] += losses[len(losses) - 1 - len(middle) : -1].sum().item()
            tokens += len(middle)
    assert tokens > 30
    sums = module({key: value for key, value in batch.items() if key != "digest"})
    assert sums["middle"].item() == tokens
    for order, loss in expected.items():
        assert sums[order].item() == pytest.approx(loss, rel=1e-10)
    found = module.evaluate({k: v.double() for k, v in sums.items()}, reader.counts(batch), num_bytes=321.0)
    clm = CausalLanguageModeling(module.model, TOKENIZER, None).double().eval()
    own = clm.evaluate(clm(plain_rows), CausalCollator(PAD).counts(plain_rows), num_bytes=321.0)
    assert {name: found[name] for name in own} == pytest.approx(own, rel=1e-12)
    assert found["middle_loss_psm"] == pytest.approx(expected["psm"] / tokens)
    assert found["middle_loss_spm"] == pytest.approx(expected["spm"] / tokens)
    assert found["middle_loss_without_suffix"] == pytest.approx(expected["plain"] / tokens)


def read(batch, order):
    """The fields of one order of held-out rows."""
    return {name.removeprefix(f"{order}_"): value for name, value in batch.items() if name.startswith(f"{order}_")}


def test_all_readings_of_a_middle_are_of_the_same_tokens_whatever_the_batch():
    whole = collator(source=HELD_OUT)(selected(range(NUM_ROWS)))
    readings = [each["labels"][each["middle"]].tolist() for each in (whole, *(read(whole, order) for order in ORDERS))]
    assert readings[0] == readings[1] == readings[2]
    assert IGNORE not in readings[0]
    for number in (0, 7):
        alone = collator(source=HELD_OUT)(selected([number]))
        for name in ("input_ids", "middle", "psm_input_ids", "psm_middle", "spm_input_ids", "spm_middle"):
            assert torch.equal(whole[name][number], alone[name][0])


def test_a_step_is_one_graph():
    torch.compiler.reset()
    module = objective().float().train()
    explained = torch._dynamo.explain(module)(collator()(selected(range(4))))
    assert explained.graph_break_count == 0, explained.break_reasons


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_a_rate_is_a_share(rate):
    with pytest.raises(UserError, match=r"--fim\.rate is .*; it must lie between 0 and 1"):
        FillInTheMiddle.completed(options(rate))


def test_rows_with_room_for_sentinels_are_for_no_other_objective():
    config = options()
    config.phases = [PhaseConfig(steps=3, objective="clm")]
    with pytest.raises(UserError, match="phases: clm cannot take turns with filling in the middle"):
        FillInTheMiddle.completed(config)
    config.phases = [PhaseConfig(steps=3, sequence_length=32)]
    assert FillInTheMiddle.completed(config) is config


# ---------------------------------------------------------------------------------------------------------------------
# runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", documents=120)


def pretrain(out, corpus, *more, recipe="pretrain_fim.py", **how):
    given = ["--data.sources", corpus, *TINY, "--train.global_batch_size", 16, "--evaluation.every", 4]
    return run(recipe, *given, *more, "--output_dir", out, **how)


def test_a_run_publishes_a_model_that_fills_in_the_middle_and_another_run_continues_from_it(
    corpus, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    said = pretrain(out, corpus, "--train.steps", 8)
    assert "bits per byte" in said
    assert "without its suffix" in said
    assert re.search(r"\] .*\(it was: ", said)
    last = events(out, "evaluation")[-1]
    assert min(last[f"middle_loss_{how}"] for how in ("psm", "spm", "without_suffix")) > 0
    tokens, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    end = tokens.convert_tokens_to_ids("<|fim_end|>")
    assert model.generation_config.eos_token_id == [tokens.eos_token_id, end]
    ids = tokens("<|fim_prefix|>the model<|fim_suffix|> a text<|fim_middle|>")["input_ids"]
    assert [ids[1], ids.count(end)] == [tokens.convert_tokens_to_ids("<|fim_prefix|>"), 0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    card = (out / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(snippet, "card", "exec"), {})
    assert "<|fim" not in capsys.readouterr().out
    assert "filling in the middle" in card
    more = ["--data.sources", corpus, *TINY[8:], "--model.name", out, "--train.steps", 1]
    run("pretrain_fim.py", *more, "--train.global_batch_size", 16, "--output_dir", tmp_path / "more")
    first = events(tmp_path / "more", "evaluation")[0]
    assert first["bits_per_byte"] == pytest.approx(last["bits_per_byte"], abs=1e-4)
    assert first["middle_loss_psm"] == pytest.approx(last["middle_loss_psm"], abs=1e-3)


def test_a_model_whose_tokenizer_has_no_sentinels_is_refused(corpus, tmp_path):
    pretrain(tmp_path / "clm", corpus, "--train.steps", 1, recipe="pretrain_clm.py")
    more = ["--data.sources", corpus, *TINY[8:], "--model.name", tmp_path / "clm", "--train.steps", 1]
    said = run("pretrain_fim.py", *more, "--output_dir", tmp_path / "more", expect=2)
    assert "has no <|fim_prefix|>, which causal language modelling with filling in the middle needs (4 such" in said
    assert not (tmp_path / "more").exists()


def test_a_run_of_rate_0_is_a_causal_run(corpus, tmp_path):
    pretrain(tmp_path / "clm", corpus, "--train.steps", 2, recipe="pretrain_clm.py")
    pretrain(tmp_path / "fim", corpus, "--train.steps", 2, "--fim.rate", 0)
    names = ("step", "digest", "loss", "grad_norm", "tokens")
    steps = [[[e[n] for n in names] for e in events(tmp_path / kind, "step")] for kind in ("clm", "fim")]
    assert steps[0] == steps[1]
    weights = [(tmp_path / kind / "model.safetensors").read_bytes() for kind in ("clm", "fim")]
    assert weights[0] == weights[1]
