"""How a run's options are read: YAML files, dotted overrides on the command line, strict keys, one-sentence errors."""

import dataclasses
import difflib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from nlp_ssl.config import help as helping
from nlp_ssl.config.alternatives import one_budget
from nlp_ssl.config.described import in_words
from nlp_ssl.config.renamed import name_here, what_is_it_now
from nlp_ssl.config.template import template
from nlp_ssl.core import console, invocation
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.yaml_text import dump_yaml, load_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from jsonargparse import ArgumentParser

Config = TypeVar("Config", bound="DataclassInstance")
YAML = "checked_yaml"  # how jsonargparse calls our way of reading it
QUOTED = 200  # characters of what somebody wrote


def parse(config_class: type[Config], description: str = "", argv: list[str] | None = None) -> Config:
    """Read a run's configuration from the command line and the YAML files that it names.

    Args:
        config_class: the dataclass to fill.
        description: shown by `--help`; a recipe gives its docstring.
        argv: arguments; `sys.argv[1:]` when `None`. `--a.b value`, `--config file.yaml` and `--print_config` are
            understood, later ones win (a budget on the command line also over another one in a file), and a bare
            `--flag` of a boolean field means true.

    Raises:
        UserError: an unknown key (with the nearest known one), a value of the wrong type, a missing file, two
            budgets in one place, a value that names Python code.
        SystemExit: help was asked for, or the options themselves; they are printed.
    """
    argv = sys.argv[1:] if argv is None else argv
    if (topic := helping.topic(argv)) is not None:
        console.say(helping.page(config_class, description, topic))
        sys.exit(0)
    _check_files(argv)
    from jsonargparse import ArgumentError

    flags = _keys(config_class)
    words = [_underscored(arg, flags) for arg in argv if arg != invocation.COMMENTED]
    # `--resume` alone means its first field
    words = [re.sub(r"^--resume(?==|$)", "--resume.enabled", arg) for arg in words]
    words = _expand_flags(words, {key for key, kind in flags.items() if kind in (bool, bool | None)})
    words = one_budget(words, flags)
    parser = _parser(config_class)
    try:
        namespace = parser.instantiate(parser.parse_args(words))
    except (ArgumentError, UserError) as error:
        said = _explain(str(error), flags).replace("--resume.enabled", "--resume")
        raise UserError(f"{_where(error, parser, words)}{said}") from None
    config = config_class(**{f.name: namespace[f.name] for f in dataclasses.fields(config_class)})
    if invocation.COMMENTED in argv:
        console.say(template(config, description))
        sys.exit(0)
    return config


def _parser(config_class: type) -> "ArgumentParser":
    import jsonargparse

    def load(text: str, path: Any = "") -> Any:
        try:
            values = load_yaml(text, path)
        except yaml.MarkedYAMLError as error:
            if not path or error.problem_mark is None:
                raise
            raise UserError(f"line {error.problem_mark.line + 1} is not valid YAML: {error.problem}") from None
        return _without_empty_sections(values, config_class) if path else values

    # a section may be given as the name of a class, which would be imported: none may but those that are in lists
    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True,
        import_path_denylist=["*"],
        import_path_allowlist=[f"{each.__module__}.{each.__qualname__}" for each in _listed(config_class)],
    )
    jsonargparse.set_loader(YAML, load, exceptions=(yaml.YAMLError,))
    jsonargparse.set_dumper(YAML, dump_yaml)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, parser_mode=YAML)
    parser.add_argument("--config", action="config", help="YAML file with any of the options; may be repeated")
    parser.add_class_arguments(config_class, None)
    return parser


def _config_files(argv: list[str]) -> list[str]:
    """Those that `--config` names, as they are given."""
    parts = [(arg.partition("="), following) for arg, following in zip(argv, [*argv[1:], ""], strict=False)]
    return [value if equals else following for (flag, equals, value), following in parts if flag == "--config"]


def _where(error: Exception, parser: "ArgumentParser", argv: list[str]) -> str:
    """The configuration file that makes this error when it is read alone, as it was given; nothing where none does."""
    from jsonargparse import ArgumentError

    for file in _config_files(argv):
        try:
            parser.parse_args(["--config", file])
        except (ArgumentError, UserError) as alone:
            if str(alone) == str(error):
                return f"{file}: "
    return ""


def _check_files(argv: list[str]) -> None:
    """Refuse a configuration file that is not there."""
    for file in map(Path, filter(None, _config_files(argv))):
        if file.is_dir():
            raise UserError(f"--config {file} is a folder; give the YAML file in it")
        if not file.exists():
            place = "" if file.is_absolute() else f" in {Path.cwd()}"
            writes = f"`{invocation.template_command()} > {file.name}` writes one with every option"
            raise UserError(f"--config {file}: there is no such file{place}; {writes}")


def _without_empty_sections(values: Any, kind: Any) -> Any:
    """The values of a file; a section with nothing but comments below its name is as if it were not there."""
    if not isinstance(values, dict):
        return values
    parts = {f.name: f.type for f in dataclasses.fields(kind) if dataclasses.is_dataclass(f.type)}
    return {
        name: _without_empty_sections(value, parts[name]) if name in parts else value
        for name, value in values.items()
        if value is not None or name not in parts
    }


def _keys(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type, of every field and nested field."""
    keys: dict[str, Any] = {}
    for f in dataclasses.fields(config_class):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            keys |= _keys(f.type, f"{prefix}{f.name}.")
        else:
            keys[prefix + f.name] = f.type
    return keys


def _listed(config_class: type) -> list[type]:
    """The dataclasses that fields are lists of, such as that of a phase."""
    parts = [part for f in dataclasses.fields(config_class) for part in get_args(f.type)]
    return [part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)]


def _underscored(arg: str, known: dict[str, Any]) -> str:
    """`--dry-run` -> `--dry_run`, where that is an option."""
    name, equals, value = arg.partition("=")
    spelled = name[2:].replace("-", "_")
    return f"--{spelled}{equals}{value}" if name.startswith("--") and spelled in known else arg


def _expand_flags(argv: list[str], booleans: set[str]) -> list[str]:
    """`["--resume"]` -> `["--resume=true"]`, for boolean fields that no value follows."""
    expanded = []
    for arg, following in zip(argv, [*argv[1:], "--"][: len(argv)], strict=True):
        bare = arg.startswith("--") and arg[2:] in booleans and following.startswith("--")
        expanded.append(arg + "=true" if bare else arg)
    return expanded


def _explain(message: str, keys: dict[str, Any]) -> str:
    """Turn jsonargparse's message into one sentence that names the key and the nearest known one."""
    if match := re.search(r"Importing '([\w.]+\.(?:ya?ml|json))' is not allowed", message):
        return f"there is no file {match[1]!r}, where a section's options are given by one"
    if match := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return (
            f"'{match[1]}' names Python code (as a class_path does), and options are values: nothing is imported for "
            "them; write the section's own keys, or give a YAML file with --config"
        )
    if "unrecognized arguments: --" in message:
        unknown = dict.fromkeys(re.findall(r" --([\w.-]+)", message))
        return "; ".join(f"unknown option --{key}{_nearest(key.replace('-', '_'), keys)}" for key in unknown)
    if match := re.search(r"(?:Group '([\w.]+)'|Parser) does not accept (?:option|key) '([\w.]+)'", message):
        key = f"{match[1]}.{match[2]}" if match[1] else match[2]
        return f"unknown key '{key}'{_nearest(key, keys)}"
    if match := re.search(r"(?:Option|nested key) '([\w.]+)'(?: is not accepted)?", message):
        return f"unknown key '{match[1]}'{_nearest(match[1], keys)}"
    if match := re.search(r'Parser key "([\w.]+)":\s+Unable to load config \'(.*?)\'\s+- ', message):
        return f"--{match[1]} takes a YAML file with options of that section; {_cut(match[2])!r} is none"
    if match := re.search(r'Parser key "([\w.]+)"', message):
        given = re.search(r"(?:Given value|Got value): (.*)", message)
        if match[1] in keys and given:
            return (
                f"--{match[1]} cannot be {_cut(given[1].strip())!r}; it takes {in_words(keys[match[1]], article=True)}"
            )
    if match := re.search(r"Unexpected config: (.*)", message):
        return f"options are written as `name: value`, not as {_cut(match[1])!r}"
    return _cut(" ".join(message.split()), 4 * QUOTED)


def _cut(text: str, length: int = QUOTED) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"


def _nearest(key: str, known: dict[str, Any]) -> str:
    if (now := what_is_it_now(key)) is not None:
        return f": it is now {now}"
    if (ours := name_here(key, known)) is not None:
        return f": here it is {ours}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:  # the right name under the wrong part, or no part at all
        near = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f"; did you mean --{near[0]}?" if near else "; see --help"
