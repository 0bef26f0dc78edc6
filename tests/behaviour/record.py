"""Short runs of everything that can be trained, and what they must go on being: rows, losses, scores, weights.

    python tests/behaviour/record.py          # compares with expected.json, to the bit, and says what is not as it was
    python tests/behaviour/record.py --write  # writes expected.json anew, for a change of numbers that is meant

Digests (of rows, masks and labels), counts and learning rates are the same on every machine and with all libraries;
losses, with the libraries that `expected.json` was written with, to the rounding of a machine's arithmetic; bits of
losses and weights only on the same hardware too.
"""

import argparse
import csv
import hashlib
import json
import platform
import random
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # tests/, which pytest has there already
if __name__ == "__main__":
    import conftest  # noqa: F401 - a cache of its own
import torch
from launch import TINY, WORDS, events, run, write_corpus, write_labelled

EXPECTED = Path(__file__).with_name("expected.json")
STEPS = ["--train.steps", "6", "--train.global_batch_size", "12", "--train.micro_batch_size", "5"]
STEPS += ["--evaluation.every", "3", "--checkpoint.every", "3"]
SHAPE, PRETRAIN = TINY[:6], [*TINY[6:], *STEPS]
BERT = ["--model.name", "bert-tiny", "--tokenizer.kind", "bpe", "--model.dropout", 0.1]
GPT2 = ["--model.name", "gpt2-tiny", "--model.overrides.n_embd", 32, "--model.overrides.n_head", 2]
TUNE = [*STEPS, "--train.log_every", "1", "--train.cpu_threads", "1", "--max_length", "40", "--model.dropout", "0.1"]
PHASES = "[{steps: 2, sequence_length: 24, global_batch_size: 20}, {steps: 1, objective: clm}, "
PHASES += "{steps: 1, mask_probability: 0.4}]"
Options = list[Any]


def pretraining(*more: Any, recipe: str = "pretrain_mlm.py", processes: int = 1) -> Callable[[Path, Path], None]:
    """A run of a pretraining recipe: (its folder, the folder of the data) -> None."""

    def start(out: Path, data: Path, *options: Any) -> None:
        text = ["--data.sources", data / "corpus.txt"]
        run(recipe, *text, *PRETRAIN, *more, *options, "--output_dir", out, processes=processes)

    return start


def finetuning(recipe: str, file: str, *more: Any) -> Callable[[Path, Path], None]:
    """A run of a fine-tuning recipe, from the model in `data / "model"`."""

    def start(out: Path, data: Path, *options: Any) -> None:
        files = ["--data.train_file", data / file, "--data.validation_file", data / file]
        run(recipe, "--model.name", data / "model", *files, *TUNE, *more, *options, "--output_dir", out)

    return start


def resumed(start: Callable[..., None]) -> Callable[[Path, Path], None]:
    """A run that ends after its fourth step, and is then continued to its sixth."""

    def both(out: Path, data: Path, *options: Any) -> None:
        start(out, data, *options, "--train.steps", 4)
        start(out, data, *options, "--resume.allow_changed")

    return both


CLASSIFY, NER = "finetune_classification.py", "finetune_ner.py"
RUNS: dict[str, Callable[..., None]] = {
    "masked tokens": pretraining(*SHAPE),
    "masked words, Muon": pretraining(*SHAPE, "--masking.unit", "word", "--optimizer.name", "muon"),
    "masked spans": pretraining(*SHAPE, "--masking.unit", "span"),
    "masked, phases": pretraining(*SHAPE, "--phases", PHASES),
    "masked, BERT with dropout": pretraining(
        "--model.name", "bert-tiny", "--tokenizer.kind", "bpe", "--model.dropout", 0.1
    ),
    "masked, one document per sequence": pretraining(*SHAPE, "--tokens.packing", "one_document"),
    "masked, two processes": pretraining(*SHAPE, processes=2),
    "masked, resumed": resumed(pretraining(*SHAPE, "--schedule.name", "constant")),
    "causal": pretraining(*SHAPE, recipe="pretrain_clm.py"),
    "causal, GPT-2": pretraining(*GPT2, recipe="pretrain_clm.py"),
    "classification": finetuning(CLASSIFY, "labelled.csv"),
    "classification of pairs": finetuning(CLASSIFY, "pairs.csv"),
    "several labels per text": finetuning(CLASSIFY, "several.jsonl"),
    "regression": finetuning(CLASSIFY, "scores.csv"),
    "tagging": finetuning(NER, "labelled.conll"),
    "LoRA": finetuning(CLASSIFY, "labelled.csv", "--transfer.lora_rank", 4),
    "layer-wise learning rates": finetuning(CLASSIFY, "labelled.csv", "--transfer.layer_decay", 0.8),
    "gradual unfreezing": finetuning(NER, "labelled.conll", "--transfer.unfreeze", "by_layers"),
    "classification, resumed": resumed(finetuning(CLASSIFY, "labelled.csv", "--schedule.name", "constant")),
}
PRECISIONS = ("no", "bf16")
BY_HAND = ("masked, two processes", "masked, resumed", "classification, resumed")  # other tests run those to the bit
EXACT = ("step", "digest", "num_targets", "tokens", "lr")


def write_data(folder: Path) -> None:
    """Texts, labelled files of every kind, and a model to fine-tune."""
    write_corpus(folder / "corpus.txt", documents=120)
    write_labelled(folder, rows=60)
    rng = random.Random(2)
    sentences = [" ".join(rng.sample(WORDS, 6)) for _ in range(60)]
    with open(folder / "pairs.csv", "w", newline="") as pairs, open(folder / "scores.csv", "w", newline="") as scores:
        out = csv.writer(pairs)
        out.writerow(["sentence1", "sentence2", "label"])
        out.writerows(
            [a, b, "same" if a[0] == b[0] else "other"] for a, b in zip(sentences, sentences[::-1], strict=True)
        )
        out = csv.writer(scores)
        out.writerow(["text", "label"])
        out.writerows([text, len(text) / 10] for text in sentences)
    labels = [[name for name in ("cats", "rain", "stone") if name in text.split()] for text in sentences]
    rows = [json.dumps({"text": text, "labels": found}) for text, found in zip(sentences, labels, strict=True)]
    (folder / "several.jsonl").write_text("\n".join(rows) + "\n")
    pretraining(*SHAPE)(folder / "model", folder)


def outcome(out: Path) -> dict[str, Any]:
    """What a finished run must go on being."""
    steps = [[event[name] for name in EXACT] for event in events(out, "step")]
    keep = ("event", "seconds", "time", "step")
    scores = [{name: value for name, value in event.items() if name not in keep} for event in events(out, "evaluation")]
    return {
        "steps": steps,
        "losses": [event["loss"] for event in events(out, "step")],
        "grad_norms": [event["grad_norm"] for event in events(out, "step")],
        "evaluations": scores,
        "weights": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def machine() -> str:
    """What the bits depend on besides the code."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers", "numpy"))
    processor = f"{model.partition(': ')[2] or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{processor}, {libraries}"  # virtual machines call processors of several generations by one name


def rounds_alike(recorded_on: str) -> bool:
    """Whether losses differ from those of a `machine()` by rounding: models begin alike, with the same torch and
    transformers, and products are added up as wide. Muon and a fine-tuning of what it has trained amplify the rest."""
    same = [f"{name} {version(name).partition('+')[0]}" for name in ("torch", "transformers")]
    return all(part in recorded_on for part in (*same, f"{torch.backends.cpu.get_cpu_capability()}, "))


def record(folder: Path, names: list[str]) -> dict[str, Any]:
    """Run what `names` say, such as `"causal, bf16"`, two at a time; returns their outcomes."""
    write_data(folder)

    def one(name: str) -> dict[str, Any]:
        run_name, _, precision = name.rpartition(", ")
        out = folder / name.replace(" ", "-").replace(",", "")
        RUNS[run_name](out, folder, "--train.mixed_precision", precision)
        return outcome(out)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def every(tests: bool = False) -> list[str]:
    """All runs in float32 and in bfloat16; of the latter the tests have the first."""
    runs = [f"{name}, {precision}" for precision in PRECISIONS for name in RUNS]
    if not tests:
        return runs
    return [*(name for name in runs[: len(RUNS)] if name.removesuffix(", no") not in BY_HAND), runs[len(RUNS)]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="write expected.json anew")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine(), "runs": record(Path(folder), every())}
    if asked.write:
        EXPECTED.write_text(json.dumps(found, indent=1) + "\n")
        return
    expected, differ = json.loads(EXPECTED.read_text()), 0
    print(f"recorded on {expected['machine']}\nhere on     {found['machine']}")
    for name, was in expected["runs"].items():
        now = found["runs"][name]
        changed = [part for part in was if was[part] != now[part]]
        differ += bool(changed)
        print(f"{name:50} {'the same bits' if not changed else 'NOT THE SAME: ' + ', '.join(changed)}")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
