"""From text to packed rows on disk, once: corpus, tokenizer, tokens, rows; a second run finds it all in the cache."""

import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedTokenizerFast

from nlp_ssl.config.common import to_dict
from nlp_ssl.config.pretraining import PretrainConfig, TokenizerConfig
from nlp_ssl.core import console
from nlp_ssl.core.cache import caching, is_whole
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import cache_dir, write_atomically
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.core.invocation import command_of
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.data.sequences.packing import PackedRows, pack
from nlp_ssl.data.text.corpus import Corpus, open_corpus
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.data.tokens.tokenizer import (
    add_bos_only,
    add_eos_only,
    derive_vocab_size,
    load_tokenizer,
    num_text_bytes,
    save_tokenizer,
    train_tokenizer,
)
from nlp_ssl.data.tokens.tokenizer_audit import UnknownText, sample_of
from nlp_ssl.data.tokens.tokenizing import tokenize_corpus, tokenizer_fingerprint
from nlp_ssl.evaluation.held_out import unigram_cross_entropy
from nlp_ssl.models import presets
from nlp_ssl.models.loading import architecture, find_config, is_from_scratch, longest_input, model_class
from nlp_ssl.objectives.objective import PretrainingObjective, find_objective
from nlp_ssl.runs import resolve
from nlp_ssl.runs.checks import check_run
from nlp_ssl.runs.folder import say_where_it_begins
from nlp_ssl.runs.resolve import Pretraining
from nlp_ssl.runs.status import note_interrupts_in
from nlp_ssl.training.distributed import rank_zero_first

Objective = type[PretrainingObjective]
# the objective of a model where none is named
RECIPE_OF = {"encoder": "mlm", "decoder": "clm", "encoder-decoder": "span_corruption"}
# how a new tokenizer frames a text, where not as it does by itself
FRAMED: dict[str, Callable[[PreTrainedTokenizerFast], PreTrainedTokenizerFast]] = {
    "decoder": add_bos_only,
    "encoder-decoder": add_eos_only,
}


@dataclass
class PretrainingData:
    """Everything that is on disk before a model is made.

    Attributes:
        config: what it was made of: the run's options up to the packed sequences, resolved.
        rows: packed rows to learn from, by their length; one for every length that a phase of the run has.
        held_out: packed rows to measure on.
        tokenizer: what made them.
        model_config: architecture that they were packed for.
        isolated: several documents share a row.
        description: the corpus in a line.
        unigram: nats a held-out token costs without context.
        files: sha256 of the corpus's local files by their names.
        others: packed rows of further text, by its name and their length (`PretrainingObjective.corpora`).
    """

    config: PretrainConfig
    rows: dict[int, PackedRows]
    held_out: PackedRows
    tokenizer: PreTrainedTokenizerFast
    model_config: PreTrainedConfig
    isolated: bool
    description: str
    unigram: float
    files: dict[str, str]
    others: dict[str, dict[int, PackedRows]]

    @property
    def train(self) -> PackedRows:
        """The rows of the last phase, and of a run that has but one."""
        return self.rows[self.held_out.sequence_length]

    def resolved(self, config: Pretraining) -> Pretraining:
        """A run's options with those that were resolved to make its data."""
        there = self.config
        named = replace(config, model=there.model, tokenizer=there.tokenizer, tokens=there.tokens)
        return resolve.lengths(named)


def prepare(config: PretrainConfig, objective: Objective) -> PretrainingData:
    """Open the corpus, get the tokenizer, tokenize and pack; or find it all in the cache.

    With several processes, rank 0 works and the others then find it.

    Args:
        config: the run's.
        objective: decides what the tokenizer must have, and what stands around a document.

    Raises:
        UserError: see `open_corpus`, `load_tokenizer`, `architecture`.
    """
    check_run(config)
    say_where_it_begins(config, [Path(config.output_dir)])
    note_interrupts_in(Path(config.output_dir))
    data = rank_zero_first(lambda: _prepare(config, objective.for_config(config)))
    if data is None:
        raise UserError(
            f"{config.tokens.folder} waits for other shards of {config.tokens.num_shards}; make them with "
            f"`{command_of('prepare_tokens')}` before training"
        )
    return data


def prepare_shard(config: PretrainConfig) -> bool:
    """Tokenize this machine's shard of a corpus, and pack if it was the last one; returns whether it was.

    The model decides the tokenizer and the special tokens; whether it is an encoder, a decoder or both is read off it.
    """
    if config.tokens.num_shards > 1 and not (config.tokens.folder and config.tokenizer.path):
        raise UserError("shards of a corpus need one --tokens.folder and one --tokenizer.path that all machines share")
    if not 0 <= config.tokens.shard < config.tokens.num_shards:
        raise UserError(f"--tokens.shard {config.tokens.shard} is not one of 0 ... {config.tokens.num_shards - 1}")
    objective = infer_objective(config)
    return _prepare(with_options_of(objective, config), objective) is not None


def with_options_of(objective: Objective, config: PretrainConfig) -> PretrainConfig:
    """A run's options as those of an objective: what it has besides is as when nobody gives it."""
    if isinstance(config, objective.Config):
        return config
    return objective.Config(
        **{f.name: getattr(config, f.name) for f in fields(objective.Config) if hasattr(config, f.name)}
    )


def infer_objective(config: PretrainConfig) -> Objective:
    """The objective that a configuration's model is usually trained with, where no recipe says it."""
    kind = "encoder"
    if config.model.name is not None:
        if preset := presets.split_name(config.model.name):
            kind = presets.FAMILIES[preset[0]].kind
        elif (found := find_config(config.model.name, config.model.revision)).is_encoder_decoder:
            kind = "encoder-decoder"
        elif type(found) not in AutoModelForMaskedLM._model_mapping:
            kind = "decoder"
    return find_objective(RECIPE_OF[kind])


def _prepare(config: PretrainConfig, objective: Objective) -> PretrainingData | None:
    config = resolve.model(objective.completed(config), objective)
    check_model(config, objective)
    check_phases(config, objective)
    preset = presets.split_name(config.model.name)
    if not preset:
        find_config(config.model.name, config.model.revision)  # a wrong name is found before hours of tokenising
    corpus = open_corpus(config.data)
    console.say(f"corpus: {corpus.description}")
    config, tokenizer = get_tokenizer(config, corpus, objective)
    config = resolve.lengths(config)
    lengths = {config.tokens.sequence_length, *(phase.sequence_length for phase in config.phases)}
    dropout = config.model.dropout
    if dropout is None and is_from_scratch(config.model):
        dropout = 0.0
    model_config = architecture(config.model, objective.auto_class, tokenizer, max(lengths), dropout)
    tokenizer.model_max_length = max(longest_input(tokenizer, model_config) or 0, *lengths)
    isolates = objective.packed.can_isolate(model_class(model_config, objective.auto_class))
    config = resolve.packing(config, model_config, isolates)
    if config.tokens.packing != "packed" and any(phase.objective for phase in config.phases):
        raise UserError("--phases: a phase with an objective of its own needs packed rows (--tokens.packing packed)")
    prefix, suffix = objective.frame(tokenizer, config)
    train, held_out = (tokenise(config, corpus, tokenizer, part) for part in ("train", "held_out"))
    if train is None or held_out is None:
        return None
    one_document = config.tokens.packing == "one_document"

    def packed(tokens: TokenCorpus, length: int) -> PackedRows:
        return pack(tokens, length, prefix, suffix, tokenizer.pad_token_id, one_document=one_document)

    _unknown_text(tokenizer, corpus, train).say()
    rows = _packed_all(train, lengths, packed)
    others = _others(config, objective, tokenizer, lambda tokens: _packed_all(tokens, lengths, packed))
    unigram = _unigram_entropy(train, held_out, num_ids(tokenizer))
    return PretrainingData(
        config,
        rows,
        packed(held_out, config.tokens.sequence_length),
        tokenizer,
        model_config,
        not one_document,
        corpus.description,
        unigram,
        corpus.files,
        others,
    )


def _packed_all(
    tokens: TokenCorpus, lengths: Iterable[int], packed: Callable[[TokenCorpus, int], PackedRows]
) -> dict[int, PackedRows]:
    """Rows of every length."""
    manifest = tokens.manifest
    console.say(
        f"tokens: {manifest['tokens']:,} in {console.counted(manifest['documents'], 'document')} "
        f"({manifest['bytes'] / max(1, manifest['tokens']):.2f} bytes per token), {tokens.folder}"
    )
    rows = {length: packed(tokens, length) for length in sorted(lengths)}
    for length, some in rows.items():
        console.say(f"sequences of {length}: {some.stats}")
    return rows


def _others(
    config: PretrainConfig,
    objective: Objective,
    tokenizer: PreTrainedTokenizerFast,
    packed: Callable[[TokenCorpus], dict[int, PackedRows]],
) -> dict[str, dict[int, PackedRows]]:
    """The rows of further text that the objective learns from, by the names that it gives."""
    found = {}
    for name, given in objective.corpora(config).items():
        corpus = open_corpus(given)
        console.say(f"corpus of {name}: {corpus.description}")
        tokens = replace(config.tokens, folder=config.tokens.folder and f"{config.tokens.folder}/{name}", num_shards=1)
        train = tokenise(replace(config, tokens=tokens), corpus, tokenizer, "train")
        assert train is not None, "one shard is the whole"
        found[name] = packed(train)
    return found


def _unknown_text(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, train: TokenCorpus) -> UnknownText:
    """How much of the text is lost, kept beside its tokens for the next run on it."""
    memory = train.folder / "unknown.json"
    if memory.exists():
        return UnknownText(**json.loads(memory.read_text(encoding="utf-8")))
    found = UnknownText.of(tokenizer, [row["text"] for row in sample_of(corpus.train)])
    with contextlib.suppress(OSError):  # a folder that somebody else prepared may be read-only
        write_atomically(memory, json.dumps(asdict(found)).encode())
    return found


def _unigram_entropy(train: TokenCorpus, held_out: TokenCorpus, vocab_size: int) -> float:
    """`unigram_cross_entropy`, kept beside the held-out tokens for the next run on this text."""
    memory = held_out.folder / f"unigram-{fingerprint(train.manifest['fingerprint'], vocab_size)}.json"
    if memory.exists():
        return json.loads(memory.read_text(encoding="utf-8"))
    found = unigram_cross_entropy(train, held_out, vocab_size)
    with contextlib.suppress(OSError):  # a folder that somebody else prepared may be read-only
        write_atomically(memory, json.dumps(found).encode())
    return found


def check_model(config: PretrainConfig, objective: Objective) -> None:
    """Refuse a preset that the objective does not train."""
    preset = presets.split_name(config.model.name)
    if preset and (kind := presets.FAMILIES[preset[0]].kind) != objective.trains:
        usual = command_of(find_objective(RECIPE_OF[kind]).card.recipe)
        raise UserError(
            f"{config.model.name} is {_a(kind)}, and {objective.card.objective} trains {_a(objective.trains)}; "
            f"train it with `{usual}`"
        )


def _a(kind: str) -> str:
    return f"an {kind}" if kind.startswith("e") else f"a {kind}"


def check_phases(config: PretrainConfig, objective: Objective) -> None:
    """Refuse phases that a run of this objective cannot have."""
    for phase in config.phases:
        if phase.steps < 1 or (phase.global_batch_size is not None and phase.global_batch_size < 1):
            raise UserError(f"--phases: steps and global_batch_size must be at least 1; one has {to_dict(phase)}")
        asked = find_objective(phase.objective) if phase.objective else objective
        if missing := {f.name for f in fields(asked.Config)} - {f.name for f in fields(config)}:
            raise UserError(
                f"--phases: {asked.card.objective} has options ({', '.join(sorted(missing))}) that a run of "
                f"{objective.card.objective} does not have; start with `{command_of(asked.card.recipe)}`"
            )
        if asked.packed is not objective.packed:
            raise UserError(f"--phases: {asked.card.objective} and {objective.card.objective} are of different models")
        asked.in_phase(config, phase)


def get_tokenizer(
    config: PretrainConfig, corpus: Corpus, objective: Objective
) -> tuple[PretrainConfig, PreTrainedTokenizerFast]:
    """The tokenizer that was named, or the model's own, or a new one trained on the corpus (and cached).

    Returns:
        The options with the new tokenizer's, and the tokenizer.
    """
    preset = presets.split_name(config.model.name)
    path = config.tokenizer.path or (None if preset else config.model.name)
    if path is not None:
        revision = config.model.revision if path == config.model.name else None
        tokenizer = load_tokenizer(path, revision, objective.needs_mask_token())
        console.say(f"tokenizer: {path}, {len(tokenizer):,} entries")
        there = tokenizer.get_vocab()
        if missing := [token for token in objective.special_tokens(config) if token not in there]:
            raise UserError(
                f"the tokenizer {path} has no {missing[0]}, which {objective.card.objective} needs "
                f"({len(missing)} such tokens are missing); train one with --tokenizer.special_tokens, or leave it out "
                "and let one be trained"
            )
        return config, tokenizer
    assert preset is not None  # or it would be the model's own
    is_given = config.tokenizer.vocab_size is not None
    size = config.tokenizer.vocab_size or derive_vocab_size(num_text_bytes(corpus.train))
    wanted = resolve.tokenizer(config, presets.FAMILIES[preset[0]].tokenizer, size).tokenizer
    more = [token for token in objective.special_tokens(config) if token not in wanted.special_tokens]
    wanted = replace(wanted, special_tokens=[*wanted.special_tokens, *more])
    folder = cache_dir() / "tokenizers" / fingerprint(corpus.fingerprint, to_dict(wanted), RECIPE_OF[objective.trains])
    # one that was fitted to its text is not the one of a size that was given, which training then refuses
    if not is_whole(folder) or (is_given and len(load_tokenizer(str(folder))) != size):
        console.say(f"tokenizer: training {wanted.kind} with {wanted.vocab_size:,} entries on the corpus")
        tokenizer = train_on(corpus, wanted, exact=is_given)
        with caching(folder) as temporary:
            save_tokenizer(FRAMED.get(objective.trains, lambda plain: plain)(tokenizer), temporary)
    tokenizer = load_tokenizer(str(folder), needs_mask=objective.needs_mask_token())
    console.say(f"tokenizer: {wanted.kind}, {len(tokenizer):,} entries, {folder}")
    return resolve.tokenizer(config, wanted.kind, len(tokenizer)), tokenizer


def train_on(corpus: Corpus, config: TokenizerConfig, exact: bool = True) -> PreTrainedTokenizerFast:
    """A new tokenizer, trained on the corpus's training text; a size that is not `exact` is fitted to the text."""
    return train_tokenizer(
        (row["text"] for row in corpus.train),
        config.kind,
        config.vocab_size,
        lowercase=config.lowercase,
        special_tokens=config.special_tokens,
        model_max_length=config.model_max_length,
        sample_bytes=config.sample_mb * 1e6,
        exact=exact,
    )


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
