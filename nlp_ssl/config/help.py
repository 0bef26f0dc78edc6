"""What `--help` prints: the options that people use; `--help all`: every option; `--help WORD`: those about a word."""

import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping

from nlp_ssl.config.described import Option, everyday, sections
from nlp_ssl.config.renamed import name_here
from nlp_ssl.core import invocation
from nlp_ssl.core.errors import UserError

WIDEST = 110  # columns
COLUMN = 36  # where descriptions begin, at most
UNBROKEN = "\N{NO-BREAK SPACE}"
LEAST = 40  # columns of a description; where fewer are left it stands below the name


def topic(argv: list[str]) -> str | None:
    """What help is asked for: `""` is the usual one, `None` none."""
    for at, arg in enumerate(argv):
        flag, _, word = arg.partition("=")
        if flag in ("-h", "--help"):
            following = argv[at + 1] if at + 1 < len(argv) and not argv[at + 1].startswith("-") else ""
            return word or following
    return None


def page(config_class: type, about: str, asked: str) -> str:
    """The text of help, wrapped to the terminal's width.

    Args:
        config_class: whose fields are the options.
        about: the docstring of the program.
        asked: `""`, `"all"` or a word.

    Raises:
        UserError: no option has the word in its name or description.
    """
    every = {section.title: section.options for section in sections(config_class)}
    if asked not in ("", "all"):
        return _listing(_about(asked, every))
    usage = f"usage: {invocation.this_program()} [--option value ...]"
    if asked:
        parts = [usage, about.strip(), _files(config_class), _listing(every)]
    else:
        groups = everyday(config_class)
        others = _count(every) - _count(groups)
        parts = [usage, about.strip(), _listing(groups, brief=True), _footer(others)]
    return "\n\n".join(part for part in parts if part)


def _about(word: str, every: Mapping[str, Iterable[Option]]) -> dict[str, list[Option]]:
    """The options that have a word in their names, or at the beginning of a word of their descriptions."""
    options = [option for group in every.values() for option in group]
    sought = word.lower().replace("-", "_")
    pattern = re.compile(rf"(?<!\w){re.escape(sought.replace('_', ' '))}", re.IGNORECASE)
    here = name_here(sought, {option.key for option in options}) or ""  # of a name in transformers
    found = {
        title: [
            option
            for option in group
            if sought in option.key or f"{option.flag} " in f"{here} " or pattern.search(option.description)
        ]
        for title, group in every.items()
    }
    if not any(found.values()):
        names = {option.key.rpartition(".")[2]: option for option in options} | {each.key: each for each in options}
        near = dict.fromkeys(names[name].flag for name in difflib.get_close_matches(sought, names, 3, 0.5))
        nearest = f"; the nearest are {', '.join(near)}" if near else ""
        raise UserError(f"no option has {word[:80]!r} in its name or description{nearest}; --help all lists all")
    return {title: group for title, group in found.items() if group}


def _listing(groups: Mapping[str, Iterable[Option]], brief: bool = False) -> str:
    """Options below the titles of their groups; with `brief`, no more than the first sentence about each."""
    longest = max((len(option.flag) for group in groups.values() for option in group), default=0)
    column = min(longest + 4, COLUMN)
    if _width() - column < LEAST:
        column = 6
    blocks = []
    for title, group in groups.items():
        lines = [_wrapped(f"{title}:")]
        for option in group:
            lines.append(_entry(option.flag, option, column, brief, 2))
            lines += [_entry(f"- {each.key}", each, column, brief, 4) for each in option.entries if not brief]
        blocks.append("\n".join(lines))
    return ("\n" if brief else "\n\n").join(blocks)


def _entry(name: str, option: Option, column: int, brief: bool, indent: int) -> str:
    begin = " " * indent + name
    values = f"[{option.values}]"
    if len(values) <= LEAST:
        values = values.replace(" ", UNBROKEN)
    text = f"{option.brief if brief else option.description} {values}".strip()
    if len(begin) + 2 > column:
        return f"{begin}\n{_wrapped(text, column, column)}"
    return _wrapped(f"{begin:{column}}{text}", 0, column)


def _files(config_class: type) -> str:
    """How options are given by files."""
    text = f"--config FILE reads options from a YAML file ({invocation.template_command()} > my.yaml writes one); of "
    text += "several values of an option the last one counts."
    if names := [section.name for section in sections(config_class) if section.name]:
        text += f" A section may be a file by itself, too: --{names[-1]} {names[-1]}.yaml."
    return _wrapped(text)


def _footer(others: int) -> str:
    more = f"--help all lists the other {others} options too, --help WORD" if others else "--help WORD lists"
    return "\n".join(
        [
            _wrapped(f"{more} those about a word, such as --help seed."),
            _wrapped(f"{invocation.template_command()} > my.yaml writes all as commented YAML for --config."),
        ]
    )


def _count(groups: Mapping[str, Iterable[Option]]) -> int:
    return sum(len(list(group)) for group in groups.values())


def _width() -> int:
    """Columns of the terminal, 80 where that is unknown."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _wrapped(text: str, first: int = 0, indent: int = 0) -> str:
    width = max(_width(), indent + 20)
    filled = textwrap.fill(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace(UNBROKEN, " ")
