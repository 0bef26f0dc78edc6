"""A YAML file with every option of a program and what each is: `nlp-ssl config pretrain-mlm > my.yaml`."""

import textwrap
from functools import reduce
from typing import Any

from nlp_ssl.config.described import Option, compact, everyday, in_words, sections
from nlp_ssl.core import invocation
from nlp_ssl.core.yaml_text import dump_yaml

WIDTH = 100  # columns of comments
HEADER = """\
{title}

{indent}{program} --config my.yaml

starts with the options of this file; an option on the command line replaces its value here. The options that most
people use are set to their defaults. The others are commented out and have the default that is shown: to change one,
remove the # before its name. null is a value that is left open: where its comment says "Derived", the run derives it
and prints what it chose; elsewhere it is none."""


def template(config: Any, about: str) -> str:
    """The text of the file.

    Args:
        config: a configuration; values that are not defaults stand in the file as they are given.
        about: the docstring of the program.
    """
    used = {option.key for group in everyday(type(config)).values() for option in group}
    title = about.strip().partition("\n")[0]
    header = HEADER.format(title=title, indent=" " * 4, program=invocation.this_program()).split("\n\n")
    blocks = ["\n#\n".join(_comment(paragraph, 0) for paragraph in header if paragraph)]
    begun: list[str] = []
    for section in sections(type(config)):
        path = section.name.split(".") if section.name else []
        if path:
            new = [at for at in range(len(path)) if path[: at + 1] != begun[: at + 1]]
            names = [f"{'  ' * at}{path[at]}:" for at in new]
            blocks.append("\n".join([_comment(f"{section.title}.", 2 * new[0]), *names]))
        begun = path
        blocks += [_entry(option, config, option.key in used, 2 * len(path)) for option in section.options]
    return "\n\n".join(blocks)


def _entry(option: Option, config: Any, used: bool, indent: int) -> str:
    """One option and its comment; commented out where it has its default and is not among those that people use."""
    value = compact(reduce(getattr, option.key.split("."), config))
    name, begin = option.key.rpartition(".")[2], " " * indent
    comment = _comment(f"{option.description} [{in_words(option.kind)}]".strip(), indent)
    if not used and value == compact(option.default):
        return f"{comment}\n{begin}#{name}: {dump_yaml(value, one_line=True)}"
    deep = isinstance(value, list) and any(isinstance(part, dict) for part in value)
    written = dump_yaml({name: value}) if deep else f"{name}: {dump_yaml(value, one_line=True)}\n"
    return f"{comment}\n{textwrap.indent(written, begin)}".removesuffix("\n")


def _comment(text: str, indent: int) -> str:
    begin = " " * indent + "# "
    if text.startswith(" "):  # a command line stays as it is
        return begin + text
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=begin,
        subsequent_indent=begin,
        break_long_words=False,
        break_on_hyphens=False,
    )
