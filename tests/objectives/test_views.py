"""Views: what they may hold, that they are drawn by hash, and how they are packed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from parity_cases import BEGIN, END, FIRST_WORD, PAD, ROW_LENGTH, VOCABULARY, documents, packed_row

from nlp_ssl.config.contrastive import ContrastiveSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import num_real_tokens
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.objectives.view_rows import ViewsCollator, few_sizes, pack
from nlp_ssl.objectives.views import SHORTEST, Documents, Views

KINDS = ("crops", "deletion", "replacement", "repetition", "dropout", "next")
ORDINARY = np.arange(FIRST_WORD, VOCABULARY)
FRAME = ((BEGIN,), (END,))
TEXTS = documents(True)
ROWS = [packed_row(row, ROW_LENGTH) for row in TEXTS]


def views_of(kind, lengths, **options):
    """Both views of documents that count their tokens: 1000 d, 1000 d + 1, ..."""
    lengths = np.asarray(lengths)
    tokens = np.concatenate([1000 * d + np.arange(n) for d, n in enumerate(lengths)])
    keys = np.random.default_rng(0).integers(2**63, size=len(lengths), dtype=np.uint64)
    made = Views(ContrastiveSection(view=kind, **options), np.array([-1]))(Documents(tokens, lengths, keys))
    return [np.split(view.tokens, np.cumsum(view.lengths)[:-1]) for view in made]


def test_crops_are_stretches_of_every_place_and_of_5_to_50_percent():
    pairs = views_of("crops", [200] * 4000, noise=0.0)
    for views in pairs:
        assert all((np.diff(view) == 1).all() for view in views)
        assert all((view // 1000 == d).all() for d, view in enumerate(views))
        lengths = np.array([len(view) for view in views])
        assert lengths.min() == 10
        assert lengths.max() in (99, 100)
        assert kstest(lengths / 200, "uniform", (0.05, 0.45)).statistic < 0.03
        begins = np.array([view[0] % 1000 for view in views]) / (200 - lengths)
        assert kstest(begins, "uniform").statistic < 0.03
    first, second = ([len(view) for view in views] for views in pairs)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_the_shortest_crops_hold_a_few_tokens_and_no_more_than_the_document():
    for views in views_of("crops", [2 * SHORTEST] * 50, noise=0.0):
        assert {len(view) for view in views} == {SHORTEST}


def test_deletion_leaves_the_rest_in_order_and_something_at_least():
    first, second = views_of("deletion", [200] * 300, noise=0.3)
    for views in (first, second):
        assert all((np.diff(view) > 0).all() for view in views)
        assert np.mean([len(view) for view in views]) / 200 == pytest.approx(0.7, abs=0.01)
    both = np.mean([len(set(a) & set(b)) for a, b in zip(first, second, strict=True)]) / 200
    assert both == pytest.approx(0.7**2, abs=0.01)  # the views are drawn apart
    assert all(len(view) >= 1 for views in views_of("deletion", [2] * 100, noise=0.99) for view in views)


def test_crops_lose_tokens_too_where_it_is_asked_for():
    kept = [len(view) / (view[-1] - view[0] + 1) for view in views_of("crops", [200] * 2000, shortest_crop=0.5)[0]]
    assert np.mean(kept) == pytest.approx(0.9, abs=0.01)


def test_replacement_keeps_places():
    for views in views_of("replacement", [200] * 100, noise=0.2):
        assert {len(view) for view in views} == {200}
        assert np.mean([(view == -1).mean() for view in views]) == pytest.approx(0.2, abs=0.01)
        kept = np.stack([np.where(view == -1, 1000 * d + np.arange(200), view) for d, view in enumerate(views)])
        assert (kept == 1000 * np.arange(100)[:, None] + np.arange(200)).all()


def test_repetition_makes_the_second_view_longer_by_up_to_its_share_and_no_longer_than_the_document():
    lengths = np.array([2, 3, 10, 100, 100, 100, 100, 200] * 20)
    added = []
    for n, once, twice in zip(lengths, *views_of("repetition", lengths), strict=True):
        assert len(twice) == n
        assert np.array_equal(np.unique(twice), once)
        assert np.bincount(twice - once[0]).max() <= 2
        added.append((n - len(once)) / len(once))
    assert np.max([a for a, n in zip(added, lengths, strict=True) if n >= 100]) == pytest.approx(0.32, abs=0.02)
    assert 0.1 < np.mean(added) < 0.25
    assert min(added) == 0


def test_the_next_segment_begins_where_the_first_ends():
    for d, (first, second) in enumerate(zip(*views_of("next", [8, 9, 50, 200] * 20), strict=True)):
        assert np.array_equal(np.concatenate([first, second]), 1000 * d + np.arange([8, 9, 50, 200][d % 4]))
        assert min(len(first), len(second)) >= SHORTEST


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 1.0}, {"noise": -0.1}, {"view": "next", "noise": 0.1}, {"view": "deletion", "noise": 0.0},
        {"shortest_crop": 0.6}, {"shortest_crop": 0.0}, {"longest_crop": 1.1},
        {"shortest_crop": 1.0, "longest_crop": 1.0, "noise": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_shares_that_are_none_and_views_that_are_the_same_are_refused(options):
    with pytest.raises(UserError, match=r"contrastive\."):
        Views(ContrastiveSection(**options), ORDINARY)


# ---------------------------------------------------------------------------------------------------------------------
# rows of views


def collator(kind="crops", **more):
    return ViewsCollator(Views(ContrastiveSection(view=kind), ORDINARY), FRAME, PAD, seed=1, **more)


def batch_of(numbers, kind="crops", epoch=0, **more):
    numbers = np.array(numbers)
    return collator(kind, **more)(Selection(ROWS, numbers, np.full_like(numbers, epoch)))


def read(batch):
    """By their order the two views of every document, as lists of tokens; and what every place of the rows holds."""
    count, slots = len(batch["order"]), batch["slots"].numpy()
    found = {}
    for i in torch.nonzero(batch["order"] >= 0)[:, 0].tolist():
        pair = []
        for which in range(2):
            row, at = np.nonzero(slots == i + which * count)
            assert len(set(row)) == 1
            assert (row < len(slots) // 2).all() == (which == 0)
            assert np.array_equal(at, np.arange(at[0], at[0] + len(at)))
            assert batch["position_ids"][row, at].tolist() == list(range(len(at)))
            (number,) = set(batch["document_ids"][row, at].tolist())
            assert number > 0
            assert ((batch["document_ids"][row[0]] == number).sum() == len(at)).item()
            pair.append(batch["input_ids"][row, at].tolist())
        found[int(batch["order"][i])] = pair
    outside = batch["slots"] == 2 * count
    assert torch.equal(outside, batch["document_ids"] == 0)
    assert (batch["input_ids"][outside] == PAD).all()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_has_its_two_views_in_one_place_each(kind):
    found = read(batch_of(range(16), kind))
    needed = collator(kind).views.needed
    bodies = [document.ids[1:-1] for row in TEXTS[:16] for document in row]
    long_enough = [body for body in bodies if len(body) >= needed]
    assert len(found) == len(long_enough)
    assert batch_of(range(16), kind)["left_out"] == len(bodies) - len(long_enough)
    assert collator(kind).counts(batch_of(range(16), kind)) == {"contrastive": len(found)}
    for pair in found.values():
        assert all(view[0] == BEGIN and view[-1] == END for view in pair)
        whole = [b for b in long_enough if set(pair[0][1:-1]) <= set(b) or kind == "replacement"]
        assert any(len(view) - 2 <= len(b) for b in whole for view in pair)


@pytest.mark.parametrize("kind", KINDS)
def test_views_do_not_depend_on_how_a_batch_is_split_and_change_with_the_epoch(kind):
    together = batch_of(range(16), kind)
    parts = [batch_of(some, kind) for some in ([0, 1, 2, 3, 4], [5], range(6, 16))]
    assert read(together) == {k: v for part in parts for k, v in read(part).items()}
    assert together["digest"] == sum(part["digest"] for part in parts)
    if kind != "dropout":
        assert batch_of(range(16), kind, epoch=1)["digest"] != together["digest"]
        pairs = [read(batch_of(range(16), kind, epoch)).values() for epoch in (0, 1)]
        assert sorted(pairs[0]) != sorted(pairs[1])


def test_short_views_share_rows_and_long_ones_stay_in_theirs():
    crops, whole = batch_of(range(16)), batch_of(range(16), "dropout")
    assert len(crops["input_ids"]) < 0.6 * 2 * 16
    assert len(whole["input_ids"]) <= 2 * 16
    assert num_real_tokens(crops) / crops["input_ids"].numel() > 0.75
    for batch in (crops, whole):
        half = len(batch["input_ids"]) // 2
        for i, ids in enumerate(batch["document_ids"].split(half)):
            begins = torch.nonzero(ids.flatten().diff(prepend=torch.tensor([-1])))[:, 0]
            row_starts = torch.arange(half) * ROW_LENGTH
            expected = torch.cat([begins, row_starts]).unique()
            assert batch["halves"][i].unique().tolist() == [*expected.tolist(), ids.numel()]


def test_one_document_a_row():
    batch = batch_of(range(16), one_document=True)
    assert len(batch["input_ids"]) == 2 * int((batch["order"] >= 0).sum())
    assert read(batch) == read(batch_of(range(16)))


@pytest.mark.parametrize("one_document", [False, True])
def test_rows_of_which_nothing_is_long_enough_are_an_empty_batch(one_document):
    short = packed_row([d for row in TEXTS for d in row if len(d.ids) < 8][:3], ROW_LENGTH)
    made = collator(one_document=one_document)
    batch = made(Selection([short], np.array([0]), np.array([0])))
    assert made.counts(batch) == {"contrastive": 0}
    assert batch["left_out"] == 3
    assert batch["input_ids"].shape[0] == 2
    assert batch["digest"] == 0


def test_rows_are_packed_full():
    lengths = np.random.default_rng(0).integers(3, 60, 300)
    rows = pack(lengths, 128)
    assert np.bincount(rows, weights=lengths).max() <= 128
    assert rows.max() + 1 <= 1.1 * lengths.sum() / 128


def test_few_sizes_are_few_and_a_little_more():
    sizes = {few_sizes(n) for n in range(1, 1025)}
    assert len(sizes) < 70
    assert all(n <= few_sizes(n) <= 1.13 * n for n in range(1, 1025))
