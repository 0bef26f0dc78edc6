"""Whether the tokens on disk are still those that were made: read once more while a run learns from them."""

import hashlib
import threading
import time
from pathlib import Path

from nlp_ssl.core.errors import UserError

BLOCK = 1 << 22  # bytes
REST = 4  # pauses, in times that a block took: files are read at a fifth of the speed at which they could be


class Verification:
    """Compares files with their sha256 in a thread that rests most of the time.

    It has no lower priority than others: waiting for a core it might hold Python's lock, and training with it.

    Call it between two steps: it raises once a file has turned out damaged.
    """

    def __init__(self) -> None:
        self.damage: str | None = None

    def start(self, digests: dict[Path, str]) -> threading.Thread:
        """Begin; returns at once.

        Args:
            digests: the sha256 that each file must have.
        """
        thread = threading.Thread(target=self._verify, args=(digests,), name="verify tokens", daemon=True)
        thread.start()
        return thread

    def __call__(self) -> None:
        """Raise `UserError` for the first damaged file that was found, if one was."""
        if self.damage is not None:
            raise UserError(self.damage)

    def _verify(self, digests: dict[Path, str]) -> None:
        for path, digest in digests.items():
            try:
                why = None if _sha256_slowly(path) == digest else "its sha256 is not what it was when it was made"
            except OSError as error:
                why = error.strerror
            if why is not None:
                self.damage = (
                    f"{path} is damaged ({why}); steps may have learnt from it: delete the folder {path.parent}, and "
                    "the same command with --resume makes it again and continues"
                )
                return


def _sha256_slowly(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            began = time.monotonic()
            if not (block := file.read(BLOCK)):
                return digest.hexdigest()
            digest.update(block)  # other threads run meanwhile
            if len(block) == BLOCK:
                time.sleep(REST * (time.monotonic() - began))
