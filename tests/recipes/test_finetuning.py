"""Fine-tuning as its recipes do it: seeds, what is written, the best kept; and a plain loop that learns the same."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from launch import events, run, write_labelled
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.utils.class_weight import compute_class_weight
from toys import tiny_model
from toys import tokenizer as toy_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from nlp_ssl.data.sequences.order import rows_at

FIXED = ["--max_length", 64, "--train.mixed_precision", "no", "--train.cpu_threads", 1, "--train.log_every", 1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = toy_tokenizer("wordpiece")
    tiny_model("bert", vocab_size=len(tokenizer), dropout=0.0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def unknown_share(model: Path, labelled: Path) -> float:
    """Of the characters of a csv's texts, those inside unknown tokens; plain transformers counts."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [row["text"] for row in csv.DictReader(labelled.open())]
    read = [tokenizer(text, add_special_tokens=False, return_offsets_mapping=True) for text in texts]
    pairs = [pair for one in read for pair in zip(one["input_ids"], one["offset_mapping"], strict=True)]
    lost = sum(end - start for token_id, (start, end) in pairs if token_id == tokenizer.unk_token_id)
    return lost / sum(map(len, texts))


def predictions(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_seeds_their_spread_and_what_is_written(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    options = ["--data.train_file", labelled[0], "--data.validation_file", labelled[0], "--model.name", model, *FIXED]
    options += ["--optimizer.lr", "2e-3", "--seeds", "[3,4]", "--output_dir", out]
    printed = run("finetune_classification.py", *options, "--train.epochs", 2)
    assert "seed 4 (2 of 2)" in printed
    assert f"head: new, for 2 classes; {model} has none" in printed.splitlines()
    assert "LOAD REPORT" not in printed
    assert "begun at random" not in printed
    assert f"unknown text: {unknown_share(model, labelled[0]):.2%} of the characters" in printed
    found = {row["metric"]: row for row in json.loads((out / "results.json").read_text())}
    scores = [events(out / f"seed-{seed}", "evaluation")[-1]["accuracy"] for seed in (3, 4)]
    assert found["accuracy"]["mean"] == pytest.approx(statistics.mean(scores))
    assert found["accuracy"]["std"] == pytest.approx(statistics.stdev(scores))
    assert found["accuracy"]["95 % from"] <= found["accuracy"]["mean"] <= found["accuracy"]["to"]

    # plain transformers says the same of every row
    rows = predictions(out / "seed-3")
    theirs = pipeline("text-classification", str(out / "seed-3"))([row["texts"]["text"] for row in rows])
    assert [row["row"] for row in rows] == list(range(160))
    for row, label in zip(rows, theirs, strict=True):
        assert row["predicted"] == label["label"]
        assert row["probabilities"][label["label"]] == pytest.approx(label["score"], abs=1e-4)
    right = [row["predicted"] == row["label"] for row in rows]
    assert statistics.mean(right) == pytest.approx(scores[0])
    wrong = sorted(row["probabilities"][row["label"]] for row in rows if row["predicted"] != row["label"])
    errors = [json.loads(line) for line in (out / "seed-3" / "errors.jsonl").read_text().splitlines()]
    assert [error["probability of the label"] for error in errors] == pytest.approx(wrong[:10], abs=1e-5)
    assert Image.open(out / "seed-3" / "confusion.png").width > 100

    # the card of each tells what all of them say together
    for seed, score in zip((3, 4), scores, strict=True):
        card = (out / f"seed-{seed}" / "README.md").read_text()
        over = f"over 2 seeds {statistics.mean(scores):.4g} ± {statistics.stdev(scores):.4g}"
        assert f"| validation | accuracy | {score:.4g}; {over} |" in card
        assert "single seed" not in card
        assert all(f"]({name})" in card for name in ("curves.png", "confusion.png"))
        config = AutoConfig.from_pretrained(out / f"seed-{seed}")
        shown = {"Architecture": config.model_type, "Layers": config.num_hidden_layers, "Vocabulary": config.vocab_size}
        assert all(f"| {name} | {value} |" in card for name, value in shown.items())

    # what is finished is not run again
    kept = [path for name in ("log.jsonl", "model.safetensors") for path in sorted(out.glob(f"seed-*/{name}"))]
    before = [path.read_bytes() for path in kept]
    again = run("finetune_classification.py", *options, "--train.epochs", 2, "--resume")
    assert again.count("is finished") == 2
    assert [path.read_bytes() for path in kept] == before
    assert (out / "seed-4" / "README.md").read_text() == card
    # ... and is not taken for what other options would have given
    refused = run("finetune_classification.py", *options, "--train.epochs", 3, "--resume", expect=2)
    assert "--train.epochs was 2" in refused
    assert {row["metric"]: row for row in json.loads((out / "results.json").read_text())} == found


def test_the_best_is_kept_and_patience_ends(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--data.train_file", labelled[0], "--model.name", model, *FIXED, "--output_dir", out]
    options += ["--optimizer.lr", "5e-3", "--schedule.name", "constant", "--train.epochs", 40]
    options += ["--evaluation.patience", 3, "--evaluation.metric", "held_out_loss"]
    run("finetune_classification.py", *options)
    found = events(out, "evaluation")
    losses = [event["held_out_loss"] for event in found]
    best = min(found, key=lambda event: event["held_out_loss"])
    assert losses.index(best["held_out_loss"]) == len(losses) - 4  # three more, none better
    assert found[-1]["step"] < 40 * 5
    kept = out / "checkpoints" / f"step-{best['step']:08d}"
    assert (out / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
    assert events(out, "validation")[-1]["held_out_loss"] == pytest.approx(best["held_out_loss"], rel=1e-5)
    assert json.loads((out / "run_status.json").read_text())["status"] == "finished"

    # had it been killed behind its best evaluation, it would have waited no longer for a better one
    (out / "run_status.json").unlink()
    for checkpoint in kept.parent.iterdir():
        if checkpoint.name > kept.name:
            shutil.rmtree(checkpoint)
    assert f"(step {best['step']})" in run("finetune_classification.py", *options, "--resume")
    again = events(out, "evaluation")
    assert [(e["step"], e["held_out_loss"]) for e in again] == [(e["step"], e["held_out_loss"]) for e in found]


def test_several_classes_a_row(model: Path, tmp_path: Path) -> None:
    words = ["cats", "rain", "stone"]
    rng = np.random.default_rng(0)
    rows = [[word for word in words if rng.random() < 0.4] for _ in range(120)]
    lines = [json.dumps({"text": " ".join(["the", *row, "sleep", str(i)]), "label": row}) for i, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    run(
        "finetune_classification.py", "--data.train_file", tmp_path / "train.jsonl", "--model.name", model, *FIXED,
        "--data.validation_file", tmp_path / "train.jsonl", "--output_dir", tmp_path / "run",
        "--train.epochs", 40, "--optimizer.lr", "3e-3",
    )  # fmt: skip
    assert events(tmp_path / "run", "evaluation")[-1]["f1_micro"] > 0.9
    classify = pipeline("text-classification", str(tmp_path / "run"), top_k=None)
    for row in predictions(tmp_path / "run"):
        (theirs,) = classify([row["texts"]["text"]])
        assert row["probabilities"] == pytest.approx({each["label"]: each["score"] for each in theirs}, abs=1e-4)
        assert row["predicted"] == sorted(each["label"] for each in theirs if each["score"] > 0.5)


def test_the_card_has_the_score_of_the_test_rows(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    run(
        "finetune_classification.py", "--data.train_file", labelled[0], "--data.test_file", labelled[0],
        "--model.name", model, *FIXED, "--output_dir", tmp_path / "run", "--train.epochs", 1,
    )  # fmt: skip
    right = [row["predicted"] == row["label"] for row in predictions(tmp_path / "run") if row["set"] == "test"]
    card = ModelCard.load(tmp_path / "run" / "README.md")
    scores = {(each.dataset_split, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert scores["test", "accuracy"] == pytest.approx(statistics.mean(right), abs=1e-6)


def test_hidden_test_rows_are_predicted(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "while cats sleep"}\n{"text": ""}\n{"text": "old stone"}\n')
    run(
        "finetune_classification.py", "--data.train_file", labelled[0], "--data.test_file", tmp_path / "test.jsonl",
        "--model.name", model, *FIXED, "--output_dir", tmp_path / "run", "--train.epochs", 1,
    )  # fmt: skip
    hidden = [row for row in predictions(tmp_path / "run") if row["set"] == "hidden"]
    assert [row["texts"]["text"] for row in hidden] == ["while cats sleep", "", "old stone"]
    assert {row["label"] for row in hidden} == {None}
    assert {row["predicted"] for row in hidden} <= {"cat", "other"}


def plain_loop(network, batches, lr: float, class_weights: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """AdamW by hand: the loss that transformers returns, decay of matrices, clipping to 1."""
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    decayed = [p for p in network.parameters() if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in network.parameters() if p.ndim < 2 or id(p) in embeddings]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999))
    network.train()
    for batch in batches:
        found = network(**batch)
        if class_weights is None:
            found.loss.backward()
        else:
            losses = torch.nn.functional.cross_entropy(found.logits, batch["labels"], reduction="none")
            (losses * class_weights[batch["labels"]]).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return network.state_dict()


def order(num_rows: int, steps: int, batch_size: int, seed: int) -> np.ndarray:
    return rows_at(np.arange(steps * batch_size), num_rows, seed)[0].reshape(steps, batch_size)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_plain_loop_learns_the_same_classifier(
    model: Path, labelled: tuple[Path, Path], tmp_path: Path, balanced: bool
) -> None:
    run(
        "finetune_classification.py", "--data.train_file", labelled[0], "--data.validation_file", labelled[0],
        "--model.name", model, *FIXED, "--output_dir", tmp_path / "run", "--train.steps", 12,
        "--train.global_batch_size", 16, "--schedule.name", "constant", "--schedule.warmup", 0,
        "--optimizer.lr", "1e-3", "--seed", 5,
        *(["--class_weights", "balanced"] if balanced else []),
    )  # fmt: skip
    lines = labelled[0].read_text().splitlines()[1:]
    texts, labels = zip(*(line.rsplit(",", 1) for line in lines), strict=True)
    classes = ["cat", "other"]
    weights = compute_class_weight("balanced", classes=np.array(classes), y=np.array(labels)) if balanced else None
    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(5)
    settings = {"num_labels": 2, "pad_token_id": tokenizer.pad_token_id, "dtype": torch.float32}
    network = AutoModelForSequenceClassification.from_pretrained(model, **settings)

    def batches():
        for rows in order(160, 12, 16, seed=5):
            batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
            yield {**batch, "labels": torch.tensor([classes.index(labels[row]) for row in rows])}

    weights = torch.tensor(weights, dtype=torch.float32) if balanced else None
    compare(load_file(tmp_path / "run" / "model.safetensors"), plain_loop(network, batches(), 1e-3, weights), model)


def test_a_plain_loop_learns_the_same_tagger(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    printed = run(
        "finetune_ner.py", "--data.train_file", labelled[1], "--data.validation_file", labelled[1],
        "--model.name", model, *FIXED, "--output_dir", tmp_path / "run", "--train.steps", 12,
        "--train.global_batch_size", 16, "--schedule.name", "constant", "--schedule.warmup", 0,
        "--optimizer.lr", "1e-3", "--seed", 5,
    )  # fmt: skip
    blocks = labelled[1].read_text().strip().split("\n\n")
    sentences = [[line.split() for line in block.splitlines()] for block in blocks]
    tags = ["O", "B-ANIMAL", "I-ANIMAL"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(5)
    network = AutoModelForTokenClassification.from_pretrained(model, num_labels=len(tags), dtype=torch.float32)

    def batches():
        for rows in order(len(sentences), 12, 16, seed=5):
            words = [[columns[0] for columns in sentences[row]] for row in rows]
            batch = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
            targets = torch.full_like(batch["input_ids"], -100)
            for i, row in enumerate(rows):
                seen = set()
                for at, word in enumerate(batch.word_ids(i)):
                    if word is not None and word not in seen:
                        targets[i, at] = tags.index(sentences[row][word][-1])
                        seen.add(word)
            yield {**batch, "labels": targets}

    compare(load_file(tmp_path / "run" / "model.safetensors"), plain_loop(network, batches(), 1e-3), model)

    # the run's score, and the same from plain transformers, which reads whole sentences
    (f1,) = {float(line.split()[-1]) for line in printed.splitlines() if line.startswith(("this run, ", "pipeline("))}
    tag = pipeline("token-classification", str(tmp_path / "run"), aggregation_strategy="first")
    hits = total = 0
    for sentence in sentences:
        text = " ".join(columns[0] for columns in sentence)
        found = {(e["start"], e["end"]) for e in tag(text)}
        true, at = set(), 0
        for columns in sentence:
            if columns[-1] == "B-ANIMAL":
                true.add((at, at + len(columns[0])))
            at += len(columns[0]) + 1
        hits, total = hits + len(found & true), total + len(found) + len(true)
    assert f1 == pytest.approx(2 * hits / total, abs=1e-4)
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'aggregation_strategy="first"' in card
    assert f"{f1:.4f} counted by the run, {f1:.4f} by this call" in card


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], model: Path) -> None:
    """The weights have moved far, and to the same place."""
    begin = load_file(model / "model.safetensors")
    names = {name for name in begin.keys() & expected.keys() if "key.bias" not in name}  # its gradient is all rounding
    moved = {name: expected[name] - begin[name] for name in names}
    apart = sum(float((found[name] - expected[name]).square().sum()) for name in moved) ** 0.5
    path = sum(float(step.square().sum()) for step in moved.values()) ** 0.5
    assert len(moved) > 20
    assert apart < 1e-4 * path


def test_pretrained_and_from_scratch_with_few_labels_and_many(
    model: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    for kind, file, metric in (("classification", labelled[0], "accuracy"), ("ner", labelled[1], "f1")):
        out, fewer = tmp_path / kind, ["--ways", "[pretrained]", "--fractions", "[0.1,1]"]
        printed = run(
            "compare_transfer.py", "--kind", kind, "--data.train_file", file, "--data.validation_file", file,
            "--model.name", model, *FIXED, "--output_dir", out, "--train.steps", 3, "--seeds", "[0,1]",
            *(["--ways", "[pretrained,frozen]", "--fractions", "[1]"] if kind == "ner" else fewer),
        )  # fmt: skip
        found = json.loads((out / "results.json").read_text())
        assert found["metric"] == metric
        rows = {(row["way"], row["labels"]): row for row in found["rows"]}
        assert len(rows) == 2
        (row,) = (row for (way, labels), row in rows.items() if way == "pretrained" and labels > 20)
        runs = [
            events(out / f"pretrained-{row['labels']}" / f"seed-{seed}", "evaluation")[-1][metric] for seed in (0, 1)
        ]
        assert row["runs"] == pytest.approx(runs)
        assert Image.open(out / "transfer.png").width > 500
        if kind == "classification":
            lines = file.read_text().splitlines()[1:]
            share = sum(line.endswith(",other") for line in lines) / len(lines)
            assert found["commonest"] == {"validation": pytest.approx(share)}
            assert "commonest class" in printed
        else:  # a frozen body is the pretrained one
            weights = load_file(out / f"frozen-{row['labels']}" / "seed-0" / "model.safetensors")
            begin = load_file(model / "model.safetensors")
            kept = [name for name in begin if name in weights]
            assert len(kept) > 20
            assert all(torch.equal(weights[name], begin[name]) for name in kept)


def test_a_map_of_the_vectors(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    printed = run(
        "explore_embeddings.py", "--data.train_file", labelled[0], "--model.name", model, "--max_length", 64,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= found["probe"] <= 1
    assert 0.5 <= found["commonest class"] <= 1
    assert Image.open(tmp_path / "out" / "map.png").width > 500
    assert "map.html" in printed
    page = (tmp_path / "out" / "map.html").read_text()
    texts = [row["text"] for row in csv.DictReader(labelled[0].open())]
    assert sum(f": {text}</title>" in page for text in texts) > 5  # under their points


@pytest.mark.parametrize("against", [["script"], pytest.param(["script", "best"], marks=pytest.mark.long)], ids=len)
def test_fine_tuning_beside_a_trainer(
    against: list[str], model: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    options = ["--data.train_file", labelled[0], "--model.name", model, "--max_length", 64, "--results", results]
    fixed = ["--against", f"[{','.join(against)}]", "--rounds", 2, "--steps", 2, "--train.mixed_precision", "no"]
    printed = run("benchmark_finetuning.py", *options, *fixed)
    found = json.loads(results.read_text())
    assert [row[""] for row in found["rows"]] == ["nlp_ssl", *(f"Trainer, {name}" for name in against)]
    turns = {name: [len(turn) for turn in turns] for name, turns in found["turns"].items()}
    assert turns == {name: [2, 2] for name in ["nlp_ssl", *against]}
    assert "times slower" in printed
    refused = run("benchmark_finetuning.py", *options, "--against", "[fast]", expect=2)
    assert "--against fast: there are script, best" in refused


def test_two_processes_and_small_micro_batches_learn_the_same(
    model: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    found = {}
    for processes, micro_batch in ((1, 32), (2, 3)):
        out = tmp_path / f"{processes}"
        run(
            "finetune_classification.py", "--data.train_file", labelled[0], "--model.name", model, *FIXED,
            "--output_dir", out, "--train.steps", 8, "--train.micro_batch_size", micro_batch, "--seeds", "[1,2]",
            "--optimizer.lr", "1e-3", processes=processes,
        )  # fmt: skip
        steps = [event for seed in (1, 2) for event in events(out / f"seed-{seed}", "step")]
        rows = [row["probabilities"]["cat"] for row in predictions(out / "seed-2")]
        found[processes] = [e["digest"] for e in steps], [e["loss"] for e in steps], rows
    assert found[1][0] == found[2][0]  # the same rows in every step
    assert found[1][1] == pytest.approx(found[2][1], rel=1e-3)
    assert found[1][2] == pytest.approx(found[2][2], abs=1e-3)


def test_layers_that_wait_begin_from_the_top(model: Path, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(
        "finetune_classification.py", "--data.train_file", labelled[0], "--model.name", model, *FIXED,
        "--output_dir", out, "--train.steps", 8, "--transfer.unfreeze", "by_layers", "--checkpoint.every", 1,
        "--checkpoint.keep_every", 1, "--schedule.name", "constant", "--schedule.warmup", 0,
    )  # fmt: skip
    begin = load_file(model / "model.safetensors")
    moved = []
    for step in range(1, 9):
        weights = load_file(out / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        names = {name for name in begin.keys() & weights.keys() if not torch.equal(begin[name], weights[name])}
        layers = {name.split("layer.")[1][0] for name in names if "layer." in name}
        moved.append(layers | {"words" for name in names if "word_embeddings" in name})
    # of 8 steps the head has the first to itself; over the first half the layers follow, the embeddings last
    assert moved == [set(), {"2"}, {"1", "2"}, {"0", "1", "2"}, *[{"0", "1", "2", "words"}] * 4]


def test_adapters_are_resumed_exactly_and_saved_merged(
    model: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--data.train_file", labelled[0], "--data.validation_file", labelled[0], "--model.name", model, *FIXED]
    options += ["--transfer.lora_rank", 2, "--optimizer.lr", "1e-2", "--train.steps", 6, "--checkpoint.every", 3]
    run("finetune_classification.py", *options, "--output_dir", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed/checkpoints/step-00000006")
    (tmp_path / "killed/model.safetensors").unlink()
    run("finetune_classification.py", *options, "--output_dir", tmp_path / "killed", "--resume")
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    for name, weight in whole.items():
        assert torch.equal(weight, killed[name]), name

    # no trace of adapters in what is published; the matrices changed by products of the rank, and nothing else
    config = json.loads((tmp_path / "whole/config.json").read_text())
    before = AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(config["id2label"]))
    assert whole.keys() == before.state_dict().keys()
    for name, weight in before.base_model.named_parameters():
        change = whole[f"bert.{name}"] - weight.detach()
        if name.startswith("encoder.") and name.endswith("weight") and weight.ndim == 2:
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2, name
        elif not name.startswith("pooler."):
            assert not change.any(), name
    rows = predictions(tmp_path / "whole")
    theirs = pipeline("text-classification", str(tmp_path / "whole"))([row["texts"]["text"] for row in rows])
    assert [row["predicted"] for row in rows] == [each["label"] for each in theirs]


def test_adapters_on_another_model_or_of_another_rank_are_refused(
    model: Path, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--data.train_file", labelled[0], "--data.validation_file", labelled[0], *FIXED, "--train.steps", 2]
    options += ["--output_dir", tmp_path / "run", "--transfer.lora_rank"]
    run("finetune_classification.py", *options, 2, "--model.name", model)
    shutil.copytree(model, tmp_path / "other")
    weights = load_file(tmp_path / "other/model.safetensors")
    weights["bert.encoder.layer.0.output.dense.weight"] += 0.01
    save_file(weights, tmp_path / "other/model.safetensors", {"format": "pt"})
    refused = run("finetune_classification.py", *options, 2, "--model.name", tmp_path / "other", "--resume", expect=2)
    assert "give the model that the run began from" in refused
    refused = run("finetune_classification.py", *options, 4, "--model.name", model, "--resume.allow_changed", expect=2)
    assert "the adapters (--transfer.lora_rank) changed" in refused
