"""Options of which a run takes one, its budgets: the one that was given last, and nearest, is meant."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from nlp_ssl.config.common import BUDGETS
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.yaml_text import load_yaml

COMMAND_LINE = "the command line"


def one_budget(words: list[str], known: Collection[str]) -> list[str]:
    """A command line on which one budget is left of those that it and its YAML files give.

    One on the command line replaces those of files, and one of a file those of the files before it.

    Args:
        words: arguments, `--config` among them.
        known: dotted names of all options.

    Returns:
        The arguments, and behind them `null` for what was replaced.

    Raises:
        UserError: two in one place.
    """
    names = [f"train.{name}" for name in BUDGETS if f"train.{name}" in known]
    given: dict[str, dict[str, Any]] = {}  # by place
    for place, key, value in _training_options(words):
        if key in names:
            given.setdefault(place, {})[key] = value
    found = {place: {k: v for k, v in said.items() if v is not None} for place, said in given.items()}
    places = [place for place, said in found.items() if said]
    if not places:
        return words
    meant = found[COMMAND_LINE if COMMAND_LINE in places else places[-1]]
    if len(meant) > 1:
        place = next(place for place, said in found.items() if said is meant)
        listed = " and ".join(f"--{key} {value}" for key, value in meant.items())
        raise UserError(
            f"{place} gives {len(meant)} budgets, {listed}: give one of {', '.join(f'--{name}' for name in names)}"
        )
    replaced = dict.fromkeys(key for place in places for key in found[place] if key not in meant)
    return [*words, *(f"--{key}=null" for key in replaced)]


def _training_options(words: list[str]) -> Iterator[tuple[str, str, Any]]:
    """(place, dotted name, value) of every option of the section `train`."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == "--config":
            for name, each in _section(_values(Path(value)), "train").items():
                yield value, f"train.{name}", each
        elif flag == "--train":
            for name, each in _section({"train": _values(Path(value))}, "train").items():
                yield COMMAND_LINE, f"train.{name}", each
        elif flag.startswith("--train."):
            yield COMMAND_LINE, flag.removeprefix("--"), None if value == "null" else value


def _values(file: Path) -> Any:
    """What a YAML file holds; nothing where it cannot be read, which who reads it for its options says."""
    try:
        return load_yaml(file.read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _section(values: Any, name: str) -> dict[str, Any]:
    section = values.get(name) if isinstance(values, dict) else None
    return section if isinstance(section, dict) else {}
