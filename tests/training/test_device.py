"""The device of a run."""

import torch

from nlp_ssl.training.device import training_device


def test_a_torch_for_gpus_on_a_machine_without_one_trains_on_the_cpu(monkeypatch):
    def current_accelerator(check_available=False):  # as torch from PyPI answers on Linux
        return None if check_available else torch.device("cuda")

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert training_device() == torch.device("cpu")
