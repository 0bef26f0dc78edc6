"""Replaced-token detection."""

import torch
from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.rtd import ReplacedTokensConfig, ReplacedTokensSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.rtd import AutoDiscriminator, ReplacedTokenDetection


def case(name, embeddings="shared"):
    config = ReplacedTokensConfig(rtd=ReplacedTokensSection(embeddings=embeddings))
    config.model.name, config.model.from_scratch = "tiny", True
    config.masking.probability = 0.3

    def make():
        """Its tables moved apart where they can be."""
        model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, auto_class=AutoDiscriminator, **ROLES)
        module = ReplacedTokenDetection(PackedModel(model, True), TOKENIZER, config).double()
        noise = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        return module

    return SplitCase(make, lambda: ReplacedTokenDetection.collator(TOKENIZER, config, seed=SEED))


CASES = {f"rtd {name}": case(name) for name in ("bert", "modernbert", "electra", "deberta-v2")}
CASES["rtd bert, disentangled"] = case("bert", "disentangled")
