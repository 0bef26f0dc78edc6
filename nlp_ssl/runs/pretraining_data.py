"""From text to packed rows on disk, once: corpus, tokenizer, tokens, rows; a second run finds it all in the cache."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedTokenizerFast

from nlp_ssl.config.common import to_dict
from nlp_ssl.config.pretraining import PretrainConfig, TokenizerConfig
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir, making
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.data.sequences.packing import PackedRows, pack
from nlp_ssl.data.text.corpus import Corpus, open_corpus
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.data.tokens.tokenizer import (
    add_bos_only,
    derive_vocab_size,
    load_tokenizer,
    num_text_bytes,
    save_tokenizer,
    train_tokenizer,
)
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus, tokenizer_fingerprint
from nlp_ssl.evaluation.held_out import unigram_cross_entropy
from nlp_ssl.models import presets
from nlp_ssl.models.loading import architecture, find_config, is_from_scratch, isolates, max_positions
from nlp_ssl.runs.checks import check_run
from nlp_ssl.training.device import training_device
from nlp_ssl.training.distributed import rank_zero_first

Kind = Literal["mlm", "clm"]
AUTO_CLASS = {"mlm": AutoModelForMaskedLM, "clm": AutoModelForCausalLM}


@dataclass
class PretrainingData:
    """Everything that is on disk before a model is made.

    Attributes:
        rows: packed rows to learn from, by their length; one for every length that a phase of the run has.
        held_out: packed rows to measure on.
        tokenizer: what made them.
        model_config: architecture that they were packed for.
        isolated: several documents share a row.
        description: the corpus in a line.
        unigram: nats a held-out token costs without context.
        files: sha256 of the corpus's local files by their names.
    """

    rows: dict[int, PackedRows]
    held_out: PackedRows
    tokenizer: PreTrainedTokenizerFast
    model_config: PreTrainedConfig
    isolated: bool
    description: str
    unigram: float
    files: dict[str, str]

    @property
    def train(self) -> PackedRows:
        """The rows of the last phase, and of a run that has but one."""
        return self.rows[self.held_out.row_length]


def prepare(config: PretrainConfig, kind: Kind) -> PretrainingData:
    """Open the corpus, get the tokenizer, tokenise and pack; or find it all in the cache.

    With several processes, rank 0 works and the others then find it. Fills in what the configuration left open.

    Raises:
        UserError: see `open_corpus`, `load_tokenizer`, `architecture`.
    """
    check_run(config)
    data = rank_zero_first(lambda: _prepare(config, kind))
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
    return _prepare(config, infer_objective(config)) is not None


def infer_objective(config: PretrainConfig) -> Kind:
    """Whether a configuration's model is a masked or a causal one, where no recipe says it."""
    if config.model.name is None:
        return "mlm"
    if preset := presets.split_name(config.model.name):
        return presets.FAMILIES[preset[0]].objective
    masked = type(find_config(config.model.name, config.model.revision)) in AutoModelForMaskedLM._model_mapping
    return "mlm" if masked else "clm"


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
    for phase in config.phases:
        if phase.steps < 1 or (phase.batch_size is not None and phase.batch_size < 1):
            raise UserError(f"--phases: steps and batch_size must be at least 1; one has {to_dict(phase)}")
        if kind == "clm" and (phase.causal or phase.mask_probability):
            raise UserError("--phases: causal and mask_probability are for masked pretraining (pretrain_mlm.py)")
        phase.row_length = phase.row_length or config.tokens.row_length
    lengths = {config.tokens.row_length, *(phase.row_length for phase in config.phases)}
    dropout = config.model.dropout
    if dropout is None and is_from_scratch(config.model):
        dropout = 0.0
    model_config = architecture(config.model, AUTO_CLASS[kind], tokenizer, max(lengths), dropout)
    if tokenizer.model_max_length > 1e9:  # transformers' word for "nobody said"
        tokenizer.model_max_length = max_positions(model_config) or max(lengths)
    if config.tokens.packing is None:
        can = isolates(model_config, AUTO_CLASS[kind])
        config.tokens.packing = "packed" if can else "one_document"
        if not can:
            console.say(f"packing: {model_config.model_type} cannot keep documents of a row apart: one document a row")
    if config.tokens.packing != "packed" and any(phase.causal for phase in config.phases):
        raise UserError("--phases: a causal phase needs packed rows (--tokens.packing packed)")
    prefix, suffix = special_tokens(tokenizer, kind)
    train, held_out = (tokenise(config, corpus, tokenizer, part) for part in ("train", "held_out"))
    if train is None or held_out is None:
        return None
    one_document = config.tokens.packing == "one_document"

    def packed(tokens: TokenCorpus, length: int) -> PackedRows:
        return pack(tokens, length, prefix, suffix, tokenizer.pad_token_id, one_document=one_document)

    manifest = train.manifest
    console.say(
        f"tokens: {manifest['tokens']:,} in {manifest['documents']:,} documents "
        f"({manifest['bytes'] / max(1, manifest['tokens']):.2f} bytes a token), {train.folder}"
    )
    rows = {length: packed(train, length) for length in sorted(lengths)}
    for length, some in rows.items():
        console.say(f"rows of {length}: {some.stats}")
    unigram = unigram_cross_entropy(train, held_out, len(tokenizer))
    return PretrainingData(
        rows,
        packed(held_out, config.tokens.row_length),
        tokenizer,
        model_config,
        not one_document,
        corpus.description,
        unigram,
        corpus.files,
    )


def choose_model(config: PretrainConfig, kind: Kind) -> None:
    """Fill in the model's name: a small modern one that learns in minutes, a larger one where there is a GPU."""
    if config.model.name is None:
        size = "tiny" if training_device().type == "cpu" else "base"
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
    assert preset is not None  # or it would be the model's own
    wanted = config.tokenizer
    wanted.kind = wanted.kind or presets.FAMILIES[preset[0]].tokenizer
    wanted.vocab_size = wanted.vocab_size or derive_vocab_size(num_text_bytes(corpus.train))
    folder = cache_dir() / "tokenizers" / fingerprint(corpus.fingerprint, to_dict(wanted), kind)
    if not folder.exists():
        console.say(f"tokenizer: training {wanted.kind} with {wanted.vocab_size:,} entries on the corpus")
        tokenizer = train_on(corpus, wanted)
        with making(folder) as temporary:
            save_tokenizer(add_bos_only(tokenizer) if kind == "clm" else tokenizer, temporary)
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
