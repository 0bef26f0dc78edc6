"""Starts Python programs as forks of a process that has imported the large libraries already.

Torch, transformers and datasets take seconds to import; what a test's tiny run does with them takes one. A fork has
them from the start, and is otherwise a process of its own: its arguments, environment, folder, files, signals, exit
code and end are those that the program would have had. It differs in two things: variables that a library reads when it
is imported are the server's, so a program that is given others is started afresh, and from the third of the same on has
a server of its own; and so is Python's hash seed. The programs that a fork starts are forked too.

Run as a program, this file is the server: it ends when its standard input does.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

LIBRARIES = ["accelerate", "datasets", "docstring_parser", "evaluate", "huggingface_hub", "jinja2", "jsonargparse"]
LIBRARIES += ["matplotlib", "psutil", "pyarrow.parquet", "tokenizers", "torch", "torch.distributed.run", "transformers"]
LIBRARIES += ["transformers.modeling_utils", "transformers.models.auto.modeling_auto", "transformers.pipelines"]
LIBRARIES += ["transformers.models.bert.modeling_bert", "transformers.models.modernbert.modeling_modernbert"]
LIBRARIES += ["transformers.models.llama.modeling_llama", "transformers.trainer"]
# what a run's end needs, and attention: half a second of imports
LIBRARIES += ["attrs", "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"]
LIBRARIES += ["multiprocessing.queues", "PIL.features", "concurrent.futures.process", "torch.nn.attention.varlen"]
LIBRARIES += ["torch.profiler._cupti_monitor", "torch.utils.serialization"]
LIBRARIES += ["transformers.pipelines.fill_mask", "transformers.pipelines.text_generation"]
LIBRARIES += ["transformers.pipelines.text_classification", "transformers.pipelines.token_classification"]
READ_AT_IMPORT = ("DATASETS_", "HF_", "HUGGING", "LD_", "MPL", "OMP_", "PYTHON", "TORCH_LOGS")
READ_AT_IMPORT += ("TRANSFORMERS_", "XDG_")
ADDRESS = "NLP_SSL_TEST_FORKS"  # where the server listens
WORTH_A_SERVER = 3  # programs of one environment: a server takes as long to start as a program or two
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # of the server


class Fork(subprocess.Popen):
    """A `Popen` whose process is forked from the server's, where the program is Python's and its environment allows it.

    Args:
        arguments: a command line; `[sys.executable, script, ...]`, with `-m` or `-c` too, and torchrun's are forked.
        env: the whole environment; this process's if it is not given.
        kwargs: of `Popen`; with others than `KNOWN` nothing is forked.
    """

    KNOWN = frozenset({"cwd", "encoding", "errors", "start_new_session", "stderr", "stdout", "text"})

    def __init__(self, arguments: Any, *, env: dict[str, str] | None = None, **kwargs: Any) -> None:
        self._connection: socket.socket | None = None
        env = dict(os.environ) if env is None else env
        program = _program(arguments) if kwargs.keys() <= self.KNOWN else None
        self._address = _server_of(env) if program is not None else None
        self.forked = program if self._address is not None else None
        super().__init__(arguments, env=env, **kwargs)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more) -> None:
        if self.forked is None:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more)
            return
        _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest = more
        *_, start_new_session, _ = rest
        request = {
            "argv": self.forked,
            "cwd": os.fspath(cwd or os.getcwd()),
            "env": env,
            "session": start_new_session,
        }
        out = 1 if c2pwrite == -1 else c2pwrite
        err = 2 if errwrite == -1 else errwrite
        body = json.dumps(request).encode()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(self._address)
        socket.send_fds(self._connection, [len(body).to_bytes(4)], [out, err])
        self._connection.sendall(body)
        self.pid = int.from_bytes(_exactly(self._connection, 4))
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._connection is None:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._connection], [], [], 0)[0]:
            return 0, 0
        with self._connection as connection:
            return self.pid, int.from_bytes(_exactly(connection, 4))

    def _internal_poll(self, _deadstate=None, *more) -> int | None:
        if self._connection is None:
            return super()._internal_poll(_deadstate, *more)
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)
        return self.returncode


def run(arguments: Sequence[str], *, timeout: float, env: dict[str, str], **kwargs: Any) -> subprocess.CompletedProcess:
    """`subprocess.run` of a command line, its output captured as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Fork(arguments, env=env, **pipes | kwargs) as process:
        try:
            printed, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, printed, errors)


def _program(arguments: Any) -> list[str] | None:
    """What follows `python` on a command line that can be forked."""
    if isinstance(arguments, str | bytes | os.PathLike):
        return None
    first, *rest = map(str, arguments)
    if os.path.basename(first) == "torchrun":
        return ["-m", "torch.distributed.run", *rest]
    if first != sys.executable:
        return None
    if rest and rest[0] == "-u":
        del rest[0]
    return rest if rest and (rest[0] in ("-m", "-c") or not rest[0].startswith("-")) else None


def _read_at_import(env: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """What libraries read from an environment when they are imported."""
    return frozenset((k, v) for k, v in env.items() if k.startswith(READ_AT_IMPORT) and k != "PYTHONPATH")


def _server_of(env: dict[str, str]) -> str | None:
    """Where the server listens whose libraries have read what they would read from an environment; `None`: nowhere."""
    path = env.get("PYTHONPATH", "").split(os.pathsep)
    if any(os.path.exists(os.path.join(folder, "sitecustomize.py")) for folder in path):
        return None
    read = _read_at_import(env)
    if read == _read_at_import(ENVIRONMENT):
        return _server(read)
    _asked[read] += 1
    return _server(read) if _asked[read] >= WORTH_A_SERVER and ADDRESS not in os.environ else None


@cache
def _server(read: frozenset[tuple[str, str]]) -> str:
    """Where a server listens; it is started when its first fork is asked for."""
    if ADDRESS in os.environ:  # a launcher that was itself forked
        return os.environ[ADDRESS]
    others = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(READ_AT_IMPORT) or k == "PYTHONPATH"}
    address = os.path.join(tempfile.mkdtemp(prefix="nlp_ssl-forks-"), "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        command = [sys.executable, __file__, address, str(listener.fileno())]
        env = others | dict(read)
        server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    _started.append(server)
    return address


_asked: Counter[frozenset[tuple[str, str]]] = Counter()  # programs whose libraries read something else
_started: list[subprocess.Popen] = []  # kept, and with it the pipe that the server lives by


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the process that forks test programs is gone")
        data += more
    return data


# ---------------------------------------------------------------------------------------------------------------------
# the server


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Fork at every request; returns the request, in the fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for the forks
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
            return _fork(connection)
        connection.close()


def _fork(connection: socket.socket) -> dict[str, Any]:
    """Fork once more, and tell the one who asked the process and how it ended; returns in the fork."""
    head, files, _, _ = socket.recv_fds(connection, 4, 2)
    request = json.loads(_exactly(connection, int.from_bytes(head)))
    process = os.fork()
    if process == 0:
        connection.close()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for target, file in enumerate(files, start=1):
            os.dup2(file, target)
        for file in files:
            os.close(file)
        if request["session"]:
            os.setsid()
        return request
    for file in (0, 1, 2, *files):
        os.close(file)
    connection.sendall(process.to_bytes(4))
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(OSError):  # nobody waits any more
        connection.sendall(status.to_bytes(4))
    os._exit(0)


def _become(request: dict[str, Any], address: str, base_path: list[str]) -> None:
    """Run the program, as `python` would."""
    os.environ.clear()
    os.environ.update(request["env"] | {ADDRESS: address})
    subprocess.Popen = Fork
    os.chdir(request["cwd"])
    paths = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    first, *rest = request["argv"]
    sys.orig_argv = [sys.executable, *request["argv"]]
    sys.path[:] = [os.getcwd(), *filter(None, paths), *base_path]
    if first == "-m":
        sys.argv = rest
        if rest[0] == "torch.distributed.run":
            _fork_workers()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        code = compile(rest[0], "<string>", "exec")
    else:
        sys.argv = [first, *rest]
        sys.path[0] = os.path.dirname(os.path.abspath(first))
        module.__file__ = first
        with open(first, "rb") as source:
            code = compile(source.read(), first, "exec")
    exec(code, module.__dict__)


def _fork_workers() -> None:
    """Have torchrun start its workers here too."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = lambda args, **kwargs: Fork(args, **kwargs)


def _remember() -> None:
    """Fill the libraries' own memories: fonts of a picture, languages, names of transformers' weights."""
    from matplotlib.figure import Figure
    from py3langid import classify
    from transformers import conversion_mapping

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], label="a name")
    axes.legend()
    figure.savefig(io.BytesIO())
    classify("a text")
    conversion_mapping.get_checkpoint_conversion_mapping("bert")


def main(address: str, listener: str) -> None:
    """Import, then fork."""
    base_path = [path for path in sys.path[1:] if path not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    for name in LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):  # not every version has all of them
            importlib.import_module(name)
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.path.join(os.path.dirname(address), "bytecode")
    _remember()
    gc.freeze()  # what lives as long as the server is not looked at again in every fork
    _become(_serve(socket.socket(fileno=int(listener))), address, base_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
