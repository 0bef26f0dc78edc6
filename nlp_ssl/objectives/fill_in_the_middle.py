"""Filling in the middle: next tokens of documents whose middle was moved to the end (Bavarian et al. 2022).

A share of the documents, drawn by a hash, is rearranged as `infilling.py` says; all of them learn by the same loss, the
mean over predicted tokens of all three parts. A sentinel that the prompt gives (`<|fim_prefix|>`, `<|fim_suffix|>`,
`<|fim_middle|>`) is no target: whether a document is rearranged, and where it is cut, was drawn, and a model that had
to guess it would do so in plain text as well. The end of the middle, `<|fim_end|>`, is one, or infilling never stopped.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nlp_ssl.config.fill_in_the_middle import InfillingConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.order import hash64
from nlp_ssl.data.sequences.packing import stack_rows
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling, next_tokens
from nlp_ssl.objectives.cross_entropy import IGNORE
from nlp_ssl.objectives.infilling import ROOM, SENTINELS, Documents, rearrange
from nlp_ssl.objectives.objective import Batch, Metrics, Sums, to_tensors
from nlp_ssl.objectives.samples import held_out_paragraphs
from nlp_ssl.publishing.card import CardText

HELD_OUT = 1  # the source of held-out text
ORDERS = ("psm", "spm")  # in which held-out documents are read once more: their fields' names begin with these


class InfillingCollator(CausalCollator):
    """Rearranges documents of packed rows, and labels their tokens with the next ones.

    A batch is that of `CausalCollator`. One of held-out rows leaves their documents as they are, and has besides
    `middle`, bool (B, S), where the next token is one of a middle; and the same fields twice more, as `psm_...` and
    `spm_...`, of the same rows with every document rearranged in that order. A middle has the same tokens in all three.

    Args:
        pad: token of empty positions.
        sentinels: ids of `SENTINELS`.
        rate: share of the documents that are rearranged.
        seed: decides which, and where they are cut.
        source: tells apart training (0) and held-out (1) text.
    """

    def __init__(self, pad: int, sentinels: tuple[int, ...], rate: float, seed: int, source: int = 0) -> None:
        super().__init__(pad)
        self.sentinels, self.rate, self.seed, self.source = sentinels, rate, seed, source

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Rows of `PackedRows` as a batch."""
        stacked = stack_rows(rows, self.pad)
        keys = hash64(self.seed, self.source, stacked["epoch"], stacked["row"])
        documents = Documents.of(stacked["document_ids"], keys, self.rate)
        if self.source != HELD_OUT:
            return self.labelled(self.laid(stacked, documents)[0])
        all_of_them = np.ones_like(documents.rearranged)
        plain, middle = self.laid(stacked, documents, rearranged=~all_of_them)
        batch = {**self.labelled(plain), **to_tensors({"middle": middle})}
        for order in ORDERS:
            psm = all_of_them if order == "psm" else ~all_of_them
            again, middle = self.laid(stacked, documents, rearranged=all_of_them, psm=psm)
            fields = {**self.labelled(again), **to_tensors({"middle": middle})}
            batch |= {f"{order}_{name}": value for name, value in fields.items() if name != "digest"}
        return batch

    def laid(
        self, rows: dict[str, np.ndarray], documents: Documents, **how: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`rearrange` documents as was drawn, or otherwise."""
        return rearrange(rows, dataclasses.replace(documents, **how), self.sentinels, self.pad)

    def labels(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        """The next tokens, but no sentinel that a prompt gives."""
        labels = next_tokens(rows)
        return np.where(np.isin(labels, self.sentinels[:-1]), IGNORE, labels)


class FillInTheMiddle(CausalLanguageModeling):
    """Predicts the next token of documents some of which are rearranged."""

    Config: ClassVar[Any] = InfillingConfig
    metrics: ClassVar[Metrics] = {
        **CausalLanguageModeling.metrics, "middle_loss_psm": "min", "middle_loss_spm": "min",
        "middle_loss_without_suffix": "min",
    }  # fmt: skip
    card = dataclasses.replace(
        CausalLanguageModeling.card,
        objective="causal language modelling with filling in the middle",
        papers=("2207.14255",),
        what="a causal language model: it continues text, and fills in the middle of one",
        recipe="pretrain_fim",
        results={
            **CausalLanguageModeling.card.results,
            "middle_loss_psm": "Held-out loss of a middle, nats per token, where prefix, suffix and middle follow",
            "middle_loss_spm": "The same tokens where suffix, prefix and middle follow",
            "middle_loss_without_suffix": "The same tokens after what is before them alone",
        },
        example="'<|fim_prefix|>The function returns<|fim_suffix|> of the list.<|fim_middle|>'",
        snippet="""\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained({model}), AutoModelForCausalLM.from_pretrained({model})
inputs = tokenizer({example}, return_tensors="pt", return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=40)[0]  # as far as <|fim_end|>, or the end of a text
print(tokenizer.decode(output[inputs.input_ids.shape[1] :], skip_special_tokens=True))""",
    )

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, config: InfillingConfig) -> None:
        super().__init__(model, tokenizer, config)
        if config.fim.rate > 0:
            end = tokenizer.convert_tokens_to_ids(SENTINELS[-1])
            self.added_ids = torch.cat([self.added_ids, torch.tensor([end])])
            for published in self.published().values():  # where `generate` stops
                published.generation_config.eos_token_id = [tokenizer.eos_token_id, end]

    @classmethod
    def special_tokens(cls, config: InfillingConfig) -> list[str]:
        """The sentinels, and the end of a middle."""
        return list(SENTINELS) if config.fim.rate > 0 else []

    @classmethod
    def completed(cls, config: InfillingConfig) -> InfillingConfig:
        """As it is, if it can be done."""
        if not 0 <= config.fim.rate <= 1:
            raise UserError(f"--fim.rate is {config.fim.rate}; it must lie between 0 and 1")
        own = __name__.rpartition(".")[2]
        others = [phase.objective for phase in config.phases if phase.objective not in (None, own)]
        if others and config.fim.rate > 0:
            raise UserError(
                f"phases: {others[0]} cannot take turns with filling in the middle, whose sequences have room for "
                "sentinels; give --fim.rate 0, or run one after the other"
            )
        return config

    @classmethod
    def frame(cls, tokenizer: PreTrainedTokenizerFast, config: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """That of causal language modelling, and behind it room for what a rearranged document has more."""
        prefix, suffix = super().frame(tokenizer, config)
        return prefix, suffix + (tokenizer.pad_token_id,) * (ROOM if config.fim.rate > 0 else 0)

    @classmethod
    def collator(cls, tokenizer: PreTrainedTokenizerFast, config: Any, *, seed: int, source: int = 0) -> CausalCollator:
        """Rearranges a share of the documents; with a share of 0 it is that of causal language modelling."""
        if config.fim.rate == 0:
            return super().collator(tokenizer, config, seed=seed, source=source)
        sentinels = tuple(tokenizer.convert_tokens_to_ids(list(SENTINELS)))
        return InfillingCollator(tokenizer.pad_token_id, sentinels, config.fim.rate, seed, source)

    def forward(self, batch: Batch) -> Sums:
        """`clm`, summed cross-entropy in nats.

        In evaluation also `text`, that of targets that are text; and of held-out rows `psm`, `spm` and `plain`, that of
        the tokens of a middle in the orders that have its suffix first and in plain text; and their number, `middle`.
        """
        if "middle" not in batch:
            return super().forward(batch)
        losses, middle = self.token_losses(batch), batch["middle"].view(-1)
        is_text = ~torch.isin(batch["labels"].view(-1), self.added_ids.to(losses.device))
        sums = {"clm": losses.sum(), "text": (losses * is_text).sum(), "plain": (losses * middle).sum()}
        for order in ORDERS:
            again = {name.removeprefix(f"{order}_"): value for name, value in batch.items() if name.startswith(order)}
            sums[order] = (self.token_losses(again) * again["middle"].view(-1)).sum()
        return sums | {"middle": middle.sum()}

    def evaluate(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], num_bytes: float) -> dict[str, float]:
        """Those of causal language modelling of plain text; and the loss of a middle, with its suffix and without."""
        found = super().evaluate(sums, counts, num_bytes)
        if "middle" not in sums:
            return found
        names = {"psm": "middle_loss_psm", "spm": "middle_loss_spm", "plain": "middle_loss_without_suffix"}
        tokens = max(1.0, float(sums["middle"]))
        return found | {name: float(sums[order]) / tokens for order, name in names.items()}

    @classmethod
    def about(cls, config: InfillingConfig) -> CardText:
        """With no document rearranged, a causal language model like any other."""
        return (
            cls.card
            if config.fim.rate > 0
            else dataclasses.replace(CausalLanguageModeling.card, recipe=cls.card.recipe)
        )

    def headline(self, results: Mapping[str, float], held_out: TokenCorpus, unigram: float) -> str:
        """Bits per byte, and the loss of a middle."""
        said = super().headline(results, held_out, unigram)
        if "middle_loss_psm" not in results:
            return said
        psm, spm, without = (results[f"middle_loss_{how}"] for how in ("psm", "spm", "without_suffix"))
        return f"{said}\nmiddle: {psm:.3f} (PSM) and {spm:.3f} (SPM) nats per token, {without:.3f} without its suffix"

    def samples(self, folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
        """Texts continued and, where documents were rearranged, middles filled in, by plain transformers."""
        yield from super().samples(folder, held_out, tokenizer)
        if SENTINELS[-1] in tokenizer.get_vocab():
            yield from fill_middles(folder, held_out, tokenizer)


@torch.no_grad()
def fill_middles(
    folder: Path, tokens: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 2, new_tokens: int = 24
) -> Iterator[str]:
    """Take three words out of held-out texts and let a model in a folder fill them in; one line each."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=False).eval()
    before_it, behind_it, middle_of_it, end = SENTINELS
    for text in held_out_paragraphs(tokens, tokenizer, count):
        words = text.split()[:24]
        at = len(words) // 2
        before, middle, behind = (" ".join(part) for part in (words[:at], words[at : at + 3], words[at + 3 :]))
        prompt = f"{before_it}{before}{behind_it} {behind}{middle_of_it}"
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = model.generate(
            **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        written = output[0, inputs["input_ids"].shape[1] :].tolist()
        filled = " ".join(tokenizer.decode(written, skip_special_tokens=True).split())
        stopped = "" if tokenizer.convert_tokens_to_ids(end) in written else " ..."
        yield f"{before} [{filled}{stopped}] {behind}  (it was: {middle})"


OBJECTIVE = FillInTheMiddle
