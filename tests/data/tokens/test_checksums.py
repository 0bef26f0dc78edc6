"""Damaged tokens are noticed, also those that only a sha256 tells, and while a run goes on."""

import json

import numpy as np
import pytest
from toys import token_corpus

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.packing import pack
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.data.tokens.checksums import Verification
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.clm import CausalCollator


@pytest.fixture
def corpus(tmp_path):
    return token_corpus(tmp_path / "t", num_proc=1)


def verified(digests):
    verification = Verification()
    verification.start(digests).join()
    return verification


def test_what_is_whole_is_said_to_be_whole(corpus):
    rows = pack(corpus, 32, (1,), (2,), 0)
    assert {path.suffix for path in rows.digests} == {".arrow", ".npy", ".bin"}
    verified(rows.digests)()


@pytest.mark.parametrize("name", ["part-*.arrow", "document_offsets.npy", "document_bytes.npy", "rows-*/pieces.bin"])
def test_one_bit(corpus, name):
    rows = pack(corpus, 32, (1,), (2,), 0)
    (path,) = corpus.folder.glob(name)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path.name} is damaged .*delete the folder {path.parent}, and"):
        verified(rows.digests)()


def test_a_step_is_not_begun_once_damage_is_known(corpus):
    rows = pack(corpus, 32, (1,), (2,), 0)
    verification = Verification()
    phases = Phases([Phase(rows, batch_size=4, micro_batch=4)])
    steps = TrainBatches(phases, CausalCollator(0), seed=0, check=verification).steps(0)
    (first,) = next(steps)
    assert first.inputs["input_ids"].shape == (4, 32)
    (path,) = corpus.folder.glob("part-*.arrow")
    path.unlink()
    verification.start(rows.digests).join()
    with pytest.raises(UserError, match="No such file or directory"):
        next(steps)


def test_a_large_file_is_read_in_the_background(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(b"\0" * 300_000_000)
    thread = (verification := Verification()).start({path: "another"})
    assert thread.is_alive()  # it was started, and nobody waited
    verification()
    thread.join()
    with pytest.raises(UserError, match=r"large\.bin is damaged"):
        verification()


def test_folders_made_before_arrays_had_digests_are_opened(corpus):
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    del manifest["arrays"]
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    assert len(TokenCorpus.open(corpus.folder).digests) == len(manifest["shards"])


def test_offsets_of_another_corpus_are_noticed_when_it_is_opened(corpus):
    offsets = np.load(corpus.folder / "document_offsets.npy")
    offsets[-1] += 1
    np.save(corpus.folder / "document_offsets.npy", offsets)
    with pytest.raises(UserError, match=r"document_offsets\.npy is damaged \(it does not fit the tokens\)"):
        TokenCorpus.open(corpus.folder)
