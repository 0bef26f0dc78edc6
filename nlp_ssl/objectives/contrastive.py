"""Contrastive pretraining: the vectors of two views of a document are drawn together, and away from those of others.

A document's vector is the mean of its last hidden states, or its first token's. Two views of each document of the
packed rows are read (`views.py`); the loss is one of three:

- InfoNCE over all documents of the step: van den Oord et al. 2018, as in SimCSE (Gao, Yao and Chen 2021). Its negatives
  are the same however the step is split, by two passes over its micro-batches (GradCache: Gao, Zhang et al. 2021).
- MoCo (He et al. 2020), as in Contriever (Izacard et al. 2022): the second view is read by a momentum encoder, and the
  negatives are its vectors of past steps, in a queue. Both move once per step.
- BYOL (Grill et al. 2020): a predictor finds the momentum encoder's vector of the other view, without negatives. Layer
  norm is in place of batch norm, whose means would be those of a micro-batch.

Whatever is trained on, held-out numbers are those of two plain crops of 5 to 50 % of each document, so that runs can be
compared.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerFast

from nlp_ssl.config.contrastive import ContrastiveConfig, ContrastiveSection
from nlp_ssl.core.console import say, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.loading import dropouts
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.gathering import gather_rows
from nlp_ssl.objectives.masking import ordinary_ids
from nlp_ssl.objectives.momentum import Momentum, Queue
from nlp_ssl.objectives.objective import Batch, Metrics, PretrainingObjective, Sums, loss_precision, packing_of
from nlp_ssl.objectives.text_vectors import nearest_texts, sentence_transformers_files
from nlp_ssl.objectives.vector_numbers import COLLAPSED, group_size, groups, info_nce, measure_pairs, unit
from nlp_ssl.objectives.view_rows import TERM, ViewsCollator
from nlp_ssl.objectives.views import Views, noise_of
from nlp_ssl.publishing.card import CardText

MOMENTUM = {"moco": 0.999, "byol": 0.996}
NEGATIVES = 64  # sequences of a step, where nothing is given
SAME = 1e-9  # mean squared distance of two views below which they are one vector
HELD_OUT_VIEWS = ContrastiveSection(view="crops", noise=0.0)
_NO_LIMIT = 10**9


CARD = CardText(
    pipeline_tag="feature-extraction",
    objective="contrastive pretraining",
    papers=("2104.08821", "2112.09118"),
    what="an encoder of texts: the cosine of two vectors says how alike their texts are",
    limit="Vectors of texts of another kind or length than it was trained on may say little; measure before use.",
    recipe="pretrain_contrastive",
    results={
        "recall_at_1": "Share of held-out crops whose nearest candidate is the other crop of the same document",
        "candidates": "Candidates of each",
        "chance": "The share by guessing, for comparison",
        "alignment": "Mean squared distance of two crops of a document, as unit vectors",
        "uniformity": "Uniformity of all crops (Wang and Isola 2020); low is spread out",
        "spread": "Standard deviation of a dimension times the root of their number; 0 is one point, 1 is spread",
    },
    example='["The cat sleeps.", "A cat is asleep."]',
    snippet="""\
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModel.from_pretrained({model})
batch = tokenizer({example}, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
vectors = (hidden * mask).sum(1) / mask.sum(1)  # the mean; trained with contrastive.pooling cls, take hidden[:, 0]
print(torch.cosine_similarity(vectors[0], vectors[1], dim=0))""",
)


class Contrastive(PretrainingObjective):
    """Draws the vectors of two views of a document together.

    Raises:
        UserError: an option that is out of range, or views that would be the same.
    """

    Config: ClassVar[Any] = ContrastiveConfig
    auto_class = AutoModel
    metrics: ClassVar[Metrics] = {
        "held_out_loss": "min", "recall_at_1": "max", "alignment": "min", "uniformity": "min", "mean_cosine": "min",
        "spread": "max",
    }  # fmt: skip
    collected = frozenset({"pairs", "projected", "order"})
    card = CARD

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: ContrastiveConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.options = options = config.contrastive
        check(options)
        body = model.model.base_model
        model.drop_pooler()
        if options.view == "dropout":
            if not max(dropouts(body.config), default=0.0):
                raise UserError(
                    "--contrastive.view dropout reads the same text twice under other dropout, and this model has "
                    "none; give --model.dropout 0.1, or another view"
                )
            say("views: masks of dropout, which are drawn by micro-batch: another split gives other views")
        self.width = body.config.hidden_size
        longest = tokenizer.model_max_length
        self.max_length = longest if longest < _NO_LIMIT else config.tokens.sequence_length or 512
        self.two_pass = options.loss == "infonce"
        head = options.head or ("mlp" if options.loss == "byol" else "none")
        torch.manual_seed(config.seed)
        self.head = nn.Sequential(nn.Linear(self.width, self.width), nn.Tanh()) if head == "mlp" else nn.Identity()
        if options.loss == "byol":
            self.predictor = nn.Sequential(
                nn.Linear(self.width, 2 * self.width), nn.LayerNorm(2 * self.width), nn.ReLU(),
                nn.Linear(2 * self.width, self.width),
            )  # fmt: skip
        if options.loss in MOMENTUM:
            share = MOMENTUM[options.loss] if options.momentum is None else options.momentum
            self.momentum = Momentum(nn.ModuleList([self.model, self.head]), share)
        if options.loss == "moco":
            self.queue = Queue(options.queue, self.width)
        self.keys: list[tuple[Tensor, Tensor]] = []  # of this step's micro-batches, and which of them are real
        self.begun = self.warned = False
        self.at_start = nn.Parameter(torch.tensor(-1.0), requires_grad=False)  # R@1 before the first step

    @property
    def terms(self) -> dict[str, float]:
        """The loss, per document."""
        return {TERM: 1.0}

    # what it learns from

    @classmethod
    def completed(cls, config: ContrastiveConfig) -> ContrastiveConfig:
        """As it is; options that are out of range are found before the text is read."""
        check(config.contrastive)
        return config

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: ContrastiveConfig, *, seed: int, source: int = 0
    ) -> ViewsCollator:
        """Views as `config.contrastive` says; of held-out text two plain crops."""
        views = Views(config.contrastive if source == 0 else HELD_OUT_VIEWS, ordinary_ids(tokenizer))
        return ViewsCollator(
            views,
            cls.frame(tokenizer, config),
            tokenizer.pad_token_id,
            seed=seed,
            source=source,
            one_document=config.tokens.packing == "one_document",
        )

    @classmethod
    def fewest_sequences(cls, config: ContrastiveConfig) -> int:
        """As many as SimCSE has, where all but one of them are the negatives."""
        return NEGATIVES if config.contrastive.loss == "infonce" else 1

    @classmethod
    def labels_per_token(cls, config: ContrastiveConfig) -> float:
        """None has logits over the vocabulary."""
        return 0.0

    # the losses

    def forward(self, batch: Batch) -> Sums:
        """In training `vectors` (C, 2, width) of InfoNCE, of unit length and zeros in spare slots, or the summed loss.

        In evaluation what `evaluate` measures: `pairs`, the vectors of N documents without the head, (N, 2, width);
        `projected`, behind it, where there is one; `order` (N,), by which they are sorted; `left_out`.
        """
        real = batch["order"] >= 0
        if self.training and self.options.loss == "moco":
            return self._moco(batch, real)
        pooled = pooled_views(self.model, batch, self.options.pooling)
        projected = loss_precision(self.head(pooled))
        both = torch.cat([real, real])
        sums = {TERM: self._byol(batch, projected, both)} if self.options.loss == "byol" else {}
        if self.training:
            return sums or {"vectors": _paired(unit(projected, both))}
        found = {"pairs": _paired(unit(pooled, both))[real], "order": batch["order"][real]}
        if self.options.loss != "byol" and not isinstance(self.head, nn.Identity):
            found["projected"] = _paired(unit(projected, both))[real]
        return {**sums, **found, "left_out": batch["left_out"]}

    def loss_of_vectors(self, vectors: Tensor) -> Sums:
        """InfoNCE of the documents of a step."""
        if not self.warned and int(vectors.detach().any(-1).any(-1).sum()) < 2:
            self.warned = True
            warn("a step has one document, which nothing can be told apart from; give a larger train.global_batch_size")
        return {TERM: info_nce(vectors, self.options.temperature)}

    def _moco(self, batch: Batch, real: Tensor) -> Sums:
        """Nats to name the second view of each document among it and the queue; the queue waits for `after_step`."""
        count, pooling = len(real), self.options.pooling
        queries = unit(loss_precision(self.head(pooled_views(self.model, batch, pooling, 0)[:count])), real)
        with torch.no_grad():
            model, head = self.momentum.encoder
            keys = unit(loss_precision(head(pooled_views(model, batch, pooling, 1)[count:])), real)
        own = (queries * keys).sum(1, keepdim=True)
        past = (queries @ self.queue.vectors.T).masked_fill(~self.queue.filled(), torch.finfo(own.dtype).min)
        scores = torch.cat([own, past], dim=1) / self.options.temperature
        loss = torch.where(real, scores.logsumexp(1) - scores[:, 0], 0.0).sum()
        self._remember(keys, real)
        return {TERM: loss}

    @torch.compiler.disable
    def _remember(self, keys: Tensor, real: Tensor) -> None:
        self.keys.append((keys, real))

    def _byol(self, batch: Batch, projected: Tensor, real: Tensor) -> Tensor:
        """`2 - 2 cos(prediction from one view, momentum encoder's vector of the other)`, mean of both directions."""
        predicted = unit(loss_precision(self.predictor(projected)), real)
        with torch.no_grad():
            model, head = self.momentum.encoder
            targets = unit(loss_precision(head(pooled_views(model, batch, self.options.pooling))), real)
        first, second = targets.chunk(2)
        cosines = (predicted * torch.cat([second, first])).sum(1)
        return torch.where(real, 1 - cosines, 0.0).sum()

    def before_step(self) -> None:
        """Forget the keys of a step that was not applied."""
        self.keys.clear()

    def after_step(self, step: int) -> None:
        """Move the momentum encoder, and put the step's keys into the queue in the order of its rows."""
        self.begun = True
        if self.options.loss == "moco":
            keys, _ = gather_rows(torch.cat([keys[real] for keys, real in self.keys]))
            self.queue.put(keys)
        if self.options.loss in MOMENTUM:
            self.momentum.move()

    # what came out

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """`held_out_loss`; the numbers of `measure_pairs`; how many documents were measured, and too short to be.

        The loss of `infonce` and `moco` is InfoNCE among the documents of a group (see `measure_pairs`).

        Raises:
            UserError: there are fewer than two documents.
        """
        order = sums["order"].argsort()
        pairs, left_out = sums["pairs"][order], int(sums["left_out"])
        if len(pairs) < 2:
            raise UserError(
                "the held-out text has one document of which there are two views, and nothing to tell it apart from "
                f"({left_out:,} are too short); give more held-out text"
            )
        found = measure_pairs(pairs)
        if self.options.loss == "byol":
            loss = float(sums[TERM]) / counts[TERM]
        else:
            known = list(groups(sums["projected"][order] if "projected" in sums else pairs))
            each = [info_nce(torch.stack(group, 1), self.options.temperature) for group in known]
            loss = float(sum(each)) / (len(each) * group_size(len(pairs)))
        alarm(found, self.begun)
        if self.at_start < 0 and not self.begun:
            self.at_start.fill_(found["recall_at_1"])
        return {"held_out_loss": loss, **found, "documents": len(pairs), "left_out": left_out}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """How often a crop finds its other one, beside chance and the model that training began from."""
        at_start = f", before training {float(self.at_start):.3f}" if self.at_start >= 0 else ""
        return (
            f"of {results['candidates']:.0f} held-out crops the nearest is one of the same document for "
            f"{results['recall_at_1']:.3f} of {results['documents']:,.0f} (chance {results['chance']:.3f}{at_start}); "
            f"spread {results['spread']:.2f} (0 is collapsed, 1 is the whole sphere)"
        )

    def files(self) -> dict[str, str]:
        """What sentence-transformers reads."""
        return sentence_transformers_files(self.options.pooling, self.width, self.max_length)

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Held-out paragraphs and their nearest neighbours."""
        return nearest_texts(folder, held_out, tokenizer, self.options.pooling)


def pooled_views(model: Any, batch: Batch, pooling: str, half: int | None = None) -> Tensor:
    """The vector of the view in every slot, in the losses' precision; zeros where there is none.

    Args:
        model: a `PackedModel`.
        batch: of a `ViewsCollator`.
        pooling: `"mean"` or `"cls"`.
        half: read only the rows of the first (0) or the second (1) views.

    Returns:
        (2C, hidden size).
    """
    inputs = {"input_ids": batch["input_ids"], **packing_of(batch)}
    slots, count = batch["slots"], 2 * len(batch["order"])
    if half is not None:
        rows = slice(half * len(slots) // 2, (half + 1) * len(slots) // 2)
        inputs = {name: value[rows] for name, value in inputs.items()} | {"cu_seqlens": batch["halves"][half]}
        slots = slots[rows]
    hidden = loss_precision(model.hidden_states(**inputs))
    if pooling == "cls":
        slots = torch.where(inputs["position_ids"] == 0, slots, count)
    slots = slots.flatten().long()
    sums = hidden.new_zeros(count + 1, hidden.shape[-1]).index_add(0, slots, hidden.flatten(0, 1))
    tokens = hidden.new_zeros(count + 1).index_add(0, slots, torch.ones_like(slots, dtype=hidden.dtype))
    return (sums / tokens.clamp(min=1)[:, None])[:count]


def alarm(found: Mapping[str, float], begun: bool) -> None:
    """Say of held-out vectors that they are all alike, which a good loss may hide.

    Args:
        found: by `measure_pairs`.
        begun: the model has been trained: a new one's vectors may be alike.
    """
    if found["alignment"] < SAME:
        warn("both views of each held-out document have the same vector: R@1 and the loss say nothing of them")
    if begun and found["spread"] < COLLAPSED:
        warn(
            f"the vectors have collapsed: all held-out documents have nearly the same (spread {found['spread']:.3f} of "
            f"1, mean cosine {found['mean_cosine']:.3f}); a loss with negatives, a larger momentum or a smaller "
            "learning rate may help"
        )


def check(options: ContrastiveSection) -> None:
    """Refuse options that are out of range.

    Raises:
        UserError: one is.
    """
    noise_of(options)
    if not options.temperature > 0:
        raise UserError(f"--contrastive.temperature is {options.temperature:g}; it must be above 0")
    if options.queue < 1:
        raise UserError(f"--contrastive.queue is {options.queue}; it must hold at least one vector")
    if options.momentum is not None:
        if options.loss not in MOMENTUM:
            raise UserError("--contrastive.momentum is for the losses moco and byol; infonce has no momentum encoder")
        if not 0 <= options.momentum < 1:
            raise UserError(f"--contrastive.momentum is {options.momentum:g}; it must be at least 0 and below 1")


def _paired(vectors: Tensor) -> Tensor:
    """(2C, D), the second views behind the first ones -> (C, 2, D)."""
    return torch.stack(vectors.chunk(2), dim=1)


OBJECTIVE = Contrastive
