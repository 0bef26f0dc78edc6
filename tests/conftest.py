"""Caches of the tests live in a temporary folder; nothing is read from or written to the user's home or the Hub."""

import gc
import os
import signal
import tempfile

_cache = tempfile.mkdtemp(prefix="nlp_ssl-tests-")
os.environ["NLP_SSL_CACHE"] = os.path.join(_cache, "nlp_ssl")
os.environ["HF_HOME"] = os.path.join(_cache, "huggingface")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
for _number in (signal.SIGHUP, signal.SIGQUIT):  # which nohup and a shell's background jobs hand on ignored
    signal.signal(_number, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What collecting has imported stays: no test waits until Python has looked for garbage among it."""
    gc.collect()
    gc.freeze()
