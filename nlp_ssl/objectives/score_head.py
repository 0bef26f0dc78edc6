"""A score from a hidden state: a dense layer, an activation, one output."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PreTrainedConfig


class ScoreHead(nn.Module):
    """A score for every hidden state; with GELU that of `ElectraForPreTraining`, with tanh that of BERT's pooler.

    Args:
        config: the model's.
        activation: between the two layers.
    """

    def __init__(self, config: PreTrainedConfig, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1)
        for layer in (self.dense, self.score):
            nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden size) -> (...)."""
        return self.score(self.activation(self.dense(hidden))).squeeze(-1)
