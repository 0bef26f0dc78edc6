"""Pushing model folders to the Hub while training goes on; what fails is retried, reported, and never stops a run.

Works with whatever the Hub asks of a file (a regular commit, LFS, or xet), since `huggingface_hub` decides that file by
file. Only rank 0 makes a publisher.
"""

import queue
import re
import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    validate_repo_id,
)

from nlp_ssl.console import UserError, interrupts, progress, say, warn

# A run's folder holds more than its model: checkpoints, trackers' files, a log that may quote the corpus. So files at
# the top are pushed but for these, and of the subfolders only what transformers and sentence-transformers write.
KEPT_AT_HOME = re.compile(r"MANIFEST\.json|run_status\.json|log\.jsonl|\..*|.*(\.tmp|\.part|\.incomplete|\.lock|~)")
PUSHED_SUBFOLDERS = re.compile(r"additional_chat_templates|\d+_[A-Za-z]+")
# What an earlier push may have left and `from_pretrained` would prefer to, or mix with, the new files.
MODEL_FILES = re.compile(
    r"[^/]*\.(safetensors|safetensors\.index\.json|bin|bin\.index\.json)"
    r"|(tokenizer|vocab|merges|special_tokens_map|added_tokens|spiece|sentencepiece)[^/]*\.(json|txt|model)"
    r"|adapter_config\.json|generation_config\.json|chat_template\.\w+|additional_chat_templates/.*"
)

EXPECTED = (HTTPError, OSError, RuntimeError, ValueError)  # what huggingface_hub and hf_xet raise when a push fails
ANSWER_WITHIN = 20.0  # seconds; before training, a person waits
SILENCE_LIMIT = 300.0  # seconds without a byte; the client's own default is to wait for ever


@dataclass(eq=False)
class _Push:
    folder: Path
    revision: str
    message: str
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class HubPublisher:
    """Pushes model folders to one model repository of the Hub, one after the other, in a background thread.

    Nothing is created, contacted or started until `check`, `push` or `upload` is called.

    Args:
        repo_id: `user/name`.
        private: make the repository private when it is created.
        endpoint: address of the Hub; `$HF_ENDPOINT` or huggingface.co when `None`.
        token: access token; the one of `$HF_TOKEN` or `hf auth login` when `None`.
        waits: seconds to wait before the second, third, ... try of a push.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool = False,
        endpoint: str | None = None,
        token: str | None = None,
        waits: Sequence[float] = (5.0, 30.0, 120.0),
    ):
        self.repo_id, self.private, self.waits = repo_id, private, tuple(waits)
        self._api = HfApi(endpoint=endpoint, token=token)
        self._opened = False
        self._pushes: list[_Push] = []  # waiting, running or failed
        self._queue: queue.Queue[_Push] = queue.Queue()
        self._worker: threading.Thread | None = None
        self._quiet = True  # whether the client's own progress bars were off before we turned them off

    def check(self) -> None:
        """Make sure, before training, that this repository can be pushed to; creates it if it is not there.

        Raises:
            UserError: the id is malformed, there is no token, the token may not write there, the repository is public
                and should be private, or the Hub cannot be reached.
        """
        get_session().timeout = ANSWER_WITHIN
        try:
            self._open()
        except EXPECTED as error:
            later = f"python recipes/push_to_hub.py --folder FOLDER --repo_id {shlex.quote(self.repo_id)}"
            advice = "" if _is_final(error) else f"; train without --hub.repo_id and push later with `{later}`"
            raise UserError(self._explain(error) + advice) from error

    def push(self, folder: Path, *, revision: str = "main", message: str) -> None:
        """Queue a model folder for pushing, and return at once. See `holds` before deleting the folder.

        Args:
            folder: a Hub model folder; training state, manifests, logs and temporary files in it are not pushed.
            revision: branch to commit to; made from `main` if it is not there.
            message: the commit's message.
        """
        push = _Push(Path(folder).absolute(), revision, message)
        self._pushes = [old for old in self._pushes if old.error or not old.done.is_set()] + [push]
        self._queue.put(push)
        if self._worker is None:
            self._quiet = are_progress_bars_disabled()
            disable_progress_bars()  # the client's own bars would fight with the training bar
            # A daemon: a push that hangs must not keep a finished run from exiting.
            self._worker = threading.Thread(target=self._work, name="hub-publisher", daemon=True)
            self._worker.start()

    def holds(self, folder: Path) -> bool:
        """Whether a push of this folder is waiting or running, so that the folder must stay as it is."""
        return any(push.folder == Path(folder).absolute() and not push.done.is_set() for push in self._pushes)

    def finish(self, timeout: float = 600.0) -> list[str]:
        """Wait for the pushes that are under way, but not once the run was asked to stop.

        Args:
            timeout: seconds to wait at most; what is not pushed by then counts as failed.

        Returns:
            For every failed push whose folder still exists, the command that pushes it by hand (also printed).
        """
        deadline = time.monotonic() + timeout
        if waiting := [push for push in self._pushes if not push.done.is_set()]:
            if not self._quiet:
                enable_progress_bars()
            try:
                with progress(total=len(waiting), desc=f"push to {self.repo_id}", unit="push") as bar:
                    for push in waiting:
                        while not push.done.wait(min(0.5, max(0.0, deadline - time.monotonic()))):
                            bar.refresh()
                            if time.monotonic() >= deadline or interrupts.reason is not None:
                                break
                        bar.update(push.done.is_set())
            except KeyboardInterrupt:
                pass
        commands = []
        for push in self._pushes:
            if not push.done.is_set():
                push.error = "it was still under way when the run ended"
                push.done.set()
            if push.error and push.folder.is_dir():
                commands.append(self._command(push))
                warn(f"{push.revision} is not on the Hub ({push.error}); push it with\n  {commands[-1]}")
            elif push.error:
                warn(f"{push.revision} is not on the Hub ({push.error}), and its folder {push.folder} has been removed")
        self._pushes = []
        return commands

    def upload(
        self,
        folder: Path,
        *,
        revision: str = "main",
        message: str = "Push the model",
        stop: threading.Event | None = None,
    ) -> str:
        """Push a model folder now, in this thread, as one commit, trying again after `waits`.

        Args:
            folder: as for `push`.
            revision: as for `push`.
            message: as for `push`.
            stop: when set by another thread, no further try is made.

        Returns:
            The address of what was pushed.

        Raises:
            UserError: the folder holds no model, the Hub refuses, or the last try failed.
        """
        stop = stop or threading.Event()
        for wait in (*self.waits, None):
            get_session().timeout = SILENCE_LIMIT
            try:
                self._open()
                return self._commit(Path(folder), revision, message)
            except EXPECTED as error:
                if wait is None or _is_final(error) or stop.wait(wait):
                    raise UserError(self._explain(error)) from error
        raise AssertionError("the last try returns or raises")

    def _work(self) -> None:
        while True:
            push = self._queue.get()
            if push.done.is_set():  # given up by `finish`
                continue
            failure = ""
            try:
                url = self.upload(push.folder, revision=push.revision, message=push.message, stop=push.done)
            except UserError as error:
                failure = str(error)
            except Exception as error:  # a bug in here may cost a push, never the worker or the run
                failure = f"{type(error).__name__}: {error}"
            if push.done.is_set():
                continue
            if failure:
                warn(f"could not push {push.revision} to {self.repo_id}: {failure}; the run goes on")
            else:
                say(f"pushed {push.folder.name} to {url}")
            push.error = failure
            push.done.set()

    def _open(self) -> None:
        """Create the repository if needed and make sure that it can be written to, once."""
        if self._opened:
            return
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError:
            valid = False
        else:
            valid = self.repo_id.count("/") == 1
        if not valid:
            raise UserError(f"'{self.repo_id}' is not a repository of the Hub; write it as user/name")
        self._api.token = self._api.token or get_token()
        if not self._api.token:
            raise UserError(f"pushing to {self.repo_id} needs a token of the Hub: run `hf auth login`, or set HF_TOKEN")
        try:
            # `None` leaves the choice to the Hub, where an organisation may make its new repositories private.
            self._api.create_repo(self.repo_id, private=self.private or None)
        except HfHubHTTPError as refusal:
            status = refusal.response.status_code
            if status not in (401, 402, 403, 409):
                raise
            # 409: it is there. The others: it may be, and a token of narrow scope may still write to it. Being allowed
            # to read it, which contents `create_repo(exist_ok=True)`, is not enough.
            try:
                self._api.auth_check(self.repo_id, write=True)
            except HfHubHTTPError as error:
                raise (error if status == 409 else refusal) from None
        if self.private and not self._api.model_info(self.repo_id).private:
            raise UserError(
                f"{self.repo_id} is already there and public, so it would not be private; change that in its settings "
                "on the Hub, or choose another name"
            )
        self._opened = True

    def _commit(self, folder: Path, revision: str, message: str) -> str:
        files = model_files(folder)
        if revision != "main":
            self._api.create_branch(self.repo_id, branch=revision, exist_ok=True)
        there = self._api.list_repo_files(self.repo_id, revision=revision)
        stale = [name for name in there if name not in files and MODEL_FILES.fullmatch(name)]
        self._api.create_commit(
            self.repo_id,
            [CommitOperationAdd(name, path) for name, path in files.items()]
            + [CommitOperationDelete(name, is_folder=False) for name in stale],
            commit_message=message,
            revision=revision,
        )
        url = f"{self._api.endpoint or ENDPOINT}/{self.repo_id}"
        return url if revision == "main" else f"{url}/tree/{revision}"

    def _command(self, push: _Push) -> str:
        arguments = ["--folder", str(push.folder), "--repo_id", self.repo_id, "--revision", push.revision]
        return shlex.join(["python", "recipes/push_to_hub.py", *arguments, *(["--private"] if self.private else [])])

    def _explain(self, error: BaseException) -> str:
        """One sentence on why the Hub did not take it."""
        response_error = _response_error(error)
        if response_error is None:
            if isinstance(error, OfflineModeIsEnabled):
                return "the Hub cannot be reached while HF_HUB_OFFLINE is set"
            if isinstance(error, HTTPError):
                return f"the Hub at {self._api.endpoint or ENDPOINT} cannot be reached ({type(error).__name__})"
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        status, said = response_error.response.status_code, response_error.server_message
        said = f" ({' '.join(said.split())})" if said else ""
        if status == 401:
            return (
                f"the Hub does not accept the token for {self.repo_id}{said}; make one with write access at "
                "https://huggingface.co/settings/tokens and run `hf auth login`"
            )
        if status == 403:
            return f"the token may not write to {self.repo_id}{said}; check the name, or take a token with write access"
        if status == 404:
            return f"the token cannot see {self.repo_id}{said}; check the name, or take a token with write access"
        return f"the Hub answered {status} for {self.repo_id}{said}"


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model folder that belong on the Hub: name in the repository -> path, sorted by name.

    Raises:
        UserError: there is no such folder, or it holds no configuration or no weights.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a finished run or one of its checkpoints")
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and PUSHED_SUBFOLDERS.fullmatch(path.name):
            files |= {f"{path.name}/{file.name}": file for file in sorted(path.iterdir()) if file.is_file()}
        elif path.is_file() and not KEPT_AT_HOME.fullmatch(path.name):
            files[path.name] = path
    has_weights = any(name.endswith(".safetensors") or re.fullmatch(r"pytorch_model.*\.bin", name) for name in files)
    if "config.json" not in files or not has_weights:
        missing = "weights" if "config.json" in files else "config.json"
        checkpoints = sorted(path for path in folder.glob("checkpoints/step-*") if (path / "config.json").is_file())
        advice = f"push its newest checkpoint, {checkpoints[-1]}" if checkpoints else "give a finished run's folder"
        raise UserError(f"{folder} holds no finished model (no {missing}); {advice}")
    return files


def _response_error(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's answer behind an error, if there is one (uploads wrap it in a `RuntimeError`)."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _is_final(error: BaseException) -> bool:
    """Whether another try would fail in the same way: the Hub has refused, rather than stumbled."""
    response_error = _response_error(error)
    if response_error is None:
        return False
    status = response_error.response.status_code
    return 400 <= status < 500 and status not in (408, 409, 412, 425, 429)
