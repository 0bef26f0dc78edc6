"""Pretrain an encoder on masked and on causal sequences at once (GPT-BERT), from scratch, or continue from one.

    accelerate launch recipes/pretrain_hybrid.py

reads seven sequences of eight masked, from both sides, and has every token of the eighth predict the next one from its
past: one body, one head. Five minutes on the built-in corpus; more with `--train.minutes`. Half of them causal, and
masked tokens predicted by the token before them, as the next token is:

    accelerate launch recipes/pretrain_hybrid.py \\
        --data.sources 'corpus/*.jsonl.gz' --hybrid.share 0.5 --hybrid.predict previous --output_dir runs/mine

`--model.name runs/mlm` continues from a masked language model.
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.hybrid import HybridConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: HybridConfig) -> None:
    """Corpus, tokenizer, packed sequences, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.hybrid import HybridLanguageModeling
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> sequences, on disk, once
    data = pretraining_data.prepare(config, HybridLanguageModeling)

    # one body, which sequences it reads from both sides and which causally, and how it learns
    run = pretraining.start(config, HybridLanguageModeling, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(HybridConfig, __doc__))
