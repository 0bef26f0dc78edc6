"""Causal language modelling of documents whose middle was moved to the end."""

from infilling_rows import ROWS, SIZE, TOKENIZER
from parity_cases import ROLES, SEED
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.fill_in_the_middle import InfillingConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.fill_in_the_middle import HELD_OUT, FillInTheMiddle


def case(name, source=0):
    config = InfillingConfig()

    def make():
        model = tiny_model(name, isolated=True, vocab_size=SIZE, **ROLES)
        return FillInTheMiddle(PackedModel(model, True), TOKENIZER, config).double()

    return SplitCase(make, lambda: FillInTheMiddle.collator(TOKENIZER, config, seed=SEED, source=source), ROWS)


CASES = {"fill in the middle, llama": case("llama"), "fill in the middle, as held out, gpt2": case("gpt2", HELD_OUT)}
