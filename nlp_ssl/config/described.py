"""What options there are, and what help says about each: its name, values, default and description.

Help, the commented YAML and messages read it; all words are those of the docstrings in the dataclasses.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from nlp_ssl.core.yaml_text import dump_yaml

WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", dict: "mapping"}
PLURALS = {"integer": "integers", "number": "numbers", "text": "texts", "mapping": "mappings"}
SENTENCE_ENDS = re.compile(r"(?<=[^\s.]\.)\s+(?=[A-Z`(])")


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        key: its dotted name, such as `"optimizer.lr"`.
        kind: the type of the field.
        default: its value where nothing is given; `dataclasses.MISSING` where something must be.
        description: the docstring under the field, in one line.
    """

    key: str
    kind: Any
    default: Any
    description: str

    @property
    def flag(self) -> str:
        """What is typed; `--resume` alone means its first field."""
        return "--resume" if self.key == "resume.enabled" else f"--{self.key}"

    @property
    def derived(self) -> bool:
        """Whether a run fills it in where it is left open."""
        return self.default in (None, {}) and "Derived" in self.description

    @property
    def entries(self) -> "list[Option]":
        """The keys of an entry, of an option that is a list of mappings."""
        kinds = [part for part in get_args(self.kind) if dataclasses.is_dataclass(part)]
        return [option for kind in kinds for option in _options(kind)]

    @property
    def brief(self) -> str:
        """The first sentence of the description, and what its value is derived from where it is left open."""
        first, *others = SENTENCE_ENDS.split(self.description)
        return " ".join([first, *(each for each in others if self.derived and each.startswith("Derived"))])

    @property
    def values(self) -> str:
        """Its values in words and its default, such as `integer, default 10`."""
        if self.default is dataclasses.MISSING:
            return f"{in_words(self.kind)}, required"
        if self.derived:
            return in_words(self.kind)
        default = "none" if self.default is None else dump_yaml(compact(self.default), one_line=True)
        return f"{in_words(self.kind)}, default {default}"


@dataclass(frozen=True)
class Section:
    """Options that belong together.

    Attributes:
        name: what their names begin with, such as `"optimizer"`; `""` for those without a section.
        title: the first sentence of the docstring of the section's class.
        options: in their order.
    """

    name: str
    title: str
    options: tuple[Option, ...]


def sections(config_class: type) -> list[Section]:
    """All options of a run: those without a section first, then section by section, each option once."""
    return list(_sections(config_class, config_class(), ""))


def everyday(config_class: type) -> dict[str, list[Option]]:
    """The options that people use, by the titles of their groups.

    A run's class lists them in `EVERYDAY`, dotted names by titles. One that does not has those of the class that it
    extends, and all fields of its own.
    """
    groups: dict[str, tuple[str, ...]] = {}
    known = sections(config_class)
    for each in reversed(config_class.__mro__):
        if "EVERYDAY" in vars(each):
            groups = dict(vars(each)["EVERYDAY"])
        elif dataclasses.is_dataclass(each):
            for section in known:
                own = tuple(option.key for option in section.options if _declares(each, option.key))
                there = {key for keys in groups.values() for key in keys}
                if own := tuple(key for key in own if key not in there):
                    groups[section.title] = groups.get(section.title, ()) + own
    by_key = {option.key: option for section in known for option in section.options}
    return {title: [by_key[key] for key in keys] for title, keys in groups.items()}


def in_words(kind: Any, article: bool = False) -> str:
    """The values of a type as a person says them: `int | None` is `integer` (`an integer`), a `Literal` its choices."""
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not types.NoneType]
    if origin is Literal:
        return _either(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return _either(in_words(part, article) for part in parts)
    if origin in (list, tuple):
        many = f"{len(parts)} " if origin is tuple else ""
        one = in_words(parts[0])
        words = f"list of {many}{PLURALS.get(one, one)}"
    else:
        words = WORDS.get(origin or kind, "mapping" if dataclasses.is_dataclass(kind) else "value")
    if not article or kind is bool:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def compact(value: Any) -> Any:
    """A default as YAML has it: tuples as lists, entries as mappings of what differs from their own defaults."""
    if isinstance(value, list | tuple):
        return [compact(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    given = {option.key: (getattr(value, option.key), option.default) for option in _options(type(value))}
    return {key: compact(now) for key, (now, default) in given.items() if now != default}


def _sections(kind: Any, values: Any, name: str) -> Iterable[Section]:
    title = first_sentence(kind) or name
    own = [option for option in _options(kind, values, f"{name}.".lstrip(".")) if not _is_section(option.kind)]
    if own:
        yield Section(name, title, tuple(own))
    for f in dataclasses.fields(kind):
        if _is_section(f.type):
            yield from _sections(f.type, getattr(values, f.name), f"{name}.{f.name}".lstrip("."))


def _options(kind: Any, values: Any = None, prefix: str = "") -> list[Option]:
    """The fields of a dataclass, with the defaults that an instance of it has."""
    words = _descriptions(kind)
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}
    defaults |= {
        f.name: f.default_factory() for f in dataclasses.fields(kind) if f.default_factory is not dataclasses.MISSING
    }
    if values is not None:
        defaults = {name: getattr(values, name) for name in defaults}
    return [Option(prefix + f.name, f.type, defaults[f.name], words.get(f.name, "")) for f in dataclasses.fields(kind)]


@cache
def _descriptions(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those that it extends."""
    from docstring_parser import parse_from_object

    classes = [each for each in reversed(kind.__mro__) if dataclasses.is_dataclass(each)]
    found = {param.arg_name: param.description for each in classes for param in parse_from_object(each).params}
    return {name: " ".join((text or "").split()) for name, text in found.items()}


def first_sentence(kind: type) -> str:
    """Of the docstring of a class, without its full stop; nothing where it has none but the one of every dataclass."""
    text = inspect.cleandoc(kind.__doc__ or "")
    if text.startswith(f"{kind.__name__}("):
        return ""
    return SENTENCE_ENDS.split(" ".join(text.partition("\n\n")[0].split()))[0].removesuffix(".")


def _declares(kind: type, key: str) -> bool:
    return key.partition(".")[0] in inspect.get_annotations(kind)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _either(words: Iterable[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last
