"""`pretrain_mlm.py` with a loss that goes wrong on a row's first visit: `POISON="7 nan"`, or a factor: `"7 1e4"`."""

import os
import runpy
import sys

import torch
from launch import ROOT

from nlp_ssl.objectives.mlm import MaskedCollator, MaskedLanguageModeling

row, factor = os.environ["POISON"].split()
collate, forward = MaskedCollator.__call__, MaskedLanguageModeling.forward


def marked(self, rows):
    return collate(self, rows) | {"poisoned": torch.tensor(any((r["row"], r["epoch"]) == (int(row), 0) for r in rows))}


def wrong(self, batch):
    sums = forward(self, batch)
    return {**sums, "mlm": sums["mlm"] * float(factor)} if self.training and batch["poisoned"] else sums


MaskedCollator.__call__, MaskedLanguageModeling.forward = marked, wrong
sys.argv[0] = str(ROOT / "recipes" / "pretrain_mlm.py")
runpy.run_path(sys.argv[0], run_name="__main__")
