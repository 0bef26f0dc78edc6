"""Joules, from counters as Linux and NVIDIA's library show them."""

import sys
import time
import types
from pathlib import Path

import pytest
import torch

from nlp_ssl.training import energy
from nlp_ssl.training.energy import EnergyMeter


@pytest.fixture
def later(monkeypatch):
    """Looks at the counters are as far apart as they must be."""
    monkeypatch.setattr(energy, "EVERY", 0.0)


def counter(powercap: Path, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    domain = powercap / name
    domain.mkdir(parents=True)
    (domain / "max_energy_range_uj").write_text(f"{most}\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    return domain / "energy_uj"


def test_processors_are_added_up_and_their_parts_are_not_counted_twice(tmp_path, later):
    first, second = (counter(tmp_path, f"intel-rapl:{n}", 5_000_000) for n in range(2))
    part = counter(tmp_path, "intel-rapl:0:0", 1)
    meter = EnergyMeter(tmp_path)
    first.write_text("7000000\n")
    second.write_text("9500000\n")
    part.write_text("900000000\n")
    assert meter.take() == 2 + 4.5
    assert meter.take() == 0


def test_a_counter_that_begins_again_has_gone_on(tmp_path, later):
    file = counter(tmp_path, "intel-rapl:0", 999_000_000)
    meter = EnergyMeter(tmp_path)
    file.write_text("3000000\n")
    assert meter.take() == 4


def test_a_machine_that_tells_nothing(tmp_path):
    damaged = counter(tmp_path, "intel-rapl:0", 1)
    damaged.write_text("none\n")
    assert EnergyMeter(tmp_path).take() == 0
    assert EnergyMeter(tmp_path / "nowhere").take() == 0


def test_counters_are_looked_at_once_a_second(tmp_path, monkeypatch):
    file = counter(tmp_path, "intel-rapl:0", 0)
    meter = EnergyMeter(tmp_path)
    file.write_text("3000000\n")
    assert meter.take() == 0
    now = time.monotonic()
    monkeypatch.setattr(energy.time, "monotonic", lambda: now + 2)
    assert meter.take() == 3  # nothing of it was lost


def test_gpus_of_this_machine_s_processes(tmp_path, monkeypatch, later):
    class NVMLError(Exception):
        pass

    counted = {b"GPU-a": 1_000, b"GPU-b": 5_000, b"GPU-c": 0}
    monkeypatch.setitem(
        sys.modules,
        "pynvml",
        types.SimpleNamespace(
            NVMLError=NVMLError,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByUUID=lambda name: name,
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: counted[handle],
        ),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    uuids = [types.SimpleNamespace(uuid=name) for name in "abc"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: uuids[number])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    meter = EnergyMeter(tmp_path)
    counted.update({b"GPU-a": 3_500, b"GPU-b": 6_000, b"GPU-c": 9_000_000})
    assert meter.take() == 2.5 + 1
