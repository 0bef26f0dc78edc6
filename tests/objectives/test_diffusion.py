"""Masked diffusion: its bound against all orders of a table, its loss against plain transformers, its samples."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from transformers import AutoModelForMaskedLM

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from launch import ROOT, TINY, events, run, write_corpus
from parity_cases import ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model, word_tokenizer

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.diffusion import DiffusionConfig, DiffusionSection
from nlp_ssl.config.pretraining import MaskingConfig, MLMConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import held_out_rows
from nlp_ssl.data.sequences.order import rows_at
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.diffusion import DiffusionCollator, MaskedDiffusion
from nlp_ssl.objectives.diffusion_noise import counted_masks, timesteps
from nlp_ssl.objectives.diffusion_sampling import unmask
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedLanguageModeling

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]
MASK = TOKENIZER.mask_token_id


def config(**section):
    return DiffusionConfig(diffusion=DiffusionSection(**section))


def collator(source=0, **section):
    return MaskedDiffusion.collator(TOKENIZER, config(**section), seed=SEED, source=source)


def objective(name="bert", dtype=torch.float64):
    model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES)
    return MaskedDiffusion(PackedModel(model, True), TOKENIZER, config()).to(dtype)


def selection(numbers, epoch=0):
    numbers = np.asarray(numbers)
    return Selection(ROWS, numbers, np.full_like(numbers, epoch))


# ---------------------------------------------------------------------------------------------------------------------
# the bound, of a model that is a table: every masked text of four tokens over five words has distributions of its own

LENGTH, WORDS = 4, 5
TABLE_TOKENIZER = word_tokenizer(5 + WORDS)
FIRST, TABLE_MASK = 5, TABLE_TOKENIZER.mask_token_id
TEXT = torch.tensor([2, 0, 4, 1]) + FIRST


class Table(torch.nn.Module):
    """Called as a `PackedModel` is; the mask token, too, has a logit, and not a low one."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = ((WORDS + 1) ** LENGTH, LENGTH, 5 + WORDS)
        self.logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.logits[..., TABLE_MASK] += 3
        self.logits[..., [i for i in range(FIRST) if i != TABLE_MASK]] = -math.inf  # words and the mask alone

    def forward(self, input_ids, label_positions=None, **_):
        digits = torch.where(input_ids == TABLE_MASK, WORDS, input_ids - FIRST)
        state = (digits * (WORDS + 1) ** torch.arange(LENGTH)).sum(-1)
        logits = self.logits[state]
        if label_positions is None:
            return logits
        return logits.reshape(-1, logits.shape[-1])[label_positions.long()][None]


def nats(visible, at):
    """-log P of the token at a place given those at other places, by hand."""
    seen = torch.full_like(TEXT, TABLE_MASK)
    seen[list(visible)] = TEXT[list(visible)]
    logits = Table()(seen[None])[0, at, FIRST:]  # no word is the mask
    return float(logits.logsumexp(0) - logits[TEXT[at] - FIRST])


def mean_over_orders():
    orders = list(itertools.permutations(range(LENGTH)))
    return sum(nats(order[:i], order[i]) for order in orders for i in range(LENGTH)) / len(orders)


def bound_of(masked, rate, training):
    """What the objective makes of one mask."""
    places = np.flatnonzero(masked)
    ids = torch.where(torch.tensor(masked), TABLE_MASK, TEXT)[None]
    batch = {key: torch.ones_like(ids) for key in ("document_ids", "position_ids", "cu_seqlens")}
    batch |= {"input_ids": ids, "label_positions": torch.tensor(places), "labels": TEXT[torch.tensor(places)]}
    batch |= {"rates": torch.full((len(places),), rate, dtype=torch.float64)}
    module = MaskedDiffusion(Table(), TABLE_TOKENIZER, config()).train(training)
    return float(module(batch)["diffusion"])


MASKS = [m for m in itertools.product([False, True], repeat=LENGTH) if any(m)]


def test_counted_masks_of_uniform_number_have_the_mean_over_all_orders():
    sizes = range(1, LENGTH + 1)
    of_size = {k: [bound_of(m, k / LENGTH, training=False) for m in MASKS if sum(m) == k] for k in sizes}
    assert [len(found) for found in of_size.values()] == [4, 6, 4, 1]
    found = sum(sum(of_size[k]) / len(of_size[k]) for k in sizes) / LENGTH
    assert found == pytest.approx(mean_over_orders(), rel=1e-12)


def test_independent_masks_integrated_over_their_probability_have_it_too():
    points, weights = np.polynomial.legendre.leggauss(8)  # exact for polynomials up to degree 15
    found = 0.0
    for p, weight in zip((points + 1) / 2, weights / 2, strict=True):
        for m in MASKS:
            chance = p ** sum(m) * (1 - p) ** (LENGTH - sum(m))
            found += weight * chance * bound_of(m, p, training=True)
    assert found == pytest.approx(mean_over_orders(), rel=1e-12)


def test_what_the_collators_draw_has_it_on_average():
    """Both, over many rows that are all that text; and the sum is of all maskable tokens, masked or not."""
    count = 4096
    row = {"input_ids": TEXT.numpy(), "document_ids": np.ones(LENGTH, int), "position_ids": np.arange(LENGTH)}
    rows = [row | {"cut_ends": np.zeros(LENGTH, bool)}] * count
    everything = Selection(rows, np.arange(count), np.zeros(count, int))
    known = {m: bound_of(m, 1.0, training=True) for m in MASKS}
    known[(False,) * LENGTH] = 0.0
    for source, within in ((0, 0.08), (1, 0.02)):  # that of training has the more variance
        reader = MaskedDiffusion.collator(TABLE_TOKENIZER, config(), seed=SEED, source=source)
        reader.max_rows = None
        batch = reader(everything)
        assert reader.counts(batch) == {"diffusion": count * LENGTH}
        rates = torch.ones(count)
        used = batch["labels"] != IGNORE
        rates[batch["label_positions"][used] // LENGTH] = batch["rates"][used]
        masked = (batch["input_ids"] == TABLE_MASK).tolist()
        found = sum(known[tuple(m)] / float(rate) for m, rate in zip(masked, rates, strict=True)) / count
        assert found == pytest.approx(mean_over_orders(), rel=within)


# ---------------------------------------------------------------------------------------------------------------------
# timesteps and masks


def test_a_timestep_is_uniform_over_rows_over_epochs_and_over_seeds():
    def found(seed, epochs, rows, total=1000):
        places = np.array([int(np.flatnonzero(rows_at(np.arange(total), total, seed)[0] == r)[0]) for r in rows])
        one = np.ones((len(rows), 1), int)
        return timesteps(seed, 0, np.asarray(epochs), places, one)[:, 0] / 2.0**64

    over_rows = timesteps(0, 0, np.zeros(1000, int), np.arange(1000), np.ones((1000, 1), int))[:, 0] / 2.0**64
    assert kstest(over_rows, "uniform").statistic < 0.004  # independent ones: 0.027 on average
    over_documents = timesteps(0, 0, np.zeros(1, int), np.zeros(1, int), np.arange(1, 501)[None])[0] / 2.0**64
    assert kstest(over_documents, "uniform").statistic < 0.008
    over_seeds = [found(seed, [0], [17], 100)[0] for seed in range(300)]
    assert kstest(over_seeds, "uniform").pvalue > 0.01
    of_row = [batch_times(collator(), 17, epoch) for epoch in range(300)]
    assert kstest(of_row, "uniform").pvalue > 0.01


def batch_times(reader, row, epoch):
    """The timestep of a row's first document."""
    some = selection([row], epoch)
    batch = {"epoch": some.epochs, "document_ids": ROWS[row]["document_ids"][None]}
    return reader.times(batch, reader.places(some, {}))[0, 0] / 2.0**64


def test_a_step_has_every_mask_rate():
    """The rows of a step come in a random order, and their timesteps are spread as evenly as if they did not."""
    rows = [ROWS[i % len(ROWS)] for i in range(1000)]
    reader = collator()
    for step in range(5):
        numbers, epochs = rows_at(np.arange(16 * step, 16 * step + 16), 1000, SEED)
        some = Selection(rows, numbers, epochs)
        batch = {"epoch": epochs, "document_ids": np.ones((16, 1), int)}
        times = np.sort(reader.times(batch, reader.places(some, {}))[:, 0] / 2.0**64)
        assert np.abs(times - (np.arange(16) + 0.5) / 16).max() < 0.11  # of independent ones 0.2 on average


def test_an_evaluation_has_every_mask_rate_whichever_rows_it_visits():
    for total, most in ((89 * 256, 256), (1000, 300), (50, 256), (144 * 64 + 5, 64)):
        visited = held_out_rows(total, most)
        reader = collator(source=1)
        reader.max_rows = most
        rows = Selection([None] * total, visited, np.zeros(len(visited), int))
        assert reader.places(rows, {"row": visited}).tolist() == list(range(len(visited)))


def test_masks_belong_to_their_row_however_the_batch_is_split():
    together, alone = (collator()(selection(numbers, epoch=1)) for numbers in ([3, 4, 5], [4]))
    assert torch.equal(together["input_ids"][1], alone["input_ids"][0])
    here = (together["label_positions"] // ROW_LENGTH == 1) & (together["labels"] != IGNORE)
    assert torch.equal(together["rates"][here], alone["rates"][alone["labels"] != IGNORE])
    other = collator()(selection([4], epoch=2))
    assert not torch.equal(other["input_ids"], alone["input_ids"])


@pytest.mark.parametrize("eps", [1e-3, 0.3])
def test_every_document_is_masked_at_the_rate_that_divides_its_loss(eps):
    masked, expected, variance, lowest = 0, 0.0, 0.0, 1.0
    for epoch in range(60):
        batch = collator(eps=eps)(selection(range(20), epoch))
        used = batch["labels"] != IGNORE
        positions, rates = batch["label_positions"][used].long(), batch["rates"][used]
        keys = batch["document_ids"].flatten()[positions] + 10 * (positions // ROW_LENGTH)
        for key in keys.unique():
            assert rates[keys == key].unique().numel() == 1
        lowest = min(lowest, float(rates.min()))
        # as many masked as the rates of all documents say, also of those without a mask
        masked += int(used.sum())
        reader, some = collator(eps=eps), selection(range(20), epoch)
        ids = np.stack([ROWS[i]["input_ids"] for i in range(20)])
        documents_of = np.stack([ROWS[i]["document_ids"] for i in range(20)])
        times = reader.times({"epoch": some.epochs, "document_ids": documents_of}, reader.places(some, {}))
        p = (eps + (1 - eps) * times / 2.0**64)[reader.masking.is_ordinary[ids]]
        expected, variance = expected + p.sum(), variance + (p * (1 - p)).sum()
    assert lowest >= eps
    assert abs(masked - expected) < 4 * math.sqrt(variance)


def test_a_held_out_document_has_exactly_as_many_masks_as_its_rate_says():
    batch = collator(source=1)(selection(range(20)))
    masked = batch["input_ids"] == MASK
    sizes = []
    for row in range(20):
        for number in range(1, int(batch["document_ids"][row].max()) + 1):
            here = batch["document_ids"][row] == number
            size, count = int(here.sum()) - 2, int(masked[row][here].sum())  # without begin and end
            at = (batch["label_positions"] // ROW_LENGTH == row) & (batch["labels"] != IGNORE)
            at &= here[batch["label_positions"].long() % ROW_LENGTH]
            assert 1 <= count == int(at.sum()) <= size
            np.testing.assert_array_equal(batch["rates"][at], np.float32(count / size))
            sizes.append(count / size)
    assert np.mean(sizes) == pytest.approx(0.5, abs=0.1)
    again = collator(source=1)(selection(range(20)))
    assert torch.equal(batch["input_ids"], again["input_ids"])


def test_a_document_without_text_has_no_masks():
    times = np.full((1, 4), 2**63, dtype=np.uint64)
    hashes = np.arange(4, dtype=np.uint64)[None]
    masked, _ = counted_masks(times, hashes, np.array([[False, False, True, False]]), np.array([[1, 1, 2, 2]]))
    assert masked.tolist() == [[False, False, True, False]]


def test_labels_have_slots_for_half_the_tokens_and_for_all_where_all_are_masked():
    reader = collator()
    assert reader.slots(4096, 2000) == 9 * 256
    assert reader.slots(4096, 9 * 256 + 1) == 10 * 256
    assert reader.slots(4096, 4096) == 4096
    assert len(reader(selection(range(20)))["labels"]) == 9 * 50


# ---------------------------------------------------------------------------------------------------------------------
# the loss


class Constant(DiffusionCollator):
    """Every document is masked with probability one half, and no loss is divided."""

    def times(self, batch, places):
        return np.full(batch["document_ids"].shape, 2**63, dtype=np.uint64)

    def __call__(self, rows):
        batch = super().__call__(rows)
        return batch | {"rates": torch.ones_like(batch["rates"])}


def test_at_one_rate_and_without_weights_it_is_masked_language_modelling_bit_for_bit():
    masking = MaskingConfig(probability=0.5, mask_share=1.0, random_share=0.0)
    options = MLMConfig(masking=masking)
    as_mlm = MaskedLanguageModeling.collator(TOKENIZER, options, seed=SEED)
    ours = Constant(MaskingCollator(TOKENIZER, masking, seed=SEED), eps=2.0**-60)
    found = []
    for module, reader, term in (
        (objective(dtype=torch.float32), ours, "diffusion"),
        (MaskedLanguageModeling(objective(dtype=torch.float32).model, TOKENIZER, options), as_mlm, "mlm"),
    ):
        bias = module.model.model.cls.predictions.decoder.bias
        with torch.no_grad():
            bias[MASK] = -math.inf  # what masked language modelling alone may predict
        batch = reader(selection(range(20)))
        loss = module.train()(batch)[term]
        loss.backward()
        used = batch["labels"] != IGNORE
        kept = [batch["input_ids"], batch["labels"][used], batch["label_positions"][used]]
        found.append((kept, loss, {n: p.grad for n, p in module.named_parameters()}))
    (batch, loss, gradient), (their_batch, their_loss, theirs) = found
    assert all(map(torch.equal, batch, their_batch))
    assert torch.equal(loss, their_loss)
    assert len(gradient) > 10
    assert all(torch.equal(value, theirs[name]) for name, value in gradient.items())


@pytest.mark.parametrize("name", ["bert", "modernbert", "roberta", "deberta-v2"])
def test_loss_and_gradient_are_those_of_plain_transformers_a_document_at_a_time(name):
    module = objective(name).train()
    witness = tiny_model(name, vocab_size=VOCABULARY, **ROLES).double().train()
    batch = collator()(selection(range(20), epoch=1))
    loss = module(batch)["diffusion"]
    loss.backward()
    labels, rates = (torch.full((20 * ROW_LENGTH,), fill, dtype=torch.float64) for fill in (IGNORE, 1.0))
    used = batch["labels"] != IGNORE
    positions = batch["label_positions"][used].long()
    labels[positions], rates[positions] = batch["labels"][used].double(), batch["rates"][used].double()
    expected = 0.0
    for row in range(20):
        for number in range(1, int(batch["document_ids"][row].max()) + 1):
            here = batch["document_ids"][row] == number
            logits = witness(batch["input_ids"][row][here].long()[None]).logits[0]
            logits = torch.cat([logits[:, :MASK], logits[:, MASK + 1 :]], dim=1)  # no mask to predict
            theirs = labels.view(20, -1)[row][here].long()
            theirs = torch.where(theirs > MASK, theirs - 1, theirs)
            nats = F.cross_entropy(logits, theirs, reduction="none", ignore_index=IGNORE)
            expected = expected + (nats / rates.view(20, -1)[row][here]).sum()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for parameter, value in witness.named_parameters():
        ours = module.model.model.get_parameter(parameter).grad
        if value.grad is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, value.grad, rtol=1e-9, atol=1e-10)


def test_an_evaluation_says_the_bound_and_what_it_is_made_of():
    module = objective().eval()
    reader = collator(source=1)
    batch = reader(selection(range(20)))
    with torch.no_grad():
        sums = {name: value.double() for name, value in module(batch).items()}
        training = module.train()(batch)["diffusion"]
    assert sums["diffusion"].item() == pytest.approx(training.item(), rel=1e-12)
    found = module.evaluate(sums, reader.counts(batch), num_bytes=500.0)
    assert found.keys() == MaskedDiffusion.metrics.keys()
    words = sum(int((ROWS[i]["input_ids"] > 4).sum()) for i in range(20))
    assert found["held_out_loss"] == pytest.approx(training.item() / words)
    assert found["bits_per_byte"] == pytest.approx(training.item() / math.log(2) / 500)
    assert sums["masked"].sum() == (batch["labels"] != IGNORE).sum()
    near = sums["losses"].sum() / sums["masked"].sum()
    assert min(found["loss_masked_25"], found["loss_masked_100"]) < near.item() < found["loss_masked_100"] + 5


def test_a_step_is_one_graph():
    torch.compiler.reset()
    module = objective(dtype=torch.float32).train()
    explained = torch._dynamo.explain(module)(collator()(selection(range(4))))
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize("eps", [0.0, 1.0, -0.1])
def test_an_eps_that_is_no_probability_is_refused(eps):
    with pytest.raises(UserError, match=r"--diffusion.eps is .*; it must lie between 0 and 1"):
        collator(eps=eps)


# ---------------------------------------------------------------------------------------------------------------------
# samples


def plain():
    """A model as plain transformers makes it."""
    return tiny_model("bert", vocab_size=VOCABULARY, **ROLES).double().eval().requires_grad_(False)


@pytest.mark.parametrize("order", ["confidence", "random"])
@pytest.mark.parametrize("steps", [None, 1, 3])
def test_every_mask_is_filled_with_a_word_and_nothing_else_changes(order, steps):
    ids = torch.tensor([[1, 7, MASK, MASK, 9, MASK, MASK, 2], [1, 8, 7, 6, 9, MASK, 5, 2]])
    found = unmask(plain(), TOKENIZER, ids, steps=steps, order=order, seed=1)
    assert (found[ids == MASK] >= 5).all()
    assert torch.equal(found[ids != MASK], ids[ids != MASK])
    assert torch.equal(found, unmask(plain(), TOKENIZER, ids, steps=steps, order=order, seed=1))
    assert torch.equal(found[0], unmask(plain(), TOKENIZER, ids, steps=steps, order=order, seed=1)[0])


def test_the_surest_token_is_kept_first():
    model, ids = plain(), torch.tensor([[1, 7, MASK, MASK, 9, MASK, 2]])
    expected = ids.clone()
    for _ in range(3):
        logits = model(expected).logits[0]
        logits[:, :5] = -math.inf
        chances = logits.softmax(-1).max(-1)
        at = max(np.flatnonzero(expected[0] == MASK), key=lambda i: chances.values[i].item())
        expected[0, at] = chances.indices[at]
    assert torch.equal(unmask(model, TOKENIZER, ids, temperature=0.0), expected)


def test_one_step_draws_every_token_by_its_probability():
    model, count = plain(), 4000
    ids = torch.tensor([[1, MASK, 2]]).expand(count, -1)
    drawn = unmask(model, TOKENIZER, ids, temperature=0.7)[:, 1]
    logits = model(ids[:1]).logits[0, 1] / 0.7
    chances = logits[5:].softmax(-1).detach().numpy()
    seen = np.bincount(drawn.numpy() - 5, minlength=len(chances))
    often = chances * count > 5
    chi_square = ((seen - chances * count) ** 2 / (chances * count))[often].sum()
    assert chi_square < often.sum() + 4 * math.sqrt(2 * often.sum())


# ---------------------------------------------------------------------------------------------------------------------
# runs

SHORT = ["--train.steps", 6, "--train.global_batch_size", 12, "--train.micro_batch_size", 5, "--evaluation.every", 3]
SHORT += ["--checkpoint.every", 3, "--schedule.name", "constant"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", documents=120)


def test_a_run_leaves_a_model_of_plain_transformers_and_shows_gaps_filled(corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    said = run("pretrain_diffusion.py", "--data.sources", corpus, *TINY, *SHORT, "--output_dir", out)
    assert "held-out bound (NELBO)" in said
    assert "bits per byte" in said
    assert "(it was: " in said
    assert "from nothing: " in said
    _, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    first, last = (events(out, "evaluation")[i] for i in (0, -1))
    assert first["held_out_loss"] == pytest.approx(math.log(319 - 5), abs=0.3)
    assert last["held_out_loss"] < first["held_out_loss"]
    card = (out / "README.md").read_text()
    snippet = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(snippet)  # as it is written
    assert capsys.readouterr().out.startswith("The function returns")

    # on from it, and from a masked language model
    more = ["--model.name", out, "--tokens.sequence_length", 48, "--data.held_out_fraction", 0.1]
    more += ["--train.steps", 1, "--train.global_batch_size", 12]
    run("pretrain_diffusion.py", "--data.sources", corpus, *more, "--output_dir", tmp_path / "more")
    again = events(tmp_path / "more", "evaluation")[0]
    assert again["held_out_loss"] == pytest.approx(last["held_out_loss"], rel=1e-3)


def test_a_resumed_run_is_the_run_that_was_never_stopped(corpus, tmp_path):
    given = ["--data.sources", corpus, *TINY, *SHORT]
    run("pretrain_diffusion.py", *given, "--output_dir", tmp_path / "whole")
    run("pretrain_diffusion.py", *given, "--train.steps", 3, "--output_dir", tmp_path / "run")
    run("pretrain_diffusion.py", *given, "--resume.allow_changed", "--output_dir", tmp_path / "run")
    keep = ("step", "digest", "loss", "grad_norm")
    whole, resumed = ([[e[k] for k in keep] for e in events(tmp_path / name, "step")] for name in ("whole", "run"))
    assert whole == resumed
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]
    said = run(
        "pretrain_diffusion.py", *given, "--diffusion.eps", 0.1, "--resume", "--output_dir", tmp_path / "run", expect=2
    )
    assert "--diffusion.eps was 0.001 and is 0.1" in said


def test_the_shipped_configuration_is_read():
    assert parse(DiffusionConfig, argv=["--config", str(ROOT / "recipes/configs/diffusion_own_corpus.yaml")])


def test_what_it_cannot_train_is_refused(corpus, tmp_path):
    given = ["--data.sources", corpus, "--output_dir", tmp_path / "run"]
    said = run("pretrain_diffusion.py", *given, "--model.name", "llama-tiny", expect=2)
    assert "masked diffusion language modelling trains an encoder" in said
    said = run("pretrain_diffusion.py", *given, *TINY, "--diffusion.eps", 0, "--train.steps", 1, expect=2)
    assert "--diffusion.eps is 0.0; it must lie between 0 and 1" in said
    assert not (tmp_path / "run").exists()
