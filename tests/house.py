"""The house in numbers: rooms, who imports whom, on how many floors, and what is long.

python tests/house.py [folder of a package, such as nlp_ssl]
"""

import ast
import sys
from pathlib import Path


def room_of(module: str, package: Path) -> str:
    """`nlp_ssl.data.sequences.order` -> `data`; a file beside the rooms is a room of its own."""
    parts = module.split(".")[1:]
    return parts[0] if parts else package.name


def imports(path: Path, package: str) -> set[str]:
    """The modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {module for module in found if module.startswith(f"{package}.")}


def arrows(package: Path) -> dict[str, set[str]]:
    """For every room the others that it imports from."""
    found: dict[str, set[str]] = {}
    names = {path.stem if path.is_file() else path.name for path in package.iterdir()}
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        others = {room_of(module, package) for module in imports(path, package.name)} & names
        found.setdefault(own, set()).update(others - {own})
    return found


def floor(room: str, found: dict[str, set[str]], above: tuple[str, ...] = ()) -> int:
    """1 for a room that imports from no other, else one above the highest that it imports from."""
    if room in above:
        raise SystemExit(f"a circle: {' -> '.join((*above, room))}")
    return 1 + max((floor(other, found, (*above, room)) for other in found.get(room, ())), default=0)


def longest(package: Path, kind: type) -> list[tuple[int, str]]:
    """Lines of the longest classes or functions, a function without its docstring."""
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                said = 0
                if not isinstance(node, ast.ClassDef) and ast.get_docstring(node):
                    said = node.body[0].end_lineno - node.body[0].lineno + 1
                lines = node.end_lineno - node.lineno + 1 - said
                found.append((lines, f"{path.relative_to(package)}: {node.name}"))
    return sorted(found, reverse=True)[:5]


def main() -> None:
    package = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "nlp_ssl")
    found = arrows(package)
    floors = {room: floor(room, found) for room in found}
    print(f"{len(found)} rooms, {max(floors.values())} floors, {sum(map(len, found.values()))} arrows, no circle")
    for number in sorted(set(floors.values()), reverse=True):
        print(f"  {number:2}  {', '.join(sorted(room for room in floors if floors[room] == number))}")
    for name, kind in (("classes", ast.ClassDef), ("functions", ast.FunctionDef)):
        print(f"longest {name}: {'; '.join(f'{where} {lines}' for lines, where in longest(package, kind))}")


if __name__ == "__main__":
    main()
