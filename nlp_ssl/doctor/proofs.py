"""Measures on a user's own model and rows whether a step depends on its split, and whether documents see each other.

Give it the model in float64 (`model.double()`), and the numbers speak for themselves: what is right differs by
rounding, less than 1e-12, and what is wrong by a thousandth or more.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from nlp_ssl.config.common import ScheduleConfig
from nlp_ssl.data.sequences.batches import Rows, TrainBatches
from nlp_ssl.models.attention import stock_implementation
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training.loop import train
from nlp_ssl.training.schedules import Horizon

# ---------------------------------------------------------------------------------------------------------------------
# parity: one batch of 64 = 8 x 8 = 2 processes x 4 x 8


@dataclass(frozen=True)
class Trajectory:
    """What a few optimizer steps did; the same on every process.

    Attributes:
        losses: nats per target, one per step.
        grad_norms: before any clipping, one per step.
        gradient: the first step's, by parameter name, on the host.
        parameters: after the last step, by name, on the host.
    """

    losses: list[float]
    grad_norms: list[float]
    gradient: dict[str, Tensor]
    parameters: dict[str, Tensor]


def trajectory(
    module: Objective,
    optimizer: torch.optim.Optimizer,
    batches: TrainBatches,
    accelerator: Accelerator,
    num_steps: int,
) -> Trajectory:
    """Take steps with THE loop, at a constant rate and without clipping, and keep what they did.

    To compare numbers of processes, call it in each launch, keep what rank 0 got, and give both to `difference`.

    Args:
        module: fresh, dropout off; its parameters are trained in place. Whole on every process (one process, or DDP).
        optimizer: fresh, over the module's parameters; not prepared.
        batches: this process's share.
        accelerator: with nothing else prepared.
        num_steps: how many steps.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradient: dict[str, Tensor] = {}

    def keep_first(*_: object) -> None:
        if not gradient:
            gradient.update({n: _on_host(p.grad) for n, p in parameters.items() if p.grad is not None})

    hook = optimizer.register_step_pre_hook(keep_first)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    prepared_module, prepared_optimizer = accelerator.prepare(module, optimizer)
    steps = train(
        prepared_module,
        prepared_optimizer,
        batches.steps(0),
        accelerator=accelerator,
        schedule=ScheduleConfig(name="constant", warmup=0),
        horizon=Horizon(num_steps),
        max_grad_norm=0,
    )
    taken = [(step.loss, step.grad_norm) for step in steps]
    hook.remove()
    accelerator.free_memory(prepared_module, prepared_optimizer)
    losses, grad_norms = map(list, zip(*taken, strict=True))
    return Trajectory(losses, grad_norms, gradient, {n: _on_host(p) for n, p in parameters.items()})


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


@dataclass(frozen=True)
class Difference:
    """How far one trajectory is from another, each relative to the size of the other's.

    Attributes:
        loss: largest of any step.
        gradient: of the first step's, as one vector.
        parameters: of those after the last step, as one vector. Not tensor by tensor: an attention key's bias, say, has
            no true gradient, and AdamW makes full steps of its rounding noise.
    """

    loss: float
    gradient: float
    parameters: float


def difference(found: Trajectory, expected: Trajectory) -> Difference:
    """`found` against `expected`, computed in float64; the Euclidean norm for vectors."""
    a, b = (torch.tensor(each.losses, dtype=torch.float64) for each in (found, expected))
    return Difference(
        float(((a - b) / b).abs().max()),
        relative_distance(found.gradient, expected.gradient),
        relative_distance(found.parameters, expected.parameters),
    )


def relative_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Euclidean distance of two vectors that are given in named parts, over the norm of the second."""
    a, b = (torch.cat([part[name].flatten().double() for name in expected]) for part in (found, expected))
    return float((a - b).norm() / b.norm())


def parity(
    make: Callable[[int], tuple[Objective, torch.optim.Optimizer, TrainBatches]],
    micro_batches: Sequence[int],
    accelerator: Accelerator,
    num_steps: int = 3,
) -> dict[int, Difference]:
    """Whether the micro-batch changes what a step does.

    Splits over processes are compared by `trajectory` and `difference`; this compares within one launch, whatever its
    number of processes.

    Args:
        make: from the rows of a micro-batch to a module, an optimizer over it (AdamW; Muon rounds to bfloat16 inside)
            and this process's batches; the same weights and the same global batches every time, dropout off.
        micro_batches: rows in a micro-batch; the others are compared with the first, so best all of a process's rows.
        accelerator: of the launch.
        num_steps: optimizer steps.

    Returns:
        For every further micro-batch how far it is from the first.
    """
    first, *others = micro_batches
    expected = trajectory(*make(first), accelerator, num_steps)
    return {rows: difference(trajectory(*make(rows), accelerator, num_steps), expected) for rows in others}


# ---------------------------------------------------------------------------------------------------------------------
# isolation: documents that share a row do not see each other

_INPUTS = ("input_ids", "document_ids")


@dataclass(frozen=True)
class Isolation:
    """How packed documents fared against replaced neighbours, and against themselves alone.

    Attributes:
        num_documents: documents, or pieces of them, that were looked at.
        longest: tokens of the longest; a sliding window is proved only where it is shorter than that.
        num_pairs: ordered pairs of documents of one row; none where every row holds a single document.
        leaks: pairs in which replacing the one document changed a bit of the other's logits.
        alone: largest difference of a packed document's logits from those of the document alone in plain transformers,
            relative to the largest of these.
    """

    num_documents: int
    longest: int
    num_pairs: int
    leaks: int
    alone: float


@torch.no_grad()
def isolation(packed: PackedModel, rows: Rows, numbers: Sequence[int], seed: int = 0) -> Isolation:
    """Whether the documents of packed rows are apart, at the length and in the mixture in which they are trained.

    In every row each document in turn is replaced by another of the same length, made of tokens of these rows. The
    witness is the architecture's own code: a copy of the model with stock attention reads each document by itself, with
    neither mask nor positions given, so a wrong window or a lost causality shows too.

    Args:
        packed: the model, on any device; left in the mode it was in.
        rows: rows of `PackedRows` or alike.
        numbers: which of them to look at; every document that they hold costs two forward passes.
        seed: decides the tokens of the replacements.
    """
    was_training = packed.training
    packed.eval()
    device = next(packed.parameters()).device
    plain = stock_copy(packed.model)
    taken = [{key: torch.from_numpy(row[key]) for key in _INPUTS} for row in (rows[i] for i in numbers)]
    vocabulary = torch.cat([row["input_ids"][row["document_ids"] > 0] for row in taken])
    generator = torch.Generator().manual_seed(seed)

    lengths, unchanged, distances = [], [], []
    for row in taken:
        of, length = row["document_ids"], len(row["document_ids"])
        documents = [row["input_ids"][of == d].to(device) for d in of.unique() if d > 0]
        together = packed.in_a_row(documents, length)
        for i, document in enumerate(documents):
            chosen = torch.randint(len(vocabulary), (len(document),), generator=generator)
            other = vocabulary[chosen].to(device)
            swapped = packed.in_a_row([*documents[:i], other, *documents[i + 1 :]], length)
            unchanged += [torch.equal(swapped[j], together[j]) for j in range(len(documents)) if j != i]
            alone = packed.alone(document, plain)
            distances.append((together[i] - alone).abs().max() / alone.abs().max())
            lengths.append(len(document))
    packed.train(was_training)
    furthest = float(torch.stack(distances).max())
    return Isolation(len(lengths), max(lengths), len(unchanged), unchanged.count(False), furthest)


def stock_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model anew from its configuration, with the same weights and stock attention, in evaluation mode."""
    parameter = next(model.parameters())
    config = copy.deepcopy(model.config)
    plain = type(model)._from_config(config, dtype=parameter.dtype, attn_implementation=stock_implementation(model))
    plain.load_state_dict(model.state_dict())
    return plain.to(parameter.device).eval()
