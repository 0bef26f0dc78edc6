"""What can end a run, each in one sentence."""


class UserError(ValueError):
    """A user's mistake, in one sentence: what was wrong, where (file, row, key), and what to do."""


class PeerGone(Exception):
    """Another process of the run has ended before its time, so this one ends too; one sentence."""


class Interrupted(BaseException):
    """The run was asked to stop; the text says what is kept, and how to resume it.

    Like `KeyboardInterrupt` it is no `Exception`, which `torch.compile` and `datasets` would swallow or wrap.
    """
