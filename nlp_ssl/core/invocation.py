"""How this process was started, so that advice names other programs in the form that the user has: as a command, a
module, or a file of a clone."""

import os
import sys
from pathlib import Path

COMMAND = "nlp-ssl"
RECIPES = "nlp_ssl.recipes"
TEMPLATE = "config"  # the name, after that of the command, which writes the options of a program
COMMENTED = "--print_config=commented"  # what any program is asked to do the same


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


def this_program() -> str:
    """What a user types to start this program once more, without its arguments."""
    if (name := _name_by_command()) is not None:
        return f"{COMMAND} {name}"
    if (module := main_module()) is not None:
        return f"python -m {module}"
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else Path(sys.argv[0]).name


def template_command() -> str:
    """What a user types to have all options of this program written as a commented YAML."""
    if (name := _name_by_command()) is not None:
        return f"{COMMAND} {TEMPLATE} {name}"
    module, file = main_module() or "", Path(sys.argv[0])
    if module.startswith(f"{RECIPES}."):
        return f"python -m nlp_ssl {TEMPLATE} {dashed(module.rpartition('.')[2])}"
    recipes = Path(__file__).resolve().parents[1] / "recipes"
    if not module and file.resolve().parent == recipes.resolve():
        return f"python -m nlp_ssl {TEMPLATE} {dashed(file.stem)}"
    return f"{this_program()} {COMMENTED}"


def launcher() -> str | None:
    """The launcher that started this process, and prints a stack trace whenever one that it started fails; or none."""
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()[:3]  # the interpreter, then the program or -m and a module
    except psutil.Error:
        return None
    names = {Path(word).name for word in words}
    if names & {"accelerate", "accelerate-launch", "accelerate.commands.launch"}:
        return "accelerate"
    return "torchrun" if names & {"torchrun", "torch.distributed.run"} else None


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
    return _name_by_command() is not None


def _name_by_command() -> str | None:
    """The name of this program as it follows that of the command, where it was started so."""
    for at, word in enumerate(sys.orig_argv[:4] if main_module() is not None else []):
        if Path(word).name == COMMAND:
            names = [name for name in sys.orig_argv[at + 1 : at + 3] if name != TEMPLATE]
            return dashed(names[0].removesuffix(".py")) if names else None
    return None
