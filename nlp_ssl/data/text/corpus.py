"""Open text: the built-in corpus, local files, Hub data sets, or several of them with weights.

`open_corpus` gives two data sets with a `text` column, for training and held out. Which documents they hold, and in
which order, depends on the configuration and the text alone: not on streaming, not on a seed, not on the folder.
"""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_ssl.config.common import FilesConfig, to_dict
from nlp_ssl.config.pretraining import CorpusConfig
from nlp_ssl.core.cache import caching, is_whole
from nlp_ssl.core.console import counted, human_bytes, progress, say, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir
from nlp_ssl.data.files.finding import content_hashes, find_files, looked_in
from nlp_ssl.data.text.pydocs import pydocs_file
from nlp_ssl.data.text.readers import FORMATS, BadText, DocumentFile, OtherFormat, checked, is_blank, missing_column

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

FEW = 20  # held-out documents, below which a number is one of these documents' rather than the corpus's
FRACTION, LARGEST_FRACTION = 0.01, 0.2  # of the documents, held out where nobody says how many
RULES = 1  # raise it when the same sources would give other documents
_SKIP = " (--data.on_bad_text skip leaves such documents out)"
_OFFLINE_HINT = "`builtin` and local files work without a network"


@dataclass
class Corpus:
    """Text to learn from and text to measure on; both have the columns `text` and `source` (file name or Hub id)."""

    train: "Dataset | IterableDataset"
    held_out: "Dataset | IterableDataset"
    fingerprint: str
    """32 hexadecimal digits that change whenever the text may have changed."""
    description: str
    """One line for a person."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of the local files by their names (of the first 1,000)."""


def open_corpus(config: CorpusConfig) -> Corpus:
    """Open the sources of a configuration.

    Map-style data sets are memory-mapped from a copy in the cache, made by the first call and found by its fingerprint
    afterwards. With `config.streaming` nothing is copied (a large Hub data set is not even downloaded); every file is
    a shard, unless `max_documents` makes the stream one shard.

    Raises:
        UserError: a source that is not there or cannot be read, bad text under `on_bad_text="stop"` (for a stream:
            while it is read), no document, no held-out document.
    """
    if config.held_out_fraction is not None or config.held_out or config.streaming:
        return _open(config, FRACTION if config.held_out_fraction is None else config.held_out_fraction)
    try:
        return _open(config, FRACTION, fewest=min(FEW, config.max_documents or FEW))
    except _FewHeldOut as few:
        fraction = min(LARGEST_FRACTION, math.ceil(150 * FEW / few.documents) / 100)
        said = f"{counted(few.documents, 'document')}, as a draw of {FRACTION:.0%} has only {few.held_out}"
    say(f"held out: a draw of {fraction:.0%} of {said} (--data.held_out_fraction)")
    return _open(config, fraction)


def _open(config: CorpusConfig, fraction: float, fewest: int = 0) -> Corpus:
    """`open_corpus`, with this share of the documents held out where no source is named for it.

    Raises:
        _FewHeldOut: fewer than `fewest` are.
    """
    config = replace(config, held_out_fraction=fraction)
    sources = [config.sources] if isinstance(config.sources, str) else list(config.sources)
    weights = [1.0] * len(sources) if config.weights is None else [float(weight) for weight in config.weights]
    if not sources:
        raise UserError("--data.sources names no source; `builtin` is always there")
    if len(weights) != len(sources) or min(weights) <= 0:
        raise UserError(
            f"--data.weights {weights} for {counted(len(sources), 'source')} in --data.sources: give one positive "
            "number for each, or leave the option out"
        )
    if not 0 <= fraction < 1:
        raise UserError(f"--data.held_out_fraction is {fraction}; it must be from 0 to below 1")
    if config.max_documents is not None and config.max_documents < 1:
        raise UserError(f"--data.max_documents is {config.max_documents}; it must be at least 1")
    held_out = [config.held_out] if isinstance(config.held_out, str) else list(config.held_out or [])

    share = 0.0 if held_out else fraction
    parts, identities = [], []
    files: dict[str, str] = {}
    for option, source, weight, part_share in [
        *(("data.sources", source, weight, share) for source, weight in zip(sources, weights, strict=True)),
        *(("data.held_out", source, 1.0, 1.0) for source in held_out),
    ]:
        opened, identity = _open_source(source, option, config)
        parts += [_Part(documents, name, weight, part_share) for name, documents in opened]
        identities.append([identity, weight, part_share])
        if isinstance(identity[0], list):
            files |= dict(identity)
    files = dict(islice(files.items(), 1000))
    rules: list[Any] = [RULES, config.text_column, config.txt_documents, config.on_bad_text, config.max_documents]
    rules += _reading(parts, config)
    fingerprint = hashlib.sha256(json.dumps([rules, identities]).encode()).hexdigest()[:32]

    weighted = zip(sources, weights, strict=True)
    names = " + ".join(source if weight == 1 else f"{source} x {weight:g}" for source, weight in weighted)
    if not held_out and fraction == 0:
        raise UserError(_nothing_held_out(config, held_out))
    if config.streaming:
        train, held = (_stream(parts, config, side) for side in (False, True))
        if next(iter(train), None) is None:
            some_held_out = not held_out and next(iter(held), None) is not None
            raise UserError(_nothing_to_read(config, names, every_document_held_out=some_held_out))
        if next(iter(held), None) is None:
            raise UserError(_nothing_held_out(config, held_out))
        return Corpus(train, held, fingerprint, f"{names}, streamed", files)
    folder = cache_dir() / "corpus" / fingerprint
    if not is_whole(folder):
        _copy(parts, config, folder, names, held_out)
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    if counts["held_out"] < fewest:
        raise _FewHeldOut(counts["held_out"], counts["documents"] + counts["held_out"])
    if not counts["held_out"]:
        raise UserError(_nothing_held_out(config, held_out))
    return _open_copy(folder, counts, fingerprint, names, files)


@dataclass
class _FewHeldOut(Exception):
    """How many documents a fraction holds out of how many, where more are wanted."""

    held_out: int
    documents: int


def _reading(parts: list["_Part"], config: CorpusConfig) -> list[Any]:
    """How files are read, as far as that was said or is not as it always was."""
    said = {f.name: getattr(config, f.name) for f in fields(FilesConfig)}
    rules = [] if said == to_dict(FilesConfig()) else [said]
    forms = (part.documents.form.format for part in parts if isinstance(part.documents, DocumentFile))
    return [*rules, *(["csv 2"] if "csv" in forms else [])]


def hash_share(data: bytes, purpose: str) -> float:
    """A number in [0, 1) that depends on the bytes and on what it is for, uniform over different bytes.

    Held-out documents are those whose share is below a fraction, so equal texts are always on one side.
    """
    digest = hashlib.blake2b(data, digest_size=6, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**48


# ---------------------------------------------------------------------------------------------------------------------
# documents


@dataclass
class _Part:
    """A file or Hub shard, and what to do with its documents."""

    documents: Any  # DocumentFile or _HubShard
    source: str
    weight: float
    held_out_share: float  # 0: all for training; 1: all held out

    @property
    def sides(self) -> set[bool]:
        """On which sides (held out?) its documents can be."""
        return ({False} if self.held_out_share < 1 else set()) | ({True} if self.held_out_share > 0 else set())


class _Skipped:
    """Counts what is left out, to say it once."""

    empty = bad = 0
    first_bad = ""

    def say(self) -> None:
        if self.empty:
            say(f"skipped {counted(self.empty, 'empty document')}")
        if self.bad:
            say(f"skipped {counted(self.bad, 'bad document')}, the first: {self.first_bad}")


def _read(
    parts: list[_Part], config: CorpusConfig, wanted: set[bool], skipped: _Skipped, bar: Any = None
) -> Iterator[tuple[bool, str, str]]:
    """(held out?, source, text) of the `wanted` sides, at most `config.max_documents` a side."""
    limit = config.max_documents or float("inf")
    counts = {False: 0, True: 0}
    for part in parts:
        sides = part.sides & wanted
        done_before = 0
        for number, document in enumerate(part.documents if sides else ()):
            if all(counts[side] >= limit for side in sides):
                break
            if bar is not None and number % 64 == 0:
                bar.update(part.documents.bytes_read - done_before if part.documents.size is not None else 64)
                done_before = part.documents.bytes_read
            if isinstance(document, BadText):
                if config.on_bad_text == "stop":
                    skip = "" if isinstance(document, OtherFormat) else _SKIP
                    raise UserError(document + skip)
                skipped.bad += 1
                skipped.first_bad = skipped.first_bad or document
                continue
            if is_blank(document):
                skipped.empty += 1
                continue
            data = document.encode()
            copies, fraction = divmod(part.weight, 1)
            copies = int(copies) + (fraction > 0 and hash_share(data, "weight") < fraction)
            held_out = hash_share(data, "held_out") < part.held_out_share
            if held_out in sides:
                for _ in range(min(copies, 1) if held_out else copies):  # measuring a text twice tells nothing new
                    if counts[held_out] < limit:
                        counts[held_out] += 1
                        yield held_out, part.source, document
        if bar is not None and part.documents.size is not None:
            bar.update(part.documents.size - done_before)


def _stream(parts: list[_Part], config: CorpusConfig, held_out: bool) -> "IterableDataset":
    from datasets import Features, IterableDataset, Value

    parts = [part for part in parts if held_out in part.sides]
    # A list makes shards, which would each stop at the limit on their own; a tuple does not.
    arguments = {"parts": tuple(parts) if config.max_documents else parts, "config": config, "held_out": held_out}
    features = Features({"text": Value("string"), "source": Value("string")})
    return IterableDataset.from_generator(_stream_rows, features=features, gen_kwargs=arguments)


def _stream_rows(parts: list[_Part], config: CorpusConfig, held_out: bool) -> Iterator[dict[str, str]]:
    skipped = _Skipped()
    for _, source, text in _read(parts, config, {held_out}, skipped):
        yield {"text": text, "source": source}
    if not held_out:
        skipped.say()


# ---------------------------------------------------------------------------------------------------------------------
# the memory-mapped copy


def _copy(parts: list[_Part], config: CorpusConfig, folder: Path, names: str, held_out: list[str]) -> None:
    """Read everything once into `train.arrow` and `held_out.arrow`; an interrupted run leaves nothing at `folder`."""
    skipped = _Skipped()
    local = all(part.documents.size is not None for part in parts)
    total = sum(part.documents.size for part in parts) if local else None
    with caching(folder) as temporary:
        temporary.mkdir()
        with (
            _ArrowFile(temporary / "train.arrow") as train,
            _ArrowFile(temporary / "held_out.arrow") as held,
            progress(total=total, desc="read text", unit="B" if local else "document") as bar,
        ):
            for is_held_out, source, text in _read(parts, config, {False, True}, skipped, bar):
                (held if is_held_out else train).write(text, source)
        skipped.say()
        if not train.num_documents:
            raise UserError(
                _nothing_to_read(config, names, every_document_held_out=held.num_documents > 0 and not held_out)
            )
        counts = {"documents": train.num_documents, "bytes": train.num_bytes, "held_out": held.num_documents}
        (temporary / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


def _open_copy(folder: Path, counts: dict[str, int], fingerprint: str, names: str, files: dict[str, str]) -> Corpus:
    from datasets import Dataset

    size = human_bytes(counts["bytes"])
    description = f"{names}: {counted(counts['documents'], 'document')}, {size}; {counts['held_out']:,} held out"
    if counts["held_out"] < FEW:
        documents = "one document is" if counts["held_out"] == 1 else f"{counts['held_out']} documents are"
        warn(
            f"only {documents} held out, and every held-out number rests on that: raise --data.held_out_fraction, or "
            "name a file with --data.held_out"
        )
    train, held_out = (Dataset.from_file(str(folder / name)) for name in ("train.arrow", "held_out.arrow"))
    return Corpus(train, held_out, fingerprint, description, files)


class _ArrowFile:
    """Writes documents to the Arrow stream format that `Dataset.from_file` maps into memory."""

    def __init__(self, path: Path):
        import pyarrow as pa

        self.schema = pa.schema({"text": pa.string(), "source": pa.string()})
        self.writer = pa.ipc.new_stream(path, self.schema)
        self.num_documents = self.num_bytes = self._flushed_bytes = 0
        self.texts: list[str] = []
        self.sources: list[str] = []

    def write(self, text: str, source: str) -> None:
        self.texts.append(text)
        self.sources.append(source)
        self.num_documents += 1
        self.num_bytes += len(text.encode())
        if len(self.texts) >= 1000 or self.num_bytes - self._flushed_bytes > 16e6:  # a batch holds 2 GB at most
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self.writer.write_batch(pa.record_batch([self.texts, self.sources], schema=self.schema))
        self.texts, self.sources, self._flushed_bytes = [], [], self.num_bytes

    def __enter__(self) -> "_ArrowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.writer.close()


def _nothing_to_read(config: CorpusConfig, names: str, every_document_held_out: bool = False) -> str:
    if every_document_held_out:
        return f"{names}: every document was held out; lower --data.held_out_fraction{_of_lines(config)}"
    return f"{names}: there is no text in it (empty documents do not count); check --data.sources"


def _nothing_held_out(config: CorpusConfig, held_out: list[str]) -> str:
    if held_out:
        return f"{' + '.join(held_out)}: there is no text in it; check --data.held_out"
    return (
        f"no document was held out to measure on (--data.held_out_fraction {config.held_out_fraction:g}): raise the "
        f"fraction, or name a held-out file with --data.held_out{_of_lines(config)}"
    )


def _of_lines(config: CorpusConfig) -> str:
    """What else to say where a text file may be one document that was to be many."""
    sources = [config.sources] if isinstance(config.sources, str) else config.sources
    if config.txt_documents != "blank_line" or not any(".txt" in source for source in sources):
        return ""
    return "; in a .txt file a document ends at a blank line: if each line is one, give --data.txt_documents line"


# ---------------------------------------------------------------------------------------------------------------------
# sources


def _open_source(source: str, option: str, config: CorpusConfig) -> tuple[list[tuple[str, Any]], Any]:
    """-> ((name, documents) of every file or Hub shard, JSON-ready identity of their contents)."""
    if source == "builtin":
        path = pydocs_file()
        return [("builtin", DocumentFile(path))], ["builtin", path.stem]
    if paths := find_files(source, FORMATS, option, anything=config.format is not None):
        files = [DocumentFile(path, config) for path in paths]
        for said in dict.fromkeys(file.form.said for file in files if file.form.said):
            say(said)
        digests = content_hashes(paths)
        # Names are in it for the `source` column; folders and times are not, so a moved or fresh copy is the same.
        return [(_printable(path), file) for path, file in zip(paths, files, strict=True)], [
            [path.name, digest] for path, digest in zip(paths, digests, strict=True)
        ]
    shards, commit = _open_hub(source, config)
    return [(source, shard) for shard in shards], [source, config.subset, config.split, commit]


def _printable(path: Path) -> str:
    """A file's name as text; names need not be UTF-8."""
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass
class _HubShard:
    """The documents of one file of a Hub data set (of all of them, when it is not streamed)."""

    dataset: Any
    name: str
    text_column: str
    size: int | None = None  # not known
    bytes_read: int = 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        for batch in self.dataset.iter(batch_size=256):
            if self.text_column not in batch:
                raise UserError(missing_column(self.text_column, self.name, list(batch)))
            for value in batch[self.text_column]:
                number += 1
                yield checked(value, self.text_column, f"{self.name}, row {number}")


def _open_hub(name: str, config: CorpusConfig) -> tuple[list[_HubShard], str | None]:
    """-> (shards in order, commit of the data set)."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(endpoint=datasets.config.HF_ENDPOINT)
    commit, unreachable = config.revision, None
    try:  # one question without retries, so that no network is known in seconds
        commit = api.dataset_info(name, revision=config.revision, timeout=10).sha
    except GatedRepoError:
        raise UserError(f"{name} is gated: ask for access on its page on the Hub, then run `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(f"{name} has no revision {config.revision!r} on the Hub; check --data.revision") from None
    except RepositoryNotFoundError:
        reason = "on the Hub (a private one needs `hf auth login`), and no file or folder has that name"
        raise UserError(f"there is no data set {name} {reason}; {_OFFLINE_HINT}") from None
    except HfHubHTTPError as error:
        raise UserError(f"the Hub refused to open {name}: {_first_line(error)}; {_OFFLINE_HINT}") from None
    except (HTTPError, ConnectionError) as error:  # ConnectionError: HF_HUB_OFFLINE is set
        unreachable = error
    try:
        with _only_cache(datasets.config) if unreachable else contextlib.nullcontext():
            dataset = datasets.load_dataset(
                name, config.subset, split=config.split, revision=commit, streaming=config.streaming
            )
    except HfHubHTTPError as error:
        raise UserError(f"{name} could not be opened: {_first_line(error)}") from None
    except (ConnectionError, HTTPError):
        raise UserError(
            f"{name} is no file or folder{looked_in(Path(name))}, and the Hugging Face Hub could not be "
            f"reached to look for a data set of that name; {_OFFLINE_HINT}"
        ) from None
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise UserError(
            f"{name} is a data set made by a Python script, which `datasets` no longer runs; try "
            "--data.revision refs/convert/parquet, or an id that holds parquet files"
        ) from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name} could not be opened: {_first_line(error)}") from None
    if config.text_column in (dataset.column_names or ()):
        dataset = dataset.select_columns([config.text_column])
    if config.streaming:
        count = dataset.num_shards
        return [_HubShard(dataset.shard(count, i), name, config.text_column) for i in range(count)], commit
    # Without a network, the commit is still the name of the folder in the cache of `datasets`.
    folders = {Path(file["filename"]).parent.name for file in dataset.cache_files}
    commit = next((folder for folder in folders if re.fullmatch("[0-9a-f]{40}", folder)), commit)
    return [_HubShard(dataset, name, config.text_column)], commit


@contextlib.contextmanager
def _only_cache(datasets_config: Any) -> Iterator[None]:
    """Keep `load_dataset` from trying the network for half a minute, when it is known not to be there."""
    before = datasets_config.HF_HUB_OFFLINE
    datasets_config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets_config.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
