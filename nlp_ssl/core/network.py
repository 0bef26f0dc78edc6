"""Is the Hub there? Asked once, before a library that would try for most of a minute."""

import functools

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub answers at all; if not, only what is in its cache can be had."""
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except (HTTPError, OSError):  # OSError: HF_HUB_OFFLINE is set
        return False
    return True
