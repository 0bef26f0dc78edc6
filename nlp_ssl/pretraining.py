"""One pretraining run, start to end: corpus, tokenizer, tokens, packed rows, model, training, a look at the result."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedTokenizerFast

from nlp_ssl import console
from nlp_ssl.config import MaskingConfig, PretrainConfig, TokenizerConfig, cache_dir, to_dict
from nlp_ssl.console import UserError
from nlp_ssl.data.batches import TrainBatches, held_out_batches, held_out_rows
from nlp_ssl.data.corpus import Corpus, open_corpus
from nlp_ssl.data.packing import PackedRows, pack
from nlp_ssl.data.tokenizer import (
    begin_without_end,
    derive_vocab_size,
    load_tokenizer,
    num_text_bytes,
    save_tokenizer,
    train_tokenizer,
)
from nlp_ssl.data.tokens import TokenCorpus, fingerprint, tokenize_corpus, tokenizer_fingerprint
from nlp_ssl.evaluation.perplexity import bits_per_byte, evaluate, unigram_cross_entropy
from nlp_ssl.evaluation.samples import continue_texts, fill_masks
from nlp_ssl.models import presets
from nlp_ssl.models.loading import (
    architecture,
    build_model,
    describe,
    find_config,
    is_from_scratch,
    isolates,
    max_positions,
)
from nlp_ssl.models.packed import PackedModel, check_isolation
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.objective import ObjectiveModule
from nlp_ssl.publishing.card import model_card
from nlp_ssl.run import Run, check_run, in_turn, make_accelerator, run_identity
from nlp_ssl.training.schedules import Horizon

Kind = Literal["mlm", "clm"]
AUTO_CLASS = {"mlm": AutoModelForMaskedLM, "clm": AutoModelForCausalLM}
HELD_OUT_SEED = 0  # held-out masks are the same in every run, whatever its seed


# ---------------------------------------------------------------------------------------------------------------------
# what it learns from


@dataclass
class PretrainingData:
    """Everything that is on disk before a model is made.

    Attributes:
        train: packed rows to learn from.
        held_out: packed rows to measure on.
        tokenizer: what made them.
        model_config: architecture that they were packed for.
        isolated: several documents share a row.
        description: the corpus in a line.
        unigram: nats a held-out token costs without context.
    """

    train: PackedRows
    held_out: PackedRows
    tokenizer: PreTrainedTokenizerFast
    model_config: PreTrainedConfig
    isolated: bool
    description: str
    unigram: float


def prepare(config: PretrainConfig, kind: Kind) -> PretrainingData:
    """Open the corpus, get the tokenizer, tokenise and pack; or find it all in the cache.

    With several processes, rank 0 works and the others then find it. Fills in what the configuration left open.

    Raises:
        UserError: see `open_corpus`, `load_tokenizer`, `architecture`.
    """
    check_run(config)
    data = in_turn(lambda: _prepare(config, kind))
    if data is None:
        raise UserError(
            f"{config.tokens.folder} waits for other shards of {config.tokens.num_shards}; make them with "
            "prepare_tokens.py before training"
        )
    return data


def prepare_shard(config: PretrainConfig) -> bool:
    """Tokenise this machine's shard of a corpus, and pack if it was the last one; returns whether it was.

    The model decides the tokenizer and the special tokens; whether it is masked or causal is read off it.
    """
    if config.tokens.num_shards > 1 and not (config.tokens.folder and config.tokenizer.path):
        raise UserError("shards of a corpus need one --tokens.folder and one --tokenizer.path that all machines share")
    if not 0 <= config.tokens.shard < config.tokens.num_shards:
        raise UserError(f"--tokens.shard {config.tokens.shard} is not one of 0 ... {config.tokens.num_shards - 1}")
    if config.model.name is None:
        return _prepare(config, "mlm") is not None
    preset = presets.split_name(config.model.name)
    if preset:
        return _prepare(config, presets.FAMILIES[preset[0]].objective) is not None
    masked = type(find_config(config.model.name, config.model.revision)) in AutoModelForMaskedLM._model_mapping
    return _prepare(config, "mlm" if masked else "clm") is not None


def _prepare(config: PretrainConfig, kind: Kind) -> PretrainingData | None:
    choose_model(config, kind)
    preset = presets.split_name(config.model.name)
    if not preset:
        find_config(config.model.name, config.model.revision)  # a wrong name is found before hours of tokenising
    corpus = open_corpus(config.data)
    console.say(f"corpus: {corpus.description}")
    tokenizer = get_tokenizer(config, corpus, kind)
    if config.tokens.row_length is None:
        config.tokens.row_length = _row_length(config)
    dropout = config.model.dropout
    if dropout is None and is_from_scratch(config.model):
        dropout = 0.0
    model_config = architecture(config.model, AUTO_CLASS[kind], tokenizer, config.tokens.row_length, dropout)
    if config.tokens.packing is None:
        can = isolates(model_config, AUTO_CLASS[kind])
        config.tokens.packing = "packed" if can else "one_document"
        if not can:
            console.say(f"packing: {model_config.model_type} cannot keep documents of a row apart: one document a row")
    prefix, suffix = special_tokens(tokenizer, kind)
    tokens = {part: tokenise(config, corpus, tokenizer, part) for part in ("train", "held_out")}
    if tokens["train"] is None:
        return None
    packed = {}
    for part, corpus_tokens in tokens.items():
        packed[part] = pack(
            corpus_tokens,
            config.tokens.row_length,
            prefix,
            suffix,
            tokenizer.pad_token_id,
            one_document=config.tokens.packing == "one_document",
        )
    manifest = packed["train"].tokens.manifest
    console.say(
        f"tokens: {manifest['tokens']:,} in {manifest['documents']:,} documents "
        f"({manifest['bytes'] / max(1, manifest['tokens']):.2f} bytes a token), {tokens['train'].folder}"
    )
    console.say(f"rows of {config.tokens.row_length}: {packed['train'].stats}")
    unigram = unigram_cross_entropy(tokens["train"], tokens["held_out"], len(tokenizer))
    return PretrainingData(
        packed["train"],
        packed["held_out"],
        tokenizer,
        model_config,
        config.tokens.packing == "packed",
        corpus.description,
        unigram,
    )


def choose_model(config: PretrainConfig, kind: Kind) -> None:
    """Fill in the model's name: a small modern one that learns in minutes, a larger one where there is a GPU."""
    if config.model.name is None:
        size = "base" if torch.cuda.is_available() else "tiny"
        config.model.name = {"mlm": f"modernbert-{size}", "clm": f"llama-{size}".replace("base", "small")}[kind]
        console.say(f"model: {config.model.name}, chosen for this machine (--model.name)")
    preset = presets.split_name(config.model.name)
    if preset and presets.FAMILIES[preset[0]].objective != kind:
        other = {"mlm": "pretrain_clm.py", "clm": "pretrain_mlm.py"}[kind]
        raise UserError(f"{config.model.name} is not for this objective; train it with {other}")


def _row_length(config: PretrainConfig) -> int:
    if presets.split_name(config.model.name):
        return presets.row_length(config.model.name)
    return min(512, max_positions(find_config(config.model.name, config.model.revision)) or 512)


def get_tokenizer(config: PretrainConfig, corpus: Corpus, kind: Kind) -> PreTrainedTokenizerFast:
    """The tokenizer that was named, or the model's own, or a new one trained on the corpus (and cached)."""
    preset = presets.split_name(config.model.name)
    path = config.tokenizer.path or (None if preset else config.model.name)
    if path is not None:
        tokenizer = load_tokenizer(path, config.model.revision if path == config.model.name else None, kind == "mlm")
        console.say(f"tokenizer: {path}, {len(tokenizer):,} entries")
        return tokenizer
    wanted = config.tokenizer
    wanted.kind = wanted.kind or presets.FAMILIES[preset[0]].tokenizer
    wanted.vocab_size = wanted.vocab_size or derive_vocab_size(num_text_bytes(corpus.train))
    folder = cache_dir() / "tokenizers" / fingerprint(corpus.fingerprint, to_dict(wanted), kind)
    if not folder.exists():
        console.say(f"tokenizer: training {wanted.kind} with {wanted.vocab_size:,} entries on the corpus")
        tokenizer = train_on(corpus, wanted)
        save_tokenizer(begin_without_end(tokenizer) if kind == "clm" else tokenizer, folder)
    tokenizer = load_tokenizer(str(folder), needs_mask=kind == "mlm")
    console.say(f"tokenizer: {wanted.kind}, {len(tokenizer):,} entries, {folder}")
    return tokenizer


def train_on(corpus: Corpus, config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """A new tokenizer, trained on the corpus's training text."""
    return train_tokenizer(
        (row["text"] for row in corpus.train),
        config.kind,
        config.vocab_size,
        lowercase=config.lowercase,
        special_tokens=config.special_tokens,
        model_max_length=config.model_max_length,
        sample_bytes=config.sample_mb * 1e6,
    )


def special_tokens(tokenizer: PreTrainedTokenizerFast, kind: Kind) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before and after every document: CLS and SEP for an encoder, BOS and EOS for a decoder."""
    if kind == "clm":
        end = tokenizer.eos_token_id
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
        if end is None:
            raise UserError("the tokenizer has no end-of-text token, which causal pretraining needs between documents")
        return (start,), (end,)
    body = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    at = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
    return tuple(whole[:at]), tuple(whole[at + len(body) :])


def tokenise(
    config: PretrainConfig, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, part: str
) -> TokenCorpus | None:
    """The tokenised training or held-out text, from `--tokens.folder` or the cache."""
    source = f"{corpus.fingerprint}/{part}"
    key = fingerprint(source, tokenizer_fingerprint(tokenizer))
    folder = Path(config.tokens.folder) / part if config.tokens.folder else cache_dir() / "tokens" / key
    whole = part == "held_out"  # small: every machine makes all of it
    tokens = tokenize_corpus(
        getattr(corpus, part),
        tokenizer,
        folder,
        source,
        num_proc=config.tokens.num_proc,
        shard=0 if whole else config.tokens.shard,
        num_shards=1 if whole else config.tokens.num_shards,
    )
    if tokens is not None and tokens.manifest["corpus"] != source:
        raise UserError(f"{folder} holds the tokens of another corpus; give another --tokens.folder")
    if tokens is not None and tokens.manifest["tokenizer"] != tokenizer_fingerprint(tokenizer):
        raise UserError(f"{folder} was made with another tokenizer; give another --tokens.folder")
    return tokens


# ---------------------------------------------------------------------------------------------------------------------
# how it learns


def derive(config: PretrainConfig, kind: Kind, model_config: PreTrainedConfig, world_size: int) -> None:
    """Fill in what the configuration left open, and say what was chosen and why."""
    train, optimizer, gpu = config.train, config.optimizer, torch.cuda.is_available()
    scratch = is_from_scratch(config.model)
    preset = presets.split_name(config.model.name)
    hidden, length = model_config.hidden_size, config.tokens.row_length
    chosen: list[tuple[str, Any, str]] = []

    def fill(part: Any, name: str, value: Any, why: str) -> None:
        if getattr(part, name) is None:
            setattr(part, name, value)
            chosen.append((name, value, why))

    if all(getattr(train, budget) is None for budget in ("steps", "tokens", "minutes", "epochs")):
        fill(train, "minutes", 5.0, "a first look")
    tokens = (4096 if hidden <= 512 else 16_384) if not gpu else (65_536 if hidden <= 512 else 262_144)
    fill(train, "batch_size", max(world_size, tokens // length), f"{tokens:,} tokens a step for width {hidden}")
    at_once = 4096 if not gpu else 65_536 * 768 // max(768, hidden)
    share = math.ceil(train.batch_size / world_size)
    fill(train, "micro_batch", min(share, max(1, at_once // length)), "changes memory and speed, not the result")
    if train.batch_size < world_size:
        raise UserError(f"--train.batch_size {train.batch_size} is smaller than the {world_size} processes")
    fill(train, "workers", 2 if gpu else 0, "batches are made ahead on a GPU machine")
    family = presets.FAMILIES[preset[0]] if preset else None
    fill(optimizer, "name", family.optimizer if family else "adamw", f"for {config.model.name}")
    rate = (0.5 if scratch else 0.1) / hidden
    fill(optimizer, "lr", rate, f"{0.5 if scratch else 0.1} / width, {'from scratch' if scratch else 'going on'}")
    fill(config.evaluation, "batch_size", max(1, train.micro_batch), "the micro-batch")
    for name, value, why in chosen:
        console.say(f"  {name} = {f'{value:.3g}' if isinstance(value, float) else value} ({why})")


def start(config: PretrainConfig, kind: Kind, data: PretrainingData) -> Run:
    """Make the model and everything that training needs; nothing is written yet."""
    accelerator = make_accelerator(config)
    derive(config, kind, data.model_config, accelerator.num_processes)
    auto_class = AUTO_CLASS[kind]
    model = build_model(config.model, data.model_config, auto_class, isolated=data.isolated, seed=config.seed)
    console.say(f"model: {describe(model)}")
    packed_model = PackedModel(model, data.isolated)
    if data.isolated:
        difference = check_isolation(packed_model, len(data.tokenizer))
        console.say(f"packing: documents of a row cannot see each other; alone, logits differ by {difference:.0e}")
    masking = getattr(config, "masking", MaskingConfig())

    def objective(seed: int, source: int) -> MaskedLanguageModeling | CausalLanguageModeling:
        if kind == "mlm":
            return MaskedLanguageModeling(MaskingCollator(data.tokenizer, masking, seed=seed, source=source))
        return CausalLanguageModeling(data.tokenizer, data.tokenizer.pad_token_id)

    learning, scoring = objective(config.seed, source=0), objective(HELD_OUT_SEED, source=1)
    batches = TrainBatches(
        data.train,
        learning.collate,
        seed=config.seed,
        batch_size=config.train.batch_size,
        micro_batch=config.train.micro_batch,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        workers=config.train.workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    def measure(module: torch.nn.Module) -> dict[str, float]:
        rows = held_out_rows(len(data.held_out), config.evaluation.max_rows)
        held_out = held_out_batches(
            data.held_out,
            scoring.collate,
            batch_size=config.evaluation.batch_size,
            max_rows=config.evaluation.max_rows,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        total = math.ceil(len(rows) / accelerator.num_processes / config.evaluation.batch_size)
        result = evaluate(module, held_out, scoring.num_targets, accelerator, total)
        if kind == "mlm":
            return {"held_out_loss": result.loss, "masked_accuracy": result.metrics["correct"] / result.num_targets}
        bits = bits_per_byte(result.metrics["text_loss_sum"], data.held_out.num_bytes(rows))
        return {"held_out_loss": result.loss, "perplexity": math.exp(min(result.loss, 100)), "bits_per_byte": bits}

    return Run(
        config=config,
        folder=Path(config.output_dir),
        accelerator=accelerator,
        model=model,
        module=ObjectiveModule(packed_model, learning),
        objective=learning,
        tokenizer=data.tokenizer,
        batches=batches,
        horizon=Horizon.of(
            config.train,
            config.train.batch_size * config.tokens.row_length if data.isolated else None,
            len(data.train) / config.train.batch_size,
        ),
        measure=measure,
        card=lambda facts: pretraining_card(config, kind, data, facts),
        identity=run_identity(
            config, data.train.fingerprint, model, {"masking": to_dict(masking) if kind == "mlm" else None}
        ),
    )


# ---------------------------------------------------------------------------------------------------------------------
# what came out


def pretraining_card(config: PretrainConfig, kind: Kind, data: PretrainingData, facts: dict[str, Any]) -> str:
    """The model card of a pretrained model at some step."""
    manifest, stats = data.train.tokens.manifest, data.train.stats
    loss = facts.pop("held_out_loss", None)
    facts.pop("masked_accuracy", None)
    return model_card(
        config.hub.repo_id or Path(config.output_dir).resolve().name,
        pipeline_tag={"mlm": "fill-mask", "clm": "text-generation"}[kind],
        model=config.hub.repo_id or Path(config.output_dir).name,
        base_model=None if is_from_scratch(config.model) else config.model.name,
        facts={
            "architecture": data.model_config.model_type,
            "preset": config.model.name if presets.split_name(config.model.name) else None,
            "layers": data.model_config.num_hidden_layers,
            "hidden_size": data.model_config.hidden_size,
            "vocab_size": data.model_config.vocab_size,
            "corpus": data.description,
            "corpus_fingerprint": manifest["corpus"].split("/")[0],
            "documents": manifest["documents"],
            "corpus_tokens": manifest["tokens"],
            "corpus_bytes": manifest["bytes"],
            "held_out_documents": data.held_out.tokens.num_documents,
            "packing": str(stats),
            "objective": {"mlm": "masked language modelling", "clm": "causal language modelling"}[kind],
            "batch_size": config.train.batch_size,
            "row_length": config.tokens.row_length,
            "optimizer": config.optimizer.name,
            "lr": config.optimizer.lr,
            "muon_lr": config.optimizer.muon_lr if config.optimizer.name == "muon" else None,
            "schedule": config.schedule.name,
            "warmup": config.schedule.warmup,
            "weight_decay": config.optimizer.weight_decay,
            "max_grad_norm": config.optimizer.max_grad_norm,
            "precision": config.train.mixed_precision,
            "seed": config.seed,
            {"mlm": "masked_loss", "clm": "causal_loss"}[kind]: loss,
            "unigram_entropy": data.unigram,
            **facts,
        },
    )


def show(run: Run, data: PretrainingData, kind: Kind) -> None:
    """Print what the finished model makes of held-out text, through plain transformers, and draw the curves."""
    reference = {"unigram entropy": data.unigram}
    if (picture := run.plot(reference)) is not None:
        console.say(f"curves: {picture}")
    if not run.accelerator.is_main_process:
        return
    beaten = "below" if run.results["held_out_loss"] < data.unigram else "NOT below"
    console.say(
        f"held-out loss {run.results['held_out_loss']:.3f} nats a token, {beaten} the {data.unigram:.3f} "
        "of a model without context (unigram cross-entropy)"
    )
    look = fill_masks if kind == "mlm" else continue_texts
    for line in look(run.folder, data.held_out.tokens, data.tokenizer):
        console.say(f"  {line}")
    console.say(f"done: {run.folder} is a model that transformers loads")
