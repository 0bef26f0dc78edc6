"""Masked diffusion."""

from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.diffusion import DiffusionConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.diffusion import MaskedDiffusion


def case(name, source=0):
    config = DiffusionConfig()

    def make():
        model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES)
        return MaskedDiffusion(PackedModel(model, True), TOKENIZER, config).double()

    return SplitCase(make, lambda: MaskedDiffusion.collator(TOKENIZER, config, seed=SEED, source=source))


CASES = {f"diffusion {name}": case(name) for name in ("bert", "modernbert")}
CASES["diffusion bert, masks of held-out text"] = case("bert", source=1)
