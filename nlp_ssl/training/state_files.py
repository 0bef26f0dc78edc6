"""What training needs besides the model, in files that are read without running anything in them.

PyTorch's reader of tensors and plain values (`weights_only=True`) keeps every bit, stride and shared memory of an
optimizer's state, and builds nothing but tensors, numbers, texts, lists and dictionaries.
"""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlp_ssl.core.errors import UserError

# what the arrays of format 1 are made of, which PyTorch's reader takes only when told so
_ARRAYS: list[Any] = [np.ndarray, np.dtype, type(np.dtype(np.uint32)), np.empty(0, np.uint32).__reduce__()[0]]


def rng_state() -> dict[str, Any]:
    """State of every random generator of this process (dropout is all that uses them)."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None  # of this process's device
    state: Any = np.random.get_state()  # a tuple, which its annotation does not say
    kind, key, *more = state
    numpy = (kind, key.tolist(), *more)
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Undo `rng_state`."""
    random.setstate(state["python"])
    kind, key, *more = state["numpy"]
    np.random.set_state((kind, np.asarray(key, np.uint32), *more))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote of tensors and plain values (numbers, texts, lists, dictionaries).

    Raises:
        UserError: there is something else in the file, which could be a program; it is not run.
    """
    try:
        with torch.serialization.safe_globals(_ARRAYS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # for a file made to mislead it, torch has no narrower class
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{named[1]}, which could run a program" if named else f"something unreadable ({type(error).__name__})"
        raise UserError(
            f"{path} holds {what}, where tensors and numbers should be; nothing of it was run: do not use the folder "
            "that it came in, and start anew in another --output_dir"
        ) from None
