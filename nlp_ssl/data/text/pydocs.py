"""The built-in corpus: documentation strings of the Python packages that are installed here.

Some 30 MB of English technical prose that every machine already has. Files are parsed with `ast`; nothing is imported.
The signature beside a text says truly which of its words are parameters, types and exceptions, so the same documents
also make labelled tasks (`labelled.py`).
"""

import ast
import gc
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nlp_ssl.core.cache import caching, is_whole
from nlp_ssl.core.console import counted, human_bytes, progress, say
from nlp_ssl.core.files import cache_dir
from nlp_ssl.core.workers import worker_pool

RULES = 1  # raise it when the same files would give other documents
MIN_CHARACTERS = 100
# Tests document nothing, and a vendored copy would give another library's text the name of its host.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
_SKIPPED_FOLDERS |= {"_vendor", "_vendored", "vendor", "vendored", "externals", "extern"}
_OURS = "nlp_ssl"  # editing this package must not change its corpus

_Parsed = tuple[list["PyDoc"], int, int]  # documents, number of unreadable files, bytes read
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | Definition


@dataclass(frozen=True)
class PyDoc:
    """One documentation string and what the code beside it says."""

    text: str
    """The string, cleaned of its indentation (`inspect.cleandoc`)."""
    package: str
    """Top-level import name, such as `numpy`."""
    name: str
    """Qualified name, such as `numpy.linalg.norm`."""
    kind: str
    """`module`, `class` or `function`; a method is a function."""
    parameters: tuple[str, ...] = ()
    """Names in the signature (a class: of its `__init__`), without `self` and `cls`, in order."""
    types: tuple[str, ...] = ()
    """Identifiers in the annotations, `Tensor` for `torch.Tensor`, in order of appearance."""
    exceptions: tuple[str, ...] = ()
    """Names of the exceptions that the body raises (a class: its `__init__`), in order of appearance."""


def read_pydocs(num_proc: int | None = None, roots: Iterable[Path] | None = None) -> list[PyDoc]:
    """All documentation strings of at least 100 characters, each text once, in an order that only the texts decide.

    Args:
        num_proc: processes that parse, when the result is not in the cache yet; by default one a core.
        roots: folders that hold packages; by default this environment's site-packages and the standard library.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(pydocs_file(num_proc, roots)).to_pylist()
    return [PyDoc(**{key: _read(value) for key, value in row.items()}) for row in rows]


def _read(value: Any) -> Any:
    """A field of a row, as it was before it was written: Parquet has lists and no tuples."""
    return tuple(value) if isinstance(value, list) else value


def pydocs_file(num_proc: int | None = None, roots: Iterable[Path] | None = None) -> Path:
    """The parquet file that holds what `read_pydocs` returns, one row per document; made when it is not there.

    Its stem is a fingerprint of the installed `.py` files: relative path and size of each, and the Python version,
    whose grammar decides what parses. Names and versions of distributions would miss what is installed without
    metadata or edited in place, contents would take as long as parsing, and times differ between equal installations.
    """
    roots = [Path(root) for root in (_environment() if roots is None else roots)]
    files = sorted({(name, root): size for root in roots for name, size in _python_files(root)}.items())
    listing = "\n".join(f"{name}\t{size}" for (name, _), size in files)
    version = f"{RULES} {sys.version_info[:2]}\n"
    fingerprint = hashlib.sha256((version + listing).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = cache_dir() / "pydocs" / f"{fingerprint}.parquet"
    if not is_whole(path):
        docs, num_skipped = _parse_all([(str(root), name, size) for (name, root), size in files], num_proc)
        _write(docs, path)
        size = sum(len(doc.text.encode()) for doc in docs)
        skipped = f"; skipped {counted(num_skipped, 'file')} that do not parse" if num_skipped else ""
        num_packages = len({doc.package for doc in docs})
        say(
            f"built-in corpus: {counted(len(docs), 'document')}, {human_bytes(size)}, "
            f"of {counted(num_packages, 'package')}{skipped}"
        )
    return path


# ---------------------------------------------------------------------------------------------------------------------
# which files


def _environment() -> list[Path]:
    """Folders of this environment's packages and of the standard library, each once."""
    paths = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib", "stdlib")]
    return [path for i, path in enumerate(paths) if path.is_dir() and path not in paths[:i]]


def _python_files(root: Path) -> Iterator[tuple[str, int]]:
    """(path below `root` with forward slashes, size in bytes) of every `.py` file that can be imported."""
    for folder, subfolders, names in os.walk(root):
        # What is no identifier cannot be imported: `x.dist-info`, `config-3.11-x86_64-linux-gnu`, `pandas-stubs`.
        subfolders[:] = [d for d in subfolders if d.isidentifier() and d not in _SKIPPED_FOLDERS]
        if Path(folder) == root and _OURS in subfolders:
            subfolders.remove(_OURS)
        for name in names:
            module, extension = os.path.splitext(name)
            if extension != ".py" or not module.isidentifier() or module.startswith(("test_", "__editable__")):
                continue
            path = os.path.join(folder, name)
            try:
                size = os.stat(path).st_size
            except FileNotFoundError:  # a broken link
                continue
            yield os.path.relpath(path, root).replace(os.sep, "/"), size


# ---------------------------------------------------------------------------------------------------------------------
# parsing


def _parse_all(files: list[tuple[str, str, int]], num_proc: int | None) -> tuple[list[PyDoc], int]:
    """Parse (root, relative path, size) in parallel -> (documents without repeats, number of unreadable files)."""
    chunks = [files[i : i + 32] for i in range(0, len(files), 32)]
    num_proc = min(num_proc or _num_cores(), max(1, len(chunks)))
    found, num_skipped = [], 0
    total = sum(size for *_, size in files)
    with (
        progress(total=total, desc="read documentation", unit="B") as bar,
        closing(_parse_chunks(chunks, num_proc)) as parsed,
    ):
        for docs, skipped, size in parsed:
            found += docs
            num_skipped += skipped
            bar.update(size)
    # The hash mixes the packages, so that the first thousand documents are a fair sample; of equal texts the one with
    # the first qualified name stays.
    keyed = [(hashlib.sha256(doc.text.encode()).digest(), doc.name, doc.kind) for doc in found]
    unique: dict[bytes, PyDoc] = {}
    for key, doc in sorted(zip(keyed, found, strict=True), key=lambda pair: pair[0]):
        unique.setdefault(key[0], doc)
    return list(unique.values()), num_skipped


def _parse_chunks(chunks: list[list[tuple[str, str, int]]], num_proc: int) -> Generator[_Parsed, None, None]:
    """`_parse_chunk` of each, in order, by this many processes."""
    if num_proc == 1:
        yield from map(_parse_chunk, chunks)
        return
    # Workers only parse, so forking is safe here, and spares them the imports of the recipe that called.
    method: Literal["fork", "spawn"] = "fork" if sys.platform == "linux" else "spawn"
    again = "with less running beside it, on fewer cores (taskset -c 0), or with --data.sources of your own"
    with worker_pool(num_proc, "the built-in corpus", again, method) as pool:
        yield from pool.map(_parse_chunk, chunks)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parse_chunk(files: list[tuple[str, str, int]]) -> tuple[list[PyDoc], int, int]:
    """-> (documents, number of unreadable files, bytes read)."""
    docs, num_skipped = [], 0
    gc_was_on = gc.isenabled()
    gc.disable()  # syntax trees have no cycles; without the collector, parsing takes half the time
    try:
        for root, name, _ in files:
            try:
                docs += _parse_file(root, name)
            except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):  # ValueError: not UTF-8, or NULs
                num_skipped += 1
    finally:
        if gc_was_on:
            gc.enable()
    return docs, num_skipped, sum(size for *_, size in files)


def _parse_file(root: str, name: str) -> list[PyDoc]:
    source = Path(root, name).read_bytes()
    if b'"""' not in source and b"'''" not in source:  # a long documentation string has triple quotes
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source.decode("utf-8-sig"))
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package = module.split(".")[0]
    return [
        PyDoc(text, package, qualified, kind, *(() if isinstance(node, ast.Module) else _signature(node)))
        for node, qualified, kind in _definitions(tree, module)
        if (text := _text(node))
    ]


def _definitions(tree: ast.Module, module: str) -> Iterator[tuple[Documented, str, str]]:
    """(node, qualified name, kind) of the module and of every class and function that is not local to a function."""
    yield tree, module, "module"
    pending: list[tuple[ast.AST, str]] = [(tree, module)]
    while pending:
        parent, prefix = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                yield node, f"{prefix}.{node.name}", "class"
                pending.append((node, f"{prefix}.{node.name}"))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, f"{prefix}.{node.name}", "function"
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):  # definitions behind a condition
                pending.append((node, prefix))


def _text(node: Documented) -> str | None:
    """The documentation string of a node, if it is long enough and fit to be written as UTF-8."""
    text = ast.get_docstring(node)
    if text is None or len(text) < MIN_CHARACTERS or "\0" in text:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, written as an escape
        return None
    return text


def _signature(node: Definition) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(parameters, types, exceptions) of a function, or of a class's `__init__`."""
    if isinstance(node, ast.ClassDef):
        methods = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        method = next(methods, None)
        return ((), (), ()) if method is None else _signature(method)
    a = node.args
    given = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    arguments = [argument for argument in given if argument is not None]
    parameters = tuple(x.arg for i, x in enumerate(arguments) if i > 0 or x.arg not in ("self", "cls"))
    annotations = [x.annotation for x in arguments] + [node.returns]
    types = dict.fromkeys(name for x in annotations if x is not None for name in _type_names(x))
    return parameters, tuple(types), tuple(dict.fromkeys(name for name in map(_raised_name, _raises(node)) if name))


def _raises(node: ast.AST) -> Iterator[ast.Raise]:
    """The `raise` statements in a block, in order; expressions hold none, so this is quicker than `ast.walk`."""
    if isinstance(node, ast.Raise):
        yield node
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, block, ()):
            yield from _raises(child)


def _type_names(annotation: ast.AST) -> Iterator[str]:
    """Identifiers in an annotation, also in a quoted one; the strings of a `Literal` are values, not types."""
    if isinstance(annotation, ast.Name):
        yield annotation.id
    elif isinstance(annotation, ast.Attribute):
        yield annotation.attr
    elif isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            try:
                quoted = ast.parse(annotation.value, mode="eval").body
            except (SyntaxError, ValueError):  # prose in an annotation
                return
            if not isinstance(quoted, ast.Constant):
                yield from _type_names(quoted)
    elif isinstance(annotation, ast.Subscript) and "Literal" in _type_names(annotation.value):
        yield "Literal"
    else:
        for child in ast.iter_child_nodes(annotation):
            yield from _type_names(child)


def _raised_name(node: ast.Raise) -> str | None:
    """`ValueError` for `raise ValueError(...)`; `None` for a variable that is raised again (`raise error`)."""
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    name = raised.attr if isinstance(raised, ast.Attribute) else getattr(raised, "id", "")
    return name if name.lstrip("_")[:1].isupper() else None


# ---------------------------------------------------------------------------------------------------------------------
# the cache


def _write(docs: list[PyDoc], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = ("parameters", "types", "exceptions")
    schema = pa.schema([(f.name, pa.list_(pa.string()) if f.name in lists else pa.string()) for f in fields(PyDoc)])
    with caching(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(doc) for doc in docs], schema), temporary, compression="zstd")
