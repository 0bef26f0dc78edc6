"""The large libraries that a run stands on: which versions they are, and how to wait for them."""

import contextlib
import gc
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from nlp_ssl.core import console


def versions() -> str:
    """The versions that a result depends on, such as `"nlp_ssl 0.1.0, torch 2.13.0, ..."`."""

    def number(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:  # run from a folder that nobody installed
            return "from source"

    return ", ".join(f"{name} {number(name)}" for name in ("nlp_ssl", "torch", "transformers", "tokenizers"))


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around the imports of a recipe that take seconds, which come after its options are read: says what is awaited.

    Python looks for garbage again and again while a million objects come to stay; a sixth of the time goes there, so
    it does not until they are all there.
    """
    console.say(versions())
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
