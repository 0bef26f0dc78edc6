"""Rows with room for sentinels, and a tokenizer that has them."""

import copy

import numpy as np
from parity_cases import PAD, VOCABULARY, Document, documents
from toys import word_tokenizer

from nlp_ssl.objectives.infilling import ROOM, SENTINELS

TOKENIZER = copy.deepcopy(word_tokenizer(VOCABULARY))
TOKENIZER.add_special_tokens({"extra_special_tokens": list(SENTINELS)})
PREFIX, SUFFIX, MIDDLE, END_OF_MIDDLE = TOKENIZER.convert_tokens_to_ids(list(SENTINELS))
SIZE = len(TOKENIZER)  # of the vocabulary
LENGTH = 52  # of a row: those of `parity_cases` have up to four documents in 40 tokens


def roomy_row(row: list[Document]) -> dict[str, np.ndarray]:
    """A row as `PackedRows` gives it, where every document ends in its end of text and room for sentinels."""
    fields = {
        "input_ids": [i for document in row for i in [*document.ids, *[PAD] * ROOM]],
        "document_ids": [n for n, document in enumerate(row, 1) for _ in range(len(document.ids) + ROOM)],
        "position_ids": [i for document in row for i in range(len(document.ids) + ROOM)],
        "cut_ends": [i >= len(d.ids) - 1 and d.cut for d in row for i in range(len(d.ids) + ROOM)],
    }
    padded = {key: np.zeros(LENGTH, dtype=bool if key == "cut_ends" else np.int64) for key in fields}
    for key, values in fields.items():
        padded[key][: len(values)] = values
    return padded


ROWS = [roomy_row(row) for row in documents(True)]
