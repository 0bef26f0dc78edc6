"""What short runs of everything did when `expected.json` was written, they do still."""

import json
import math
from typing import Any

import pytest
from record import EXPECTED, every, machine, record, rounds_alike

RECORDED = json.loads(EXPECTED.read_text())
ROUNDING = {"no": 1e-4, "bf16": 3e-2}  # after six steps, of arithmetic on another machine


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return record(tmp_path_factory.mktemp("behaviour"), every(tests=True))


def test_everything_is_recorded() -> None:
    assert list(RECORDED["runs"]) == every()


@pytest.mark.parametrize("name", every(tests=True))
def test_a_run_is_what_it_was(name: str, found: dict[str, Any]) -> None:
    now, was = found[name], RECORDED["runs"][name]
    if RECORDED["machine"] == machine():
        assert now == was
        return
    assert now["steps"] == was["steps"]
    if not rounds_alike(RECORDED["machine"]):
        assert all(math.isfinite(loss) for loss in now["losses"])
        return
    rounding = ROUNDING[name.rpartition(", ")[2]]
    for part in ("losses", "grad_norms"):
        assert now[part] == pytest.approx(was[part], rel=rounding if part == "losses" else 10 * rounding)
    for ours, theirs in zip(now["evaluations"], was["evaluations"], strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["held_out_loss"] == pytest.approx(theirs["held_out_loss"], rel=rounding)
