"""Runs a recipe in a spoiled environment: `python spoiled.py slow_disk recipe.py --option ...`."""

import os
import runpy
import sys
import time


def slow_disk() -> None:
    """Every fsync takes a quarter of a second, so a checkpoint seconds."""
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.25)
        fsync(descriptor)

    os.fsync = slow


def small_parts() -> None:
    """A tokenised corpus of many parts needs no large text."""
    from nlp_ssl.data.tokens import tokenizing

    tokenizing.PART_BYTES = 100_000


def broken_rank() -> None:
    """Rank 1 cannot read its rows of the ninth step."""
    from nlp_ssl.data.sequences.batches import TrainBatches

    read = TrainBatches.__getitem__

    def broken(self: TrainBatches, index: tuple[int, slice]) -> dict:
        if os.environ.get("RANK") == "1" and index[0] == 8:
            raise OSError("the disk of rank 1 is gone")
        return read(self, index)

    TrainBatches.__getitem__ = broken


def broken_decorations() -> None:
    """No picture can be drawn, no card be written."""
    from matplotlib.figure import Figure

    from nlp_ssl.runs import ending, model_folder

    Figure.savefig = ending.model_card = model_folder.model_card = lambda *args, **kwargs: {}["missing"]


def little_memory() -> None:
    """Once training begins, the process may take 60 MB more than it has."""
    import resource

    import psutil

    from nlp_ssl.runs.run import Run

    train = Run.train

    def limited(self: Run) -> dict:
        have = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (have + (60 << 20), resource.RLIM_INFINITY))
        return train(self)

    Run.train = limited


def unsaved_tokenizer() -> None:
    """The tokenizer reads texts and cannot be saved."""
    from transformers import PreTrainedTokenizerFast

    def refuse(self: PreTrainedTokenizerFast, *args: object, **kwargs: object) -> None:
        raise ValueError("Invalid chat template name: '../x'")

    PreTrainedTokenizerFast.save_pretrained = refuse


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
