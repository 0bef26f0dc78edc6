"""How long OpenMP's threads spin is set before torch is loaded, and not where a user has set it."""

import os
import re
import subprocess
import sys

import pytest
from launch import ROOT, command, environment


def spin_count(*arguments: str, **variables: str) -> str:
    """What libgomp says it was told when torch loaded it."""
    clean = {k: v for k, v in environment().items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    told = clean | {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(arguments, capture_output=True, text=True, env=told, timeout=120, check=True)
    found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    if found is None:
        pytest.skip("this torch has an OpenMP other than GNU's, which has no such setting")
    return found[1]


def test_a_recipe_says_it_before_torch_is_loaded():
    assert spin_count(*command("prepare_tokens.py", "--help")) == "2000"


def test_so_does_a_program_of_ones_own_and_what_it_starts():
    program = "import nlp_ssl, subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])"
    assert spin_count(sys.executable, "-c", program) == "2000"


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_a_user_chose_stays(chosen):
    program = "import os, nlp_ssl; print(dict(os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        | {"PYTHONPATH": str(ROOT)} | chosen,
    )  # fmt: skip
    assert ("'GOMP_SPINCOUNT': '2000'" in done.stdout) is False
    for name, value in chosen.items():
        assert f"'{name}': '{value}'" in done.stdout
