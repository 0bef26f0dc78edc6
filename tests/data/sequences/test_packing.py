"""Packing, against brute force: every token once and in order, rows full, cuts counted, nothing held in memory."""

import hashlib

import numpy as np
import pytest
from toys import Lengths, packed_rows, texts, token_corpus, tokenizer

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences import packing, packing_index
from nlp_ssl.data.sequences.packing import pack, stack_rows
from nlp_ssl.data.sequences.packing_index import plan
from nlp_ssl.data.sequences.phases import Selection

PREFIX, SUFFIX, PAD = (-1,), (-2,), -3


def packed(lengths, sequence_length, folder, prefix=PREFIX, suffix=SUFFIX, **more):
    return pack(Lengths(lengths, folder), sequence_length, prefix, suffix, PAD, **more)


def reassemble(rows):
    """The documents, out of the rows' arrays alone; checks every row on the way."""
    pieces: dict[int, list[np.ndarray]] = {}
    cut_ends = {}
    for i in range(len(rows)):
        row = rows[i]
        ids, documents = row["input_ids"], row["document_ids"]
        assert len(ids) == rows.sequence_length or not rows.fixed_length
        used = int((documents > 0).sum())
        assert (documents[:used] > 0).all()
        assert (ids[used:] == PAD).all()
        assert set(np.unique(documents[:used])) == set(range(1, documents.max() + 1))
        for number in range(1, documents.max() + 1):
            at = np.flatnonzero(documents == number)
            assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
            assert np.array_equal(row["position_ids"][at], np.arange(len(at)))
            assert tuple(ids[at][: len(rows.prefix)]) == rows.prefix
            assert tuple(ids[at][len(at) - len(rows.suffix) :]) == rows.suffix
            body = ids[at][len(rows.prefix) : len(at) - len(rows.suffix)]
            assert len(body) > 0
            assert not row["cut_ends"][at[: len(at) - len(rows.suffix)]].any()
            document = int(body[0]) // 100_000
            assert np.flatnonzero(row["cut_begins"][at]).tolist() == ([0] if int(body[0]) % 100_000 else [])
            pieces.setdefault(document, []).append(body - document * 100_000)
            if rows.suffix:
                cut_ends[document, int(body[-1]) % 100_000] = bool(row["cut_ends"][at[-1]])
    documents = {d: np.concatenate(sorted(bodies, key=lambda b: b[0])) for d, bodies in pieces.items()}
    for (document, last), is_cut in cut_ends.items():
        assert is_cut == (last + 1 < len(documents[document]))
    return documents, pieces


def check_everything(lengths, rows):
    documents, pieces = reassemble(rows)
    assert set(documents) == {d for d, n in enumerate(lengths) if n}
    for d, body in documents.items():
        assert np.array_equal(body, np.arange(lengths[d]))  # every token exactly once, in order
    special = len(rows.prefix) + len(rows.suffix)
    capacity = rows.sequence_length - special
    long = {d for d, n in enumerate(lengths) if n > capacity}
    cut_to_fill = sum(len(pieces[d]) > -(-lengths[d] // capacity) for d in documents)
    stats = rows.stats
    assert (stats.rows, stats.documents) == (len(rows), len(documents))
    assert stats.pieces == sum(map(len, pieces.values()))
    assert stats.cut_long == len(long)
    assert stats.cut_to_fill == cut_to_fill
    held = sum(lengths) + special * stats.pieces
    assert stats.fill == pytest.approx(held / (len(rows) * rows.sequence_length))
    return stats


def distribution(name, count=4000):
    rng = np.random.default_rng(0)
    return {
        "lognormal": lambda: np.minimum(rng.lognormal(5, 1.2, count).astype(int), 20_000),
        "all 300": lambda: np.full(count, 300),
        "all 255": lambda: np.full(count, 255),
        "all 258": lambda: np.full(count, 258),
        "all a row": lambda: np.full(count, 510),
        "a token more than a row": lambda: np.full(count, 511),
        "tiny": lambda: rng.integers(1, 12, count),
        "uniform, many empty": lambda: np.maximum(0, rng.integers(-300, 700, count)),
        "long": lambda: rng.integers(3000, 9000, 300),
        "two kinds": lambda: rng.choice([400, 200], count),
        "400 and 30": lambda: rng.choice([400, 30], count, p=[0.9, 0.1]),
        "one document": lambda: np.array([3]),
    }[name]().tolist()


NAMES = ["lognormal", "all 300", "all 255", "all 258", "all a row", "a token more than a row", "tiny"]
NAMES += ["uniform, many empty", "long", "two kinds", "400 and 30"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_lost_and_rows_full(name, tmp_path):
    lengths = distribution(name)
    stats = check_everything(lengths, packed(lengths, 512, tmp_path))
    assert stats.fill >= 0.99


@pytest.mark.parametrize("sequence_length", [64, 100, 128])
@pytest.mark.parametrize("name", ["lognormal", "all 300", "two kinds", "tiny"])
def test_short_rows(name, sequence_length, tmp_path):
    lengths = distribution(name, 1000)
    stats = check_everything(lengths, packed(lengths, sequence_length, tmp_path))
    assert stats.rows <= 1 + stats.fill * stats.rows / 0.99  # 1: the last row of so few


@pytest.mark.parametrize("seed", range(25))
def test_small_random_corpora(seed, tmp_path):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, rng.integers(2, 60), rng.integers(1, 40)).tolist()
    lengths[0] = max(1, lengths[0])
    prefix, suffix = [((-1,), (-2,)), ((), (-2,)), ((-1, -4), (-2,)), ((), ())][seed % 4]
    check_everything(lengths, packed(lengths, int(rng.integers(6, 33)), tmp_path, prefix, suffix))


@pytest.mark.parametrize("count", [5, 40, 129])
def test_cutting_does_not_make_more_rows(count, tmp_path):
    for name in ("tiny", "two kinds", "all 300"):
        lengths = distribution(name, count)
        histogram = np.bincount([n + 2 for n in lengths], minlength=513)
        assert packed(lengths, 512, tmp_path / name).stats.rows <= plan(histogram, 512).total()


def test_a_cut_that_saves_no_row_is_not_made(tmp_path):
    assert packed([300, 300], 512, tmp_path).stats.cut_to_fill == 0


def test_whole_documents_where_they_fit(tmp_path):
    lengths = distribution("lognormal")
    assert packed(lengths, 512, tmp_path).stats.cut_to_fill < 0.02 * len(lengths)


def plain_best_fit_decreasing(histogram, sequence_length):
    free = []
    for length in range(sequence_length, 0, -1):
        for _ in range(histogram[length]):
            fitting = [f for f in free if f >= length]
            if fitting:
                free.remove(min(fitting))
            else:
                fitting = [sequence_length]
            free.append(min(fitting) - length)
    return len(free)


def test_plan_is_as_good_as_best_fit_decreasing_item_by_item():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        sequence_length = int(rng.integers(4, 40))
        histogram = np.zeros(sequence_length + 1, dtype=np.int64)
        np.add.at(histogram, rng.integers(1, sequence_length + 1, rng.integers(1, 80)), 1)
        rows = plan(histogram, sequence_length)
        used = np.zeros(sequence_length + 1, dtype=np.int64)
        for pattern, count in rows.items():
            assert sum(pattern) <= sequence_length
            np.add.at(used, list(pattern), count)
        assert np.array_equal(used, histogram)
        assert rows.total() <= plain_best_fit_decreasing(histogram, sequence_length)


def test_a_billion_documents_are_planned_as_fast_as_ten_thousand():
    rng = np.random.default_rng(0)
    histogram = np.bincount(np.minimum(rng.lognormal(5, 1.2, 10_000).astype(int) + 3, 512), minlength=513)
    histogram[0] = 0
    rows = plan(histogram * 100_000, 512)
    assert sum(sum(p) * c for p, c in rows.items()) == int((histogram * np.arange(513)).sum()) * 100_000


@pytest.mark.parametrize("name", ["lognormal", "all 300", "long"])
def test_one_document_a_row(name, tmp_path):
    lengths = distribution(name, 300)
    rows = packed(lengths, 512, tmp_path, one_document=True)
    check_everything(lengths, rows)
    for i in range(len(rows)):
        assert len(rows.row_pieces(i)) == 1
        assert (rows[i]["document_ids"] == 1).all()  # its own length, no padding yet
    some = [rows[i] for i in range(3)]
    cut = [{k: v[: 20 + 5 * n] for k, v in row.items()} for n, row in enumerate(some)]
    batch = stack_rows([{**row, "row": 7 + n, "epoch": 1} for n, row in enumerate(cut)], PAD)
    assert (batch["row"].tolist(), batch["epoch"].tolist()) == ([7, 8, 9], [1, 1, 1])
    assert batch["input_ids"].shape == (3, 30)  # the longest of them
    assert (batch["document_ids"].sum(1) == [20, 25, 30]).all()
    assert (batch["input_ids"][0, 20:] == PAD).all()


def index(rows):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in rows.folder.iterdir()}


@pytest.mark.parametrize("name", ["lognormal", "all 300", "tiny"])
def test_memory_is_bounded_and_chunks_do_not_matter(name, tmp_path, monkeypatch):
    lengths = distribution(name, 700)
    whole = index(packed(lengths, 128, tmp_path / "whole"))
    largest = 0
    empty = np.empty

    def watched(shape, *args, **kwargs):
        nonlocal largest
        largest = max(largest, int(np.prod(shape)) if kwargs.get("dtype") is packing_index.PIECE else 0)
        return empty(shape, *args, **kwargs)

    monkeypatch.setattr(packing_index, "CHUNK", 64)
    monkeypatch.setattr(packing_index.np, "empty", watched)
    assert index(packed(lengths, 128, tmp_path / "chunks")) == whole
    assert 0 < largest <= 2 * 64 * (max(lengths) // 126 + 1)


def test_found_again_and_not_made_again(tmp_path, monkeypatch):
    first = packed(distribution("lognormal", 200), 128, tmp_path)
    monkeypatch.setattr(packing, "IndexBuilder", None)
    again = packed(distribution("lognormal", 200), 128, tmp_path)
    assert again.stats == first.stats
    assert np.array_equal(again.pieces, first.pieces)


def test_a_real_tokenised_corpus(tmp_path):
    rows, t = packed_rows(tmp_path), tokenizer("bpe")
    bodies: dict[int, list] = {}
    for i in range(len(rows)):
        for document, start, _ in rows.row_pieces(i).tolist():
            bodies.setdefault(document, []).append(start)
    for i in range(len(rows)):  # a row is what the tokenizer itself makes of its texts, where they are whole
        at = 0
        for document, start, length in rows.row_pieces(i).tolist():
            if bodies[document] == [0]:
                assert rows[i]["input_ids"][at : at + length + 2].tolist() == t(texts()[document])["input_ids"]
            assert start + length <= len(t(texts()[document])["input_ids"]) - 2
            at += length + 2
    every = rows.num_bytes(np.arange(len(rows)))
    assert every == pytest.approx(sum(len(text.encode()) for text in texts()))


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="no room"):
        packed([5], 3, tmp_path)
    with pytest.raises(UserError, match="no document"):
        packed([0, 0], 32, tmp_path)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert token_corpus(tmp_path / "t", num_proc=1).num_documents == 300


@pytest.mark.parametrize("one_document", [False, True])
@pytest.mark.parametrize("affixes", [((), ()), ((-1,), (-2,)), ((), (-2, -4))])
def test_rows_at_once_are_rows_one_by_one(one_document, affixes, tmp_path):
    lengths = np.concatenate([distribution("lognormal", 200), [0, 0, 1, 2, 3, 1000]])
    prefix, suffix = affixes
    rows = packed(lengths, 64, tmp_path, prefix=prefix, suffix=suffix, one_document=one_document)
    numbers = np.random.default_rng(0).integers(0, len(rows), 23)
    at_once = stack_rows(Selection(rows, numbers, numbers * 0 + 3), PAD)
    one_by_one = stack_rows(list(Selection(rows, numbers, numbers * 0 + 3)), PAD)
    assert set(at_once) == set(one_by_one)
    for key, values in one_by_one.items():
        assert np.array_equal(at_once[key], values), key
        assert at_once[key].dtype == values.dtype
