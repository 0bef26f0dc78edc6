"""Masked and causal sequences in one body, beside either alone, and plain transformers reading documents one by one."""

import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from launch import TINY, events, run, write_corpus
from parity_cases import NUM_ROWS, PAD, ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model, word_tokenizer

from nlp_ssl.config.hybrid import HybridConfig, HybridSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.hybrid import HELD_OUT, HybridLanguageModeling
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling

ARCHITECTURES = ("bert", "modernbert", "deberta-v2")
ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]


def options(share=0.6, predict="same", probability=0.3):
    config = HybridConfig(hybrid=HybridSection(share=share, predict=predict))
    config.masking.probability = probability
    return config


def model(name):
    return PackedModel(tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES), True)


def objective(name="bert", config=None):
    return HybridLanguageModeling(model(name), TOKENIZER, config or options()).double()


def collator(config=None, **more):
    return HybridLanguageModeling.collator(TOKENIZER, config or options(), seed=SEED, **more)


def selected(numbers, epoch=0):
    numbers = np.array(numbers)
    return Selection(ROWS, numbers, np.full_like(numbers, epoch))


def batch_of(numbers, config=None, epoch=0, **more):
    return collator(config, **more)(selected(numbers, epoch))


def targets(batch, kind):
    """{(row, column): label} of a batch's causal or masked labels."""
    at = batch["label_positions"].split([len(batch["causal_labels"]), len(batch["masked_labels"])])[kind == "masked"]
    pairs = zip(at.tolist(), batch[f"{kind}_labels"].tolist(), strict=True)
    return {divmod(position, ROW_LENGTH): label for position, label in pairs if label != IGNORE}


def places(labels):
    return {(row, column): int(labels[row, column]) for row, column in zip(*np.nonzero(labels != IGNORE), strict=True)}


# ---------------------------------------------------------------------------------------------------------------------
# which sequences, which labels


@pytest.mark.parametrize("predict", ["same", "previous"])
def test_a_sequence_is_masked_or_causal_and_labelled_as_by_the_objective_of_its_own(predict):
    config = options(predict=predict)
    batch = batch_of(range(NUM_ROWS), config)
    causal = batch["causal"].numpy()
    assert 3 < causal.sum() < NUM_ROWS - 3
    ids = np.stack([row["input_ids"] for row in ROWS])
    masking = MaskingCollator(TOKENIZER, config.masking, seed=SEED)
    keys = masking.row_keys(np.zeros(NUM_ROWS, dtype=np.int64), np.arange(NUM_ROWS))
    masked_ids, masked_labels = masking.mask(ids, keys)
    nexts = CausalCollator(PAD)(selected(range(NUM_ROWS)))["labels"].numpy()
    assert (batch["input_ids"].numpy() == np.where(causal[:, None], ids, masked_ids)).all()
    assert targets(batch, "causal") == places(np.where(causal[:, None], nexts, IGNORE))
    shift = predict == "previous"
    hidden = places(np.where(causal[:, None], IGNORE, masked_labels))
    assert targets(batch, "masked") == {(row, column - shift): label for (row, column), label in hidden.items()}
    for row, column in targets(batch, "masked"):  # predicted from its own document
        assert ROWS[row]["document_ids"][column] == ROWS[row]["document_ids"][column + shift]
    assert collator(config).counts(batch) == {"causal": len(targets(batch, "causal")), "masked": len(hidden)}


def test_how_a_sequence_is_read_does_not_depend_on_its_batch_and_changes_with_the_epoch():
    together = batch_of([3, 4, 5, 6])
    for i, number in enumerate([3, 4, 5, 6]):
        alone = batch_of([number])
        assert together["causal"][i] == alone["causal"][0]
        assert torch.equal(together["input_ids"][i], alone["input_ids"][0])
        for kind in ("causal", "masked"):
            assert {c: v for (row, c), v in targets(together, kind).items() if row == i} == {
                c: v for (_, c), v in targets(alone, kind).items()
            }
    epochs = [batch_of(range(NUM_ROWS), epoch=epoch)["causal"] for epoch in range(2)]
    assert not torch.equal(*epochs)
    assert torch.equal(pickle.loads(pickle.dumps(collator()))(selected([1, 2]))["causal"], batch_of([1, 2])["causal"])


@pytest.mark.parametrize("share", [0.125, 0.5, 0.875])
def test_the_share_of_masked_sequences_is_what_was_asked_for(share):
    keys = collator(options(share)).masking.row_keys(np.zeros(40_000, dtype=np.int64), np.arange(40_000))
    found = 1 - collator(options(share)).is_causal(keys).mean()
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 40_000)


def test_labels_have_few_shapes():
    made = [batch_of(range(i, i + 8), options(0.875), epoch) for epoch in range(30) for i in range(12)]
    shapes = {(len(batch["causal_labels"]), len(batch["masked_labels"])) for batch in made}
    assert {causal for causal, _ in shapes} <= {2 * ROW_LENGTH, 4 * ROW_LENGTH, 6 * ROW_LENGTH, 8 * ROW_LENGTH}
    assert len({masked for _, masked in shapes}) == 1
    rows = np.mean([len(batch["causal_labels"]) / ROW_LENGTH for batch in made])
    assert rows < 3  # one of eight is causal on average: most tokens get no logits


# ---------------------------------------------------------------------------------------------------------------------
# the ends of the scale, to the bit


def losses_and_gradient(module, batch, names):
    module.train()
    module.zero_grad()
    sums = module({key: value for key, value in batch.items() if key != "digest"})
    sum(sums[name] for name in names).backward()
    return [sums[name].detach() for name in names], {n: p.grad for n, p in module.named_parameters()}


def assert_same_bits(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    for name, gradient in expected[1].items():
        assert (gradient is None) == (found[1][name] is None)
        assert gradient is None or torch.equal(gradient, found[1][name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_masked_sequences_it_is_causal_language_modelling_to_the_bit(name, dtype):
    config = options(share=0.0)
    batch, theirs = batch_of(range(8), config), CausalCollator(PAD)(selected(range(8)))
    assert batch["digest"] == theirs["digest"]
    assert collator(config).counts(batch) == {"causal": CausalCollator(PAD).counts(theirs)["clm"]}
    ours = HybridLanguageModeling(model(name), TOKENIZER, config).to(dtype)
    assert ours.terms == {"causal": 1.0}
    clm = CausalLanguageModeling(model(name), TOKENIZER, config).to(dtype)
    assert_same_bits(losses_and_gradient(ours, batch, ["causal"]), losses_and_gradient(clm, theirs, ["clm"]))


@pytest.mark.parametrize("predict", ["same", "previous"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_causal_sequences_it_is_masked_language_modelling_to_the_bit(name, predict):
    config = options(share=1.0, predict=predict)
    masking = MaskedCollator(MaskingCollator(TOKENIZER, config.masking, seed=SEED))
    batch, theirs = batch_of(range(8), config), masking(selected(range(8)))
    assert batch["digest"] == theirs["digest"]
    assert collator(config).counts(batch) == {"masked": masking.counts(theirs)["mlm"]}
    if predict == "previous":
        theirs["label_positions"] -= (theirs["labels"] != IGNORE).int()
    ours = HybridLanguageModeling(model(name), TOKENIZER, config)
    assert ours.terms == {"masked": 1.0}
    mlm = MaskedLanguageModeling(model(name), TOKENIZER, config)
    assert_same_bits(losses_and_gradient(ours, batch, ["masked"]), losses_and_gradient(mlm, theirs, ["mlm"]))


# ---------------------------------------------------------------------------------------------------------------------
# the losses, beside plain transformers


def read_causally(plain, name, ids):
    """Logits of a stock encoder whose tokens see only the past, by a mask as its own code takes it."""
    length = len(ids)
    past = torch.ones(length, length, dtype=torch.bool).tril()
    if name == "deberta-v2":  # whose encoder takes such a mask, but its embeddings do not
        replace = plain.deberta.encoder.register_forward_pre_hook(lambda _, args: (args[0], past[None], *args[2:]))
        logits = plain(ids[None]).logits[0]
        replace.remove()
        return logits
    mask = torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~past, -torch.inf)
    near = past & torch.ones_like(past).triu(-4)  # local attention of 8: four tokens on each side
    local = torch.zeros_like(mask).masked_fill(~near, -torch.inf)
    by_layer = {"full_attention": mask, "sliding_attention": local}
    return plain(ids[None], attention_mask=by_layer if name == "modernbert" else mask).logits[0]


@torch.no_grad()
def alone(name, module, batch):
    """Sums of a batch's losses by plain transformers in float64: causal, masked, and that of next tokens of text."""
    plain = tiny_model(name, vocab_size=VOCABULARY, **ROLES).double()
    plain.load_state_dict(module.model.model.state_dict())
    found = {"causal": 0.0, "masked": 0.0, "text": 0.0, "correct": 0}
    labels = {kind: targets(batch, kind) for kind in ("causal", "masked")}
    for row, causal in enumerate(batch["causal"].tolist()):
        for document in batch["document_ids"][row].unique():
            if document == 0:
                continue
            at = torch.nonzero(batch["document_ids"][row] == document)[:, 0]
            ids = batch["input_ids"][row, at].long()
            logits = read_causally(plain, name, ids) if causal else plain(ids[None]).logits[0]
            for i, column in enumerate(at.tolist()):
                for kind in labels:
                    if (label := labels[kind].get((row, column))) is not None:
                        loss = F.cross_entropy(logits[i : i + 1], torch.tensor([label])).item()
                        found[kind] += loss
                        found["text"] += loss * (kind == "causal" and label > 2)
                        found["correct"] += kind == "masked" and logits[i].argmax().item() == label
    return found


@pytest.mark.parametrize("predict", ["same", "previous"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_losses_are_those_of_plain_transformers_on_documents_alone(name, predict):
    config = options(predict=predict)
    module, batch = objective(name, config).eval(), batch_of(range(6), config)
    assert 0 < batch["causal"].sum() < 6
    sums = module({key: value for key, value in batch.items() if key != "digest"})
    for term, expected in alone(name, module, batch).items():
        assert sums[term].item() == pytest.approx(expected, rel=1e-10), term
    trained = module.train()({key: value for key, value in batch.items() if key != "digest"})
    assert trained.keys() == {"causal", "masked"}
    assert trained["masked"].item() == pytest.approx(sums["masked"].item(), rel=1e-12)


def test_the_terms_are_means_weighted_by_the_share_of_their_sequences():
    assert objective(config=options(0.75)).terms == {"causal": 0.25, "masked": 0.75}


@torch.no_grad()
def test_held_out_sequences_are_read_both_ways():
    config = options(share=0.875)
    batch = batch_of(range(4), config, source=HELD_OUT)
    assert batch["causal"].tolist() == [True] * 4 + [False] * 4
    module = objective("modernbert", config).eval()
    sums = module({key: value for key, value in batch.items() if key != "digest"})
    counts = collator(config, source=HELD_OUT).counts(batch)
    clm = CausalCollator(PAD)(selected(range(4)))
    whole = {"causal": CausalCollator(PAD).counts(clm)["clm"]}
    masking = MaskedCollator(MaskingCollator(TOKENIZER, config.masking, seed=SEED, source=HELD_OUT))
    mlm = masking(selected(range(4)))
    whole["masked"] = masking.counts(mlm)["mlm"]
    assert counts == whole  # those of either objective's own evaluation, so that its numbers can be held against theirs
    found = module.evaluate({key: value.double() for key, value in sums.items()}, counts, num_bytes=321.0)
    own = CausalLanguageModeling(module.model, TOKENIZER, config).eval()(clm)
    masked = MaskedLanguageModeling(module.model, TOKENIZER, config).eval()(mlm)
    expected = {
        "causal_loss": float(own["clm"]) / counts["causal"],
        "bits_per_byte": own["text"].item() / math.log(2) / 321,
        "masked_loss": masked["mlm"].item() / counts["masked"],
        "masked_accuracy": masked["correct"].item() / counts["masked"],
    }
    expected["held_out_loss"] = 0.125 * expected["causal_loss"] + 0.875 * expected["masked_loss"]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n != "modernbert")) for n in ARCHITECTURES]
)
def test_a_step_is_one_graph(name):
    torch.compiler.reset()
    explained = torch._dynamo.explain(objective(name).float())(batch_of(range(4)))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_is_a_share(share):
    with pytest.raises(UserError, match=r"--hybrid\.share is .*; it must lie between 0 and 1"):
        HybridLanguageModeling.completed(options(share))


def test_rows_of_one_document_cannot_be_causal():
    config = options()
    config.tokens.packing = "one_document"
    with pytest.raises(UserError, match=r"need packed rows"):
        HybridLanguageModeling.completed(config)
    with pytest.raises(UserError, match=r"need packed rows"):
        HybridLanguageModeling(PackedModel(tiny_model("bert"), False), TOKENIZER, options())
    HybridLanguageModeling(PackedModel(tiny_model("bert"), False), TOKENIZER, options(share=1.0))


def test_a_text_begins_with_a_token_of_its_own():
    bare = word_tokenizer(50)
    with pytest.raises(UserError, match="puts no token before a text"):
        HybridLanguageModeling.frame(bare, options())


# ---------------------------------------------------------------------------------------------------------------------
# runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", documents=120)


def pretrain(out, corpus, *more, recipe="pretrain_hybrid.py", **how):
    given = ["--data.sources", corpus, *TINY, "--train.global_batch_size", 16, "--evaluation.every", 4]
    return run(recipe, *given, *more, "--output_dir", out, **how)


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def run_snippet(folder, capsys, monkeypatch):
    """What the card's example prints when it is run as it stands there."""
    monkeypatch.chdir(folder.parent)
    capsys.readouterr()
    (snippet,) = re.findall(r"```python\n(.*?)```", card_of(folder), re.DOTALL)
    exec(compile(snippet, "card", "exec"), {})
    return capsys.readouterr().out


def test_a_run_publishes_a_model_that_fills_masks_and_another_run_continues_from_it(
    corpus, tmp_path, capsys, monkeypatch
):
    said = pretrain(tmp_path / "run", corpus, "--train.steps", 8, "--hybrid.share", 0.5)
    assert "causal: held-out loss" in said
    assert "masked: held-out loss" in said
    assert said.count("(it was: ") >= 1
    assert " | " in said  # a text continued
    last = events(tmp_path / "run", "evaluation")[-1]
    assert last["held_out_loss"] == pytest.approx(0.5 * last["causal_loss"] + 0.5 * last["masked_loss"])
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"]
    assert "pipeline_tag: fill-mask" in card_of(tmp_path / "run")
    assert len(run_snippet(tmp_path / "run", capsys, monkeypatch).splitlines()) == 5
    own = [*TINY[6:], "--data.sources", corpus, "--model.name", tmp_path / "run", "--train.steps", 1]
    run("pretrain_hybrid.py", *own[2:], "--hybrid.share", 0.5, "--output_dir", tmp_path / "more")
    first = events(tmp_path / "more", "evaluation")[0]
    assert first["causal_loss"] == pytest.approx(last["causal_loss"], abs=1e-4)
    assert first["masked_loss"] == pytest.approx(last["masked_loss"], abs=1e-4)


def test_the_card_says_where_a_masked_token_is_predicted(corpus, tmp_path, capsys, monkeypatch):
    said = pretrain(tmp_path / "run", corpus, "--train.steps", 4, "--hybrid.predict", "previous")
    assert said.count("(it was: ") >= 1
    card = card_of(tmp_path / "run")
    assert "pipeline_tag: feature-extraction" in card
    assert "stands at the token before it" in card
    assert len(run_snippet(tmp_path / "run", capsys, monkeypatch).splitlines()) == 5


def test_a_run_without_masked_sequences_says_so(corpus, tmp_path, capsys, monkeypatch):
    said = pretrain(tmp_path / "run", corpus, "--train.steps", 4, "--hybrid.share", 0)
    assert "masked: " not in said
    assert "masked_loss" not in events(tmp_path / "run", "evaluation")[-1]
    assert "has filled no gaps" in card_of(tmp_path / "run")
    assert run_snippet(tmp_path / "run", capsys, monkeypatch).startswith("torch.Size([1, ")


def test_another_share_is_another_run(corpus, tmp_path):
    said = pretrain(tmp_path / "run", corpus, "--hybrid.share", 2, expect=2)
    assert "--hybrid.share is 2.0; it must lie between 0 and 1" in said
    assert not (tmp_path / "run").exists()
    said = pretrain(tmp_path / "run", corpus, "--model.name", "gpt2-tiny", expect=2)
    assert "gpt2-tiny is a decoder" in said
