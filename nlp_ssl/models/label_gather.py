"""Logits only where there are labels, for any head class of transformers.

With 15 % of the tokens masked, five sixths of a language-model head's work is thrown away. A hook on the base model
gathers the hidden states that have a label; every head then computes on these alone. No head is named, none is copied.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


class LabelledPositions:
    """Lets the head of a model see only the hidden states of chosen positions.

    While `positions` holds an int64 tensor of shape (C,), indices into the flattened (batch * length) tokens, the base
    model returns hidden states of shape (1, C, hidden), and so the head returns logits of shape (1, C, vocabulary).
    While it is `None`, nothing changes. While `keeps` is set, the base model's hidden states of all tokens are kept in
    `hidden`.

    Args:
        model: a model with a head; a hook on `model.base_model` stays installed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.positions: Tensor | None = None
        self.keeps = False
        self.hidden: Tensor | None = None
        model.base_model.register_forward_hook(self._gather)

    def _gather(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if self.keeps:
            self.hidden = output[0]
        if self.positions is None:
            return output
        hidden = output[0]
        return with_hidden_states(output, hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.positions)[None])


def with_hidden_states(output: Any, hidden: Tensor) -> Any:
    """A base model's output, a tuple or a `ModelOutput`, with other last hidden states."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    output["last_hidden_state"] = hidden
    return output
