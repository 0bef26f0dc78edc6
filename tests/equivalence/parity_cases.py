"""Models, heads and rows for the parity proof: what the project's loop makes of them, and what plain PyTorch makes.

`expected` is the witness. It knows nothing of packing, gathering, accumulating or distributing: transformers' own model
reads one document, or one unpadded row, at a time, in float64; full logits, PyTorch's cross-entropy, the sum over all
targets divided by their number, a plain optimizer. `ours` is the project's: packed or padded rows, in micro-batches,
through the loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from toys import tiny_model, word_tokenizer
from transformers import PreTrainedModel

from nlp_ssl.config.common import OptimizerConfig
from nlp_ssl.data.sequences.batches import Collator, TrainBatches
from nlp_ssl.data.sequences.phases import Phase, Phases
from nlp_ssl.doctor.proofs import Trajectory, trajectory
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.classification import Classification, ClassificationCollator
from nlp_ssl.objectives.clm import CausalCollator, CausalLanguageModeling
from nlp_ssl.objectives.masking import MaskingCollator
from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.objectives.tagging import Tagging, TaggingCollator
from nlp_ssl.training.optimizers import build_optimizer

BATCH, STEPS, SEED = 16, 4, 3
NUM_ROWS, ROW_LENGTH = 20, 40  # so that an epoch ends inside a step, and masks change
VOCABULARY, LABELS = 100, ["a", "b", "c"]
TOKENIZER = word_tokenizer(VOCABULARY)
PAD, BEGIN, END, FIRST_WORD = 0, 1, 2, 5
ROLES = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END, "cls_token_id": BEGIN, "sep_token_id": END}
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """An architecture and what is asked of it."""

    architecture: str
    task: str

    def __str__(self) -> str:
        return f"{self.architecture} {self.task}"

    @property
    def is_packed(self) -> bool:
        return self.task in ("masked", "causal")

    @property
    def isolates(self) -> bool:
        return self.is_packed and self.architecture != "distilbert"  # which takes one document a row


MASKED_CASES = [
    Case(name, "masked") for name in ("bert", "roberta", "modernbert", "deberta-v2", "albert", "distilbert", "electra")
]
CASES = [*MASKED_CASES, Case("gpt2", "causal"), Case("llama", "causal")]
CASES += [Case(name, task) for task in ("classification", "regression", "tagging") for name in ("bert", "modernbert")]
CASES += [Case("gpt2", "classification")]  # reads its last token, wherever the padding begins
OPTIMIZERS = ("adamw", "sgd")
MICRO_BATCHES = (16, 4, 3)  # of one process: 16; 4 + 4 + 4 + 4; 3 + 3 + 3 + 3 + 3 + 1


# ---------------------------------------------------------------------------------------------------------------------
# rows: very unequal numbers of labels


@dataclass(frozen=True)
class Document:
    """`cut`: its end is not the text's, so no end is to be learnt."""

    ids: list[int]
    cut: bool


@cache
def documents(isolated: bool) -> list[list[Document]]:
    """The documents of every row: one to four that fill it by a quarter up to wholly, or one of any length."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(NUM_ROWS):
        count = 1 + i % 4 if isolated else 1
        filled = rng.integers(ROW_LENGTH // 4, ROW_LENGTH + 1)
        ends = np.sort(rng.choice(np.arange(1, filled // 3), count - 1, replace=False)) * 3  # three tokens at least
        lengths = np.diff([0, *ends, filled])
        bodies = [rng.integers(FIRST_WORD, VOCABULARY, n - 2).tolist() for n in lengths]
        rows.append([Document([BEGIN, *body, END], bool(rng.random() < 0.3)) for body in bodies])
    return rows


def packed_row(row: list[Document], length: int) -> dict[str, np.ndarray]:
    """A row as `PackedRows` gives it."""
    lengths = [len(document.ids) for document in row]
    fields = {
        "input_ids": [i for document in row for i in document.ids],
        "document_ids": np.repeat(np.arange(1, len(row) + 1), lengths),
        "position_ids": np.concatenate([np.arange(n) for n in lengths]),
        "cut_ends": [i == n - 1 and d.cut for d, n in zip(row, lengths, strict=True) for i in range(n)],
    }
    padded = {key: np.zeros(length, dtype=bool if key == "cut_ends" else np.int64) for key in fields}
    for key, values in fields.items():
        padded[key][: sum(lengths)] = values
    return padded


@cache
def labelled(task: str) -> list[dict[str, Any]]:
    """Rows of a downstream task; some texts have no label, some sentences only a few."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(NUM_ROWS):
        ids = [BEGIN, *rng.integers(FIRST_WORD, VOCABULARY, rng.integers(2, 24)).tolist(), END]
        if task == "tagging":
            tags = np.where(rng.random(len(ids)) < rng.random(), rng.integers(0, len(LABELS), len(ids)), IGNORED)
            labels = [IGNORED, *tags[1:-1].tolist(), IGNORED]
            rows.append({"input_ids": [ids], "labels": [labels], "continued": [[IGNORED] * len(ids)], "unread": []})
        else:
            label = int(rng.integers(0, len(LABELS))) if task == "classification" else float(i / 4 - 2)
            rows.append({"input_ids": ids, "labels": None if i % 5 == 4 else label})
    return rows


def rows_of(case: Case) -> list[dict[str, Any]]:
    if not case.is_packed:
        return labelled(case.task)
    rows = documents(case.isolates)
    return [packed_row(row, ROW_LENGTH if case.isolates else len(row[0].ids)) for row in rows]


def collator(case: Case) -> Any:
    return {
        "masked": lambda: MaskedCollator(MaskingCollator(TOKENIZER, seed=SEED)),
        "causal": lambda: CausalCollator(PAD),
        "classification": lambda: ClassificationCollator(TOKENIZER, LABELS, ["text"]),
        "regression": lambda: ClassificationCollator(TOKENIZER, None, ["text"]),
        "tagging": lambda: TaggingCollator(TOKENIZER, LABELS),
    }[case.task]()


OBJECTIVES = {
    "masked": MaskedLanguageModeling,
    "causal": CausalLanguageModeling,
    "classification": Classification,
    "regression": Classification,
    "tagging": Tagging,
}


def build_model(case: Case, isolated: bool) -> PreTrainedModel:
    """The same weights either way."""
    head = {}
    if not case.is_packed:
        head = {"auto_class": OBJECTIVES[case.task].auto_class, **collator(case).config_kwargs()}
    return tiny_model(case.architecture, isolated=isolated, vocab_size=VOCABULARY, **{**ROLES, **head}).train()


def objective(case: Case, dtype: torch.dtype = torch.float32, kind: type[Objective] | None = None) -> Any:
    """The case's objective, or one of a class derived from it, over a new model."""
    model = build_model(case, case.isolates).to(dtype)
    kind = kind or OBJECTIVES[case.task]
    if case.is_packed:
        return kind(PackedModel(model, case.isolates), TOKENIZER, None)
    return kind(model, collator(case))


def batches_of(
    case: Case, micro_batch: int, rank: int = 0, world_size: int = 1, reader: Collator | None = None
) -> TrainBatches:
    phases = Phases([Phase(rows_of(case), BATCH, micro_batch)])
    return TrainBatches(phases, reader or collator(case), seed=SEED, rank=rank, world_size=world_size)


# ---------------------------------------------------------------------------------------------------------------------
# ours


def ours(
    case: Case,
    optimizer: str,
    micro_batch: int,
    accelerator: Accelerator,
    dtype: torch.dtype = torch.float64,
    spoilt: Callable[[Objective, Collator], tuple[Objective, Collator]] | None = None,
    varlen: bool = False,
) -> Trajectory:
    """What the project's loop does, with the case's objective or a spoilt one; `varlen` is for CUDA alone."""
    module, reader = objective(case, dtype), collator(case)
    if varlen and case.isolates:
        module.model.varlen = module.model.pairwise is None
    if spoilt is not None:
        module, reader = spoilt(module, reader)
    if optimizer == "adamw":
        chosen = build_optimizer(module, OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.0))
    else:
        chosen = torch.optim.SGD(module.parameters(), lr=0.05)
    batches = batches_of(case, micro_batch, accelerator.process_index, accelerator.num_processes, reader)
    return trajectory(module, chosen, batches, accelerator, STEPS)


# ---------------------------------------------------------------------------------------------------------------------
# the witness


@cache
def expected(case: Case, optimizer: str) -> Trajectory:
    """What plain transformers and PyTorch do in float64."""
    model = build_model(case, isolated=False).double()
    if optimizer == "adamw":
        chosen = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0)
    else:
        chosen = torch.optim.SGD(model.parameters(), lr=0.05)
    parameters = dict(model.named_parameters())
    losses, norms, gradient = [], [], {}
    for step in range(STEPS):
        sums, num_targets = zip(*losses_alone(case, model, step), strict=True)
        loss = sum(sums) / sum(num_targets)
        chosen.zero_grad()
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        gradient = gradient or gradients
        losses.append(loss.item())
        norms.append(torch.cat([g.flatten() for g in gradients.values()]).norm().item())
        chosen.step()
    # an objective's parameters have a prefix, and a PackedModel's one more
    prefix = "model.model." if case.is_packed else "model."
    gradient, after = ({prefix + n: t.detach() for n, t in part.items()} for part in (gradient, parameters))
    return Trajectory(losses, norms, gradient, after)


def losses_alone(case: Case, model: PreTrainedModel, step: int) -> Iterator[tuple[Tensor, int]]:
    """Summed loss and number of targets of every document, or row, of a global batch."""
    _, numbers, epochs = batches_of(case, BATCH).step_rows(step)
    for number, epoch in zip(numbers.tolist(), epochs.tolist(), strict=True):
        if case.is_packed:
            examples = alone(case, documents(case.isolates)[number], number, epoch)
        else:
            row = labelled(case.task)[number]
            is_list = case.task == "tagging"  # of windows; here one a sentence
            examples = [(row["input_ids"][0], row["labels"][0]) if is_list else (row["input_ids"], row["labels"])]
        for input_ids, target in examples:
            yield loss_alone(case, model, input_ids, target)


def loss_alone(case: Case, model: PreTrainedModel, input_ids: list[int], target: Any) -> tuple[Tensor, int]:
    """Summed loss and number of targets of one document; `target` is one per token, or the text's class or score."""
    logits = model(torch.tensor([input_ids])).logits[0]
    if target is None:
        return logits.sum() * 0, 0
    if case.task == "regression":
        return (logits[0] - target) ** 2, 1
    targets = torch.tensor(target)
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return loss, int((targets != IGNORED).sum())


def alone(case: Case, row: list[Document], number: int, epoch: int) -> Iterator[tuple[list[int], list[int]]]:
    """`(input_ids, targets)` of every document of a row; which tokens are masked is data, as the collator says it."""
    if case.task == "causal":
        for document in row:
            ends = [IGNORED, IGNORED] if document.cut else [document.ids[-1], IGNORED]
            yield document.ids, [*document.ids[1:-1], *ends]
        return
    masking = MaskingCollator(TOKENIZER, seed=SEED)
    whole = np.array([[i for document in row for i in document.ids]])
    masked, labels = masking.mask(whole, masking.row_keys(np.array([epoch]), np.array([number])))
    at = 0
    for document in row:
        part = slice(at, at := at + len(document.ids))
        yield masked[0, part].tolist(), labels[0, part].tolist()
