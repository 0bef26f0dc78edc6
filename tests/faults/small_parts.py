"""`small_parts.py recipe ...` runs a recipe that cuts its tokens into small parts, so that a small corpus has many."""

import runpy
import sys

from nlp_ssl.data.tokens import tokenizing

if __name__ == "__main__":  # not in the processes that tokenise
    tokenizing.PART_BYTES = 20_000
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
