import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a task's model, made once; it is not to be changed."""
    from tried import make

    made: dict[str, Path] = {}

    def find(task: str) -> Path:
        if task not in made:
            made[task] = make(tmp_path_factory.mktemp(task) / task, task)
        return made[task]

    return find
