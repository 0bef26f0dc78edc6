"""A program run as a fork is the program run by an interpreter of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import psutil
import pytest
from launch import BIN, environment

PROGRAM = """
import os, subprocess, sys
print(sys.argv, __name__, os.getcwd(), os.environ["GIVEN"], os.path.basename(sys.path[0]), sys.stdin.read())
print("error", file=sys.stderr)
print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, list[str]]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "program.py").write_text(PROGRAM)
    return {
        "script": [sys.executable, str(tmp_path / "folder" / "program.py")],
        "module": [sys.executable, "-m", "folder.program"],
        "code": [sys.executable, "-c", PROGRAM],
    }


@pytest.mark.parametrize("kind", ["script", "module", "code"])
def test_arguments_folder_environment_output_and_exit_code(
    programs: dict[str, list[str]], kind: str, tmp_path: Path
) -> None:
    command, given = [*programs[kind], "75", "two words"], environment() | {"GIVEN": "1"}
    expected = subprocess.run(
        command, env=given, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    got = forks.run(command, env=given, cwd=tmp_path, timeout=60)
    # `python -c` has the folder as an empty string, which is the same
    shown = expected.stdout.replace("1  \n", f"1 {tmp_path.name} \n") if kind == "code" else expected.stdout
    assert (got.returncode, got.stdout, got.stderr) == (75, shown, "error\n")


def test_an_error_has_its_stack_trace_and_a_signal_its_exit_code(tmp_path: Path) -> None:
    broken = forks.run([sys.executable, "-c", "1 / 0"], env=environment(), timeout=60)
    assert broken.returncode == 1
    assert broken.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    waits = [sys.executable, "-c", "import time; print('there', flush=True); time.sleep(60)"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        with forks.Fork(waits, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout.readline() == b"there\n"
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(20) == -number


def test_what_is_forked_and_what_is_not(tmp_path: Path) -> None:
    def forked(*arguments: str, **variables: str) -> bool:
        with forks.Fork(arguments, env=environment() | variables, stdout=subprocess.DEVNULL) as process:
            assert process.wait(60) == 0
        return process.forked is not None

    assert forked(sys.executable, "-c", "pass")
    assert forked(sys.executable, "-c", "pass", NLP_SSL_CACHE=str(tmp_path))
    # as torch's compiler and scikit-learn leave them in the process that imports them
    assert forked(sys.executable, "-c", "pass", TORCHINDUCTOR_CACHE_DIR=str(tmp_path), KMP_INIT_AT_FORK="FALSE")
    assert not forked(sys.executable, "-c", "pass", HF_HOME=str(tmp_path))  # the Hub's library reads it when imported
    assert not forked(str(BIN / "accelerate"), "--help")


def test_programs_whose_libraries_read_the_same_have_a_server_from_the_third_on(tmp_path: Path) -> None:
    given = environment() | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    code = "from huggingface_hub import constants; print(constants.HF_HOME, constants.ENDPOINT)"
    found = []
    for _ in range(forks.WORTH_A_SERVER + 1):
        with forks.Fork([sys.executable, "-c", code], env=given, stdout=subprocess.PIPE, text=True) as process:
            found.append((process.forked is not None, process.communicate(timeout=60)[0]))
    assert [there for there, _ in found] == [False] * (forks.WORTH_A_SERVER - 1) + [True] * 2
    assert {printed for _, printed in found} == {f"{tmp_path} http://127.0.0.1:9\n"}


def test_nothing_of_the_package_is_imported_beforehand_and_no_thread_runs() -> None:
    program = "import os, sys; print('nlp_ssl' in sys.modules, 'torch' in sys.modules, os.listdir('/proc/self/task'))"
    done = forks.run([sys.executable, "-c", program], env=environment(), timeout=60)
    assert done.stdout.startswith("False True ['")
    assert done.stdout.count("'") == 2, done.stdout


def test_it_outlives_nobody() -> None:
    program = "import forks, os; forks.run([forks.sys.executable, '-c', 'pass'], env=forks.ENVIRONMENT, timeout=60); "
    program += "print(forks._started[0].pid)"
    paths = os.pathsep.join([str(Path(forks.__file__).parent), os.environ.get("PYTHONPATH", "")])
    variables = {name: value for name, value in environment().items() if name != forks.ADDRESS}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=variables | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
