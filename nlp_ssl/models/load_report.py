"""What of a model's weights was found where it was loaded from, in place of the table of transformers."""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from transformers import PreTrainedModel

from nlp_ssl.core.console import counted, warn

_SHOWN = 3  # names of weights in a sentence


class _Reports(logging.Filter):
    """Keeps transformers' tables of loaded weights, and lets everything else pass."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        self.kept.append(record)
        return False


@contextlib.contextmanager
def without_table() -> Iterator[None]:
    """Around the loading of a model whose `warn_of_body` follows; where it fails, the table is printed."""
    logger, reports = logging.getLogger("transformers.modeling_utils"), _Reports()
    logger.addFilter(reports)
    try:
        yield
    except BaseException:
        logger.removeFilter(reports)
        for record in reports.kept:
            logger.handle(record)
        raise
    finally:
        logger.removeFilter(reports)


def warn_of_body(model: PreTrainedModel, name: str, found: Mapping[str, Any]) -> None:
    """Warn of weights of a model's body that it was not given, or that were given and it has no place for.

    That a head is new, or left over, is nothing to warn of: tasks change.

    Args:
        model: as it was loaded.
        name: where from.
        found: what `from_pretrained(..., output_loading_info=True)` says.
    """
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if new := _of_body(model, missing):
        warn(f"not found in {name}, and begun at random: {_listed(new, 'weight of the body')}")
    if left := _of_body(model, found["unexpected_keys"]):
        warn(f"found in {name}, and not used, as a {type(model).__name__} has no such: {_listed(left, 'weight')}")


def _of_body(model: PreTrainedModel, keys: Collection[str]) -> list[str]:
    """Those that are no head's; a pooler is one's."""
    inner = model.base_model_prefix
    parts = {inner} if hasattr(model, inner) else {name for name, _ in model.named_children()}
    return sorted(key for key in keys if key.partition(".")[0] in parts and "pooler" not in key)


def _listed(keys: list[str], noun: str) -> str:
    kind, of, whole = noun.partition(" of ")
    return f"{counted(len(keys), kind)}{of}{whole} ({', '.join(keys[:_SHOWN])}{', ...' * (len(keys) > _SHOWN)})"
