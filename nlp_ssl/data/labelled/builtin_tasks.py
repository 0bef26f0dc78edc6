"""Labelled tasks with true labels that need no download: made from the documentation of the installed Python packages.

Other packages installed give other documents, so scores compare runs on one environment, not two.
"""

import re
from collections import Counter
from importlib.metadata import packages_distributions

from nlp_ssl.core.console import progress
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.rows import Rows, Task, from_lists
from nlp_ssl.data.labelled.tag_schemes import OUTSIDE
from nlp_ssl.data.text.pydocs import PyDoc, read_pydocs

NEUTRAL_NAME = "library"  # stands in a text for the name of any package that is a class
NUM_PACKAGES = 8
MAX_TEXTS_A_PACKAGE = 1500
MAX_CHARACTERS = 2000
MAX_TAGGED_TEXTS = 8000
MAX_WORDS = 120

_WORD = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")


def library_task() -> tuple[Rows, Task]:
    """The built-in classification task."""
    texts, labels = library_texts()
    return from_lists("the built-in task", {"text": texts, "label": labels}), Task("builtin-library")


def library_texts(docs: list[PyDoc] | None = None) -> tuple[list[str], list[str]]:
    """Classification: which library does a documentation text document?

    The classes are the eight packages with the most documents, each cut to the smallest one's number, 1,500 at most, so
    that guessing gives 1/8. Any word that contains the name of one of these packages, or of the distribution that
    installs it, is replaced by `library`: a model has to go by what is said and how, not by the name.

    Returns:
        The texts, at most 2,000 characters each, and the import name of each text's package.
    """
    docs = read_pydocs() if docs is None else docs
    packages = [package for package, _ in Counter(doc.package for doc in docs).most_common(NUM_PACKAGES)]
    if len(packages) < 2:
        raise UserError("the built-in classification task needs documents of two packages; give --data.train_file")
    distributions = packages_distributions()
    names = {name for package in packages for name in [package, *distributions.get(package, [])]}
    spellings = sorted({re.escape(s) for n in names for s in (n, n.replace("_", "-"), n.replace("-", "_"))})
    name = re.compile(rf"\w*(?:{'|'.join(spellings)})\w*", re.IGNORECASE)
    by_package: dict[str, list[str]] = {package: [] for package in packages}
    for doc in docs:
        texts = by_package.get(doc.package)
        if texts is not None and len(texts) < MAX_TEXTS_A_PACKAGE:
            texts.append(name.sub(NEUTRAL_NAME, doc.text[:MAX_CHARACTERS]))
    size = min(len(texts) for texts in by_package.values())
    rows = [(text, package) for package, texts in by_package.items() for text in texts[:size]]
    return [text for text, _ in rows], [package for _, package in rows]


def signature_task() -> tuple[Rows, Task]:
    """The built-in tagging task."""
    tokens, tags = signature_tags()
    return from_lists("the built-in task", {"tokens": tokens, "tags": tags}), Task("builtin-signature")


def signature_tags(docs: list[PyDoc] | None = None) -> tuple[list[list[str]], list[list[str]]]:
    """Tagging: which words of a documentation text are parameters, types or exceptions of what it documents?

    The labels are read off the code beside the text: a word is `PARAM`, `TYPE` or `EXC` when the signature, its
    annotations or the `raise` statements name it. A type extends to its closing bracket, `list [ str ]`. Names that are
    usually plain English (`name`, `a`, `list`: lower case, and most texts that hold the word have no such name in the
    signature) count only where they are written as code: in back-ticks or stars, or before `:`, `=` or `(`.

    Returns:
        Words (identifiers, numbers, single signs; at most 120 a text) and their IOB2 tags, of at most 8,000 texts that
        name at least one entity.
    """
    docs = read_pydocs() if docs is None else docs
    # the documents are ordered by a hash of their text, so the first ones are a fair sample
    docs = [doc for doc in docs if doc.parameters or doc.types or doc.exceptions][: 2 * MAX_TAGGED_TEXTS]
    texts = [
        _WORD.findall(doc.text[:MAX_CHARACTERS])[:MAX_WORDS]
        for doc in progress(docs, desc="read signatures", unit="text")
    ]
    signatures = [_signature(doc) for doc in docs]
    seen: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for words, kinds in zip(texts, signatures, strict=True):
        vocabulary = set(words)
        seen.update(vocabulary)
        named.update(vocabulary & kinds.keys())
    english = {word for word, count in named.items() if word.islower() and 2 * count < seen[word]}
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    for words, kinds in zip(texts, signatures, strict=True):
        row = _tag(words, kinds, english)
        if any(tag != OUTSIDE for tag in row) and len(tokens) < MAX_TAGGED_TEXTS:
            tokens.append(words)
            tags.append(row)
    return tokens, tags


def _signature(doc: PyDoc) -> dict[str, str]:
    kinds = dict.fromkeys(doc.types, "TYPE") | dict.fromkeys(doc.exceptions, "EXC")
    return kinds | dict.fromkeys(doc.parameters, "PARAM")


def _tag(words: list[str], kinds: dict[str, str], english: set[str]) -> list[str]:
    tags, i = [OUTSIDE] * len(words), 0
    while i < len(words):
        kind, end = kinds.get(words[i]), i + 1
        if kind and not (words[i] in english and not _looks_like_code(words, i)):
            if kind == "TYPE":
                end = _closing_bracket(words, i)
            tags[i:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - i - 1)
        i = end
    return tags


def _looks_like_code(words: list[str], i: int) -> bool:
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    return before in ("`", "*") or after in ("`", ":", "=", "(")


def _closing_bracket(words: list[str], start: int) -> int:
    """End of the type that begins at `start`: behind the bracket that closes its own, or just behind the word."""
    depth = 0
    for i in range(start + 1, min(start + 20, len(words))):
        if depth == 0 and words[i] != "[":
            break
        depth += (words[i] == "[") - (words[i] == "]")
        if depth == 0:
            return i + 1
        if not (words[i].isidentifier() or words[i] in "[],.|"):
            break
    return start + 1
