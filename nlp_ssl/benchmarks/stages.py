"""Parts of the way to a step, each beside what does the same elsewhere."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling

from nlp_ssl.benchmarks.settings import BenchmarkConfig
from nlp_ssl.config.common import plain, to_dict
from nlp_ssl.core import console, errors
from nlp_ssl.core.files import make_folder
from nlp_ssl.core.invocation import RECIPES, command_of
from nlp_ssl.data.sequences.batches import TrainBatches
from nlp_ssl.data.sequences.packing import pack
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.data.text.corpus import open_corpus
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator
from nlp_ssl.runs import pretraining_data

MEGABYTES = 64  # of text that the tokenising stage reads
TOKENS = 2_000_000  # that the batches and masking stages make in a round
RECIPE = f"{RECIPES}.pretrain_mlm"


def alternate(contenders: dict[str, Callable[[], float]], rounds: int) -> list[dict[str, Any]]:
    """Every contender once a round, each telling its rate; medians, and how many times as fast the first one is."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in console.progress(range(rounds), desc="measure", unit="round"):
        for name, measure in contenders.items():
            rates[name].append(measure())
    first = next(iter(rates.values()))
    rows = []
    for name, found in rates.items():
        ratios = [own / other for own, other in zip(first, found, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        rows.append({"": name, "rate": statistics.median(found), "ours is times as fast": spread})
    return rows


def _rate(amount: float, work: Callable[[], Any]) -> Callable[[], float]:
    def measure() -> float:
        begun = time.perf_counter()
        work()
        return amount / (time.perf_counter() - begun)

    return measure


def tokenise(config: BenchmarkConfig) -> dict[str, Any]:
    """Text to tokens on disk, in MB/s, beside the tokenizer alone and `Dataset.map`."""
    tokenizer = pretraining_data.prepare(config, pretraining_data.infer_objective(config)).tokenizer
    texts, size = [], 0
    for row in open_corpus(config.data).train:
        texts.append(row["text"])
        size += len(row["text"].encode())
        if size > MEGABYTES * 1e6:
            break
    documents = Dataset.from_dict({"text": texts})
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            tokenize_corpus(documents, tokenizer, f"{folder}/tokens", "benchmark")

    def alone() -> None:
        for begin in range(0, len(texts), 1000):
            backend.encode_batch_fast(texts[begin : begin + 1000], add_special_tokens=False)

    def mapped() -> None:
        with tempfile.TemporaryDirectory() as folder:
            documents.map(
                lambda batch: tokenizer(batch["text"], verbose=False),
                batched=True, remove_columns=["text"], load_from_cache_file=False, cache_file_name=f"{folder}/a.arrow",
            )  # fmt: skip

    found = {"nlp_ssl": ours, "encode_batch_fast alone": alone, "Dataset.map": mapped}
    rows = alternate({name: _rate(size / 1e6, work) for name, work in found.items()}, config.rounds)
    return {"rows": rows, "notes": ["rates in MB of text a second"], "megabytes": size / 1e6}


def pack_documents(config: BenchmarkConfig) -> dict[str, Any]:
    """A million documents into rows: seconds, and how full the rows are."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(5.0, 1.2, 1_000_000).astype(np.int64) + 1, 100_000)
    rows = []
    for length in (128, 512, 1024):
        with tempfile.TemporaryDirectory() as folder:
            tokens = _corpus_of(lengths, Path(folder), filled=False)
            begun = time.perf_counter()
            packed = pack(tokens, length, (0,), (1,), 2, root=Path(folder))
            seconds = time.perf_counter() - begun
        rows.append({"row length": length, "seconds": seconds, "full": f"{packed.stats.fill:.2%}", "rows": len(packed)})
    return {"rows": rows, "notes": ["a million documents of lognormal lengths"]}


def _corpus_of(lengths: np.ndarray, folder: Path, filled: bool = True) -> TokenCorpus:
    """Documents of these lengths, of random tokens."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    size = int(offsets[-1]) if filled else 0
    tokens = np.random.default_rng(1).integers(10, 30_000, size).astype(np.uint16)
    return TokenCorpus(folder, {"fingerprint": "benchmark"}, offsets, lengths, [tokens], np.array([0, size]))


def batches(config: BenchmarkConfig) -> dict[str, Any]:
    """Masked batches, in million tokens per second of one core, beside a `DataLoader` with the stock collator."""
    torch.set_num_threads(1)
    data = pretraining_data.prepare(config, pretraining_data.infer_objective(config))
    length = data.train.sequence_length
    rows = []
    columns = {"input_ids": [data.train[i]["input_ids"] for i in range(min(len(data.train), 4096))]}
    stored = Dataset.from_dict(columns).with_format("torch")
    for size in (32, 256, 1024):
        collator = MaskedCollator(MaskingCollator(data.tokenizer, config.masking))
        steps = TrainBatches(Phases([Phase(data.train, size, size)]), collator, seed=0).steps(0)
        count = max(1, TOKENS // (size * length))
        loader = DataLoader(stored, size, shuffle=True, collate_fn=DataCollatorForLanguageModeling(data.tokenizer))
        few = max(1, min(count // 8, len(loader)))

        def ours(steps: Any = steps, count: int = count) -> None:
            for _ in range(count):
                next(steps)

        def stock(loader: Any = loader, few: int = few) -> None:
            for _ in zip(range(few), loader, strict=False):
                pass

        amounts = {"nlp_ssl": (count, ours), "DataLoader, stock collator": (few, stock)}
        found = alternate({n: _rate(c * size * length / 1e6, work) for n, (c, work) in amounts.items()}, config.rounds)
        rows += [{"batch": f"{size} x {length}", **row} for row in found]
    return {"rows": rows, "notes": ["rates in million tokens per second, on one core"]}


def masking(config: BenchmarkConfig) -> dict[str, Any]:
    """The masks alone, in million tokens per second of one core, beside the stock collator's."""
    torch.set_num_threads(1)
    data = pretraining_data.prepare(config, pretraining_data.infer_objective(config))
    masks, length = MaskingCollator(data.tokenizer, config.masking), data.train.sequence_length
    count = max(1, TOKENS // 8 // length)
    ids = data.train.stack(np.arange(count) % len(data.train))["input_ids"]
    keys = masks.row_keys(np.zeros(count, dtype=np.int64), np.arange(count))
    stock, tensor = DataCollatorForLanguageModeling(data.tokenizer), torch.from_numpy(ids)
    special = torch.from_numpy(~masks.is_ordinary[ids])
    amount = ids.size / 1e6
    rows = alternate(
        {
            "nlp_ssl": _rate(amount, lambda: masks.mask(ids, keys)),
            "DataCollatorForLanguageModeling": _rate(amount, lambda: stock.torch_mask_tokens(tensor.clone(), special)),
        },
        config.rounds,
    )
    return {"rows": rows, "notes": ["rates in million tokens per second, on one core"]}


def _recipe(config: BenchmarkConfig, folder: Path, *options: str) -> subprocess.Popen:
    """A pretraining run of its own, on the same corpus and model."""
    own = set(BenchmarkConfig.__annotations__) | {"output_dir"}
    settings = {key: value for key, value in plain(to_dict(config)).items() if key not in own}
    make_folder(folder)
    (folder / "options.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", RECIPE, "--config", str(folder / "options.yaml")]
    command += ["--output_dir", str(folder / "run"), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _lines(folder: Path) -> list[dict[str, Any]]:
    log = folder / "run" / "log.jsonl"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def resume(config: BenchmarkConfig) -> dict[str, Any]:
    """Seconds from the command to the first step, and from `--resume` to the next, on a tokenised corpus."""
    pretraining_data.prepare(config, pretraining_data.infer_objective(config))
    seconds: dict[str, list[float]] = {"imports": [], "first step": [], "first step after --resume": []}
    for _ in console.progress(range(config.rounds), desc="measure", unit="round"):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import nlp_ssl.runs.pretraining"], check=True)
        seconds["imports"].append(time.perf_counter() - begun)
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            for name, options in {"first step": ["2"], "first step after --resume": ["4", "--resume"]}.items():
                done = max((line["step"] for line in _lines(folder)), default=0)
                begun = time.perf_counter()
                options = ["--train.log_every", "1", "--resume.allow_changed", "--train.steps", *options]
                process = _recipe(config, folder, *options)
                while process.poll() is None and not any(
                    line["event"] == "step" and line["step"] > done for line in _lines(folder)
                ):
                    time.sleep(0.02)
                seconds[name].append(time.perf_counter() - begun)
                process.wait()
    rows = [{"to": name, "seconds": statistics.median(found)} for name, found in seconds.items()]
    return {"rows": rows, "notes": ["medians, on a corpus that is tokenised already"], "all": seconds}


def save(config: BenchmarkConfig) -> dict[str, Any]:
    """What a checkpoint costs training, and so what share it is at the default cadence."""
    pretraining_data.prepare(config, pretraining_data.infer_objective(config))
    saves, steps = 8, 8 * config.steps * 3
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in console.progress(range(config.rounds), desc="measure", unit="round"):
        for saving, found in seconds.items():
            with tempfile.TemporaryDirectory() as root:
                every = steps // saves if saving else 10**9
                options = [
                    "--train.steps",
                    str(steps),
                    "--checkpoint.every",
                    str(every),
                    "--evaluation.every",
                    "100000",
                ]
                process = _recipe(config, Path(root), *options, "--train.log_every", "1")
                if process.wait():
                    raise errors.UserError(
                        f"a run of this stage failed; try the same options with `{command_of('pretrain_mlm')}`"
                    )
                took = [line["seconds"] for line in _lines(Path(root)) if line["event"] == "step"]
                found.append(took[-1] - took[0])
    cost = statistics.median(w - o for o, w in zip(seconds[False], seconds[True], strict=True)) / (saves - 1)
    step = statistics.median(seconds[False]) / (steps - 1)
    rows = [{"a step": f"{step * 1e3:.0f} ms", "a checkpoint": f"{cost * 1e3:.0f} ms of training"}]
    rows[0] |= {f"share at one in {n}": f"{cost / (60 * minutes):.2%}" for n, minutes in (("1 min", 1), ("30 min", 30))}
    return {
        "rows": rows,
        "notes": ["medians of runs with and without checkpoints, in alternation"],
        "all": {str(key): value for key, value in seconds.items()},
    }


STAGES = {
    "tokenise": tokenise,
    "pack": pack_documents,
    "batches": batches,
    "masking": masking,
    "resume": resume,
    "save": save,
}
