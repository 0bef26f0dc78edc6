"""Where files lie on somebody's disk is nobody's business: in what is published, a local path is its last name."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# options whose values may hold a slash and are no paths
NO_PATHS = ("special_tokens", "repo_id", "text_columns", "text_column", "tokens_column", "label_column")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
DATA_FILE = re.compile(
    r"\.(txt|jsonl?|csv|tsv|parquet|conll|arrow|ya?ml|safetensors)(\.(gz|zst|xz|bz2))?$", re.IGNORECASE
)
WINDOWS = re.compile(r"^[A-Za-z]:($|[\\/])|^\\\\\w|[\w.]\\[\w ]")
LONGEST_ID = 96  # characters of a Hub id
REMOTE = ("hf", "http", "https")
NAMELESS = "local"  # of a path that ends in no name, such as `/` or `..`


def is_local(text: str, near: Path | None = None) -> bool:
    """Whether a value is a path on some machine: no bare name, and no Hub id such as `user/name` or address.

    What could be both a Hub id and a folder, such as `runs/mlm`, is a folder if it is here, or beside a folder above
    `near`, where a run that lies there was probably started.
    """
    if (scheme := re.match(r"([A-Za-z][\w+.-]+)://", text)) is not None:
        return scheme[1].lower() not in REMOTE or "@" in urlsplit(text).netloc  # a password is nobody's business either
    if text.startswith("~") or WINDOWS.search(text) or text in (".", ".."):
        return True
    hub_id = len(text) <= LONGEST_ID and HUB_ID.fullmatch(text) and not DATA_FILE.search(text)
    starts = [Path(), *(near.resolve().parents if near else ())]
    return "/" in text and (not hub_id or text.startswith("runs/") or any((start / text).exists() for start in starts))


def name_of(path: str) -> str:
    """The last name of a path: `/home/ann/my texts/a.txt` and `file:///home/ann/a.txt` are `a.txt`."""
    if re.match(r"[A-Za-z][\w+.-]+://", path):
        path = unquote(urlsplit(path).path)
    parts = [part for part in re.split(r"[\\/]+", path) if part not in ("", ".", "..")]
    return parts[-1] if parts and not re.fullmatch(r"~.*|[A-Za-z]:", parts[-1]) else NAMELESS


def names_only(settings: Any, key: str = "", near: Path | None = None) -> Any:
    """Nested settings with every local path reduced to its name; `output_dir` is always one.

    Args:
        settings: dictionaries, lists and values.
        key: of the option that these are the value of.
        near: see `is_local`.
    """
    if isinstance(settings, dict):
        return {name: names_only(value, name, near) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [names_only(value, key, near) for value in settings]
    if not isinstance(settings, str) or key in NO_PATHS:
        return settings
    return name_of(settings) if is_local(settings, near) or (key == "output_dir" and "/" in settings) else settings


def paths_in(settings: Any, key: str = "", near: Path | None = None) -> set[str]:
    """The local paths that nested settings hold."""
    if isinstance(settings, dict):
        return {path for name, value in settings.items() for path in paths_in(value, name, near)}
    if isinstance(settings, list | tuple):
        return {path for value in settings for path in paths_in(value, key, near)}
    return {settings} if isinstance(settings, str) and names_only(settings, key, near) != settings else set()


def hide(text: str, settings: Any, near: Path | None = None) -> str:
    """A text in which the local paths of a run's settings, and any absolute path, are their last names."""
    for path in sorted(paths_in(settings, near=near), key=len, reverse=True):
        spellings = {path, str(Path(path)), os.path.expanduser(path), str(Path(path).absolute())}
        for spelling in sorted(spellings, key=len, reverse=True):
            if re.search(r"[\\/~]", spelling) and re.search(r"\w", spelling):  # no bare dots
                text = text.replace(spelling, name_of(path))
    return re.sub(r"(?<![^\s(\[`'\"=,|])(?:file://|[A-Za-z]:(?=[\\/]))?(?:~[\w.-]*)?/(?:[^\s/`'\"|]+/)+", "", text)
