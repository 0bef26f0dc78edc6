"""The options that people have in their scripts and YAML files: none goes or changes its name unnoticed.

python tests/test_options.py        # writes options.txt anew, for a change that is meant
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("options.txt")
RECIPES = sorted((ROOT / "recipes").glob("[!_]*.py"))


def options(config: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of a configuration's fields."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(field.type):
            yield from options(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def config_of(recipe: Path) -> type:
    """The class whose fields are a recipe's options: what its `main` takes."""
    name = f"options of {recipe.stem}"
    spec = importlib.util.spec_from_file_location(name, recipe)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module.main.__annotations__["config"]


def listed() -> str:
    """Every option of every recipe, a line each."""
    return "".join(f"{recipe.stem} --{name}\n" for recipe in RECIPES for name in options(config_of(recipe)))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_options_are_those_that_people_use(recipe: Path) -> None:
    known = [line.split(" --")[1] for line in LIST.read_text().splitlines() if line.split()[0] == recipe.stem]
    now = list(options(config_of(recipe)))
    assert not set(known) - set(now), "gone or renamed: give the old name a sentence that says what to write instead"
    assert now == known, f"new or moved: run `python {Path(__file__).relative_to(ROOT)}` if it is meant"


if __name__ == "__main__":
    LIST.write_text(listed())
