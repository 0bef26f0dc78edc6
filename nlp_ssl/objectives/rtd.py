"""Replaced-token detection: tell the tokens of a text from those that a small generator put in (ELECTRA).

Clark et al. 2020. A masked language model, the generator, fills the masks by sampling; the discriminator reads the
result and says of every token whether it was replaced. Both are trained at once, by the sum of their losses, each a
mean over its own targets: masked tokens, and all tokens. A sample that is the token that stood there is no replacement,
and no gradient goes through the sampling.

Embeddings are shared (Clark et al. 2020, section 3.3), or shared such that the discriminator does not move the
generator's and adds a difference of its own to them (gradient-disentangled: He et al. 2021, DeBERTaV3), or separate.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.config.rtd import ReplacedTokensConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.loading import architecture, build_model, inner_folder, is_from_scratch
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling
from nlp_ssl.objectives.objective import Batch, Metrics, Sums, compared, loss_precision, packing_of
from nlp_ssl.objectives.samples import fill_masks
from nlp_ssl.objectives.score_head import ScoreHead
from nlp_ssl.publishing.card import CardText

_DRAW = 3  # tells the hash that draws a sample from those that choose masks
_DRAW_BITS, _SHARE_BITS = 31, 30  # of a draw and of a probability, which are integers while sampling
BLOCK = {"cpu": 2**19, "cuda": 2**26}  # probabilities at once while sampling: 2 MB stay in a core's cache
BINS, SPREAD = 4096, 32.0  # of the histogram of scores that the area under the curve is counted from, -16 to 16


class AutoDiscriminator(_BaseAutoModelClass):
    """`AutoModel`, but for Electra with the head that transformers has for this objective."""

    _model_mapping = _LazyAutoMapping(
        CONFIG_MAPPING_NAMES, OrderedDict({**MODEL_MAPPING_NAMES, "electra": "ElectraForPreTraining"})
    )


class ReplacedTokensCollator(MaskedCollator):
    """Masks packed rows, and draws for each masked token the number that its replacement is sampled by.

    A batch is that of `MaskedCollator` and `draws`, int32 (C,) in [0, 2**31): hashes of (seed, source, epoch, row,
    position), so that the replacements do not depend on how a batch is split.
    """

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a masked batch with draws."""
        rows = list(rows)
        batch = super().__call__(rows)
        length = batch["input_ids"].shape[1]
        positions = batch["label_positions"].numpy().astype(np.int64)
        numbers, epochs = (np.array([row[key] for row in rows], dtype=np.int64) for key in ("row", "epoch"))
        keys = self.masking.row_keys(epochs, numbers)[positions // length]
        hashes = hash64(_DRAW, hash64(keys, positions % length))
        batch["draws"] = torch.from_numpy((hashes >> np.uint64(64 - _DRAW_BITS)).astype(np.int32))
        return batch

    def counts(self, batch: Batch) -> dict[str, int]:
        """Masked tokens, and all tokens that are not padding."""
        return {**super().counts(batch), "rtd": int((batch["document_ids"] > 0).sum())}


class _Plus(nn.Module):
    """Parametrizes a table as another one, which it does not move, and a difference, which is what is trained.

    Args:
        base: the module that has the other table.
    """

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = (base,)  # in a tuple, so that its table does not become this module's

    def forward(self, difference: Tensor) -> Tensor:
        """The table."""
        return self.base[0].weight.detach() + difference

    def right_inverse(self, table: Tensor) -> Tensor:
        """The difference to begin with."""
        return table - self.base[0].weight.detach()


class ReplacedTokenDetection(MaskedLanguageModeling):
    """A generator that fills masks, and a discriminator, the model, that finds what it filled in."""

    Config: ClassVar[Any] = ReplacedTokensConfig
    auto_class = AutoDiscriminator
    metrics: ClassVar[Metrics] = {
        "held_out_loss": "min", "replaced_auc": "max", "replaced_f1": "max", "replaced_share": "max",
        "generator_loss": "min", "generator_accuracy": "max",
    }  # fmt: skip
    card = CardText(
        pipeline_tag="feature-extraction",
        objective="replaced-token detection",
        papers=("2003.10555",),
        what="an encoder that was trained to find replaced tokens: a body to fine-tune",
        limit="By itself it gives hidden states; use it as a starting point for fine-tuning.",
        recipe="pretrain_rtd",
        results={
            "replaced_auc": "Area under the ROC curve of `replaced`, over all held-out tokens",
            "replaced_f1": "F1 of `replaced`, over all held-out tokens",
            "replaced_share": "Share of tokens that are replaced, for comparison",
            "generator_loss": "Held-out loss of the generator, nats per masked token",
        },
        example="'A text to encode.'",
        snippet="""\
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModel.from_pretrained({model})
print(model(**tokenizer({example}, return_tensors="pt")).last_hidden_state.shape)""",
    )

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: ReplacedTokensConfig) -> None:
        super().__init__(model, tokenizer, config)
        body = model.model.base_model
        model.drop_pooler()
        has_scores = hasattr(model.model, "discriminator_predictions")  # Electra's own head
        self.head = nn.Identity() if has_scores else ScoreHead(body.config, F.gelu)
        self._read = model if has_scores else model.hidden_states
        self.weight = config.rtd.weight
        self.generator = PackedModel(_generator(model, tokenizer, config), model.isolated)
        self.generator.varlen = model.varlen
        theirs = self.generator.model.base_model
        first = theirs if is_from_scratch(config.model) else body if _stored(config) is None else None
        _share(theirs, body, config.rtd.embeddings, first)

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy of the generator per masked token, and of the discriminator per token."""
        return {"mlm": 1.0, "rtd": self.weight}

    @classmethod
    def completed(cls, config: Any) -> Any:
        """As it is, if it trains the discriminator."""
        if not 0 < config.rtd.weight < float("inf"):
            raise UserError(f"--rtd.weight is {config.rtd.weight}; it must be above 0")
        return super().completed(config)

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0
    ) -> ReplacedTokensCollator:
        """Masks as `config.masking` says, with draws."""
        return ReplacedTokensCollator(MaskingCollator(tokenizer, config.masking, seed=seed, source=source))

    def forward(self, batch: Batch) -> Sums:
        """`mlm` and `rtd`, both in nats; in evaluation also what `evaluate` counts."""
        where, ids, labels = packing_of(batch), batch["input_ids"], batch["labels"]
        logits = self.generator(ids, **where, label_positions=batch["label_positions"])
        logits = logits.view(-1, logits.shape[-1])
        sampled = sample(logits.detach(), batch["draws"])
        # spare slots write to a place behind the last token
        places = torch.where(labels == IGNORE, ids.numel(), batch["label_positions"].long())
        read = F.pad(ids.flatten(), (0, 1)).scatter(0, places, sampled.to(ids.dtype))[:-1].view_as(ids)
        is_replaced = F.pad(torch.zeros_like(ids.flatten(), dtype=torch.bool), (0, 1))
        is_replaced = is_replaced.scatter(0, places, sampled != labels)[:-1].view_as(ids)
        scores = loss_precision(self.head(self._read(read, **where)))
        real = batch["document_ids"] > 0
        losses = F.binary_cross_entropy_with_logits(scores, is_replaced.to(scores.dtype), reduction="none")
        sums = {"mlm": summed_cross_entropy(logits, labels), "rtd": torch.where(real, losses, 0.0).sum()}
        if self.training:
            return sums
        return sums | {
            "correct": (logits.argmax(-1) == labels).sum(),
            "replaced": _histogram(scores[real & is_replaced]),
            "original": _histogram(scores[real & ~is_replaced]),
        }

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss; how well replaced tokens are distinguished from the others; how good the generator is."""
        replaced, original = sums["replaced"].double(), sums["original"].double()
        below = original.cumsum(0) - original / 2  # of one bin half, as of equal scores
        hits, false = float(replaced[BINS // 2 :].sum()), float(original[BINS // 2 :].sum())
        there = float(replaced.sum())
        masked = super().evaluate(sums, counts, num_bytes)
        return {
            "held_out_loss": masked["held_out_loss"],
            "replaced_auc": float((replaced * below).sum()) / max(1.0, there * float(original.sum())),
            "replaced_f1": 2 * hits / max(1.0, hits + false + there),
            "replaced_share": there / max(1, counts["rtd"]),
            "generator_loss": float(sums["mlm"]) / counts["mlm"],
            "generator_accuracy": masked["masked_accuracy"],
        }

    def published(self) -> dict[str, PreTrainedModel]:
        """The discriminator, without its head unless it is an Electra; and the generator."""
        return super().published() | {"generator": self.generator.model}

    def reference(self, unigram: float) -> dict[str, float]:
        """None: the loss is a sum of two."""
        return {}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """The generator beside the unigram model, and the discriminator beside chance."""
        generator = compared("generator: held-out loss", results["generator_loss"], "nats per masked token", unigram)
        found = f"AUC {results['replaced_auc']:.3f} (0.5 is chance), F1 {results['replaced_f1']:.3f}"
        return f"replaced tokens, {results['replaced_share']:.1%} of all: {found}\n{generator}"

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Masks filled by the generator."""
        return (f"generator: {line}" for line in fill_masks(folder / "generator", held_out, tokenizer))


def _stored(config: ReplacedTokensConfig) -> Path | None:
    """Where the generator lies beside a model of an earlier run; `None` where it is new."""
    return None if is_from_scratch(config.model) else inner_folder(config.model, "generator")


def _generator(model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: ReplacedTokensConfig) -> PreTrainedModel:
    """The generator that lies beside a model of an earlier run, or a new one."""
    if (stored := _stored(config)) is not None:
        if config.rtd.generator:
            raise UserError(
                f"rtd.generator changes a new generator, and {stored} is one already; leave it out, or move that "
                "folder away"
            )
        chosen, length = ModelConfig(name=str(stored)), config.tokens.sequence_length or 1
        shape = architecture(chosen, AutoModelForMaskedLM, tokenizer, length, config.model.dropout)
        return build_model(chosen, shape, AutoModelForMaskedLM, isolated=model.isolated, seed=config.seed)
    if not is_from_scratch(config.model):
        say(f"generator: new, as {config.model.name} has no folder generator/; it begins with the same embeddings")
    shape = generator_config(model.model.config, config.rtd.generator)
    if type(shape) not in AutoModelForMaskedLM._model_mapping:
        raise UserError(f"rtd: {shape.model_type} has no masked language model to be the generator")
    chosen = ModelConfig(name=shape.model_type, from_scratch=True)
    return build_model(chosen, shape, AutoModelForMaskedLM, isolated=model.isolated, seed=config.seed)


def generator_config(config: PreTrainedConfig, overrides: Mapping[str, Any]) -> PreTrainedConfig:
    """The discriminator's configuration with half the layers, or with other fields.

    Raises:
        UserError: there is no such field.
    """
    for name in overrides:
        if not hasattr(config, name):
            raise UserError(f"rtd.generator.{name}: {type(config).__name__} has no such field")
    fields = copy.deepcopy(config.to_dict())
    layers = max(1, config.num_hidden_layers // 2)
    fields.pop("layer_types", None)  # one entry a layer; made anew
    return type(config).from_dict({**fields, "architectures": None, "num_hidden_layers": layers, **overrides})


def _share(generator: PreTrainedModel, discriminator: PreTrainedModel, how: str, first: PreTrainedModel | None) -> None:
    """Make the embeddings of both one, or those of the discriminator the generator's and a difference.

    Args:
        generator: its body.
        discriminator: its body.
        how: `rtd.embeddings`.
        first: whose tables both begin with, the discriminator where it has learnt and its generator is new; `None`
            where both come from an earlier run.

    Raises:
        UserError: they are of different sizes.
    """
    if how == "separate":
        return
    ours, theirs = discriminator.embeddings, generator.embeddings
    own, base = discriminator.get_input_embeddings(), generator.get_input_embeddings()
    if own.weight.shape != base.weight.shape:
        raise UserError(
            f"rtd.embeddings {how}: the generator's are {base.weight.shape[1]} wide, the discriminator's "
            f"{own.weight.shape[1]}; give a generator of this width, or rtd.embeddings separate"
        )
    for name, module in list(ours.named_modules()):
        other = theirs.get_submodule(name)
        fits = {p: t for p, t in module.named_parameters(recurse=False) if t.shape == getattr(other, p).shape}
        if how == "disentangled" and not isinstance(module, nn.Embedding):
            continue
        for part, mine in fits.items():
            its = getattr(other, part)
            if first is discriminator:
                its.data.copy_(mine.data)
            elif first is generator:
                mine.data.copy_(its.data)
            if how == "shared":
                setattr(module, part, its)
            else:
                parametrize.register_parametrization(module, part, _Plus(other))


@torch.no_grad()
def sample(logits: Tensor, draws: Tensor) -> Tensor:
    """A token for each row of logits, by the inverse of its cumulative distribution.

    Probabilities are added up as integers, in units of 2**-30: in any order of summation that gives the same tokens.

    Args:
        logits: (C, vocabulary).
        draws: int32 (C,), uniform in [0, 2**31).

    Returns:
        int64 (C,): the first token up to which the share of the probability exceeds the draw.
    """
    found = []
    rows = max(1, BLOCK.get(logits.device.type, 2**24) // logits.shape[-1])
    for part, drawn in zip(logits.split(rows), draws.split(rows), strict=True):
        shares = (loss_precision(part).softmax(-1) * 2**_SHARE_BITS).int()
        cumulative = shares.cumsum(-1, dtype=torch.int32)
        value = drawn.long()[:, None] * cumulative[:, -1:] >> _DRAW_BITS  # below the last one, whatever the draw
        found.append(torch.searchsorted(cumulative, value.int(), right=True).squeeze(-1))
    return torch.cat(found)


def _histogram(scores: Tensor) -> Tensor:
    """How many scores fall into each of `BINS` bins."""
    bins = ((scores.float() / SPREAD + 0.5) * BINS).long().clamp(0, BINS - 1)
    return torch.bincount(bins, minlength=BINS)


OBJECTIVE = ReplacedTokenDetection
