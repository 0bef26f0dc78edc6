"""Denoising autoencoders, beside plain transformers reading one document at a time in float64."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence", "objectives"))
from launch import TINY, events, run, write_corpus
from parity_cases import ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import packed_rows, texts, tiny_model, tokenizer

from nlp_ssl.config.autoencoder import AutoencoderConfig, AutoencoderSection
from nlp_ssl.config.command_line import parse
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.doctor.proofs import stock_copy
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.autoencoder import DenoisingAutoencoder
from nlp_ssl.objectives.bottleneck import Sparse, Variational, normals
from nlp_ssl.objectives.deletion import WordDeletion, positions_of

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]
NAMES = ("bert", "modernbert", "deberta-v2", "electra")


def config_for(**options):
    return AutoencoderConfig(autoencoder=AutoencoderSection(**options))


def autoencoder(name="bert", **options):
    model = PackedModel(tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES), True)
    return DenoisingAutoencoder(model, TOKENIZER, config_for(**options)).double()


def collator(source=0, **options):
    return DenoisingAutoencoder.collator(TOKENIZER, config_for(**options), seed=SEED, source=source)


def batch_of(numbers, epoch=0, source=0, **options):
    numbers = np.array(numbers)
    batch = collator(source, **options)(Selection(ROWS, numbers, np.full_like(numbers, epoch)))
    batch.pop("digest")
    return batch


# ---------------------------------------------------------------------------------------------------------------------
# what is deleted


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_sixty_percent_of_the_words_are_deleted_whole_and_one_of_each_document_stays(kind, tmp_path):
    rows = packed_rows(tmp_path, kind)
    deletion = WordDeletion(tokenizer(kind), 0.6)
    taken = rows.stack(np.arange(len(rows)))
    ids, document_ids = taken["input_ids"], taken["document_ids"]
    found, words = [], 0
    for seed in range(12):
        keys = np.arange(len(rows), dtype=np.uint64) + np.uint64(1000 * seed)
        kept = deletion.kept(ids, document_ids, keys)
        ordinary = (document_ids > 0) & ~deletion.is_special[ids]
        assert kept[(document_ids > 0) & deletion.is_special[ids]].all()
        assert not kept[document_ids == 0].any()
        begins = deletion._beginnings(ids, document_ids, ordinary)
        for row in range(len(rows)):
            for document in range(1, document_ids[row].max() + 1):
                here = (document_ids[row] == document) & ordinary[row]
                stays = {at: set(kept[row, here & (begins[row] == at)]) for at in set(begins[row, here])}
                assert all(len(each) == 1 for each in stays.values())  # a word is deleted whole
                assert {True} in stays.values()
                if len(stays) > 9:  # in shorter ones the word that stays counts
                    found.append(sum(each == {False} for each in stays.values()))
                    words += len(stays)
    assert words > 5000
    assert abs(sum(found) / words - 0.6) < 0.01


def test_what_is_left_of_a_document_does_not_depend_on_its_batch_and_moves_together():
    together, alone = batch_of([3, 4, 5]), batch_of([4])
    width = min(each["noisy_input_ids"].shape[1] for each in (together, alone))
    left = together["noisy_document_ids"][1] > 0
    assert torch.equal(together["noisy_input_ids"][1, :width], alone["noisy_input_ids"][0, :width])
    assert not (~left[: left.sum()]).any()
    assert torch.equal(together["keys"][1, : alone["keys"].shape[1]], alone["keys"][0, : together["keys"].shape[1]])
    assert not torch.equal(batch_of([4], epoch=1)["noisy_input_ids"], alone["noisy_input_ids"])
    documents_there = set(alone["document_ids"].unique().tolist())
    assert set(alone["noisy_document_ids"].unique().tolist()) | {0} == documents_there | {0}
    assert positions_of(np.array([[1, 1, 2, 2, 2, 0]])).tolist() == [[0, 1, 0, 1, 2, 0]]
    whole = batch_of([4], deleted=0.0)
    real = whole["document_ids"][0] > 0
    assert torch.equal(whole["noisy_input_ids"][0][whole["noisy_document_ids"][0] > 0], whole["input_ids"][0][real])
    again = pickle.loads(pickle.dumps(collator()))
    assert torch.equal(again(Selection(ROWS, np.array([4]), np.array([0])))["keys"], alone["keys"])
    counts = collator().counts(together)
    assert counts["reconstruction"] == counts["kl"] == int((together["labels"] >= 0).sum())
    assert counts["l1"] == sum(len(documents(True)[i]) for i in (3, 4, 5))


# ---------------------------------------------------------------------------------------------------------------------
# the losses


def test_attention_over_one_vector_is_a_linear_map_of_it():
    """What the decoder of this project rests on."""
    attention = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    queries, vector = torch.randn(2, 5, 16).double(), torch.randn(2, 1, 16).double()
    found, _ = attention(queries, vector, vector)
    weight, bias = attention.in_proj_weight[32:], attention.in_proj_bias[32:]
    expected = attention.out_proj(vector @ weight.T + bias)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@torch.no_grad()
def test_the_loss_is_that_of_a_plain_encoder_and_its_layers_run_by_hand(pooling):
    module = autoencoder("bert", pooling=pooling).eval()
    batch = batch_of(range(6), source=1)
    plain = stock_copy(module.model.model)
    maps = module.injection.maps

    def vector(ids):
        hidden = plain.base_model(ids[None]).last_hidden_state[0]
        return hidden[0] if pooling == "cls" else hidden.mean(0)

    def written(ids, labels, given):
        hidden = plain.bert.embeddings(input_ids=ids[None])
        past = torch.full((len(ids), len(ids)), -torch.inf, dtype=torch.float64).triu(1)[None, None]
        for layer, each in zip(plain.bert.encoder.layer, maps, strict=True):
            hidden = layer(hidden + each(given), past)
        logits = plain.cls(hidden)[0]
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100).item()

    own = another = 0.0
    for row in range(6):
        stranger = batch["other_input_ids"][row, batch["other_document_ids"][row] == 1].long()
        for document in range(1, int(batch["document_ids"][row].max()) + 1):
            at = batch["document_ids"][row] == document
            left = batch["noisy_input_ids"][row, batch["noisy_document_ids"][row] == document].long()
            assert 3 <= len(left) <= at.sum()
            ids, labels = batch["input_ids"][row, at].long(), batch["labels"][row, at]
            assert torch.equal(labels[:-2], ids[1:-1])
            own += written(ids, labels, vector(left))
            another += written(ids, labels, vector(stranger))
    sums = module(batch)
    assert sums["reconstruction"].item() == pytest.approx(own, rel=1e-10)
    assert sums["another"].item() == pytest.approx(another, rel=1e-10)
    counts = collator().counts(batch)
    found = module.evaluate({name: value.double() for name, value in sums.items()}, counts, 1.0)
    assert found["held_out_loss"] == found["reconstruction"] == pytest.approx(own / counts["reconstruction"])
    assert found["reconstruction_of_another"] == pytest.approx(another / counts["reconstruction"])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_token_is_written_from_the_vector_and_its_past_alone(name):
    module, batch = autoencoder(name).eval(), batch_of(range(8))
    late = batch["position_ids"] > 3
    batch["labels"] = torch.where(late | (batch["position_ids"] == 3), -100, batch["labels"])
    before = module(batch)["reconstruction"]
    changed = dict(batch, input_ids=torch.where(late, 7, batch["input_ids"]))
    assert torch.equal(module(changed)["reconstruction"], before)
    early = dict(batch, input_ids=torch.where(batch["position_ids"] == 1, 7, batch["input_ids"]))
    assert not torch.equal(module(early)["reconstruction"], before)
    noisy = torch.where(batch["noisy_position_ids"] == 1, 7, batch["noisy_input_ids"])
    assert not torch.equal(module(dict(batch, noisy_input_ids=noisy))["reconstruction"], before)


@pytest.mark.parametrize("bottleneck", ["plain", "variational", pytest.param("sparse", marks=pytest.mark.long)])
def test_a_step_is_one_graph(bottleneck):
    torch.compiler.reset()
    module = autoencoder("modernbert", bottleneck=bottleneck).float().train()
    explained = torch._dynamo.explain(module)(batch_of(range(4)))
    assert explained.graph_break_count == 0, explained.break_reasons


# ---------------------------------------------------------------------------------------------------------------------
# bottlenecks


def test_draws_are_normal_and_functions_of_their_keys():
    keys = torch.tensor(np.random.default_rng(0).integers(-(2**63), 2**63, 4000))
    found = normals(keys, 8)
    assert torch.equal(normals(keys[7:9].reshape(2, 1), 8)[:, 0], found[7:9])
    flat = found.flatten().sort().values
    cumulative = Normal(0.0, 1.0).cdf(flat)
    ranks = (torch.arange(len(flat)) + 0.5) / len(flat)
    assert (cumulative - ranks).abs().max() < 1.63 / len(flat) ** 0.5  # Kolmogorov's test, 1 %
    correlations = torch.corrcoef(found.T) - torch.eye(8)
    assert correlations.abs().max() < 5 / len(keys) ** 0.5
    neighbours = normals(torch.arange(4000), 1)[:, 0]
    assert abs(torch.corrcoef(torch.stack([neighbours[1:], neighbours[:-1]]))[0, 1]) < 5 / 4000**0.5


def test_a_draw_costs_its_divergence_and_in_training_no_less_than_the_free_bits():
    module = Variational(6, 4, free_bits=0.3).double().eval()
    vectors, keys = torch.randn(2, 3, 6).double(), torch.arange(6).view(2, 3)
    z, cost, mean = module(vectors, keys)
    deviation = (module.log_variance(vectors) / 2).exp()
    each = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0))
    torch.testing.assert_close(cost, each.sum(-1), rtol=1e-10, atol=0)
    torch.testing.assert_close((z - mean) / deviation, normals(keys, 4))
    torch.testing.assert_close(module.train()(vectors, keys)[1], each.clamp_min(0.3).sum(-1), rtol=1e-10, atol=0)
    code, cost, _ = Sparse(6, 40).double()(vectors, keys)
    assert 0.2 < (code == 0).double().mean() < 0.8
    torch.testing.assert_close(cost, code.abs().sum(-1))


def test_the_divergence_is_annealed_in_training_and_whole_in_an_evaluation():
    module, batch = autoencoder(bottleneck="variational", annealing_steps=4, free_bits=0.0), batch_of(range(4))
    assert module.terms == {"reconstruction": 1.0, "kl": 1.0}
    whole = module.eval()(batch)["kl"].item()
    for step in range(6):
        module.after_step(step)
        assert module.train()(batch)["kl"].item() == pytest.approx(whole * min(1, (step + 1) / 4))
    assert module.eval()(batch)["kl"].item() == whole
    counts = collator().counts(batch)
    with torch.no_grad():
        sums = {name: value.double() for name, value in module(batch).items()}
    found = module.evaluate(sums, counts, 1.0)
    assert found["kl_per_document"] == pytest.approx(whole / counts["l1"])
    assert 0 < found["active_entries"] <= 32


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_of_its_own_has_layers_of_its_own_and_nothing_else(name):
    module = autoencoder(name, decoder_layers=1)
    shared = {id(p) for p in module.model.parameters()}
    own = [key for key, p in module.decoder.named_parameters() if id(p) not in shared]
    assert own
    assert all(".0." in key for key in own)
    module.train()(batch_of(range(8)))["reconstruction"].backward()
    assert all(p.grad is not None for p in module.parameters())


def test_what_cannot_be_is_refused():
    for options, said in (
        ({"deleted": 1.0}, r"--autoencoder.deleted is 1.0; it must be at least 0 and below 1"),
        ({"free_bits": -1.0}, r"--autoencoder.free_bits is -1.0; it must be 0 or more"),
        ({"decoder_layers": 0}, r"--autoencoder.decoder_layers is 0; it must be at least 1"),
        ({"latent_size": 8}, r"--autoencoder.latent_size is for a variational or sparse bottleneck"),
    ):
        with pytest.raises(UserError, match=said):
            autoencoder(**options)
        with pytest.raises(UserError, match=said):
            DenoisingAutoencoder.completed(config_for(**options))
    with pytest.raises(UserError, match="reads packed rows"):
        DenoisingAutoencoder(PackedModel(tiny_model("bert"), False), TOKENIZER, config_for())
    with pytest.raises(UserError, match="AlbertModel does not have"):
        autoencoder("albert")
    with pytest.raises(UserError, match="begins no text with a special token"):
        DenoisingAutoencoder.frame(TOKENIZER, config_for())


# ---------------------------------------------------------------------------------------------------------------------
# runs


def test_a_run_gives_an_encoder_of_vectors_and_resumes_to_the_bit(tmp_path):
    write_corpus(tmp_path / "corpus.txt", documents=120)
    options = ["--data.sources", tmp_path / "corpus.txt", *TINY, "--train.global_batch_size", "12"]
    options += ["--checkpoint.every", "2", "--schedule.name", "constant", "--autoencoder.bottleneck", "variational"]

    def pretrain(out, steps, *more):
        return run("pretrain_autoencoder.py", *options, "--output_dir", tmp_path / out, "--train.steps", steps, *more)

    said = pretrain("run", 4)
    assert "written anew: held-out loss" in said
    assert "with another document's vector" in said
    assert "(cosine " in said
    for auto in (AutoModelForMaskedLM, AutoModel):
        _, info = auto.from_pretrained(tmp_path / "run", output_loading_info=True)
        assert not info["missing_keys"]
    assert json.loads((tmp_path / "run" / "modules.json").read_text())[1]["path"] == "1_Pooling"
    assert json.loads((tmp_path / "run" / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| Pooling | mean |" in card
    snippet = card.split("```python\n")[1].split("```")[0].replace("'run'", repr(str(tmp_path / "run")))
    exec(compile(snippet, "card", "exec"), {})
    last = events(tmp_path / "run", "evaluation")[-1]
    assert {"reconstruction", "reconstruction_of_another", "active_entries", "kl_per_document"} <= last.keys()

    pretrain("again", 2)
    pretrain("again", 4, "--resume.allow_changed")
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again"))
    assert whole == resumed
    losses = [[event["loss"] for event in events(tmp_path / name, "step")] for name in ("run", "again")]
    assert losses[0] == losses[1]
    assert AutoTokenizer.from_pretrained(tmp_path / "run").encode(texts()[0])


def test_the_shipped_options_are_read():
    shipped = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "autoencoder_domain.yaml"
    assert parse(AutoencoderConfig, argv=["--config", str(shipped)]).autoencoder.deleted == 0.6
