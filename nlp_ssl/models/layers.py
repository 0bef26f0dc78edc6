"""Where the layers of an architecture stand."""

from torch import nn
from transformers import PreTrainedModel


def layers_of(body: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers, the one next to the embeddings first; empty where there is none (ALBERT has one for all)."""
    count = body.config.num_hidden_layers
    return next((m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == count), nn.ModuleList())
