"""Every fault of `fault_cases.py`: a sentence, exit code 2 where it stops, what was good before still there."""

import pytest
from fault_cases import CASES, NotHere, Work

DAMAGED = "falling back to the checkpoint before it"
MADE_AGAIN = "and the same command makes it again"
SAVED_NOT = ["checkpoint of step 12 could not be written", "resumes from the newest checkpoint (step-00000008)"]
SAID = {
    "no room for a checkpoint": [*SAVED_NOT, "File too large"],
    "no room for a checkpoint, then room again": ["step 8 could not be written", "older checkpoints are kept"],
    "a full disk": [*SAVED_NOT, "No space left on device"],
    "a disk on which no byte is free": ["disk/run", "No space left on device; make room there"],
    "no room in the cache": ["File too large", "NLP_SSL_CACHE"],
    "a truncated checkpoint file": ["model.safetensors has changed", DAMAGED],
    "a bit-flipped checkpoint file": ["training_state/optimizer.pt has changed", DAMAGED],
    "a missing checkpoint file": ["training_state/rank-0.pt is missing", DAMAGED],
    "weights cut off before their sha256 was taken": ["model.safetensors cannot be read, though its sha256", DAMAGED],
    "a training state cut off before its sha256 was taken": ["optimizer.pt cannot be read, though its", DAMAGED],
    "a program in a checkpoint, and its sha256 in the manifest": [
        "optimizer.pt holds", ".mkdir, which could run a program, where tensors", "nothing of it was run",
    ],
    "a program in a checkpoint whose manifest does not name it": [
        "training_state/rank-0.pt is not named in MANIFEST.json", DAMAGED,
    ],
    "an old run's checkpoints in a folder whose log was removed": ["holds a run already; give --resume"],
    "a folder prepared with links": ["is a link to", "outside of --output_dir", "remove it"],
    "every checkpoint damaged": ["every checkpoint in", "nothing was changed there"],
    "a read-only output folder": ["--output_dir", "read-only cannot be written to"],
    "a run's folder that became read-only": [*SAVED_NOT, "Permission denied"],
    "a read-only cache": ["read-only-cache", "Permission denied", "NLP_SSL_CACHE"],
    "a truncated token shard": ["part-000-of-001-00000.arrow is damaged", MADE_AGAIN],
    "a missing token shard": ["part-000-of-001-00000.arrow is missing", MADE_AGAIN],
    "a bit-flipped token shard": ["part-000-of-001-00000.arrow is damaged", "its sha256 is not what it was"],
    "a bit-flipped packed index": ["pieces.bin is damaged", "its sha256 is not what it was"],
    "truncated document offsets": ["document_offsets.npy is damaged", MADE_AGAIN],
    "a truncated manifest": ["manifest.json is damaged", MADE_AGAIN],
    "a truncated packed index": ["packed index", "packing again"],
    "two runs on one output folder": ["is training in", "wait for it, stop it, or give another --output_dir"],
    "a clock that jumps by days, back and forth": ["nothing"],
    "a corpus file that changed since the run began": [
        "the corpus changed (corpus.txt has changed), and with it the tokenizer", "--resume.allow_changed",
    ],
    "the same, with a tokenizer that was given": ["the corpus changed (corpus.txt has changed)", "allow_changed"],
    "a corpus file that changed since it was tokenised, a new run": ["nothing"],
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", CASES)
def test_a_fault_gets_a_sentence_and_costs_nothing_that_was_good(name: str, work: Work) -> None:
    try:
        said = CASES[name](work)
    except NotHere as reason:
        pytest.skip(str(reason))
    assert all(words in said for words in SAID[name]), said
