"""The built-in tasks, on documents that the test makes, so that every label is known."""

import pytest

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.builtin_tasks import library_texts, signature_tags
from nlp_ssl.data.text.pydocs import PyDoc


def doc(text, package="numpy", **signature):
    return PyDoc(text, package, f"{package}.f", "function", **signature)


def test_library_names_are_hidden_and_classes_are_equally_large():
    docs = [doc(f"{i}: NumPy arrays, numpy.linalg, not sklearn or scikit-learn or `sklearns`.") for i in range(5)]
    docs += [doc(f"{i}: estimators of scikit_learn.", "sklearn") for i in range(3)]
    texts, labels = library_texts(docs)
    assert labels == ["numpy"] * 3 + ["sklearn"] * 3
    assert texts[0] == "0: library arrays, library.linalg, not library or library or `library`."
    assert texts[3] == "0: estimators of library."
    with pytest.raises(UserError, match="two packages"):
        library_texts(docs[:5])


def test_tags_are_read_off_the_signature():
    docs = [
        doc(
            "Pads: pad_width (dict[str, int] or Tensor) wide, and raises ValueError if name is bad.\n`name`: x",
            parameters=("pad_width", "name"),
            types=("dict", "str", "int", "Tensor"),
            exceptions=("ValueError",),
        ),
        *[doc(f"The name of things, number {i}.", parameters=("other",)) for i in range(3)],
    ]
    tokens, tags = signature_tags(docs)
    assert len(tokens) == 1  # the others name nothing
    words = [(word, tag) for word, tag in zip(tokens[0], tags[0], strict=True) if tag != "O"]
    assert words == [
        ("pad_width", "B-PARAM"),
        *zip(["dict", "[", "str", ",", "int", "]"], ["B-TYPE"] + ["I-TYPE"] * 5, strict=True),
        ("Tensor", "B-TYPE"),
        ("ValueError", "B-EXC"),
        ("name", "B-PARAM"),  # the one in back-ticks; "if name is bad" is English
    ]
    assert tags[0][tokens[0].index("name")] == "O"
