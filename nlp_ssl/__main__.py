"""The command `nlp-ssl`: every recipe, and the other programs of the package, by name."""

import argparse
import ast
import difflib
import os
import runpy
import sys
import textwrap
from pathlib import Path

from nlp_ssl.core import console
from nlp_ssl.core.invocation import COMMAND, COMMENTED, RECIPES, TEMPLATE, dashed

GROUPS = {  # titles, and how the names of the recipes begin that stand below
    "Text and tokenizer": ("train_tokenizer", "prepare_tokens"),
    "Pretraining": ("pretrain_mlm", "pretrain_clm", "pretrain_", "distill"),
    "Fine-tuning": ("finetune_",),
    "Measuring": ("evaluate_", "compare_", "explore_", "benchmark"),
    "Publishing": ("push_",),
}
USING = {"report": "nlp_ssl.reports", "try": "nlp_ssl.trying"}
OTHERS = {"doctor": "nlp_ssl.doctor", "benchmark-gpu": "nlp_ssl.benchmarks.gpu"}
USAGE = f"""\
usage: {COMMAND} NAME [--option value ...]

From raw text to a published language model. {COMMAND} NAME --help shows the options of a program,
{COMMAND} {TEMPLATE} NAME > my.yaml writes them all as commented YAML for {COMMAND} NAME --config my.yaml;
accelerate launch -m {RECIPES}.NAME starts one on several GPUs (with _ for - in its name).
"""


def main() -> None:
    """Run the program that is named, as `python -m` would."""
    console.protect()
    modules = {name: module for group in programs().values() for name, module in group.items()}
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for the words that may follow
        _complete(list(modules))
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("--help", "-h"):
        print(USAGE + listing())
        return
    if given == "--version":
        from importlib.metadata import version

        print(f"nlp_ssl {version('nlp_ssl')}")
        return
    if given == TEMPLATE:
        if len(sys.argv) < 3 or sys.argv[2].startswith("-"):
            console.fail(f"name a program, such as {COMMAND} {TEMPLATE} pretrain-mlm; {COMMAND} --help lists all")
            sys.exit(2)
        del sys.argv[1]
        given = sys.argv[1]
        sys.argv.append(COMMENTED)
    name = dashed(given.removesuffix(".py"))
    if name not in modules:
        near = difflib.get_close_matches(name, modules, 1)
        nearest = f"; the nearest is {near[0]}" if near else ""
        console.fail(f"there is no program {given[:80]!r}{nearest}; {COMMAND} --help lists all")
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(modules[name], run_name="__main__", alter_sys=True)


def programs() -> dict[str, dict[str, str]]:
    """By their titles, groups of programs: a module by the name of each."""
    left = sorted(file.stem for file in Path(__file__).with_name("recipes").glob("[!_]*.py"))
    groups: dict[str, dict[str, str]] = {}
    for title, beginnings in GROUPS.items():
        found = dict.fromkeys(name for begin in beginnings for name in left if name.startswith(begin))
        groups[title] = {dashed(name): f"{RECIPES}.{name}" for name in found}
    return groups | {"Looking at what came out": USING, "This machine and your set-up": OTHERS}


def listing() -> str:
    """What each program does, in groups."""
    lines = []
    for title, group in programs().items():
        lines.append(f"\n{title}:")
        for name, module in group.items():
            does = f"  {name:24}{_first_sentence(module)}"
            lines.append(textwrap.fill(does, width=110, subsequent_indent=" " * 26))
    return "\n".join(lines)


def _complete(names: list[str]) -> None:
    """Answer with the names of programs; or leave it to the one that stands there already, which has the options."""
    import argcomplete

    words = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split()
    begun = 2 if words[1:2] == [TEMPLATE] and len(words) + os.environ["COMP_LINE"].endswith(" ") > 2 else 1
    if len(words) > begun + 1 or (os.environ["COMP_LINE"].endswith(" ") and len(words) == begun + 1):
        sys.argv[1:] = [words[begun]]
        os.environ["_ARGCOMPLETE"] = str(begun + 1)  # the words of the line that are the program's name
        return
    os.environ["_ARGCOMPLETE"] = str(begun)
    parser = argparse.ArgumentParser(COMMAND)
    parser.add_argument("name", choices=[*names, TEMPLATE] if begun == 1 else names)
    argcomplete.autocomplete(parser)


def _first_sentence(module: str) -> str:
    """Of a program's docstring, without importing what it imports."""
    path = Path(__file__).parent.joinpath(*module.split(".")[1:])
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
