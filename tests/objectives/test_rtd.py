"""Replaced-token detection, beside plain transformers reading one document at a time in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.metrics import f1_score, roc_auc_score
from transformers import AutoModel, AutoModelForMaskedLM, ElectraForPreTraining, pipeline

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from launch import events, run, write_corpus
from parity_cases import BATCH, NUM_ROWS, PAD, ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.config.rtd import ReplacedTokensConfig, ReplacedTokensSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import MicroBatch, TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases, Selection
from nlp_ssl.doctor.proofs import parity, trajectory
from nlp_ssl.models.loading import save_model
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling
from nlp_ssl.objectives.rtd import (
    BLOCK,
    AutoDiscriminator,
    ReplacedTokenDetection,
    ReplacedTokensCollator,
    generator_config,
    sample,
)
from nlp_ssl.training.objective_state import published_weights
from nlp_ssl.training.optimizers import build_optimizer

ARCHITECTURES = ("bert", "modernbert", "electra", "deberta-v2")
SHARING = ("shared", "disentangled", "separate")
ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]


def options(embeddings="shared", **generator):
    config = ReplacedTokensConfig(rtd=ReplacedTokensSection(embeddings=embeddings, generator=generator))
    config.model.name, config.model.from_scratch = "tiny", True
    config.masking.probability = 0.3
    return config


def discriminator(name):
    return tiny_model(name, isolated=True, vocab_size=VOCABULARY, auto_class=AutoDiscriminator, **ROLES)


def objective(name="bert", embeddings="shared", **generator):
    """In float64, its tables moved apart where they can be."""
    module = ReplacedTokenDetection(PackedModel(discriminator(name), True), TOKENIZER, options(embeddings, **generator))
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
    return module


def collator(config=None):
    return ReplacedTokenDetection.collator(TOKENIZER, config or options(), seed=SEED)


def batches(micro_batch=BATCH):
    return TrainBatches(Phases([Phase(ROWS, BATCH, micro_batch)]), collator(), seed=SEED)


def batch_of(numbers, epoch=0):
    numbers = np.array(numbers)
    return collator()(Selection(ROWS, numbers, np.full_like(numbers, epoch)))


# ---------------------------------------------------------------------------------------------------------------------
# draws and samples


def test_draws_belong_to_their_position_however_the_batch_is_split():
    together, alone = batch_of([3, 4, 5]), batch_of([4])
    in_row = (together["label_positions"] // ROW_LENGTH == 1) & (together["labels"] >= 0)
    assert in_row.sum() > 3
    assert torch.equal(together["draws"][in_row], alone["draws"][alone["labels"] >= 0])
    other = batch_of([4], epoch=1)
    assert not set(other["draws"].tolist()) & set(alone["draws"][alone["labels"] >= 0].tolist())
    assert together["draws"].dtype == torch.int32
    assert together["draws"].min() >= 0
    counts = collator().counts(together)
    assert counts == {"mlm": int((together["labels"] >= 0).sum()), "rtd": int((together["document_ids"] > 0).sum())}


def test_draws_are_uniform_and_independent_of_the_masks():
    draws = torch.cat([batch_of(range(NUM_ROWS), epoch)["draws"] for epoch in range(40)])
    labels = torch.cat([batch_of(range(NUM_ROWS), epoch)["labels"] for epoch in range(40)])
    draws = draws[labels >= 0].double() / 2**31
    assert len(draws) > 5000
    assert abs(draws.mean() - 0.5) < 4 * (1 / 12 / len(draws)) ** 0.5
    shares = torch.histc(draws, 10, 0, 1) / len(draws)
    assert (shares - 0.1).abs().max() < 5 * (0.09 / len(draws)) ** 0.5


def test_samples_follow_the_softmax():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    draws = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * 2**31).int()
    found = sample(logits.expand(100_000, -1), draws)
    shares = torch.bincount(found, minlength=50) / 100_000
    assert (shares - logits.softmax(-1)[0]).abs().max() < 2e-5  # the draws are evenly spread: no chance in it


def test_an_extreme_draw_is_still_a_token_that_can_be():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert sample(logits, torch.tensor([0])).item() == 1
    assert sample(logits, torch.tensor([2**31 - 1])).item() == 3


def test_samples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    logits, draws = torch.randn(37, 100), torch.randint(2**31, (37,), dtype=torch.int32)
    whole = sample(logits, draws)
    monkeypatch.setitem(BLOCK, "cpu", 500)
    assert torch.equal(sample(logits, draws), whole)
    assert torch.equal(torch.cat([sample(logits[i : i + 1], draws[i : i + 1]) for i in range(37)]), whole)


# ---------------------------------------------------------------------------------------------------------------------
# the losses


def plain(module, name, tmp_path):
    """What a run would publish, as plain transformers loads it in float64: (generator, body, its scores)."""
    for folder, model in module.published().items():
        save_model(model, tmp_path / folder, published_weights(model))
    generator = AutoModelForMaskedLM.from_pretrained(tmp_path / "generator", dtype=torch.float64).eval()
    if name == "electra":
        whole = ElectraForPreTraining.from_pretrained(tmp_path, dtype=torch.float64).eval()
        return generator, whole, lambda output: output.logits[0]
    body = AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    head = module.head
    return generator, body, lambda output: head.score(F.gelu(head.dense(output.last_hidden_state[0])))[:, 0]


@pytest.mark.parametrize("embeddings", SHARING)
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_both_losses_are_those_of_plain_models_on_documents_alone(name, embeddings, tmp_path):
    module = objective(name, embeddings).eval()
    batch = batch_of(range(6))
    sums = module({key: value for key, value in batch.items() if key != "digest"})
    generator, body, score = plain(module, name, tmp_path)
    slots = {int(p): i for i, p in enumerate(batch["label_positions"]) if batch["labels"][i] >= 0}
    mlm = rtd = right = 0.0
    truths, scores = [], []
    for row in range(6):
        for document in batch["document_ids"][row].unique():
            if document == 0:
                continue
            at = torch.nonzero(batch["document_ids"][row] == document)[:, 0]
            ids = batch["input_ids"][row, at].long()
            logits = generator(ids[None]).logits[0]
            replaced = torch.zeros(len(ids), dtype=torch.float64)
            read = ids.clone()
            for i, position in enumerate(at.tolist()):
                if (slot := slots.get(row * ROW_LENGTH + position)) is None:
                    continue
                label = batch["labels"][slot]
                mlm += F.cross_entropy(logits[i : i + 1], label[None]).item()
                right += (logits[i].argmax() == label).item()
                drawn = (logits[i].softmax(-1).cumsum(-1) > batch["draws"][slot].double() / 2**31).nonzero()[0, 0]
                read[i], replaced[i] = drawn, float(drawn != label)
            found = score(body(read[None]))
            rtd += F.binary_cross_entropy_with_logits(found, replaced, reduction="sum").item()
            truths += replaced.tolist()
            scores += found.tolist()
    assert 0.1 < np.mean(truths) < 0.4
    assert sums["mlm"].item() == pytest.approx(mlm, rel=1e-10)
    assert sums["rtd"].item() == pytest.approx(rtd, rel=1e-10)

    counts = collator().counts(batch)
    found = module.evaluate({key: value.double() for key, value in sums.items()}, counts, 1.0)
    assert found["generator_loss"] == pytest.approx(mlm / counts["mlm"])
    assert found["generator_accuracy"] == pytest.approx(right / counts["mlm"])
    assert found["held_out_loss"] == pytest.approx(mlm / counts["mlm"] + 50 * rtd / counts["rtd"])
    assert found["replaced_share"] == pytest.approx(np.mean(truths))
    assert found["replaced_auc"] == pytest.approx(roc_auc_score(truths, scores), abs=2e-3)  # counted in bins
    assert found["replaced_f1"] == pytest.approx(f1_score(truths, np.array(scores) > 0))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_gradient_goes_through_the_sampling(name):
    module = objective(name, "separate").train()
    batch = batch_of(range(4))
    batch.pop("digest")
    module(batch)["rtd"].backward()
    assert all(p.grad is None or not p.grad.any() for p in module.generator.parameters())
    assert any(p.grad.any() for p in module.model.parameters() if p.grad is not None)


def test_shared_embeddings_are_one_and_learn_from_both():
    module = objective("bert", "shared")
    ours, theirs = (each.model.base_model.embeddings for each in (module.model, module.generator))
    for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"):
        assert getattr(ours, part).weight is getattr(theirs, part).weight
    head = module.generator.model.get_output_embeddings()
    assert head.weight is ours.word_embeddings.weight
    gradients = []
    for term in ("mlm", "rtd"):
        batch = batch_of(range(4))
        batch.pop("digest")
        module.zero_grad()
        module(batch)[term].backward()
        gradients.append(ours.word_embeddings.weight.grad.clone())
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_disentangled_embeddings_are_the_generators_and_a_difference(name):
    module = objective(name, "disentangled")
    own, base = (each.model.base_model.get_input_embeddings() for each in (module.model, module.generator))
    difference = own.parametrizations.weight.original
    torch.testing.assert_close(own.weight, base.weight + difference)
    batch = batch_of(range(4))
    batch.pop("digest")
    module(batch)["rtd"].backward()
    assert base.weight.grad is None or not base.weight.grad.any()  # the discriminator does not move it
    assert difference.grad.any()
    fresh = ReplacedTokenDetection(PackedModel(discriminator(name), True), TOKENIZER, options("disentangled"))
    assert not fresh.model.model.base_model.get_input_embeddings().parametrizations.weight.original.any()


def tables(model):
    return {n: p.detach().clone() for n, p in model.base_model.embeddings.named_parameters() if "LayerNorm" not in n}


@pytest.mark.parametrize("embeddings", SHARING)
def test_what_an_encoder_has_learnt_is_where_it_continues_from(embeddings, tmp_path, capsys):
    masked = tiny_model("bert", isolated=True, vocab_size=VOCABULARY, **ROLES)
    masked.save_pretrained(tmp_path / "masked")
    config = options(embeddings)
    config.model.name, config.model.from_scratch = str(tmp_path / "masked"), False
    body = AutoDiscriminator.from_pretrained(tmp_path / "masked", attn_implementation="isolated")
    before = tables(body)
    module = ReplacedTokenDetection(PackedModel(body, True), TOKENIZER, config)
    assert "generator: new" in capsys.readouterr().out
    words = module.model.model.base_model.get_input_embeddings().weight
    torch.testing.assert_close(words, before["word_embeddings.weight"])
    theirs = module.generator.model.base_model.get_input_embeddings().weight
    assert torch.equal(theirs, before["word_embeddings.weight"]) == (embeddings != "separate")


def test_the_difference_of_disentangled_tables_is_kept_by_who_continues_from_the_folder(tmp_path):
    first = objective("bert", "disentangled").float()
    for folder, model in first.published().items():
        save_model(model, tmp_path / folder, published_weights(model))
    config = options("disentangled")
    config.model.name, config.model.from_scratch, config.tokens.sequence_length = str(tmp_path), False, ROW_LENGTH
    body = AutoDiscriminator.from_pretrained(tmp_path, attn_implementation="isolated")
    again = ReplacedTokenDetection(PackedModel(body, True), TOKENIZER, config)
    for part in (lambda m: m.model.model, lambda m: m.generator.model):
        torch.testing.assert_close(
            part(again).base_model.get_input_embeddings().weight, part(first).base_model.get_input_embeddings().weight
        )
    config.rtd.generator = {"num_hidden_layers": 2}
    body = AutoDiscriminator.from_pretrained(tmp_path, attn_implementation="isolated")
    with pytest.raises(UserError, match=r"rtd\.generator changes a new generator, and .*generator is one already"):
        ReplacedTokenDetection(PackedModel(body, True), TOKENIZER, config)


# ---------------------------------------------------------------------------------------------------------------------
# steps


@pytest.mark.parametrize("embeddings", SHARING)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_does_not_depend_on_its_split(name, embeddings):
    def make(micro_batch):
        module = objective(name, embeddings)
        return module, build_optimizer(module, OptimizerConfig(name="adamw", lr=1e-3)), batches(micro_batch)

    for found in parity(make, [16, 4, 3], Accelerator(cpu=True)).values():
        assert max(found.loss, found.gradient, found.parameters) < 1e-12


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_generator_by_itself_is_a_masked_language_model(name):
    """With separate embeddings and no clipping the discriminator does not touch it."""
    module = objective(name, "separate")
    masked = tiny_model(name, isolated=True, vocab_size=VOCABULARY, num_hidden_layers=1, **ROLES).double()
    masked.load_state_dict(module.generator.model.state_dict())
    alone = MaskedLanguageModeling(PackedModel(masked, True), TOKENIZER, options())
    found = [
        trajectory(each, build_optimizer(each, OptimizerConfig(name="adamw", lr=1e-3)), taken, Accelerator(cpu=True), 3)
        for each, taken in (
            (module, batches()),
            (alone, TrainBatches(Phases([Phase(ROWS, BATCH, BATCH)]), mask_alike(), seed=SEED)),
        )
    ]
    generator = {n.removeprefix("generator."): p for n, p in found[0].parameters.items() if n.startswith("generator.")}
    masked_model = {n.removeprefix("model."): p for n, p in found[1].parameters.items()}
    assert len(generator) > 10
    for parameter, value in generator.items():
        torch.testing.assert_close(value, masked_model[parameter], rtol=1e-12, atol=1e-14)


def mask_alike():
    return MaskedCollator(MaskingCollator(TOKENIZER, options().masking, seed=SEED))


@pytest.mark.parametrize("embeddings", SHARING)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n != "bert")) for n in ARCHITECTURES])
def test_a_step_is_one_graph(name, embeddings):
    torch.compiler.reset()
    explained = torch._dynamo.explain(objective(name, embeddings).float())(batch_of(range(4)))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


def test_every_micro_batch_counts_what_its_losses_are_sums_over():
    sizes = [MicroBatch.of(Selection(ROWS, np.array([i]), np.array([0])), collator()).counts for i in range(8)]
    whole = collator().counts(batch_of(range(8)))
    assert {name: sum(each[name] for each in sizes) for name in whole} == whole


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be


def test_a_generator_of_another_width_has_embeddings_of_its_own():
    with pytest.raises(UserError, match=r"16 wide, the discriminator's 32; give .* rtd.embeddings separate"):
        objective("bert", hidden_size=16)
    module = objective("bert", "separate", hidden_size=16)
    assert module.generator.model.config.hidden_size == 16
    narrow = objective("electra", hidden_size=16)  # its embeddings have a width of their own
    assert narrow.generator.model.config.embedding_size == narrow.model.model.config.embedding_size == 16


def test_an_unknown_field_of_the_generator_is_named():
    with pytest.raises(UserError, match=r"rtd.generator.layers: BertConfig has no such field"):
        generator_config(discriminator("bert").config, {"layers": 2})


def test_half_the_layers_by_default():
    config = discriminator("modernbert").config
    assert generator_config(config, {}).num_hidden_layers == 1
    assert generator_config(config, {"num_hidden_layers": 2}).num_hidden_layers == 2


# ---------------------------------------------------------------------------------------------------------------------
# runs

SHAPE = ["--model.overrides.num_hidden_layers", "2", "--model.overrides.hidden_size", "32"]
SHAPE += [
    "--model.overrides.intermediate_size",
    "48",
    "--tokenizer.vocab_size",
    "320",
    "--tokens.sequence_length",
    "48",
]
STEPS = ["--data.held_out_fraction", "0.1", "--train.log_every", "1", "--train.cpu_threads", "1"]
STEPS += ["--train.mixed_precision", "no", "--train.global_batch_size", "12", "--train.micro_batch_size", "5"]
STEPS += ["--evaluation.every", "3", "--checkpoint.every", "3", "--schedule.name", "constant"]


def pretrain(out, corpus, *more, **how):
    return run("pretrain_rtd.py", "--data.sources", corpus, *STEPS, *more, "--output_dir", out, **how)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    write_corpus(path, documents=120)
    return path


@pytest.mark.parametrize("embeddings", ["disentangled", pytest.param("shared", marks=pytest.mark.long)])
def test_a_resumed_run_is_the_run_that_was_never_stopped(embeddings, corpus, tmp_path):
    options = [*SHAPE, "--rtd.embeddings", embeddings]
    pretrain(tmp_path / "whole", corpus, *options, "--train.steps", 6)
    pretrain(tmp_path / "run", corpus, *options, "--train.steps", 3)
    pretrain(tmp_path / "run", corpus, *options, "--train.steps", 6, "--resume.allow_changed")
    keep = ("step", "digest", "loss", "mlm_loss", "rtd_loss", "mlm_targets", "rtd_targets", "grad_norm")
    whole, resumed = (
        [[e[k] for k in keep] for e in events(out, "step")] for out in (tmp_path / "whole", tmp_path / "run")
    )
    assert whole == resumed
    for name in ("model.safetensors", "generator/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_its_folder_is_two_models_that_plain_transformers_loads(corpus, tmp_path):
    shape = [
        "--model.name",
        "electra-tiny",
        "--tokenizer.kind",
        "bpe",
        "--tokenizer.vocab_size",
        "320",
        "--tokens.sequence_length",
        "48",
    ]
    said = pretrain(tmp_path / "run", corpus, *shape, "--train.steps", 3)
    assert "AUC 0." in said
    assert "generator: held-out loss" in said
    last = events(tmp_path / "run", "evaluation")[-1]
    assert 0 < last["replaced_auc"] < 1
    assert 0 < last["replaced_share"] < 0.2
    model, info = ElectraForPreTraining.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    body, info = AutoModel.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(body.embeddings.word_embeddings.weight, model.electra.embeddings.word_embeddings.weight)
    fill = pipeline("fill-mask", str(tmp_path / "run" / "generator"), device="cpu")
    assert len(fill(f"a {fill.tokenizer.mask_token} .")) == 5
    assert fill.model.config.num_hidden_layers == 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "replaced-token detection" in card
    assert "nlp-ssl pretrain-rtd --config" in card

    # a further run continues from both
    said = pretrain(tmp_path / "more", corpus, *shape[-2:], "--model.name", tmp_path / "run", "--train.steps", 1)
    first = events(tmp_path / "more", "evaluation")[0]
    assert first["generator_loss"] == pytest.approx(last["generator_loss"], abs=1e-4)
    assert first["replaced_auc"] == pytest.approx(last["replaced_auc"], abs=1e-3)


def test_another_weight_is_another_run(corpus, tmp_path):
    pretrain(tmp_path / "run", corpus, *SHAPE, "--train.steps", 3)
    said = pretrain(tmp_path / "run", corpus, *SHAPE, "--train.steps", 3, "--rtd.weight", 10, "--resume", expect=2)
    assert "--rtd.weight was 50.0 and is 10.0" in said
    said = pretrain(tmp_path / "other", corpus, "--model.name", "gpt2-tiny", expect=2)
    assert "gpt2-tiny is a decoder, and replaced-token detection trains an encoder" in said


def test_it_needs_no_padding_token_to_be_told_apart():
    """Padding is never a target, and never replaced."""
    batch = batch_of(range(NUM_ROWS))
    padded = batch["document_ids"] == 0
    assert padded.any()
    assert (batch["input_ids"][padded] == PAD).all()
    kept = [int(p) for p, label in zip(batch["label_positions"], batch["labels"], strict=True) if label >= 0]
    assert not padded.flatten()[kept].any()


def test_the_collator_is_picklable():
    import pickle

    again = pickle.loads(pickle.dumps(collator()))
    assert isinstance(again, ReplacedTokensCollator)
    rows = Selection(ROWS, np.array([1, 2]), np.array([0, 0]))
    assert torch.equal(again(rows)["draws"], collator()(rows)["draws"])
