"""One name for many values: the same values, the same name."""

import hashlib
import json
from typing import Any


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that change when any of the JSON-serialisable parts does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
