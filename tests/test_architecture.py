"""The rules of the house, read off the source: who may import whom, and what is too long to be read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nlp_ssl"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
# lowest first; a file imports from lower rooms and from its own
ROOMS = ["core", "config", "publishing", "reports", "data", "models", "objectives", "training", "evaluation", "runs"]
ROOMS += ["benchmarks", "doctor", "trying"]
EXTRAS = {"tensorboard", "trackio", "wandb", "matplotlib", "sklearn", "peft", "datatrove", "gradio"}
# lines of a class and of a function, without its docstring
LONG_CLASS, LONG_FUNCTION = 200, 60


def name(path):
    return str(path.relative_to(PACKAGE))


def room(module):
    """`nlp_ssl.data.sequences.order` -> `data`."""
    return [*module.split("."), ""][1]


def imports(path, everywhere=True):
    """Full names of what a file imports; with `everywhere` false only at the top of the module."""
    tree = ast.parse(path.read_text())
    lazy = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lazy |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not everywhere and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_lies_beside_the_rooms():
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == {"__init__.py", "__main__.py", "py.typed", "recipes", *ROOMS}
    assert (PACKAGE / "recipes").resolve() == PACKAGE.parent / "recipes"  # one folder, which is in the wheel too


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_imports_only_downwards(path):
    own = room("nlp_ssl." + name(path).removesuffix(".py").replace("/", "."))
    if own in ("__init__", "__main__"):
        return
    for module in imports(path):
        if module.split(".")[0] != "nlp_ssl":
            continue
        other = room(module)
        assert other in ROOMS, f"{name(path)} imports {module}, which is in no room"
        assert ROOMS.index(other) <= ROOMS.index(own), f"{name(path)} imports {module} from above"
        assert {own, other} != {"data", "models"}, f"{name(path)} imports {module}: data and models are blind"


@pytest.mark.parametrize("path", [PACKAGE / "trying" / "answers.py", PACKAGE / "trying" / "app.py"], ids=name)
def test_what_a_space_runs_needs_nothing_of_the_package(path):
    assert not [module for module in imports(path) if module.startswith("nlp_ssl")]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_imports_recipes_or_tests(path):
    assert not {module.split(".")[0] for module in imports(path)} & {"recipes", "tests", "pytest"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_extras_are_imported_inside_functions(path):
    assert not {module.split(".")[0] for module in imports(path, everywhere=False)} & EXTRAS


def lengths():
    """(path, class or function, its lines) of the whole package; its docstring is no line of it."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                yield path, node, node.end_lineno - node.lineno + 1 - said


def test_classes_and_functions_stay_readable():
    for path, node, lines in lengths():
        limit = LONG_CLASS if isinstance(node, ast.ClassDef) else LONG_FUNCTION
        assert lines <= limit, f"{name(path)}: {node.name} has {lines} lines"


def test_no_text_file_depends_on_the_locale():
    found = []
    for path in [*FILES, *PACKAGE.parent.joinpath("recipes").glob("*.py")]:
        for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            binary = any(isinstance(arg, ast.Constant) and "b" in str(arg.value) for arg in call.args[1:2])
            named = any(keyword.arg == "encoding" for keyword in call.keywords)
            opened = called == "open" and isinstance(call.func, ast.Name) and not binary
            method = called in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
            if (opened or method) and not named:
                found.append(f"{path.name}:{call.lineno}")
    assert found == []


def test_the_finetuning_and_pretraining_stories_do_not_know_each_other():
    for one, other in (("pretraining", "finetuning"), ("finetuning", "pretraining")):
        assert not [m for m in imports(PACKAGE / "runs" / f"{one}.py") if m.startswith(f"nlp_ssl.runs.{other}.")]


def test_public_names_are_lazy_and_all_there():
    program = """
import sys
import nlp_ssl
heavy = {"torch", "transformers", "datasets", "accelerate", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
names = [n for n in getattr(nlp_ssl, "__all__", [])]
assert set(names) <= set(dir(nlp_ssl))
for n in names:
    assert getattr(nlp_ssl, n) is not None
try:
    nlp_ssl.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError("an unknown name is no AttributeError")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
