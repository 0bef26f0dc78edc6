"""Contrastive pretraining: every view and every loss."""

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
        """Its queue, where it has one, holds vectors of an earlier step, or there would be no negatives in the first."""
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
    "contrastive moco": case("modernbert", loss="moco", queue=37, momentum=0.9),
    "contrastive moco, deletion": case("deberta-v2", loss="moco", head="mlp", view="deletion", queue=37),
    "contrastive byol": case(loss="byol", view="repetition"),
    "contrastive byol, replacement": case("electra", loss="byol", view="replacement", momentum=0.5),
}
