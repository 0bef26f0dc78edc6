"""`pretrain_mlm.py` with a loss that goes wrong on a row's first visit: `POISON="7 nan"`, or a factor: `"7 1e4"`."""

import os
import runpy
import sys

import torch
from launch import ROOT

from nlp_ssl.objectives.mlm import MaskedLanguageModeling

row, factor = os.environ["POISON"].split()
collate, loss = MaskedLanguageModeling.collate, MaskedLanguageModeling.loss


def marked(self, rows):
    return collate(self, rows) | {"poisoned": torch.tensor(any((r["row"], r["epoch"]) == (int(row), 0) for r in rows))}


def wrong(self, model, batch):
    loss_sum, metrics = loss(self, model, batch)
    return (loss_sum * float(factor) if model.training and batch["poisoned"] else loss_sum), metrics


MaskedLanguageModeling.collate, MaskedLanguageModeling.loss = marked, wrong
sys.argv[0] = str(ROOT / "recipes" / "pretrain_mlm.py")
runpy.run_path(sys.argv[0], run_name="__main__")
