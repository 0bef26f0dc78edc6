"""How a run's options are read: YAML files, dotted overrides on the command line, strict keys, one-sentence errors."""

import dataclasses
import difflib
import re
import sys
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from nlp_ssl.config.renamed import what_is_it_now
from nlp_ssl.core import invocation
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.yaml_text import load_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
YAML = "checked_yaml"  # how jsonargparse calls our way of reading it
QUOTED = 200  # characters of what somebody wrote


def parse(config_class: type[Config], description: str = "", argv: list[str] | None = None) -> Config:
    """Read a run's configuration from the command line and the YAML files that it names.

    Args:
        config_class: the dataclass to fill.
        description: shown by `--help`; a recipe gives its docstring.
        argv: arguments; `sys.argv[1:]` when `None`. `--a.b value`, `--config file.yaml` and `--print_config` are
            understood, later ones win, and a bare `--flag` of a boolean field means true.

    Raises:
        UserError: an unknown key (with the nearest known one), a value of the wrong type, a missing file, a value that
            names Python code.
    """
    import jsonargparse
    from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.splitlines())  # a docstring keeps its lines

    # a section may be given as the name of a class, which would be imported: none may but those that are in lists
    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True,
        import_path_denylist=["*"],
        import_path_allowlist=[f"{each.__module__}.{each.__qualname__}" for each in _listed(config_class)],
    )
    jsonargparse.set_loader(YAML, load_yaml, exceptions=(yaml.YAMLError,))
    jsonargparse.set_dumper(YAML, _dump)
    parser = ArgumentParser(
        prog=invocation.name_in_usage(),
        description=description.strip(),
        exit_on_error=False,
        formatter_class=Formatter,
        allow_abbrev=False,
        parser_mode=YAML,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below; may be repeated")
    parser.add_class_arguments(config_class, None)
    flags = _keys(config_class)
    argv = [_underscored(arg, flags) for arg in (sys.argv[1:] if argv is None else argv)]
    # `--resume` alone means its first field
    argv = [re.sub(r"^--resume(?==|$)", "--resume.enabled", arg) for arg in argv]
    argv = _expand_flags(argv, {key for key, kind in flags.items() if kind in (bool, bool | None)})
    try:
        namespace = parser.instantiate(parser.parse_args(argv))
    except ArgumentError as error:
        raise UserError(_explain(str(error), flags).replace("--resume.enabled", "--resume")) from None
    return config_class(**{f.name: namespace[f.name] for f in dataclasses.fields(config_class)})


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
    if match := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return (
            f"'{match[1]}' names Python code (as a class_path does), and options are values: nothing is imported for "
            "them; write the section's own keys, or give a YAML file with --config"
        )
    if match := re.search(r"unrecognized arguments: --([\w.]+)", message):
        return f"unknown option --{match[1]}{_nearest(match[1], keys)}"
    if match := re.search(r"(?:Group '([\w.]+)'|Parser) does not accept (?:option|key) '([\w.]+)'", message):
        key = f"{match[1]}.{match[2]}" if match[1] else match[2]
        return f"unknown key '{key}' in the configuration{_nearest(key, keys)}"
    if match := re.search(r"Option '([\w.]+)' is not accepted", message):
        return f"unknown key '{match[1]}' in the configuration{_nearest(match[1], keys)}"
    if match := re.search(r"does not accept nested key '([\w.]+)'", message):
        return f"unknown key '{match[1]}'{_nearest(match[1], keys)}"
    if match := re.search(r'Parser key "([\w.]+)"', message):
        given = re.search(r"(?:Given value|Got value): (.*)", message)
        if match[1] in keys and given:
            kind = keys[match[1]]
            expected = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
            expected = re.sub(r"typing\.|Literal|NoneType", "", str(expected).replace(" | None", "")).strip()
            return f"--{match[1]} cannot be {_cut(given[1].strip())!r}; it takes {expected}"
    return _cut(" ".join(message.split()), 4 * QUOTED)


def _cut(text: str, length: int = QUOTED) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"


def _dump(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _nearest(key: str, known: dict[str, Any]) -> str:
    if (now := what_is_it_now(key)) is not None:
        return f": it is now {now}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:  # the right name under the wrong part, or no part at all
        near = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f"; did you mean --{near[0]}?" if near else "; see --help"
