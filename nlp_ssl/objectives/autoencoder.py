"""A denoising autoencoder: words are deleted, and the document is written anew from one vector (TSDAE).

Wang, Reimers and Gurevych 2021. The encoder reads what is left of a document; its vector is all that the decoder knows
of it besides the tokens before the one that it predicts. The loss is the cross-entropy of every token of the document.

TSDAE's decoder attends to that one vector. Attention over a single key is no choice: its softmax is 1, and what it
gives is the value, a linear map of the vector, the same for every token. So a decoder needs no cross-attention: here it
is the encoder's own body (tied weights, as in TSDAE), whose tokens then see only their past, with a learnt linear map
of the vector added to the hidden states before every layer. Any encoder can be trained so, ModernBERT too.

The previous tokens are given, as in TSDAE, so what holds the vector to its work is the share that is deleted: 60 % in
the paper. (Examples of sentence-transformers keep 60 % instead.) `bottleneck.py` has the variational and the sparse
form. Wang et al. find it good for domains without labels, and not the best for general sentence similarity.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.config.autoencoder import AutoencoderConfig, AutoencoderSection
from nlp_ssl.config.common import ModelConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.sequences.packing import cumulative_lengths, stack_rows
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.models.layers import layers_of
from nlp_ssl.models.loading import build_model
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.bottleneck import ACTIVE, Plain, Sparse, Variational
from nlp_ssl.objectives.clm import CausalCollator
from nlp_ssl.objectives.cross_entropy import IGNORE, summed_cross_entropy
from nlp_ssl.objectives.deletion import WordDeletion, compacted, positions_of
from nlp_ssl.objectives.objective import (
    Batch,
    Metrics,
    PretrainingObjective,
    Sums,
    compared,
    digest_of,
    packing_of,
    to_tensors,
)
from nlp_ssl.objectives.text_vectors import nearest_texts, sentence_transformers_files
from nlp_ssl.publishing.card import CardText

SHAPES = 8  # different widths of what is left of the rows, at most


class AutoencoderCollator:
    """Packed rows with the labels of their documents' tokens, and what is left of them beside.

    A batch holds what `CausalCollator` gives: `input_ids`, `document_ids`, `position_ids`, `cu_seqlens` and `labels`,
    which are the next tokens; and under `noisy_...` the first four of the rows without the deleted words, moved
    together, (B, W) for one of few widths W. `keys`, int64 (B, K), are of the K documents that a row has at most.
    Held-out batches also have, under `other_...`, what is left of the row after each one in the data set.

    Args:
        deletion: chooses what stays.
        pad: token of empty positions.
        seed: decides what is deleted and drawn.
        source: of the rows; held-out ones are not of source 0.
    """

    def __init__(self, deletion: WordDeletion, pad: int, seed: int, source: int) -> None:
        self.deletion, self.pad, self.seed, self.source = deletion, pad, seed, source
        self.causal = CausalCollator(pad)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a batch."""
        found = self.causal(rows)
        noisy, keys, digest = self._noisy(rows)
        found |= {f"noisy_{name}": value for name, value in noisy.items()}
        found |= {"keys": keys, "digest": found["digest"] + digest}
        if self.source and isinstance(rows, Selection):
            others = Selection(rows.rows, (rows.numbers + 1) % len(rows.rows), rows.epochs)
            found |= {f"other_{name}": value for name, value in self._noisy(others)[0].items()}
        return found

    def _noisy(self, rows: Sequence[dict[str, Any]]) -> tuple[Batch, Tensor, Tensor]:
        """What is left of the rows, the keys of their documents, and a digest of what is left."""
        batch = stack_rows(rows, self.pad)
        documents = batch["document_ids"]
        row_keys = hash64(self.seed, self.source, batch["epoch"], batch["row"])
        kept = self.deletion.kept(batch["input_ids"], documents, row_keys)
        unit = max(8, -(-documents.shape[1] // SHAPES))
        width = min(documents.shape[1], -(-int(kept.sum(1).max()) // unit) * unit)
        ids, left = compacted(kept, batch["input_ids"], documents, width=width)
        ids[left == 0] = self.pad
        count = 1 << int(documents.max() - 1).bit_length()
        keys = hash64(row_keys[:, None], -1 - np.arange(count)).view(np.int64)
        small = {"input_ids": ids, "document_ids": left, "position_ids": positions_of(left)}
        arrays = {name: value.astype(np.int32) for name, value in small.items()}
        digest = digest_of(batch["row"], batch["epoch"], np.where(documents > 0, kept.astype(np.int64), 0))
        tensors = to_tensors({**arrays, "cu_seqlens": cumulative_lengths(left)})
        return tensors, torch.from_numpy(keys.copy()), digest

    def counts(self, batch: Batch) -> dict[str, int]:
        """Tokens that are written, the same for `kl`, and documents for `l1`."""
        tokens = int((batch["labels"] != IGNORE).sum())
        return {"reconstruction": tokens, "kl": tokens, "l1": int(batch["document_ids"].amax(1).sum())}


class Injection(nn.Module):
    """Adds a linear map of its document's vector to every token's hidden state before each layer of a body.

    Args:
        body: whose layers; hooks on them stay installed, and do nothing while `added` is `None`.
        size: of the vectors.
    """

    def __init__(self, body: PreTrainedModel, size: int) -> None:
        super().__init__()
        layers = layers_of(body)
        if not layers:
            raise UserError(f"an autoencoder needs layers of their own, which {type(body).__name__} does not have")
        maps = [nn.Linear(size, body.config.hidden_size) for _ in layers]
        for each in maps:
            nn.init.normal_(each.weight, std=size**-0.5)
            nn.init.zeros_(each.bias)
        self.maps = nn.ModuleList(maps)
        self.added: list[Tensor] | None = None
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(_Adds(self, number), with_kwargs=True)

    def of_tokens(self, vectors: Tensor, document_ids: Tensor) -> list[Tensor]:
        """What is added before each layer: (B, K, size), of the documents 1 to K -> (B, S, hidden size)."""
        index = (document_ids.long() - 1).clamp_min(0)[..., None]
        maps = (each(vectors) for each in self.maps)
        return [each.gather(1, index.expand(-1, -1, each.shape[-1])) for each in maps]


class _Adds:
    """The hook of one layer.

    Args:
        injection: whose.
        number: of the layer.
    """

    def __init__(self, injection: Injection, number: int) -> None:
        self.injection, self.number = injection, number

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self.injection.added is None:
            return None
        added = self.injection.added[self.number]
        if args:
            return (args[0] + added, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] + added}


class DenoisingAutoencoder(PretrainingObjective):
    """Writes documents anew from the vectors of what is left of them; the encoder is what is published.

    Args:
        model: the encoder.
        tokenizer: the run's.
        config: the run's.

    Raises:
        UserError: a share, size or weight that cannot be, or a model that cannot be the decoder.
    """

    annealed: Tensor
    bottleneck: Plain
    Config: ClassVar[Any] = AutoencoderConfig
    auto_class = AutoModelForMaskedLM
    metrics: ClassVar[Metrics] = {"held_out_loss": "min", "reconstruction": "min"}
    card = CardText(
        pipeline_tag="feature-extraction",
        objective="denoising autoencoding of documents (TSDAE)",
        papers=("2104.06979",),
        what="an encoder whose vector of a text holds what the text can be written anew from",
        limit="Its vectors are for search and clustering in text like that of its training; it does not fill masks.",
        recipe="pretrain_autoencoder",
        results={
            "reconstruction": "Held-out loss of writing a document anew, nats per token",
            "reconstruction_of_another": "... with the vector of another document",
            "active_entries": "Entries whose mean varies from document to document (variance above 0.01)",
            "kl_per_document": "Divergence of a document's draw from a standard normal distribution, nats",
            "share_of_zeros": "Share of the code's entries that are 0",
        },
        example="['A text to encode.', 'Another one.']",
        snippet="""\
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModel.from_pretrained({model})
inputs = tokenizer({example}, padding=True, return_tensors="pt")
hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
vectors = (hidden * mask).sum(1) / mask.sum(1)  # where the card says that the pooling is cls: hidden[:, 0]
print(vectors.shape)""",
    )

    def __init__(self, model: PackedModel, tokenizer: PreTrainedTokenizerFast, config: AutoencoderConfig) -> None:
        super().__init__(model, tokenizer, config)
        self.options = options = config.autoencoder
        _check_options(config)
        if not model.isolated:
            raise UserError("an autoencoder reads packed rows, in which each token may be kept from seeing its future")
        self.width: int = model.model.config.hidden_size
        self.longest: int = config.tokens.sequence_length or tokenizer.model_max_length  # rows that it learns from
        torch.manual_seed(config.seed)
        self.decoder = None if options.decoder_layers is None else _decoder(model, options.decoder_layers, config.seed)
        self.bottleneck = _bottleneck(options, self.width)
        body = (self.decoder or model).model.base_model
        self.injection = Injection(body, self.bottleneck.size)
        self.register_buffer("annealed", torch.zeros(()))  # share of the weight of the divergence
        self.after_step(0)

    @property
    def terms(self) -> dict[str, float]:
        """Cross-entropy per token; KL per token, which makes their sum the bound; L1 per document."""
        more = {"kl": self.options.kl_weight, "l1": self.options.l1_weight}
        penalty = self.bottleneck.penalty
        return {"reconstruction": 1.0} | ({penalty: more[penalty]} if penalty else {})

    @classmethod
    def completed(cls, config: AutoencoderConfig) -> AutoencoderConfig:
        """As it is, looked through before there is any work."""
        _check_options(config)
        return config

    @classmethod
    def collator(
        cls, tokenizer: PreTrainedTokenizerFast, config: AutoencoderConfig, *, seed: int, source: int = 0
    ) -> AutoencoderCollator:
        """Deletes words."""
        deletion = WordDeletion(tokenizer, config.autoencoder.deleted)
        return AutoencoderCollator(deletion, tokenizer.pad_token_id, seed, source)

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """That of every encoder.

        Raises:
            UserError: the first token is to be the document's vector, and the tokenizer puts none there.
        """
        frame = super().frame(tokenizer, config)
        if not frame[0]:
            raise UserError("the tokenizer begins no text with a special token, from which a document is written anew")
        return frame

    def after_step(self, step: int) -> None:
        """The weight of the divergence grows."""
        self.annealed.fill_(min(1.0, (step + 1) / max(1, self.options.annealing_steps)))

    def facts(self) -> dict[str, Any]:
        """How a vector is made."""
        return {
            "pooling": self.options.pooling,
            "bottleneck": self.options.bottleneck,
            "deleted_words": self.options.deleted,
        }

    def files(self) -> dict[str, str]:
        """What sentence-transformers reads: how the folder's vectors are pooled."""
        return sentence_transformers_files(self.options.pooling, self.width, self.longest)

    def _vectors(self, batch: Batch, part: str, count: int) -> Tensor:
        """Of the first `count` documents of each row: (B, count, hidden size); 0 where there is none."""
        read = {name.removeprefix(part): value for name, value in batch.items() if name.startswith(part)}
        first = torch.zeros(1, dtype=torch.int32, device=read["input_ids"].device)  # logits of one token: none is read
        encoder: Any = self.model
        _, hidden = encoder.with_hidden(read["input_ids"], **packing_of(read), label_positions=first)
        documents = torch.arange(1, count + 1, device=hidden.device)[:, None]
        taken = read["document_ids"][:, None] == documents
        if self.options.pooling == "cls":
            taken = taken & (read["position_ids"][:, None] == 0)
        return taken.to(hidden.dtype) @ hidden / taken.sum(-1, keepdim=True).clamp_min(1)

    def _written(self, batch: Batch, vectors: Tensor) -> Tensor:
        """The cross-entropy of the documents' tokens, given their vectors, (B, K, size), and the tokens before."""
        decoder = self.decoder or self.model
        self.injection.added = self.injection.of_tokens(vectors, batch["document_ids"])
        try:
            logits = decoder(batch["input_ids"], **packing_of(batch), causal=True)
        finally:
            self.injection.added = None
        return summed_cross_entropy(logits.view(-1, logits.shape[-1]), batch["labels"].view(-1))

    def forward(self, batch: Batch) -> Sums:
        """The terms, in nats and entries; in evaluation also what `evaluate` counts."""
        keys = batch["keys"]
        vectors = self._vectors(batch, "noisy_", keys.shape[1])
        code, cost, seen = self.bottleneck(vectors, keys)
        there = torch.arange(keys.shape[1], device=keys.device) < batch["document_ids"].amax(1, keepdim=True)
        sums = {"reconstruction": self._written(batch, code)}
        if cost is not None:
            share = self.annealed if self.training and self.bottleneck.penalty == "kl" else 1.0
            sums[self.bottleneck.penalty or ""] = share * torch.where(there, cost, 0.0).sum()
        if self.training:
            return sums
        seen = seen.double() * there[..., None]
        sums |= {
            "moments": torch.stack([seen.sum((0, 1)), seen.square().sum((0, 1))]),
            "zeros": ((seen == 0) & there[..., None]).sum(),
        }
        if "other_input_ids" in batch:
            others = self._vectors(batch, "other_", 1).expand_as(vectors)
            sums["another"] = self._written(batch, self.bottleneck(others, keys)[0])
        return sums

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """The loss; how well documents are written anew from their vectors and from others'; what vectors are used."""
        tokens, documents = max(1, counts["reconstruction"]), max(1, counts["l1"])
        found = super().evaluate(sums, counts, num_bytes)
        found["reconstruction"] = float(sums["reconstruction"]) / tokens
        if "another" in sums:
            found["reconstruction_of_another"] = float(sums["another"]) / tokens

        if self.bottleneck.penalty == "kl":
            mean, square = sums["moments"] / documents
            found["active_entries"] = float((square - mean.square() > ACTIVE).sum())
            found["kl_per_document"] = float(sums["kl"]) / documents
        if self.bottleneck.penalty == "l1":
            found["share_of_zeros"] = float(sums["zeros"]) / documents / self.bottleneck.size
        return found

    def reference(self, unigram: float) -> dict[str, float]:
        """What a model without context reaches."""
        return {"unigram entropy": unigram}

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Nats per token that is written anew, beside a model without context and the vector of another document."""
        found = compared("written anew: held-out loss", results["reconstruction"], "nats per token", unigram)
        if (another := results.get("reconstruction_of_another")) is not None:
            worth = another - results["reconstruction"]
            found += f"; with another document's vector {another:.3f}, so its own is worth {worth:.3f}"
        if "kl_per_document" in results:
            used = f"{results['active_entries']:.0f} of {self.bottleneck.size} entries vary from document to document"
            found += f"\nKL {results['kl_per_document']:.2f} nats per document; {used}"
        if "share_of_zeros" in results:
            found += f"\n{results['share_of_zeros']:.1%} of the entries of a code are 0"
        return found

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """The nearest neighbours of held-out paragraphs, by plain transformers."""
        return nearest_texts(folder, held_out, tokenizer, self.options.pooling)


def _check_options(config: AutoencoderConfig) -> None:
    options = config.autoencoder
    if config.train.gradient_checkpointing:
        raise UserError("--train.gradient_checkpointing is not for autoencoders; give smaller micro-batches")
    if not 0 <= options.deleted < 1:
        raise UserError(f"--autoencoder.deleted is {options.deleted}; it must be at least 0 and below 1")
    for name in ("kl_weight", "free_bits", "l1_weight", "annealing_steps"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise UserError(f"--autoencoder.{name} is {getattr(options, name)}; it must be 0 or more")
    for name in ("latent_size", "decoder_layers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--autoencoder.{name} is {value}; it must be at least 1")
    if options.latent_size is not None and options.bottleneck == "plain":
        raise UserError(
            "--autoencoder.latent_size is for a variational or sparse bottleneck; a plain one has the width"
        )


def _bottleneck(options: AutoencoderSection, width: int) -> Plain:
    """What a vector of this many entries goes through."""
    size = options.latent_size or width
    if options.bottleneck == "variational":
        return Variational(width, size, options.free_bits)
    return Sparse(width, size) if options.bottleneck == "sparse" else Plain(width)


def _decoder(model: PackedModel, count: int, seed: int) -> PackedModel:
    """A decoder with layers of its own; all its other parameters are the encoder's."""
    encoder = model.model
    fields = copy.deepcopy(encoder.config.to_dict())
    fields.pop("layer_types", None)  # one entry a layer; made anew
    shape = type(encoder.config).from_dict({**fields, "architectures": None, "num_hidden_layers": count})
    chosen = ModelConfig(name=shape.model_type, from_scratch=True)
    decoder = build_model(chosen, shape, AutoModelForMaskedLM, isolated=True, seed=seed)
    own = {id(p) for p in layers_of(decoder.base_model).parameters()}
    for name, module in decoder.named_modules():
        for part, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in own:
                setattr(module, part, getattr(encoder.get_submodule(name), part))
    packed = PackedModel(decoder, True)
    packed.varlen = model.varlen
    return packed


OBJECTIVE = DenoisingAutoencoder
