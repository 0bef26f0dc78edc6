"""When memory is full, whoever says so: PyTorch of a GPU or of the host, Python, the system."""

import errno

from nlp_ssl.core.files import disk_error

# of RuntimeErrors: CUDA's, the CPU allocator's, C++'s, and the system's as PyTorch and its loader workers quote it
SAID = ("out of memory", "can't allocate memory", "std::bad_alloc", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on a GPU or on the host."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in SAID):
        return True
    said = disk_error(error)
    return said is not None and said.errno == errno.ENOMEM


def memory_advice(error: BaseException) -> str | None:
    """A sentence for memory that is full where no option is known to help; `None` for anything else."""
    if not is_out_of_memory(error):
        return None
    said = " ".join(str(error).split())[:200]
    return (
        f"out of memory ({type(error).__name__}{f': {said}' if said else ''}); end other programs, raise the limit on "
        "this one (ulimit -v, a container's), or take a machine with more; what was finished before is kept"
    )
