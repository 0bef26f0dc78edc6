"""Tokenising a corpus onto disk, once: in parallel, interrupted anywhere, on several machines, with the same result.

What it leaves is described in `tokens.py`, which reads it. `manifest.json` is written last: without it the folder is
unfinished, and the next call resumes where the last one was interrupted.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, List, Value
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core import console, errors, signals
from nlp_ssl.core.files import make_folder, making, sha256, write_atomically
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.core.workers import worker_pool
from nlp_ssl.data.tokens.text_only import backend_of, read_each, text_rules
from nlp_ssl.data.tokens.token_corpus import TokenCorpus

FORMAT = 1
PART_BYTES = 32_000_000  # text in one Arrow file; its record batch is one array
ENCODE_BATCH = 512


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Fingerprint of what a tokenizer does to text; padding and truncation, which a caller may have set, left out."""
    return fingerprint(text_rules(tokenizer))


def tokenize_corpus(
    documents: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerFast,
    folder: str | Path,
    corpus_fingerprint: str,
    *,
    num_proc: int | None = None,
    shard: int = 0,
    num_shards: int = 1,
) -> TokenCorpus | None:
    """Tokenise a corpus into a folder, or resume it, or find it finished.

    The result depends only on the documents and the tokenizer, not on the number of processes or on interruptions.

    Args:
        documents: a data set (map-style or streaming) with a `text` column.
        tokenizer: any fast tokenizer; it reads text as text, also where that spells a special token.
        folder: where to write; several machines may share it.
        corpus_fingerprint: of the text.
        num_proc: processes; each uses up to 8 threads. Derived from the cores when `None`.
        shard: which of `num_shards` parts of the corpus to make here.
        num_shards: parts of the corpus, made by different calls, perhaps on different machines.

    Returns:
        The finished corpus, or `None` while other machines' parts are missing.
    """
    folder = Path(folder)
    if (folder / "manifest.json").exists():
        return TokenCorpus.open(folder)
    make_folder(folder)
    total = len(documents) if hasattr(documents, "__len__") else None
    if num_shards > 1:
        if total is not None:
            documents = documents.shard(num_shards=num_shards, index=shard)
            total = len(documents)
        else:  # a stream can be sharded only as far as its files go, so every machine reads all of it
            documents = documents.filter(lambda _, i: i % num_shards == shard, with_indices=True)
    dtype = "uint16" if num_ids(tokenizer) <= 2**16 else "uint32"
    serialized = text_rules(tokenizer)
    tokenizer_print = fingerprint(serialized)
    _claim(folder, fingerprint(corpus_fingerprint, tokenizer_print, FORMAT))
    cores = os.cpu_count() or 1
    num_proc = num_proc or max(1, cores // 8)
    label = f"{shard:03d}-of-{num_shards:03d}"
    with console.progress(total=total, desc="tokenise", unit="doc") as bar:
        parts = _missing_parts(documents, folder, label, bar)
        if num_proc == 1:
            for texts, path in parts:
                signals.run_in_thread(partial(_make_part, serialized, texts, path, dtype, bar.update))
        else:
            _make_parts_in_processes(serialized, parts, dtype, num_proc, bar)
    write_atomically(folder / f"done-{shard:03d}-of-{num_shards:03d}", b"")
    if len(list(folder.glob(f"done-*-of-{num_shards:03d}"))) < num_shards:
        return None
    records = sorted(folder.glob(f"part-*-of-{num_shards:03d}-*.json"))
    _finish(folder, records, corpus_fingerprint, tokenizer_print, dtype)
    return TokenCorpus.open(folder)


def _claim(folder: Path, source: str) -> None:
    """Note what an unfinished folder is made from, so that nothing else resumes it."""
    note = folder / "source"
    if not note.exists():
        write_atomically(note, source.encode())
    elif note.read_text(encoding="utf-8") != source:
        raise errors.UserError(
            f"{folder} holds the unfinished tokens of another corpus or tokenizer; remove it, or give another folder"
        )


def _missing_parts(
    documents: Dataset | IterableDataset, folder: Path, label: str, bar: console.tqdm
) -> Iterator[tuple[list[str], Path]]:
    """Cut the corpus into parts at fixed places and give those that are not on disk yet.

    The parts at the front that are done are skipped without being read.
    """
    number = skipped = 0
    while (record := folder / f"part-{label}-{number:05d}.json").exists():
        skipped += json.loads(record.read_text(encoding="utf-8"))["documents"]
        number += 1
    if skipped:
        console.say(
            f"tokenise: {console.counted(number, 'part')} with {console.counted(skipped, 'document')} there already, "
            "continuing"
        )
        bar.update(skipped)
        if hasattr(documents, "__len__") and skipped == len(documents):  # all but the manifest; skip() would refuse
            return
        documents = documents.skip(skipped)
    for texts in _cut(documents):
        path = folder / f"part-{label}-{number:05d}.arrow"
        number += 1
        if path.with_suffix(".json").exists():
            bar.update(len(texts))
        else:
            yield texts, path


def _cut(documents: Dataset | IterableDataset) -> Iterator[list[str]]:
    """Consecutive documents in lists of about `PART_BYTES`."""
    texts, size = [], 0
    for row in documents:
        texts.append(row["text"])
        size += len(row["text"].encode())
        if size >= PART_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _make_parts_in_processes(
    serialized: str, parts: Iterator[tuple[list[str], Path]], dtype: str, num_proc: int, bar: console.tqdm
) -> None:
    """Hand the parts to `num_proc` processes, never more than two waiting for each."""
    threads = str(max(1, (os.cpu_count() or 1) // num_proc))
    again = "with a smaller --tokens.num_proc it takes less memory; what is finished is kept"
    with worker_pool(num_proc, "tokenising", again, "spawn", _start_worker, (threads,)) as pool:
        running: dict[Future, int] = {}

        def collect(futures: Iterable[Future]) -> None:
            for future in futures:
                future.result()
                bar.update(running.pop(future))

        for texts, path in parts:
            future = pool.submit(_make_part, serialized, texts, path, dtype)
            running[future] = len(texts)
            if len(running) >= 2 * num_proc:
                collect(wait(running, return_when=FIRST_COMPLETED).done)
        collect(list(running))


def _start_worker(threads: str) -> None:
    os.environ.update(RAYON_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="true")


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[Encoding]]:
    """Batches of encodings; the next one is made on a thread while the caller is busy with the last."""
    with ThreadPoolExecutor(1) as thread:
        ahead: Future[list[Encoding]] | None = None
        for begin in range(0, len(texts), ENCODE_BATCH):
            made = ahead
            batch = texts[begin : begin + ENCODE_BATCH]
            ahead = thread.submit(read_each, partial(tokenizer.encode_batch_fast, add_special_tokens=False), batch)
            if made is not None:
                yield made.result()
        if ahead is not None:
            yield ahead.result()


def _make_part(
    serialized: str, texts: list[str], path: Path, dtype: str, on_documents: Callable[[int], Any] = lambda count: None
) -> None:
    """Tokenise one part and write its Arrow file, then the record that says it is complete."""
    tokenizer = backend_of(serialized)
    ids = []
    lengths: list[int] = []
    for encodings in _encoded(tokenizer, texts):
        lists = [encoding.ids for encoding in encodings]
        lengths += map(len, lists)
        ids.append(np.fromiter(chain.from_iterable(lists), dtype, sum(map(len, lists))))
        on_documents(len(lists))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    num_bytes = np.array([len(text.encode()) for text in texts], dtype=np.uint32)
    features = Features({"input_ids": List(Value(dtype)), "num_bytes": Value("uint32")})
    values = pa.array(np.concatenate(ids))
    table = [pa.ListArray.from_arrays(pa.array(offsets), values), pa.array(num_bytes)]
    batch = pa.RecordBatch.from_arrays(table, schema=features.arrow_schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    write_atomically(path, data)
    record = {
        "file": path.name,
        "documents": len(texts),
        "tokens": int(offsets[-1]),
        "bytes": int(num_bytes.sum()),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record).encode())


def _finish(folder: Path, records: list[Path], corpus_fingerprint: str, tokenizer_print: str, dtype: str) -> None:
    """Write what makes the parts one corpus; `manifest.json` comes last."""
    shards = [json.loads(record.read_text(encoding="utf-8")) for record in records]
    if not shards:
        raise errors.UserError("the corpus has no documents to tokenise")
    lengths, num_bytes = [], []
    for shard in shards:
        with pa.memory_map(str(folder / shard["file"])) as source:
            for batch in pa.ipc.open_stream(source):
                lengths.append(np.diff(batch.column("input_ids").offsets.to_numpy()))
                num_bytes.append(batch.column("num_bytes").to_numpy())
    arrays = {"document_offsets.npy": np.concatenate([[0], np.cumsum(np.concatenate(lengths))])}
    arrays |= {"document_bytes.npy": np.concatenate(num_bytes)}
    for name, array in arrays.items():
        _save_array(folder / name, array)
    features = Features({"input_ids": List(Value(dtype)), "num_bytes": Value("uint32")})
    info = {"features": features.to_dict(), "description": "", "citation": "", "homepage": "", "license": ""}
    write_atomically(folder / "dataset_info.json", json.dumps(info).encode())
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard["file"]} for shard in shards],
        "_fingerprint": fingerprint(corpus_fingerprint, tokenizer_print),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_atomically(folder / "state.json", json.dumps(state).encode())
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(corpus_fingerprint, tokenizer_print, FORMAT),
        "corpus": corpus_fingerprint,
        "tokenizer": tokenizer_print,
        "dtype": dtype,
        "documents": sum(s["documents"] for s in shards),
        "tokens": sum(s["tokens"] for s in shards),
        "bytes": sum(s["bytes"] for s in shards),
        "shards": shards,
        "arrays": {name: sha256(folder / name) for name in arrays},
    }
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _save_array(path: Path, array: np.ndarray) -> None:
    with making(path) as temporary, open(temporary, "wb") as f:  # np.save does not say that a disk is full
        np.lib.format.write_array_header_1_0(f, np.lib.format.header_data_from_array_1_0(array))
        f.write(array.data)
