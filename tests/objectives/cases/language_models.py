"""Masked and causal language models."""

from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.pretraining import CLMConfig, MLMConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.mlm import MaskedLanguageModeling


def case(objective, name, config):
    def make():
        model = tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES)
        return objective(PackedModel(model, True), TOKENIZER, config).double()

    return SplitCase(make, lambda: objective.collator(TOKENIZER, config, seed=SEED))


CASES = {
    "masked modernbert": case(MaskedLanguageModeling, "modernbert", MLMConfig()),
    "causal llama": case(CausalLanguageModeling, "llama", CLMConfig()),
}
