"""A stand-in for the Hub on the loopback: enough of its HTTP API for `huggingface_hub` and `from_pretrained`.

Repositories with branches and commits live in memory. Files travel as the real Hub has them travel, "regular" (inside
the commit) or "lfs" (uploaded first, checked against their sha256). The third way, xet, is another protocol spoken by a
compiled client to servers of its own: it cannot be tried offline, so clients of "lfs" set `HF_HUB_DISABLE_XET=1`.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

USER = "tester"
TOKEN = "hf_test"
MODEL = r"/api/(?:models/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+)"  # a Space is kept under `spaces/user/name`


@dataclass
class Repo:
    """Commits by id, each a dictionary of files, and the branches that point at them."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)  # (branch, message), oldest first
    parents: dict[str, str | None] = field(default_factory=dict)
    told: dict[str, tuple[str, str]] = field(default_factory=dict)  # commit -> (title, description)

    def commit(self, branch: str, files: dict[str, bytes], message: str, description: str = "") -> str:
        oid = hashlib.sha1(f"{branch} {message} {len(self.commits)}".encode()).hexdigest()
        self.parents[oid], self.told[oid] = self.branches.get(branch), (message, description)
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append((branch, message))
        return oid

    def history(self, oid: str | None) -> list[str]:
        """A commit and those before it, newest first."""
        found = []
        while oid is not None:
            found.append(oid)
            oid = self.parents[oid]
        return found

    def resolve(self, revision: str) -> str | None:
        """A branch or commit id as a commit id."""
        return revision if revision in self.commits else self.branches.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[revision]]


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" matches `pattern`, the next `times` times."""

    pattern: str
    status: int | None
    reset: bool
    delay: float
    times: int
    message: str
    content: bytes | dict | list | None = None


class HubServer(ThreadingHTTPServer):
    """Listens on a free port from the moment it is made; use it as a context manager.

    Args:
        lfs_repos: repositories whose `.safetensors` files go up as "lfs"; all other files are "regular".
    """

    daemon_threads = True
    port = 0  # of this process's servers, one after the other: programs that talk to them can be forked
    home = Path(tempfile.gettempdir(), f"nlp_ssl-hub-home-{os.getpid()}")  # of the Hub's client in these programs

    def __init__(self, lfs_repos: tuple[str, ...] = ()):
        super().__init__(("127.0.0.1", HubServer.port), Handler)
        HubServer.port = self.server_port
        self.connections: list[socket.socket] = []
        shutil.rmtree(self.home, ignore_errors=True)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lfs_repos = lfs_repos
        self.repos: dict[str, Repo] = {}
        self.large_files: dict[str, bytes] = {}  # sha256 -> content
        self.requests: list[str] = []  # "METHOD /path"
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def variables(self) -> dict[str, str]:
        """What a program is given that talks to it, on a machine that never did."""
        hub = {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": str(self.home)}
        return hub | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def get_request(self):
        """A connection, which a client may keep: the next server has the same port."""
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def __exit__(self, *_):
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(self.home, ignore_errors=True)
        self.shutdown()
        self.server_close()

    def fail(
        self,
        pattern: str = "",
        *,
        status: int | None = None,
        reset: bool = False,
        delay: float = 0,
        times: int = 10**9,
        message: str = "a fault that the test asked for",
        content: bytes | dict | list | None = None,
    ) -> None:
        """Let matching requests fail with a status, have their connection reset, be answered late or with a content."""
        self.faults.append(Fault(pattern, status, reset, delay, times, message, content))

    def handle_error(self, request, client_address):
        """Stay silent: clients that were reset or have gone are part of the tests."""

    def next_fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        pass

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        body = self.read_body()
        if fault := self.server.next_fault(f"{self.command} {path}"):
            time.sleep(fault.delay)
            if fault.reset:
                self.close_connection = True
                self.connection.close()
                return
            if fault.content is not None:
                self.answer(fault.content)
                return
            if fault.status:
                self.error(fault.status, fault.message)
                return
        for pattern, handler in ROUTES:
            if match := re.fullmatch(pattern, path):
                handler(self, *match.groups(), **({"body": body} if self.command in ("POST", "PUT") else {}))
                return
        self.error(404, f"the stand-in does not know {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    # -- reading and answering ----------------------------------------------------------------------------------------

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def error(self, status: int, message: str, code: str = "") -> None:
        self.answer({"error": message}, status, **({"X_Error_Code": code} if code else {}))

    def writable(self, repo_id: str) -> Repo | None:
        """The repository if this request may write to it; otherwise answers 401, 403 or 404 and returns `None`."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.error(401, "Invalid username or password.")
        elif repo_id.removeprefix("spaces/").split("/")[0] != USER:
            self.error(403, "You don't have the rights to write to this namespace")
        elif repo_id not in self.server.repos:
            self.error(404, "Repository not found", "RepoNotFound")
        else:
            return self.server.repos[repo_id]
        return None

    def commit_of(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit id and files of a revision; otherwise answers 404 and returns `None`."""
        if (repo := self.server.repos.get(repo_id)) is None:
            self.error(404, "Repository not found", "RepoNotFound")
        elif (oid := repo.resolve(revision)) is None:
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        else:
            return oid, repo.commits[oid]
        return None

    # -- the API ------------------------------------------------------------------------------------------------------

    def create_repo(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or USER
        repo_id = f"{'spaces/' if asked.get('type') == 'space' else ''}{owner}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.error(401, "Invalid username or password.")
        elif owner != USER:
            self.error(403, "You don't have the rights to create a model under this namespace")
        elif asked.get("type") == "space" and asked.get("sdk") != "gradio":
            self.error(400, "a Space needs an sdk")
        elif repo_id in self.server.repos:
            self.answer({"error": "You already created this model repo", "url": f"{self.server.url}/{repo_id}"}, 409)
        else:
            repo = self.server.repos[repo_id] = Repo(
                private=asked.get("visibility") == "private" or bool(asked.get("private"))
            )
            repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            self.answer({"url": f"{self.server.url}/{repo_id}", "name": repo_id})

    def check_write(self, repo_id: str) -> None:
        if self.writable(repo_id):
            self.answer({})

    def create_branch(self, repo_id: str, branch: str, body: bytes) -> None:
        if repo := self.writable(repo_id):
            if branch in repo.branches:
                self.error(409, "Reference already exists")
            else:
                repo.branches[branch] = repo.resolve(json.loads(body or b"{}").get("startingPoint", "main"))
                self.answer({})

    def validate_yaml(self, body: bytes) -> None:
        self.answer({"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str, body: bytes) -> None:
        if self.writable(repo_id) and self.commit_of(repo_id, revision):
            lfs = repo_id in self.server.lfs_repos
            modes = []
            for file in json.loads(body)["files"]:
                mode = "lfs" if lfs and file["path"].endswith(".safetensors") else "regular"
                modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
            self.answer({"files": modes})

    def lfs_batch(self, repo_id: str, body: bytes) -> None:
        if self.writable(repo_id):
            objects = json.loads(body)["objects"]
            for item in objects:
                if item["oid"] not in self.server.large_files:
                    item["actions"] = {"upload": {"href": f"{self.server.url}/lfs-storage/{item['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.error(400, "the content does not match its sha256")
        else:
            self.server.large_files[oid] = body
            self.answer(b"")

    def commit(self, repo_id: str, branch: str, body: bytes) -> None:
        repo = self.writable(repo_id)
        if repo is None or self.commit_of(repo_id, branch) is None:
            return
        files, message, description = dict(repo.files(branch)), "", ""
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                message, description = value["summary"], value.get("description", "")
                if value.get("parentCommit") not in (None, repo.branches[branch]):
                    self.error(412, "A commit has happened since. Please refresh and try again.")
                    return
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(branch, files, message, description)
        self.answer({"commitUrl": f"{self.server.url}/{repo_id}/commit/{oid}", "commitOid": oid, "success": True})

    def commits(self, repo_id: str, revision: str) -> None:
        if found := self.commit_of(repo_id, revision):
            repo = self.server.repos[repo_id]
            day, author = "2026-01-01T00:00:00.000Z", {"user": USER}
            told = [(oid, *repo.told[oid]) for oid in repo.history(found[0])]
            self.answer([{"id": oid, "title": t, "message": d, "authors": [author], "date": day} for oid, t, d in told])

    def model_info(self, repo_id: str, revision: str | None) -> None:
        if found := self.commit_of(repo_id, revision or "main"):
            siblings = [{"rfilename": name} for name in found[1]]
            private = self.server.repos[repo_id].private
            self.answer({"_id": "0", "id": repo_id, "sha": found[0], "private": private, "siblings": siblings})

    def tree(self, repo_id: str, revision: str, folder: str | None) -> None:
        if found := self.commit_of(repo_id, revision):
            prefix = f"{folder}/" if folder else ""
            self.answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in found[1].items()
                    if name.startswith(prefix)
                ]
            )

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        if found := self.commit_of(repo_id, revision):
            oid, files = found
            if name in files:
                etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
                self.answer(files[name], ETag=etag, X_Repo_Commit=oid)
            else:
                self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)


ROUTES = [
    (r"/api/repos/create", Handler.create_repo),
    (r"/api/validate-yaml", Handler.validate_yaml),
    (MODEL + r"/auth-check/write", Handler.check_write),
    (MODEL + r"/branch/(.+)", Handler.create_branch),
    (MODEL + r"/preupload/(.+)", Handler.preupload),
    (MODEL + r"/commit/(.+)", Handler.commit),
    (MODEL + r"/commits/(.+)", Handler.commits),
    (MODEL + r"/tree/([^/]+)(?:/(.+))?", Handler.tree),
    (MODEL + r"(?:/revision/(.+))?", Handler.model_info),
    (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"/lfs-storage/(\w+)", Handler.lfs_upload),
    (r"/(?:api/resolve-cache/models/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
]
