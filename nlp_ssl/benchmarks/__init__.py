"""Measurements beside what users would otherwise use, in one run; `recipes/benchmark.py` is their program."""
