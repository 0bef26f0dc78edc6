"""One pretraining run on prepared rows, start to end: model, training, card, a look at the result."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedConfig

from nlp_ssl.config.common import flatten, freeze, plain, to_dict
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.core import console
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.data.sequences.batches import Collator, held_out_batches, held_out_rows
from nlp_ssl.data.sequences.packing import PackedRows
from nlp_ssl.data.sequences.phases import Phase, Phases, Rows, apportion
from nlp_ssl.data.text.languages import languages
from nlp_ssl.data.tokens.checksums import Verification
from nlp_ssl.data.tokens.token_corpus import some_texts
from nlp_ssl.evaluation.held_out import evaluate
from nlp_ssl.models import presets
from nlp_ssl.models.checks import check_isolation, check_varlen
from nlp_ssl.models.loading import build_model, describe
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.models.varlen_attention import HALF
from nlp_ssl.objectives.curriculum import Curriculum, InPhase
from nlp_ssl.objectives.objective import PretrainingObjective, Stream, find_objective
from nlp_ssl.publishing.local_paths import hide
from nlp_ssl.reports.record import RunFacts
from nlp_ssl.runs import resolve
from nlp_ssl.runs.card_facts import again, body, detected, names, procedure
from nlp_ssl.runs.folder import text_mode
from nlp_ssl.runs.pretraining_data import Objective, PretrainingData
from nlp_ssl.runs.reporting import changed, document_lengths, histogram, tokenizer_numbers
from nlp_ssl.runs.resuming import run_identity
from nlp_ssl.runs.run import Run
from nlp_ssl.training.device import DTYPES, evaluating, make_accelerator, train_batches
from nlp_ssl.training.distributed import rank_zero_first
from nlp_ssl.training.micro_batch import find_micro_batch
from nlp_ssl.training.schedules import Horizon

HELD_OUT_SEED = 0  # held-out masks are the same in every run, whatever its seed


@dataclass(frozen=True)
class Measurement:
    """The evaluations of a run on held-out text, and on held-out rows of streams that have some of their own.

    Attributes:
        config: of the run, resolved.
        held_out: packed rows.
        streams: what makes batches of them.
        objective: not wrapped.
        accelerator: precision and processes.
        verification: raises where files of the rows have changed.
    """

    config: PretrainConfig
    held_out: PackedRows
    streams: Sequence[Stream]
    objective: PretrainingObjective
    accelerator: Accelerator
    verification: Verification

    def __call__(self, wrapped: nn.Module, stop: Callable[[], bool]) -> dict[str, float]:
        """The objective's numbers; `wrapped` is the objective as it is trained, `stop` whether to."""
        self.verification()
        size, count = self.config.evaluation.batch_size, self.accelerator.num_processes
        numbers = [held_out_rows(len(self._rows(each)), self.config.evaluation.max_rows) for each in self.streams]
        batches = chain.from_iterable(
            held_out_batches(
                self._rows(stream),
                stream.collator,
                batch_size=size,
                max_rows=self.config.evaluation.max_rows,
                rank=self.accelerator.process_index,
                world_size=count,
            )
            for stream in self.streams
        )
        total = sum(math.ceil(len(rows) / count / size) for rows in numbers)
        with evaluating(self.config):
            found = evaluate(wrapped, batches, self.accelerator, total, stop)
        return self.objective.evaluate(found.sums, found.counts, self.held_out.num_bytes(numbers[0]))

    def _rows(self, stream: Stream) -> Rows:
        return self.held_out if stream.held_out is None else stream.held_out


def start(config: PretrainConfig, objective: Objective, data: PretrainingData) -> Run:
    """Make the model and everything that training needs; nothing is written yet."""
    asked = flatten(plain(to_dict(config)))
    config = resolve.precision(data.resolved(resolve.implied(config)))
    objective = objective.for_config(config)
    accelerator = make_accelerator(config)
    config = resolve.pretraining(config, objective, data.model_config, accelerator.num_processes)
    packed = packed_model(config, objective, data)
    console.say(f"model: {describe(packed.model)}")
    if data.isolated:
        difference = check_isolation(packed, num_ids(data.tokenizer), config.tokens.sequence_length)
        console.say(f"packing: documents of a row cannot see each other; alone, logits differ by {difference:.0e}")
        packed.varlen = packed.takes_varlen and _use_varlen(config, packed.model.config, accelerator)
    module, collators = with_phases(objective(packed, data.tokenizer, config), config, data)
    streams = rank_zero_first(lambda: objective.streams(data.tokenizer, config, seed=config.seed))
    collator = streams[0].collator
    if config.train.micro_batch_size == "auto":
        share = math.ceil(config.train.global_batch_size / accelerator.num_processes)
        found = find_micro_batch(module, data.train, collator, share, accelerator)
        config = resolve.micro_batch(config, found)
    freeze(config)
    phases = plan(config, data, collators, streams)
    verification = Verification()
    packed_rows = [*data.rows.values(), data.held_out, *(r for each in data.others.values() for r in each.values())]
    if accelerator.is_main_process:
        verification.start({name: digest for rows in packed_rows for name, digest in rows.digests.items()})
    spoken = languages(some_texts(data.held_out.tokens, data.tokenizer)) if accelerator.is_main_process else {}
    scoring = objective.streams(data.tokenizer, config, seed=HELD_OUT_SEED, source=1)
    horizon = Horizon.of(config.train, phases)
    return Run(
        config=config,
        folder=Path(config.output_dir),
        accelerator=accelerator,
        objective=module,
        tokenizer=data.tokenizer,
        batches=train_batches(config, phases, collator, accelerator, check=verification),
        horizon=horizon,
        measure=Measurement(config, data.held_out, scoring, module, accelerator, verification),
        card=lambda facts: pretraining_card(config, objective, data, horizon, spoken, module.facts() | facts),
        about=_about(asked, config, module, data),
        samples=lambda folder: module.samples(folder, data.held_out.tokens, data.tokenizer),
        identity=run_identity(
            config,
            packed.model,
            data=fingerprint(sorted(rows.fingerprint for rows in packed_rows if rows is not data.held_out)),
            tokenizer=data.train.tokens.manifest["tokenizer"],
            files=data.files,
            others=module.identity(),
        ),
    )


def _use_varlen(config: PretrainConfig, model_config: PreTrainedConfig, accelerator: Accelerator) -> bool:
    """Whether documents are laid end to end in attention instead of masked: on a GPU that proves to be right at it."""
    device, dtype = accelerator.device, DTYPES[config.train.mixed_precision]
    if device.type != "cuda" or dtype not in HALF:
        return False
    right, found = check_varlen(model_config, config.tokens.sequence_length, dtype, device)
    console.say(f"attention: documents laid end to end, {found}" if right else f"attention: under a mask, as {found}")
    return right


def packed_model(config: PretrainConfig, objective: Objective, data: PretrainingData) -> PackedModel:
    """The model that an objective trains."""
    auto_class = objective.auto_class
    own_attention = data.isolated and objective.packed.own_attention
    model = build_model(config.model, data.model_config, auto_class, isolated=own_attention, seed=config.seed)
    return objective.packed(model, data.isolated)


def with_phases(
    main: PretrainingObjective, config: PretrainConfig, data: PretrainingData
) -> tuple[PretrainingObjective, list[Collator | None]]:
    """The run's objective, with those that phases ask for where there are any; and the phases' own collators."""
    others: dict[str, PretrainingObjective] = {}
    collators: list[Collator | None] = []
    for phase in config.phases:
        if phase.objective is not None and phase.objective not in others:
            others[phase.objective] = find_objective(phase.objective)(main.model, data.tokenizer, config)
        asked = others[phase.objective] if phase.objective else main
        there = asked.in_phase(config, phase)
        if asked is main and there is config:
            collators.append(None)
            continue
        collator = asked.collator(data.tokenizer, there, seed=config.seed)
        collators.append(collator if asked is main else InPhase(collator, 1 + [*others.values()].index(asked)))
    return (Curriculum(main, list(others.values())) if others else main), collators


def plan(
    config: PretrainConfig, data: PretrainingData, collators: list[Collator | None], streams: Sequence[Stream]
) -> Phases:
    """The phases of a run; micro-batches of other rows hold as many tokens.

    Args:
        config: of the run.
        data: its rows.
        collators: of phases that have one of their own, and then learn from nothing else.
        streams: what the steps of the others learn from.
    """
    length = config.tokens.sequence_length
    tokens = config.train.micro_batch_size * length

    def phase(batch_size: int, length: int, steps: int | None, own: Collator | None) -> Phase:
        micro_batch = max(1, tokens // length)
        if own is not None or len(streams) == 1:
            return Phase(data.rows[length], batch_size, micro_batch, steps, own or streams[0].collator)
        sizes = apportion(batch_size, [0.0 if stream.rows else stream.share for stream in streams])
        first, *others = (
            Phase(stream.rows, stream.batch_size, min(micro_batch, stream.batch_size), steps, stream.collator)
            if stream.rows is not None
            else Phase(
                (data.others[stream.corpus] if stream.corpus else data.rows)[length], size, micro_batch, steps,
                stream.collator,
            )
            for stream, size in zip(streams, sizes, strict=True)
        )  # fmt: skip
        return replace(first, beside=tuple(others))

    phases = [
        phase(each.global_batch_size, each.sequence_length, each.steps, collator)
        for each, collator in zip(config.phases, collators, strict=True)
    ]
    return Phases([*phases, phase(config.train.global_batch_size, length, None, None)])


# ---------------------------------------------------------------------------------------------------------------------
# what came out


def _about(
    asked: dict[str, Any], config: PretrainConfig, objective: PretrainingObjective, data: PretrainingData
) -> RunFacts:
    """What a run's report says of it; `asked` are its options before they were resolved."""
    text, tokens = objective.about(config), data.train.tokens
    return RunFacts(
        program=text.recipe,
        what=text.what,
        settings=flatten(plain(to_dict(config))),
        changed=changed(asked, config),
        results=dict(text.results),
        metrics=dict(objective.metrics),
        reference=objective.reference(data.unigram),
        mode=text_mode(config),
        lengths=histogram(document_lengths(tokens.offsets), tokens.num_documents),
        tokenizer=tokenizer_numbers(data.held_out.tokens, data.tokenizer),
    )


def pretraining_card(
    config: PretrainConfig,
    objective: Objective,
    data: PretrainingData,
    horizon: Horizon,
    spoken: dict[str, float],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Arguments of `model_card` for a pretrained model at some step; `spoken` are shares of its text's languages."""
    manifest, stats = data.train.tokens.manifest, data.train.stats
    text = objective.about(config)
    results = {name: value for name, value in facts.pop("results").items() if name in text.results}
    sources = config.data.sources
    named = names(config, spoken, [sources] if isinstance(sources, str) else sources)
    named["base_model"] = facts.pop("base_model", named["base_model"])
    return dict(
        **named,
        text=text,
        again=again(config, text.recipe, horizon),
        facts={
            **body(data.model_config),
            "preset": config.model.name if presets.split_name(config.model.name) else None,
            "corpus": hide(data.description, to_dict(config)),
            "corpus_fingerprint": manifest["corpus"].split("/")[0],
            "documents": manifest["documents"],
            "corpus_tokens": manifest["tokens"],
            "corpus_bytes": manifest["bytes"],
            "languages": detected(spoken),
            "held_out_documents": data.held_out.tokens.num_documents,
            "packing": str(stats),
            "objective": text.objective,
            **procedure(config, config.tokens.sequence_length),
            "unigram_entropy": data.unigram,
            **results,
            **facts,
        },
    )


def show(run: Run, data: PretrainingData) -> None:
    """Print what the finished model makes of held-out text, through plain transformers, and end the run."""
    if run.accelerator.is_main_process:
        held_out, objective = data.held_out.tokens, run.objective
        assert isinstance(objective, PretrainingObjective)
        console.say(objective.headline(run.state.results, held_out, data.unigram))
        lines = list(run.samples(run.folder))
        for line in lines:
            console.say(f"  {line}")
        run.reporter.note(run.state.step, lines)
    run.close()
    console.say(f"done: {run.folder} is a model that transformers loads")
