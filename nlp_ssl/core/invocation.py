"""How this process was started, so that advice names other programs in the form that the user has: as a command, a
module, or a file of a clone."""

import sys
from pathlib import Path

COMMAND = "nlp-ssl"
RECIPES = "nlp_ssl.recipes"


def command_of(recipe: str) -> str:
    """What a user types to start a recipe.

    Args:
        recipe: its name, such as `"pretrain_mlm"`.

    Returns:
        `"python recipes/pretrain_mlm.py"`, with the folder as it was typed, where this process is a recipe's file;
        `"python -m nlp_ssl.recipes.pretrain_mlm"` where it is a module of the package; else `"nlp-ssl pretrain-mlm"`.
    """
    if main_module() is not None and not _by_command():
        return f"python -m {RECIPES}.{recipe}"
    file = Path(sys.argv[0])
    if main_module() is None and file.suffix == ".py" and file.with_name(f"{recipe}.py").is_file():
        return f"python {file.with_name(f'{recipe}.py')}"
    return f"{COMMAND} {dashed(recipe)}"


def name_in_usage() -> str | None:
    """What usage calls this program, where it is not a file."""
    if (module := main_module()) is None:
        return None
    return f"{COMMAND} {_named()}" if _by_command() else f"python -m {module}"


def same_program() -> list[str]:
    """The beginning of a command line that starts this program once more, without its arguments."""
    if (module := main_module()) is not None:
        return [sys.executable, "-m", module]
    return [sys.executable, sys.argv[0]]


def main_module() -> str | None:
    """The module of the package that this process runs, such as `"nlp_ssl.recipes.pretrain_mlm"`; or none."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("nlp_ssl."):
        return None
    return str(spec.name).removesuffix(".__main__")


def dashed(recipe: str) -> str:
    """A recipe's name as the command has it."""
    return recipe.replace("_", "-")


def _by_command() -> bool:
    return any(Path(word).name == COMMAND for word in sys.orig_argv[:4])


def _named() -> str:
    """The program that was named behind the command."""
    words = [Path(word).name for word in sys.orig_argv]
    return "".join(dashed(word.removesuffix(".py")) for word in words[words.index(COMMAND) + 1 :][:1])
