"""Pretrain a causal language model from scratch, or continue from one.

    accelerate launch recipes/pretrain_clm.py

reads the documentation of the installed Python packages, trains a tokenizer, packs the text and trains a small modern
decoder for a few minutes, on a laptop's CPU as well as on a GPU, and leaves a model in runs/clm. With text of your own:

    accelerate launch recipes/pretrain_clm.py \\
        --data.sources 'corpus/*.jsonl.gz' --model.name llama-small --train.tokens 1e9 --output_dir runs/mine

on from a trained model, with its own tokenizer:

    accelerate launch recipes/pretrain_clm.py --model.name HuggingFaceTB/SmolLM2-135M --data.sources notes.txt

on all GPUs of a machine `accelerate launch --multi_gpu ...`; on two processes of a CPU:

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 recipes/pretrain_clm.py --train.steps 100
"""

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.pretraining import CLMConfig
from nlp_ssl.core import program
from nlp_ssl.core.libraries import importing


def main(config: CLMConfig) -> None:
    """Corpus, tokenizer, packed rows, model, training, a look at the result."""
    with importing():
        from nlp_ssl.objectives.clm import CausalLanguageModeling
        from nlp_ssl.runs import pretraining, pretraining_data

    # text -> tokens -> rows, on disk, once
    data = pretraining_data.prepare(config, CausalLanguageModeling)

    # the model, and how it learns
    run = pretraining.start(config, CausalLanguageModeling, data)

    # to the end of the budget: logging, evaluating, saving, publishing
    run.train()

    # what has it learnt?
    pretraining.show(run, data)


if __name__ == "__main__":
    program.run(main, lambda: parse(CLMConfig, __doc__))
