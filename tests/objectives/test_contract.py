"""The contract of objectives, held by two that nothing in the project knows: made here, trained like those it has.

`Centred` has two loss terms of very different counts, a head of its own, and a buffer that moves after every step.
`TwoViews` has a loss that is no sum over micro-batches: every row is told apart from all others of the step. The
witnesses are plain transformers and PyTorch, a document at a time, in float64.

Run as a program, this file is a recipe (`pretrain`), or one process of several (`trajectories`).
"""

# ruff: noqa: E402  (the helpers in other folders are found first)
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "equivalence"), str(TESTS)]

import forks
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from launch import TINY, environment, events, execute, write_corpus
from parity_cases import BATCH, ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, Case, alone, documents, packed_row
from toys import tiny_model
from transformers import AutoModel, AutoModelForMaskedLM

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.pretraining import MaskingConfig, PretrainConfig
from nlp_ssl.core import program
from nlp_ssl.data.sequences.batches import TrainBatches, held_out_batches
from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.doctor.proofs import Difference, Trajectory, difference, parity, trajectory
from nlp_ssl.evaluation.held_out import evaluate
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.masking import IGNORE, MaskingCollator
from nlp_ssl.objectives.objective import PretrainingObjective, digest_of
from nlp_ssl.publishing.card import CardText
from nlp_ssl.publishing.pushed import model_files
from nlp_ssl.runs import pretraining, pretraining_data

STEPS, LR, MOMENTUM = 3, 0.05, 0.5
EXACT = 1e-12  # of float64: right differs by rounding, and what is wrong by a thousandth or more
MICRO_BATCHES = (16, 4, 3)  # 16; 4 + 4 + 4 + 4; 3 + 3 + 3 + 3 + 3 + 1
CARD = {"limit": "It was made for a test.", "example": "'A text.'", "snippet": "print({model}, {example})"}


# ---------------------------------------------------------------------------------------------------------------------
# two terms, and a buffer that every step moves


@dataclass
class CentreSection:
    """How scores are held together."""

    weight: float = 0.5
    """Of the second term beside the first."""


@dataclass
class CentredConfig(PretrainConfig):
    """One run of a toy."""

    output_dir: str = "runs/centred"
    """Folder of the run."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    centre: CentreSection = field(default_factory=CentreSection)


class CentredCollator:
    """Masked rows with their labels in place."""

    def __init__(self, masking: MaskingCollator) -> None:
        self.masking = masking

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        batch = stack_rows(rows, self.masking.tokenizer.pad_token_id)
        masked, labels = self.masking.mask(batch["input_ids"], self.masking.row_keys(batch["epoch"], batch["row"]))
        seen = np.where(batch["document_ids"] > 0, masked + 1, 0) + (labels - IGNORE << 32)
        arrays = {key: batch[key] for key in ("document_ids", "position_ids")}
        arrays |= {"input_ids": masked, "labels": labels, "cu_seqlens": cumulative_lengths(batch["document_ids"])}
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return tensors | {"digest": digest_of(batch["row"], batch["epoch"], seen)}

    def counts(self, batch: dict[str, torch.Tensor]) -> dict[str, int]:
        """Masked tokens, and all tokens."""
        return {"mlm": int((batch["labels"] != IGNORE).sum()), "centre": int((batch["document_ids"] > 0).sum())}


class Centred(PretrainingObjective):
    """Masked tokens are predicted, and every token has a score that is to be near the average of the last steps."""

    Config = CentredConfig
    auto_class = AutoModelForMaskedLM
    metrics = {"held_out_loss": "min", "score_std": "max", "median_score": "max"}  # noqa: RUF012
    collected = frozenset({"scores"})
    unsaved = ("scale",)
    card = CardText(
        pipeline_tag="fill-mask",
        objective="masked language modelling with centred scores",
        what="a toy",
        recipe="test_contract",
        results={"score_std": "Standard deviation of the scores of held-out tokens"},
        **CARD,
    )

    def __init__(self, model: PackedModel, tokenizer: Any, config: Any) -> None:
        super().__init__(model, tokenizer, config)
        self.weights = {"mlm": 1.0, "centre": config.centre.weight}
        self.head = torch.nn.Linear(len(tokenizer), 1)
        torch.nn.init.ones_(self.head.bias)  # far from the first average
        self.register_buffer("average", torch.zeros(()))
        self.scale = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)  # as a teacher is: frozen, never saved
        torch.nn.init.ones_(self.scale.weight)
        self.seen: list[torch.Tensor] = []  # sum and number of this step's scores

    @property
    def terms(self) -> dict[str, float]:
        return self.weights

    @classmethod
    def needs_mask_token(cls) -> bool:
        return True

    @classmethod
    def collator(cls, tokenizer: Any, config: Any, *, seed: int, source: int = 0) -> CentredCollator:
        return CentredCollator(MaskingCollator(tokenizer, config.masking, seed=seed, source=source))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = {key: batch[key] for key in ("document_ids", "position_ids", "cu_seqlens")}
        logits = self.model(batch["input_ids"], **inputs)
        scores = self.scale(self.head(logits))[..., 0][batch["document_ids"] > 0]
        if self.training:
            self.seen.append(torch.stack([scores.sum(), scores.new_tensor(len(scores))]).detach())
        mlm = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE, reduction="sum")
        sums = {"mlm": mlm, "centre": (scores - self.average).square().sum()}
        if self.training:
            return sums
        return {**sums, "moments": torch.stack([scores.sum(), scores.square().sum()]), "scores": scores}

    def after_step(self, step: int) -> None:
        total, count = everywhere(torch.stack(self.seen).sum(0))
        self.average.lerp_(total / count, 1 - MOMENTUM)
        self.seen.clear()
        if os.environ.get("STOP_AFTER") == str(step):
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(self, sums: Any, counts: Any, num_bytes: float) -> dict[str, float]:
        mean, square = (sums["moments"] / counts["centre"]).tolist()
        more = {"score_std": (square - mean**2) ** 0.5, "median_score": sums["scores"].median().item()}
        assert sums["scores"].shape == (counts["centre"],)
        return super().evaluate(sums, counts, num_bytes) | more

    def files(self) -> dict[str, str]:
        return {"modules.json": "[]", "1_Pooling/config.json": "{}"}

    def identity(self) -> dict[str, str]:
        return {"the scale of the scores": os.environ.get("SCALE", "1")}

    def facts(self) -> dict[str, Any]:
        return {"scores": "one per token", "base_model": "somebody/began-with-this"}

    def samples(self, folder: Path, held_out: Any, tokenizer: Any) -> Iterator[str]:
        yield f"the last average was {float(self.average):.6f}"


def everywhere(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


# ---------------------------------------------------------------------------------------------------------------------
# a run of it, by the stages of every pretraining recipe


def main(config: CentredConfig) -> None:
    data = pretraining_data.prepare(config, Centred)
    run = pretraining.start(config, Centred, data)
    run.train()
    pretraining.show(run, data)


def pretrain(corpus: Path, out: Path, *more: str, expect: int = 0, **variables: str) -> str:
    """Run this file as a recipe; returns what it printed."""
    steps = [
        "--train.steps",
        "8",
        "--train.global_batch_size",
        "12",
        "--train.micro_batch_size",
        "5",
        "--checkpoint.every",
        "3",
    ]
    steps += ["--evaluation.every", "4", "--optimizer.name", "adamw", "--optimizer.lr", "2e-3"]
    given = ["--data.sources", corpus, *TINY, *steps, "--output_dir", out, *more]
    return execute([sys.executable, __file__, "pretrain", *map(str, given)], expect, **variables)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing stopped, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, pretrain(corpus, out)


def kept(out: Path) -> dict[str, torch.Tensor]:
    """What the last checkpoint holds beside the model."""
    return torch.load(out / "checkpoints" / "step-00000008" / "training_state" / "objective.pt", weights_only=True)


def test_every_term_is_learnt_logged_and_counted_by_itself(whole: tuple[Path, str]) -> None:
    out, _ = whole
    steps = events(out, "step")
    assert [step["step"] for step in steps] == list(range(1, 9))
    for step, before in zip(steps, [{"tokens": 0}, *steps], strict=False):
        assert step["loss"] == pytest.approx(step["mlm_loss"] + 0.5 * step["centre_loss"], rel=1e-6)
        assert step["centre_targets"] == step["tokens"] - before["tokens"]
        assert 0.1 < step["mlm_targets"] / step["centre_targets"] < 0.2
        assert step["num_targets"] == step["mlm_targets"] + step["centre_targets"]
    for term in ("mlm_loss", "centre_loss"):
        assert steps[-1][term] < steps[0][term]


def test_it_is_evaluated_by_its_own_numbers_and_its_card_shows_those_it_names(whole: tuple[Path, str]) -> None:
    out, printed = whole
    found = events(out, "evaluation")
    assert [evaluation["step"] for evaluation in found] == [0, 4, 8]
    assert all({"held_out_loss", "score_std"} <= evaluation.keys() for evaluation in found)
    assert found[-1]["held_out_loss"] < found[0]["held_out_loss"]
    assert f"held-out loss {found[-1]['held_out_loss']:.3f} per target" in printed
    assert f"the last average was {float(kept(out)['average']):.6f}" in printed
    card = (out / "README.md").read_text()
    assert "| Objective | masked language modelling with centred scores |" in card
    assert f"| Standard deviation of the scores of held-out tokens | {found[-1]['score_std']:.4g} |" in card
    assert "held_out_loss" not in card.lower().replace(" ", "_")
    assert "pipeline_tag: fill-mask" in card
    assert "nlp-ssl test-contract --config" in card
    assert "| Scores | one per token |" in card
    assert "continued from [somebody/began-with-this]" in card
    assert "base_model: somebody/began-with-this" in card


def test_the_model_is_published_without_what_only_training_needs(whole: tuple[Path, str]) -> None:
    out, _ = whole
    model, found = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not (out / "training_state").exists()
    assert kept(out).keys() == {"head.weight", "head.bias", "average"}  # and not the scale, which never changes
    for folder in (out, out / "checkpoints" / "step-00000008"):
        assert (folder / "modules.json").read_text() == "[]"
        assert (folder / "1_Pooling" / "config.json").read_text() == "{}"
    assert {"modules.json", "1_Pooling/config.json"} <= model_files(out).keys()
    assert kept(out)["head.weight"].shape == (1, model.config.vocab_size)


def test_stopped_and_resumed_it_is_the_same_run_to_the_bit(
    whole: tuple[Path, str], corpus: Path, tmp_path: Path
) -> None:
    out, stopped = whole[0], tmp_path / "run"
    pretrain(corpus, stopped, expect=75, STOP_AFTER="3")
    steps = [event["step"] for event in events(stopped, "step")]
    assert 3 <= steps[-1] < 7
    refused = pretrain(corpus, stopped, "--resume", expect=2, SCALE="2")
    assert "the scale of the scores changed" in refused
    printed = pretrain(corpus, stopped, "--resume")
    assert f"(step {steps[-1]})" in printed
    measured = ("loss", "mlm_loss", "centre_loss", "mlm_targets", "centre_targets", "grad_norm", "lr", "digest")
    for kind, names in (
        ("step", ("step", *measured)),
        ("evaluation", ("step", "held_out_loss", "score_std", "median_score")),
    ):
        found, expected = ([[e[name] for name in names] for e in events(each, kind)] for each in (stopped, out))
        assert found == expected
    assert (stopped / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    again, once = kept(stopped), kept(out)
    assert again.keys() == once.keys()
    assert all(torch.equal(again[name], value) for name, value in once.items())
    assert once["average"].abs() > 0


# ---------------------------------------------------------------------------------------------------------------------
# it beside plain transformers, and under every split

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]
WEIGHTS = [{"mlm": 1.0, "centre": 0.5}, {"mlm": 1.0, "centre": 0.0}, {"mlm": 0.0, "centre": 1.0}]


def centred(weights: dict[str, float]) -> Centred:
    model = PackedModel(tiny_model("bert", isolated=True, vocab_size=VOCABULARY, **ROLES), True)
    torch.manual_seed(0)
    module = Centred(model, TOKENIZER, CentredConfig()).double()
    module.weights = weights
    return module


def centred_batches(micro_batch: int, accelerator: Accelerator | None = None, batch_size: int = BATCH) -> TrainBatches:
    collator = Centred.collator(TOKENIZER, CentredConfig(), seed=SEED)
    return share(ROWS, collator, micro_batch, accelerator, batch_size)


def share(rows: Any, collator: Any, micro_batch: int, accelerator: Any, batch_size: int) -> TrainBatches:
    """This process's."""
    rank, world_size = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    phases = Phases([Phase(rows, batch_size, micro_batch)])
    return TrainBatches(phases, collator, seed=SEED, rank=rank, world_size=world_size)


def sgd(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=LR)


def alone_sums(model: Any, module: Centred, numbers: Any, epochs: Any) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """The sums of both terms of some rows, or rather the losses of masked tokens and the scores; and their counts."""
    losses, scores = [], []
    for number, epoch in zip(numbers.tolist(), epochs.tolist(), strict=True):
        for ids, labels in alone(Case("bert", "masked"), documents(True)[number], number, epoch):
            logits = model(torch.tensor([ids])).logits[0]
            scores.append(logits @ module.head.weight[0] + module.head.bias)
            at = [i for i, label in enumerate(labels) if label != IGNORE]
            losses += [-logits[i].log_softmax(-1)[labels[i]] for i in at]
    flat = torch.cat(scores)
    return torch.stack(losses), flat, len(losses), len(flat)


def expected_of_centred(weights: dict[str, float], batch_size: int = BATCH) -> Trajectory:
    module = centred(weights)  # gives its head
    model = tiny_model("bert", vocab_size=VOCABULARY, **ROLES).double().train()
    parameters = {f"model.model.{name}": p for name, p in model.named_parameters()}
    parameters |= {f"head.{name}": p for name, p in module.head.named_parameters()}
    optimizer = torch.optim.SGD(list(parameters.values()), lr=LR)
    average, losses, norms, gradient = 0.0, [], [], {}
    for step in range(STEPS):
        _, numbers, epochs = centred_batches(batch_size, batch_size=batch_size).step_rows(step)
        masked, scores, num_masked, num_tokens = alone_sums(model, module, numbers, epochs)
        mlm, centre = masked.sum() / num_masked, ((scores - average) ** 2).sum() / num_tokens
        loss = weights["mlm"] * mlm + weights["centre"] * centre
        optimizer.zero_grad()
        loss.backward()
        gradient = gradient or {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        losses.append(loss.item())
        norms.append(torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None]).norm().item())
        optimizer.step()
        average = MOMENTUM * average + (1 - MOMENTUM) * scores.mean().item()
    return Trajectory(losses, norms, gradient, {name: p.detach() for name, p in parameters.items()})


def assert_same(found: Difference) -> None:
    assert max(found.loss, found.gradient, found.parameters) < EXACT


@pytest.mark.parametrize("weights", WEIGHTS, ids=["both terms", "the first", "the second"])
def test_one_batch_is_its_micro_batches_in_every_term_and_what_plain_transformers_has(
    weights: dict[str, float],
) -> None:
    def make(micro_batch: int) -> tuple[Centred, torch.optim.Optimizer, TrainBatches]:
        module = centred(weights)
        return module, sgd(module), centred_batches(micro_batch)

    accelerator = Accelerator(cpu=True)
    for found in parity(make, MICRO_BATCHES, accelerator, STEPS).values():
        assert_same(found)
    assert_same(difference(trajectory(*make(4), accelerator, STEPS), expected_of_centred(weights)))


@pytest.mark.parametrize("batch_size", [16, 3])
def test_its_evaluation_is_that_of_plain_transformers_whatever_the_batch(batch_size: int) -> None:
    module = centred(WEIGHTS[0])
    module.average.fill_(0.25)
    collator = Centred.collator(TOKENIZER, CentredConfig(), seed=SEED)
    found = evaluate(module, held_out_batches(ROWS, collator, batch_size=batch_size), Accelerator(cpu=True))
    model = tiny_model("bert", vocab_size=VOCABULARY, **ROLES).double()
    with torch.no_grad():
        rows = np.arange(len(ROWS))
        masked, scores, *counts = alone_sums(model, module, rows, 0 * rows)
    assert list(found.counts.values()) == counts
    loss = masked.mean() + 0.5 * ((scores - 0.25) ** 2).mean()
    expected = {"held_out_loss": loss.item(), "score_std": scores.std(correction=0).item()}
    expected["median_score"] = scores.median().item()
    assert module.evaluate(found.sums, found.counts, 1.0) == pytest.approx(expected, rel=1e-10)
    assert not module.seen  # an evaluation moves nothing


# ---------------------------------------------------------------------------------------------------------------------
# a loss over all vectors of a step

VIEWS = [[ids[: len(ids) // 2], ids[len(ids) // 2 :]] for (ids,) in ([d.ids for d in row] for row in documents(False))]


class TwoViewsCollator:
    """Both views of every row, the first ones before the second ones."""

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        rows = list(rows)
        views = [row["views"][i] for i in range(2) for row in rows]
        longest = max(map(len, views))
        ids = np.array([view + [0] * (longest - len(view)) for view in views])
        real = np.array([[1] * len(view) + [0] * (longest - len(view)) for view in views])
        numbers, epochs = (np.array([row[key] for row in rows] * 2) for key in ("row", "epoch"))
        arrays = {"input_ids": ids, "document_ids": real, "position_ids": np.cumsum(real, 1) - real}
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return tensors | {"digest": digest_of(numbers, epochs, (ids + 1) * real)}

    def counts(self, batch: dict[str, torch.Tensor]) -> dict[str, int]:
        """Rows."""
        return {"contrast": len(batch["input_ids"]) // 2}


def info_nce(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Nats to name, for every first view, the second view of its row among all; summed (van den Oord et al. 2018)."""
    return F.cross_entropy(first @ second.T / 0.1, torch.arange(len(first)), reduction="sum")


class TwoViews(PretrainingObjective):
    """Each row's two views are told apart from those of all other rows."""

    auto_class = AutoModel
    two_pass = True
    card = CardText(
        pipeline_tag="feature-extraction", objective="telling texts apart", what="a toy", recipe="none", **CARD
    )

    @property
    def terms(self) -> dict[str, float]:
        return {"contrast": 1.0}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = self.model(**{key: batch[key] for key in ("input_ids", "document_ids", "position_ids")})
        real = (batch["document_ids"] > 0)[..., None]
        first, second = F.normalize((hidden * real).sum(1) / real.sum(1), dim=-1).chunk(2)
        vectors = torch.stack([first, second], dim=1)
        return {"vectors": vectors} if self.training else self.loss_of_vectors(vectors)

    def loss_of_vectors(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"contrast": info_nce(*vectors.unbind(1))}


class WithinMicroBatches(TwoViews):
    """As code has it that knows of no second pass: a row is told apart from those of its micro-batch."""

    two_pass = False

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = super().forward(batch)
        return self.loss_of_vectors(found["vectors"]) if self.training else found


def plain_encoder(isolated: bool = False, dropout: float = 0.0) -> Any:
    made = tiny_model("modernbert", isolated=isolated, vocab_size=VOCABULARY, auto_class=AutoModel, **ROLES)
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return made.double().train()


def contrasted(
    micro_batch: int,
    accelerator: Accelerator,
    batch_size: int = BATCH,
    objective: type[TwoViews] = TwoViews,
    dropout: float = 0.0,
) -> Trajectory:
    module = objective(PackedModel(plain_encoder(isolated=True, dropout=dropout), True), TOKENIZER, None)
    batches = share([{"views": views} for views in VIEWS], TwoViewsCollator(), micro_batch, accelerator, batch_size)
    return trajectory(module, sgd(module), batches, accelerator, STEPS)


def expected_of_two_views(batch_size: int = BATCH) -> Trajectory:
    model = plain_encoder()
    parameters = {f"model.model.{name}": p for name, p in model.named_parameters()}
    optimizer, losses, norms, gradient = sgd(model), [], [], {}

    def vector(ids: list[int]) -> torch.Tensor:
        mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        return mean / mean.norm()

    for step in range(STEPS):
        _, numbers, _ = share(VIEWS, TwoViewsCollator(), batch_size, None, batch_size).step_rows(step)
        first, second = (torch.stack([vector(VIEWS[number][i]) for number in numbers]) for i in range(2))
        likeness = (first @ second.T / 0.1).exp()
        loss = -(likeness.diagonal() / likeness.sum(1)).log().mean()
        optimizer.zero_grad()
        loss.backward()
        gradient = gradient or {name: p.grad.clone() for name, p in parameters.items()}
        losses.append(loss.item())
        norms.append(torch.cat([p.grad.flatten() for p in parameters.values()]).norm().item())
        optimizer.step()
    return Trajectory(losses, norms, gradient, {name: p.detach() for name, p in parameters.items()})


@pytest.mark.parametrize("micro_batch", MICRO_BATCHES)
def test_negatives_are_those_of_the_whole_step_however_it_is_split(micro_batch: int) -> None:
    assert_same(difference(contrasted(micro_batch, Accelerator(cpu=True)), expected_of_two_views()))


def test_negatives_of_the_micro_batch_alone_would_be_seen() -> None:
    accelerator, true = Accelerator(cpu=True), expected_of_two_views()
    assert_same(difference(contrasted(BATCH, accelerator, objective=WithinMicroBatches), true))
    wrong = difference(contrasted(4, accelerator, objective=WithinMicroBatches), true)
    assert min(wrong.loss, wrong.gradient) > 0.1


def test_both_passes_have_the_same_dropout() -> None:
    """Of one micro-batch: that of a single pass, which leaves the generator where two passes leave it."""
    found = []
    for objective in (TwoViews, WithinMicroBatches):
        torch.manual_seed(1)
        found.append(contrasted(BATCH, Accelerator(cpu=True), objective=objective, dropout=0.1))
    assert_same(difference(*found))
    assert difference(found[0], expected_of_two_views()).gradient > 1e-2  # there was some


# ---------------------------------------------------------------------------------------------------------------------
# two processes

SPLITS = {"4 a process": (BATCH, 4), "3, 3, 2 a process": (BATCH, 3), "7 and 8 rows": (15, 4)}


def trajectories(out: str) -> None:
    """Both objectives under every split, in one process of several; rank 0 writes what they did."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    found = {}
    for split, (batch_size, micro_batch) in SPLITS.items():
        module = centred(WEIGHTS[0])
        batches = centred_batches(micro_batch, accelerator, batch_size)
        found["centred", split] = trajectory(module, sgd(module), batches, accelerator, STEPS)
        found["two views", split] = contrasted(micro_batch, accelerator, batch_size)
    if dist.get_rank() == 0:
        torch.save(found, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Trajectory]:
    out = tmp_path_factory.mktemp("two") / "found.pt"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done: subprocess.CompletedProcess = forks.run(
        [*launch, __file__, "trajectories", str(out)], env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr
    with torch.serialization.safe_globals([Trajectory]):
        return torch.load(out, weights_only=True)


@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_are_one(split: str, on_two_processes: dict[tuple[str, str], Trajectory]) -> None:
    batch_size, _ = SPLITS[split]
    assert_same(difference(on_two_processes["centred", split], expected_of_centred(WEIGHTS[0], batch_size)))
    assert_same(difference(on_two_processes["two views", split], expected_of_two_views(batch_size)))


if __name__ == "__main__":
    what = sys.argv.pop(1)
    if what == "trajectories":
        trajectories(sys.argv[1])
    else:
        program.run(main, lambda: parse(CentredConfig, __doc__))
