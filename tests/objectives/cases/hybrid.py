"""Masked and causal sequences in one body."""

from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.hybrid import HybridConfig, HybridSection
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.hybrid import HybridLanguageModeling


def case(name, predict, share=0.6, adapt_every=0):
    config = HybridConfig(hybrid=HybridSection(share=share, predict=predict, adapt_every=adapt_every))
    config.masking.probability = 0.3

    def make():
        model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES)
        return HybridLanguageModeling(PackedModel(model, True), TOKENIZER, config).double()

    return SplitCase(make, lambda: HybridLanguageModeling.collator(TOKENIZER, config, seed=SEED))


CASES = {
    "hybrid modernbert": case("modernbert", "same"),
    "hybrid bert, predicted by the token before": case("bert", "previous"),
    "hybrid deberta-v2": case("deberta-v2", "same"),
    "hybrid with adaptive mask rates": case("modernbert", "previous", adapt_every=2),
    "masked with adaptive mask rates": case("bert", "same", share=1.0, adapt_every=2),
}
