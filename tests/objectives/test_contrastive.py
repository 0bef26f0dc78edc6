"""Contrastive pretraining, beside plain transformers reading one view at a time in float64."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence", "objectives"))
from launch import TINY, environment, events, run, write_corpus
from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import ROWS
from toys import tiny_model
from transformers import AutoModel, AutoTokenizer

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.config.contrastive import ContrastiveConfig, ContrastiveSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import TrainBatches, held_out_batches
from nlp_ssl.data.sequences.phases import Phase, Phases, Selection
from nlp_ssl.doctor.proofs import difference, trajectory
from nlp_ssl.evaluation.held_out import evaluate
from nlp_ssl.models.attention import stock_implementation
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.contrastive import Contrastive
from nlp_ssl.objectives.momentum import Momentum, Queue
from nlp_ssl.objectives.vector_numbers import info_nce, measure_pairs
from nlp_ssl.training.optimizers import build_optimizer


def config_of(**options):
    return ContrastiveConfig(contrastive=ContrastiveSection(**options))


def objective(name="bert", dropout=0.0, **options):
    model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, auto_class=AutoModel, dropout=dropout, **ROLES)
    return Contrastive(PackedModel(model, True), TOKENIZER, config_of(**options)).double()


def collator(source=0, **options):
    return Contrastive.collator(TOKENIZER, config_of(**options), seed=SEED, source=source)


def batch_of(numbers, **options):
    numbers = np.array(numbers)
    batch = collator(**options)(Selection(ROWS, numbers, np.zeros_like(numbers)))
    return {name: value for name, value in batch.items() if name != "digest"}


def plain(model):
    """The model as transformers makes it, with its own attention."""
    attention = stock_implementation(model)
    made = AutoModel.from_config(model.config, dtype=torch.float32, attn_implementation=attention).double().eval()
    assert not made.load_state_dict(model.state_dict(), strict=False).unexpected_keys
    return made.requires_grad_(False)


def read_alone(model, batch, pooling, which):
    """The vectors of the first or second views by plain transformers, a view at a time."""
    count, model = len(batch["order"]), plain(model)
    vectors = []
    for i in range(int((batch["order"] >= 0).sum())):
        ids = batch["input_ids"][batch["slots"] == i + which * count].long()
        hidden = model(ids[None]).last_hidden_state[0]
        vectors.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    return torch.stack(vectors)


def cosines(one, other):
    return torch.stack([torch.stack([torch.cosine_similarity(a, b, dim=0) for b in other]) for a in one])


# ---------------------------------------------------------------------------------------------------------------------
# the losses


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "roberta"])
@torch.no_grad()
def test_infonce_is_that_of_plain_models_on_views_alone(name, pooling):
    module = objective(name, pooling=pooling, head="mlp", temperature=0.2).train()
    batch = batch_of(range(6))
    found = module.loss_of_vectors(module(batch)["vectors"])["contrastive"]
    first, second = (module.head(read_alone(module.model.model, batch, pooling, which)) for which in range(2))
    scores = cosines(first, second) / 0.2
    expected = -sum(scores[i].log_softmax(0)[i] for i in range(len(scores)))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@torch.no_grad()
def test_an_architecture_that_cannot_keep_documents_apart_reads_a_view_a_row():
    model = tiny_model("distilbert", vocab_size=VOCABULARY, auto_class=AutoModel, pad_token_id=0)
    config = config_of()
    config.tokens.packing = "one_document"
    module = Contrastive(PackedModel(model, False), TOKENIZER, config).double().train()
    made = Contrastive.collator(TOKENIZER, config, seed=SEED)
    batch = made(Selection(ROWS, np.arange(6), np.zeros(6, dtype=np.int64)))
    assert len(batch["input_ids"]) == 2 * made.counts(batch)["contrastive"]
    found = module(batch)["vectors"]
    alone = [F.normalize(read_alone(model, batch, "mean", which), dim=-1) for which in range(2)]
    torch.testing.assert_close(found[: len(alone[0])], torch.stack(alone, 1), rtol=1e-12, atol=1e-12)
    assert not found[len(alone[0]) :].any()


@torch.no_grad()
def test_moco_has_the_momentum_encoders_vectors_of_past_documents_for_negatives():
    module = objective("modernbert", loss="moco", queue=16).train()
    for parameter in module.momentum.encoder.parameters():
        parameter += 0.05 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
    past = torch.randn(9, 32, dtype=torch.float64)
    module.queue.put(F.normalize(past))
    batch = batch_of(range(6))
    found = module(batch)["contrastive"]
    queries = read_alone(module.model.model, batch, "mean", 0)
    keys = read_alone(module.momentum.encoder[0].model, batch, "mean", 1)
    scores = torch.cat([cosines(queries, keys).diagonal()[:, None], cosines(queries, past)], dim=1) / 0.05
    assert found.item() == pytest.approx(-scores.log_softmax(1)[:, 0].sum().item(), rel=1e-12)
    module.after_step(1)
    torch.testing.assert_close(module.queue.vectors[9 : 9 + len(keys)], F.normalize(keys)[: 16 - 9])


@torch.no_grad()
def test_byol_predicts_the_momentum_encoders_vector_of_the_other_view():
    module = objective("bert", loss="byol").train()
    batch = batch_of(range(6))
    found = module(batch)["contrastive"]
    online = [module.predictor(module.head(read_alone(module.model.model, batch, "mean", which))) for which in (0, 1)]
    model, head = module.momentum.encoder
    targets = [head(read_alone(model.model, batch, "mean", which)) for which in (1, 0)]
    both = [2 - 2 * cosines(p, t).diagonal().sum() / len(p) for p, t in zip(online, targets, strict=True)]
    assert found.item() == pytest.approx(sum(both).item() / 2 * len(online[0]), rel=1e-12)


@pytest.mark.parametrize("loss", ["moco", "byol"])
def test_no_gradient_goes_into_the_momentum_encoder(loss):
    module = objective(loss=loss).train()
    module(batch_of(range(4)))["contrastive"].backward()
    assert all(p.grad is None for p in module.momentum.parameters())
    trained = [p for name, p in module.named_parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert not any(name.startswith(("momentum", "queue")) for name, p in module.named_parameters() if p.requires_grad)


class WithinMicroBatches(Contrastive):
    """As code has it that knows of no second pass."""

    def __init__(self, *args):
        super().__init__(*args)
        self.two_pass = False

    def forward(self, batch):
        found = super().forward(batch)
        return self.loss_of_vectors(found["vectors"]) if self.training else found


def test_negatives_of_the_micro_batch_alone_would_be_seen():
    def taken(kind, micro_batch):
        model = tiny_model("bert", isolated=True, vocab_size=VOCABULARY, auto_class=AutoModel, **ROLES)
        module = kind(PackedModel(model, True), TOKENIZER, config_of()).double()
        batches = TrainBatches(Phases([Phase(ROWS, 16, micro_batch)]), collator(), seed=SEED)
        return trajectory(module, build_optimizer(module, OptimizerConfig("adamw", 1e-3)), batches, Accelerator(), 2)

    whole, split, within = taken(Contrastive, 16), taken(Contrastive, 4), taken(WithinMicroBatches, 4)
    right, wrong = difference(split, whole), difference(within, whole)
    assert max(right.loss, right.gradient, right.parameters) < 1e-12
    assert min(wrong.loss, wrong.gradient) > 0.1


@pytest.mark.long
def test_a_step_is_one_graph():
    """But for what MoCo keeps for the end of the step, behind the loss."""
    for loss, graphs in (("infonce", 1), ("byol", 1), ("moco", 2)):
        torch.compiler.reset()
        explained = torch._dynamo.explain(objective(loss=loss).float().train())(batch_of(range(4)))
        assert explained.graph_count <= graphs, explained.break_reasons


def test_a_step_with_a_single_document_is_said(capsys):
    module = objective()
    vectors = torch.zeros(4, 2, 32)
    vectors[0] = F.normalize(torch.ones(2, 32), dim=-1)
    assert module.loss_of_vectors(vectors)["contrastive"] == 0
    assert "a step has one document, which nothing can be told apart from" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# state


def test_the_queue_is_a_ring_and_counts_only_what_it_holds():
    queue, stream = Queue(7, 2), torch.arange(100.0).view(50, 2)
    assert not queue.filled().any()
    begin = 0
    for count in (3, 3, 0, 2, 7, 11, 1):
        queue.put(stream[begin : begin + count])
        begin += count
        held = stream[max(0, begin - 7) : begin]
        assert queue.filled().sum() == len(held)
        assert sorted(queue.vectors[queue.filled()].tolist()) == held.tolist()
    assert queue.vectors[26 % 7].tolist() == stream[26].tolist()


def test_the_momentum_encoder_is_a_moving_average_without_dropout():
    followed = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)])
    copy = Momentum(followed, 0.9)
    assert not copy.train().encoder[1].training
    before = copy.encoder[0].weight.clone()
    with torch.no_grad():
        followed[0].weight += 1
    copy.move()
    torch.testing.assert_close(copy.encoder[0].weight, before + 0.1)
    assert "followed" not in str(list(copy.state_dict()))


def test_a_step_that_was_not_applied_leaves_nothing_in_the_queue():
    module = objective(loss="moco", queue=50).train()
    module(batch_of(range(6)))  # and the guard does not apply it
    module.before_step()
    module(batch_of(range(6, 9)))
    module.after_step(2)
    assert module.queue.seen == int((batch_of(range(6, 9))["order"] >= 0).sum())


# ---------------------------------------------------------------------------------------------------------------------
# held-out numbers


def test_the_numbers_of_pairs_are_their_definitions(monkeypatch):
    monkeypatch.setattr("nlp_ssl.objectives.vector_numbers.CANDIDATES", 6)
    noise = torch.Generator().manual_seed(0)
    first = F.normalize(torch.randn(14, 5, generator=noise, dtype=torch.float64), dim=-1)
    second = F.normalize(first + 0.5 * torch.randn(14, 5, generator=noise, dtype=torch.float64), dim=-1)
    found = measure_pairs(torch.stack([first, second], 1))
    hits, squared = [], []
    for group in (range(6), range(6, 12)):  # the last two are no group
        for i in group:
            hits.append(max(group, key=lambda j: float(first[i] @ second[j])) == i)
            squared += [float((first[i] - first[j]).square().sum()) for j in group if j > i]
    assert 0 < np.mean(hits) < 1
    expected = {"recall_at_1": np.mean(hits), "chance": 1 / 6, "candidates": 6}
    expected["alignment"] = float(((first - second) ** 2).sum(1).mean())
    expected["uniformity"] = np.log(np.mean(np.exp(-2 * np.array(squared))))
    expected["mean_cosine"] = 1 - np.mean(squared) / 2
    expected["spread"] = float(first.std(0, correction=0).mean() * 5**0.5)
    assert found == pytest.approx(expected)


def test_spread_vectors_and_collapsed_ones():
    spread = F.normalize(torch.randn(500, 1, 64, generator=torch.Generator().manual_seed(0)), dim=-1).expand(-1, 2, -1)
    found = measure_pairs(spread)
    assert found["spread"] == pytest.approx(1, abs=0.01)
    assert found["recall_at_1"] == 1
    found = measure_pairs(torch.ones(500, 2, 64) / 8)
    assert found["spread"] < 1e-6
    assert found["recall_at_1"] == 0  # all are equal: none is found
    assert info_nce(torch.ones(500, 2, 64) / 8, 0.05).item() / 500 == pytest.approx(np.log(500))


@pytest.mark.parametrize("head", ["none", "mlp"])
def test_held_out_numbers_are_those_of_plain_crops_whatever_the_view(head, capsys):
    module = objective(view="replacement", head=head, loss="infonce").eval()
    scoring = collator(source=1, view="replacement")
    found = [evaluate(module, held_out_batches(ROWS, scoring, batch_size=n), Accelerator()) for n in (20, 7)]
    numbers = [module.evaluate(each.sums, each.counts, 1.0) for each in found]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-12)
    batch = scoring(Selection(ROWS, np.arange(20), np.zeros(20, dtype=np.int64)))
    first, second = (read_alone(module.model.model, batch, "mean", which) for which in range(2))
    projected = cosines(module.head(first), module.head(second)).detach() / 0.05
    assert numbers[0]["held_out_loss"] == pytest.approx(-float(projected.log_softmax(1).diagonal().mean()))
    hits = cosines(first, second).argmax(1) == torch.arange(len(first))
    assert numbers[0]["recall_at_1"] == pytest.approx(float(hits.double().mean()))
    assert numbers[0]["documents"] + numbers[0]["left_out"] == sum(len(set(row["document_ids"]) - {0}) for row in ROWS)
    assert float(module.at_start) == pytest.approx(numbers[0]["recall_at_1"])
    assert "of the same document for" in module.headline(numbers[0], None, 0.0)


def sums_of(pairs):
    return {"pairs": pairs, "order": torch.arange(float(len(pairs))), "left_out": torch.tensor(0.0)}


def test_the_alarm_when_all_vectors_are_one_and_when_both_views_are(capsys):
    module = objective()
    module.evaluate(sums_of(torch.ones(30, 2, 32) / 32**0.5), {"contrastive": 30}, 1.0)
    assert "collapsed" not in capsys.readouterr().err  # as a new model's may be
    module.after_step(1)
    module.evaluate(sums_of(torch.ones(30, 2, 32) / 32**0.5), {"contrastive": 30}, 1.0)
    assert "the vectors have collapsed" in capsys.readouterr().err
    module.evaluate(sums_of(F.normalize(torch.randn(30, 1, 32), dim=-1).expand(-1, 2, -1)), {"contrastive": 30}, 1.0)
    said = capsys.readouterr().err
    assert "both views of each held-out document have the same vector" in said
    assert "collapsed" not in said


def test_byol_without_its_predictor_on_equal_views_collapses_and_is_alarmed(capsys):
    """What the alarm is for: a loss that falls to nothing, and vectors that say nothing."""
    module = objective(loss="byol", view="dropout", dropout=0.1, momentum=0.0, head="none").float().train()
    module.predictor = torch.nn.Identity()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    for step in range(30):
        module.before_step()
        loss = module(batch_of(range(20), view="dropout"))["contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.after_step(step + 1)
    scoring = collator(source=1)
    capsys.readouterr()
    found = evaluate(module, held_out_batches(ROWS, scoring, batch_size=20), Accelerator())
    numbers = module.evaluate(found.sums, found.counts, 1.0)
    assert numbers["spread"] < 0.1, numbers
    assert "the vectors have collapsed" in capsys.readouterr().err


def test_a_single_held_out_document_is_refused():
    with pytest.raises(UserError, match="one document of which there are two views"):
        objective().evaluate(sums_of(torch.ones(1, 2, 32)), {"contrastive": 1}, 1.0)


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "contrastive.temperature is 0; it must be above 0"),
        ({"temperature": float("nan")}, "contrastive.temperature is nan"),
        ({"queue": 0}, "contrastive.queue is 0"),
        ({"momentum": 0.9}, "contrastive.momentum is for the losses moco and byol"),
        ({"loss": "moco", "momentum": 1.0}, "contrastive.momentum is 1; it must be at least 0 and below 1"),
        ({"noise": 2.0}, "contrastive.noise is 2"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_the_text_is_read(options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Contrastive.completed(config_of(**options))
    with pytest.raises(UserError, match=re.escape(said)):
        objective(**options)


def test_dropout_views_of_a_model_without_dropout_are_refused(capsys):
    with pytest.raises(UserError, match=r"this model has none; give --model\.dropout 0\.1"):
        objective(view="dropout")
    objective(view="dropout", dropout=0.1)
    assert "another split gives other views" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


BUDGET = ["--train.steps", "6", "--train.global_batch_size", "12", "--train.micro_batch_size", "5"]
BUDGET += ["--optimizer.name", "adamw", "--optimizer.lr", "2e-3", "--checkpoint.every", "3", "--evaluation.every", "3"]


@pytest.fixture(scope="module")
def masked(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("masked") / "run"
    run("pretrain_mlm.py", "--data.sources", corpus, *TINY, "--train.steps", 2, "--output_dir", out)
    return out


@pytest.fixture(scope="module")
def finished(corpus, masked, tmp_path_factory):
    """A run with MoCo and a head that continues from a masked model, and what it printed."""
    out = tmp_path_factory.mktemp("contrastive") / "run"
    printed = run(
        "pretrain_contrastive.py", "--data.sources", corpus, "--model.name", masked, "--tokens.sequence_length", 48,
        "--data.held_out_fraction", 0.1, "--train.log_every", 1, "--train.mixed_precision", "no",
        "--train.cpu_threads", 1, *BUDGET, "--contrastive.loss", "moco", "--contrastive.head", "mlp",
        "--contrastive.queue", 50, "--output_dir", out,
    )  # fmt: skip
    return out, printed


TEXT = ["the model reads a text", "cats sleep", "under warm summer rain near old stone walls", "tokens"]


@torch.no_grad()
def mean_pooled(folder):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    return torch.stack([model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(0) for t in TEXT])


def test_it_continues_from_a_masked_model_and_says_where_it_began(finished, masked):
    out, printed = finished
    found = events(out, "evaluation")
    assert [each["step"] for each in found] == [0, 3, 6]
    assert found[0]["recall_at_1"] > 0
    assert f"before training {found[0]['recall_at_1']:.3f}" in printed
    assert "model: continuing from the weights of" in printed
    assert (mean_pooled(masked) - mean_pooled(out)).abs().max() > 1e-3
    assert all(step["num_targets"] > 12 for step in events(out, "step"))
    assert "(cosine " in printed


def test_only_the_encoder_is_published(finished):
    out, _ = finished
    _, found = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    kept = torch.load(out / "checkpoints" / "step-00000006" / "training_state" / "objective.pt", weights_only=True)
    assert {"queue.vectors", "queue.seen", "head.0.weight", "at_start"} <= kept.keys()
    assert {name.split(".")[0] for name in kept} == {"queue", "head", "at_start", "momentum"}
    assert kept["queue.seen"] == sum(step["num_targets"] for step in events(out, "step"))


def test_its_card_has_a_snippet_that_runs(finished):
    out, _ = finished
    card = (out / "README.md").read_text()
    assert "| Objective | contrastive pretraining |" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=out.parent, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert -1 <= float(re.findall(r"tensor\((.*?)\)", done.stdout)[0]) <= 1


def test_the_folder_says_how_a_vector_is_made(finished):
    out, _ = finished
    modules = json.loads((out / "modules.json").read_text())
    assert [(out / each["path"] / "config.json").is_file() for each in modules] == [True, True]
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    assert not pooling["pooling_mode_cls_token"]
    assert pooling["word_embedding_dimension"] == 32
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] >= 48


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)
def test_sentence_transformers_makes_the_same_vectors(finished):
    from sentence_transformers import SentenceTransformer

    encoded = torch.tensor(SentenceTransformer(str(finished[0]), device="cpu").encode(TEXT))
    torch.testing.assert_close(encoded, mean_pooled(finished[0]), rtol=1e-5, atol=1e-5)


def test_text_of_which_all_is_too_short_is_refused(tmp_path, corpus):
    words = corpus.read_text().split()
    (tmp_path / "short.txt").write_text("\n\n".join(" ".join(words[i : i + 2]) for i in range(0, 400, 2)))
    printed = run(
        "pretrain_contrastive.py", "--data.sources", tmp_path / "short.txt", *TINY, "--train.steps", 1,
        "--output_dir", tmp_path / "run", expect=2,
    )  # fmt: skip
    assert "hold nothing to predict" in printed.splitlines()[-1]
    assert not os.path.exists(tmp_path / "run" / "model.safetensors")
