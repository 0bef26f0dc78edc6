"""Contrastive pretraining: every loss, and views of other lengths."""

import torch
from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model
from transformers import AutoModel

from nlp_ssl.config.contrastive import ContrastiveConfig, ContrastiveSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.contrastive import Contrastive


def case(name="bert", **options):
    config = ContrastiveConfig(contrastive=ContrastiveSection(**options))

    def make():
        """Its queue, where it has one, holds vectors already, or the first step would have no negatives."""
        model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, auto_class=AutoModel, **ROLES)
        module = Contrastive(PackedModel(model, True), TOKENIZER, config).double()
        if config.contrastive.loss == "moco":
            noise = torch.Generator().manual_seed(5)
            module.queue.put(torch.nn.functional.normalize(torch.randn(20, 32, generator=noise, dtype=torch.float64)))
        return module

    return SplitCase(make, lambda: Contrastive.collator(TOKENIZER, config, seed=SEED))


# a queue of 37 is no multiple of the documents of a step, and full after the second one
CASES = {
    "contrastive infonce": case(),
    "contrastive infonce, cls, head": case("modernbert", pooling="cls", head="mlp", view="next"),
    "contrastive moco": case("deberta-v2", loss="moco", view="deletion", queue=37, momentum=0.9),
    "contrastive byol": case("electra", loss="byol", view="repetition", momentum=0.5),
}
