"""The built-in corpus, on a small made-up site-packages whose documents are known."""

import inspect
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from nlp_ssl.core.errors import UserError
from nlp_ssl.data.text import pydocs
from nlp_ssl.data.text.pydocs import PyDoc, read_pydocs

LONG = "This sentence is here so that the text has a length that is worth learning from, a hundred characters or more."

LIBRARY = f'''"""The library.

{LONG}
"""
import a_module_that_does_not_exist


class Shape:
    """A shape.

        {LONG}
    """

    def __init__(self, sides: "list[Edge]", *, color: colors.Color | None = None, **options):
        if not sides:
            raise GeometryError("no sides")

    @classmethod
    def load(cls, path, /, mode: Literal["r", "w"] = "r", *more: int) -> Shape:
        """Load. {LONG}"""
        try:
            def helper():
                """Local to a function, so nobody reads it. {LONG}"""
        except OSError as error:
            raise error
        raise errors.ParseError("x") from None

    def short(self):
        """Too short."""

if True:
    async def run(x: np.ndarray, y: ndarray):
        """Run. {LONG}"""
        raise StopIteration
        raise ValueError
        raise ValueError("again")
'''


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    site, standard = tmp_path / "site-packages", tmp_path / "python3"
    files = {
        site / "library/__init__.py": LIBRARY,
        site / "library/other.py": f'"""Load. {LONG}"""\n',  # the text of library.Shape.load once more
        site / "library/tests/test_it.py": f'"""A test. {LONG}"""\n',
        site / "library/test_more.py": f'"""Another test. {LONG}"""\n',
        site / "library/_vendor/third.py": f'"""Somebody else\'s. {LONG}"""\n',
        site / "library/broken.py": f'"""Broken. {LONG}"""\ndef (\n',
        site / "library/surrogate.py": f'"""\\ud83d {LONG}"""\n',
        site / "not-a-package/x.py": f'"""Not importable. {LONG}"""\n',
        site / "nlp_ssl/x.py": f'"""Our own. {LONG}"""\n',
        standard / "single.py": f"'''Single. {LONG}'''\r\n",
        standard / "site-packages/elsewhere.py": f'"""Not of this root. {LONG}"""\n',
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (site / "library/latin1.py").write_bytes(f'"""\xe9t\xe9 {LONG}"""\n'.encode("latin-1"))
    return [site, standard]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_reads_exactly_the_documents_that_are_there(roots, capsys):
    docs = {doc.name: doc for doc in read_pydocs(1, roots)}

    assert docs == {
        "library": PyDoc(f"The library.\n\n{LONG}", "library", "library", "module"),
        "library.Shape": PyDoc(
            f"A shape.\n\n{LONG}",
            "library",
            "library.Shape",
            "class",
            ("sides", "color", "options"),
            ("list", "Edge", "Color"),
            ("GeometryError",),
        ),
        "library.Shape.load": PyDoc(
            f"Load. {LONG}",
            "library",
            "library.Shape.load",
            "function",
            ("path", "mode", "more"),
            ("Literal", "int", "Shape"),
            ("ParseError",),
        ),
        "library.run": PyDoc(
            f"Run. {LONG}",
            "library",
            "library.run",
            "function",
            ("x", "y"),
            ("ndarray",),
            ("StopIteration", "ValueError"),
        ),
        "single": PyDoc(f"Single. {LONG}", "single", "single", "module"),
    }
    assert "5 documents" in (said := capsys.readouterr().out)
    assert "2 files" in said  # broken.py and latin1.py


def test_same_documents_in_the_same_order_for_any_number_of_processes(roots, monkeypatch):
    for i in range(100):  # more than one chunk for each process
        path = roots[0] / f"many{i:03}/__init__.py"
        path.parent.mkdir()
        path.write_text(f'"""Number {i}. {LONG}"""\n')
    one = read_pydocs(1, roots)
    monkeypatch.setenv("NLP_SSL_CACHE", str(roots[0].parent / "another cache"))
    assert read_pydocs(2, list(reversed(roots))) == one
    assert len(one) == 105
    assert [doc.name for doc in one] != sorted(doc.name for doc in one)  # packages are mixed


def test_cache_is_one_file_used_until_a_file_changes(roots, cache, capsys):
    path = pydocs.pydocs_file(1, roots)
    assert [p for p in cache.rglob("*") if p.is_file() and not p.name.startswith(".")] == [path]
    written = path.stat().st_mtime_ns
    capsys.readouterr()
    assert pydocs.pydocs_file(1, roots) == path
    assert path.stat().st_mtime_ns == written
    assert capsys.readouterr().out == ""  # read, not parsed again

    (roots[0] / "nlp_ssl/x.py").write_text("edited = True\n")
    (roots[0] / "library/tests/test_it.py").write_text("edited = True\n")
    assert pydocs.pydocs_file(1, roots) == path  # what is not read does not matter

    (roots[0] / "library/other.py").write_text(f'"""Now it says something else. {LONG}"""\n')
    assert pydocs.pydocs_file(1, roots) != path
    assert any(doc.text.startswith("Now it says") for doc in read_pydocs(1, roots))


def test_the_folder_of_the_environment_does_not_matter(roots, tmp_path):
    path = pydocs.pydocs_file(1, roots)
    moved = tmp_path / "moved"
    roots[0].parent.joinpath("site-packages").rename(moved)
    assert pydocs.pydocs_file(1, [moved, roots[1]]) == path


def test_agrees_with_python_on_a_real_package(tmp_path):
    shutil.copytree(Path(json.__file__).parent, tmp_path / "root/json")
    docs = {doc.name: doc for doc in read_pydocs(1, [tmp_path / "root"])}

    for name, thing in {"json": json, "json.loads": json.loads, "json.decoder.JSONDecoder": json.JSONDecoder}.items():
        assert docs[name].text == inspect.getdoc(thing)
    assert docs["json.loads"].parameters == tuple(inspect.signature(json.loads).parameters)
    assert docs["json.decoder.JSONDecoder"].parameters == tuple(inspect.signature(json.JSONDecoder).parameters)
    assert docs["json.loads"].exceptions == ("JSONDecodeError", "TypeError")


def killed(chunk):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_said_and_nobody_waits_for_it(tmp_path, monkeypatch):
    shutil.copytree(Path(inspect.__file__).parent / "email", tmp_path / "root/email")
    shutil.copytree(Path(inspect.__file__).parent / "asyncio", tmp_path / "root/asyncio")
    monkeypatch.setattr(pydocs, "_parse_chunk", killed)
    with pytest.raises(UserError, match=r"built-in corpus was killed, out of memory\?.*--data.sources"):
        read_pydocs(2, [tmp_path / "root"])
    assert not multiprocessing.active_children()
