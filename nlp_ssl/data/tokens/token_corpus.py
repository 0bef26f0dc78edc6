"""The tokenised corpus on disk: found by its fingerprint, read by memory map; `tokenizing.py` makes it.

A folder of Arrow files with one row per document (`input_ids`, no special tokens, and `num_bytes` of its UTF-8 text),
so `datasets.load_from_disk` opens it too; `document_offsets.npy`; and `manifest.json`, written last: without it the
folder is unfinished.
"""

import contextlib
import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core import errors
from nlp_ssl.core.invocation import command_of


@dataclass
class TokenCorpus:
    """A finished tokenised corpus: one flat array of tokens, memory-mapped, and where its documents begin.

    Attributes:
        folder: where it lives.
        manifest: fingerprints, counts and the sha256 of every file.
        offsets: int64, shape (num_documents + 1,): document d is tokens `offsets[d]:offsets[d + 1]`.
        document_bytes: uint32, shape (num_documents,): UTF-8 bytes of each document's text.
    """

    folder: Path
    manifest: dict[str, Any]
    offsets: np.ndarray
    document_bytes: np.ndarray
    _shards: list[np.ndarray] = field(repr=False)
    _shard_starts: np.ndarray = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "TokenCorpus":
        """Open a finished folder, and check what can be checked without reading the tokens.

        Raises:
            UserError: there is none, or a file is missing or is not what the manifest says.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").exists():
            raise errors.UserError(
                f"{folder} holds no finished tokenised corpus; make one with `{command_of('prepare_tokens')}`"
            )
        with _intact(folder / "manifest.json"):
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            records = [(shard["file"], shard["documents"], shard["tokens"]) for shard in manifest["shards"]]
        shards, ends = [], [(0, 0)]  # documents and tokens up to the end of each file
        for file, documents, tokens in records:
            with _intact(folder / file):
                with pa.memory_map(str(folder / file)) as source:
                    batches = list(pa.ipc.open_stream(source))
                for batch in batches:
                    batch.validate()
                found = [batch.column("input_ids").flatten().to_numpy() for batch in batches]  # zero-copy
                _expect(all(array.dtype == manifest["dtype"] for array in found), "it holds something else than tokens")
                counts = (sum(batch.num_rows for batch in batches), sum(map(len, found)))
                _expect(counts == (documents, tokens), "documents or tokens are missing or too many")
            shards += found
            ends.append((ends[-1][0] + documents, ends[-1][1] + tokens))
        starts = np.cumsum([0] + [len(s) for s in shards])
        with _intact(folder / "document_offsets.npy"):
            offsets = np.load(folder / "document_offsets.npy", mmap_mode="r")
            _expect(len(offsets) == ends[-1][0] + 1, "documents are missing or too many")
            _expect(all(offsets[document] == token for document, token in ends), "it does not fit the tokens")
        with _intact(folder / "document_bytes.npy"):
            document_bytes = np.load(folder / "document_bytes.npy", mmap_mode="r")
            _expect(len(document_bytes) == ends[-1][0], "documents are missing or too many")
        return cls(folder, manifest, offsets, document_bytes, shards, starts)

    @property
    def digests(self) -> dict[Path, str]:
        """The sha256 of every file, as far as it was noted when the corpus was made."""
        noted = {shard["file"]: shard["sha256"] for shard in self.manifest["shards"]} | self.manifest.get("arrays", {})
        return {self.folder / name: digest for name, digest in noted.items()}

    @property
    def num_documents(self) -> int:
        """Documents, empty ones included."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens, without special tokens."""
        return int(self.offsets[-1])

    def copy(self, starts: np.ndarray, lengths: np.ndarray, into: np.ndarray, at: np.ndarray) -> None:
        """Copy stretches of the flat array, each within one document.

        Args:
            starts: where they begin.
            lengths: tokens of each.
            into: where to copy them to, 1-d.
            at: where in there each begins.
        """
        shards = np.searchsorted(self._shard_starts, starts, side="right") - 1
        begins = starts - self._shard_starts[shards]
        pieces = zip(shards.tolist(), begins.tolist(), lengths.tolist(), at.tolist(), strict=True)
        for shard, begin, length, place in pieces:
            into[place : place + length] = self._shards[shard][begin : begin + length]

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document."""
        start, end = self.offsets[index : index + 2].tolist()
        shard = min(int(np.searchsorted(self._shard_starts, start, side="right")), len(self._shards)) - 1
        base = int(self._shard_starts[shard])
        return self._shards[shard][start - base : end - base]

    def arrays(self) -> Iterator[np.ndarray]:
        """The flat array, shard by shard."""
        yield from self._shards


def _expect(fulfilled: bool, otherwise: str) -> None:
    if not fulfilled:
        raise ValueError(otherwise)


@contextlib.contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read, or does not hold what it should, what to do about it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if getattr(error, "errno", None) not in (None, errno.ENOENT):  # nothing is wrong with what is in it
            raise
        said = str(error).partition("\n")[0].rstrip(".")
        what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({said})"
        raise errors.UserError(
            f"{path} {what}; delete the folder {path.parent}, and the same command makes it again"
        ) from None


def some_texts(tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 200) -> Iterator[str]:
    """The beginnings of some documents, spread evenly, as the tokenizer writes them."""
    for number in range(0, tokens.num_documents, max(1, tokens.num_documents // count)):
        yield tokenizer.decode(tokens.document(number)[:256], skip_special_tokens=True)
