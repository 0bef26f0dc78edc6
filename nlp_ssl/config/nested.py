"""Options inside of options: those of a member of a mixture, of a run of a study."""

import tempfile
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import plain
from nlp_ssl.core.errors import UserError

Config = TypeVar("Config")


def set_all(options: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set nested options by their dotted names, in place."""
    for name, value in changes.items():
        *path, last = name.split(".")
        part = options
        for key in path:
            part[key] = part = dict(part.get(key) or {})
        part[last] = plain(value)


def read(kind: type[Config], options: dict[str, Any], where: str) -> Config:
    """Nested options as a recipe reads them.

    Args:
        kind: the dataclass.
        options: plain dictionaries, lists and values.
        where: begins the sentence about one that is wrong.

    Raises:
        UserError: an unknown name, or a value of the wrong type.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "options.yaml")
        file.write_text(yaml.safe_dump(options), encoding="utf-8")
        try:
            return parse(kind, argv=["--config", str(file)])  # type: ignore[type-var]
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix(f'{file}: ')}") from None
