"""A repository of the Hub: may it be written to, and one commit of a model folder, which buries nobody's work.

Works with whatever the Hub asks of a file (a regular commit, LFS, or xet), since `huggingface_hub` decides that file by
file. What of a folder is pushed is decided in `pushed.py`, and nowhere else.
"""

import contextlib
import json
import re
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session, validate_repo_id

from nlp_ssl.core.console import warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.invocation import command_of
from nlp_ssl.publishing.pushed import model_files

# What an earlier push may have left and `from_pretrained` would prefer to, or mix with, the new files.
MODEL_FILES = re.compile(
    r"[^/]*\.(safetensors|safetensors\.index\.json|bin|bin\.index\.json)"
    r"|(tokenizer|vocab|merges|special_tokens_map|added_tokens|spiece|sentencepiece)[^/]*\.(json|txt|model)"
    r"|modules\.json|(config_sentence_transformers|sentence_bert_config)\.json|1_Pooling/config\.json"
    r"|adapter_config\.json|generation_config\.json|chat_template\.\w+|additional_chat_templates/.*"
)
# What earlier versions pushed, though it holds texts of the data.
PRIVATE_FILES = re.compile(r"(predictions|errors|incidents)\.jsonl")
OURS = "Pushed by nlp_ssl."  # the description of our commits
FORMER_TITLES = re.compile(r"Trained for [\d,]+ steps|Step \d+|Push .+")  # of those that had none
CREATED_WITH = {".gitattributes", "README.md", "LICENSE"}  # what the Hub puts into a new repository

EXPECTED = (HTTPError, OSError, RuntimeError, ValueError)  # what huggingface_hub and hf_xet raise when a push fails
# what its client stumbles over when the answer is not the Hub's: the log-in page of a network, another server
STUMBLES = (AttributeError, IndexError, KeyError, TypeError, json.JSONDecodeError)
ANSWER_WITHIN = 20.0  # seconds; before training, a person waits
MOST_QUOTED = 300  # characters of an answer
READ_TIMEOUT = 300.0  # seconds without a byte; the client's own default is to wait for ever


class StrangeAnswer(RuntimeError):
    """Whoever answered is not the Hub, or one that this client does not understand; one sentence."""


class HubRepository:
    """One repository of the Hub. Nothing is created or contacted until `check` or `upload` is called.

    Args:
        repo_id: `user/name`.
        repo_type: of a model, or of a Space: a page that Gradio serves.
        private: make the repository private when it is created.
        overwrite: push to a branch that holds somebody else's commits, too.
        endpoint: address of the Hub; `$HF_ENDPOINT` or huggingface.co when `None`.
        token: access token; the one of `$HF_TOKEN` or `hf auth login` when `None`.
        waits: seconds to wait before the second, third, ... try of a push.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        repo_type: Literal["model", "space"] = "model",
        private: bool = False,
        overwrite: bool = False,
        endpoint: str | None = None,
        token: str | None = None,
        waits: Sequence[float] = (5.0, 30.0, 120.0),
    ):
        self.repo_id, self.private, self.overwrite, self.waits = repo_id, private, overwrite, tuple(waits)
        self.repo_type = repo_type
        self._api = HfApi(endpoint=endpoint, token=token)
        self._address = _shown(self._api.endpoint or ENDPOINT)
        self._opened = False

    def check(self) -> None:
        """Make sure, before training, that this repository can be pushed to; creates it if it is not there.

        Raises:
            UserError: the id is malformed, there is no token, the token may not write there, the repository is public
                and should be private, its `main` holds somebody else's commits, or the Hub cannot be reached.
        """
        get_session().timeout = ANSWER_WITHIN
        try:
            self._open()
            with self._understood():
                self._newest_commit("main")
        except UserError:
            raise
        except EXPECTED as error:
            later = f"{command_of('push_to_hub')} --folder FOLDER --repo_id {shlex.quote(self.repo_id)}"
            is_later = self.repo_type == "model" and not _is_final(error)
            advice = f"; train without --hub.repo_id and push later with `{later}`" if is_later else ""
            raise UserError(self._explain(error) + advice) from error

    def upload(
        self,
        folder: Path | Mapping[str, Path | bytes],
        *,
        revision: str = "main",
        message: str = "Push the model",
        stop: threading.Event | None = None,
    ) -> str:
        """Push a model folder now, in this thread, as one commit, trying again after `waits`.

        Args:
            folder: as for `push`; or files by their names there.
            revision: as for `push`.
            message: the commit's message.
            stop: when set by another thread, no further try is made.

        Returns:
            The address of what was pushed.

        Raises:
            UserError: the folder holds no model, the branch holds somebody else's commits, the Hub refuses, or the last
                try failed.
        """
        stop = stop or threading.Event()
        for wait in (*self.waits, None):
            get_session().timeout = READ_TIMEOUT
            try:
                self._open()
                files = folder if isinstance(folder, Mapping) else model_files(Path(folder), self.repo_id)
                return self._commit(files, revision, message)
            except UserError:
                raise
            except EXPECTED as error:
                if wait is None or _is_final(error) or stop.wait(wait):
                    raise UserError(self._explain(error)) from error
        raise AssertionError("the last try returns or raises")

    def command(self, folder: Path, revision: str) -> str:
        """What a person types to push a folder."""
        arguments = ["--folder", str(folder), "--repo_id", self.repo_id, "--revision", revision]
        flags = [f"--{name}" for name in ("private", "overwrite") if getattr(self, name)]
        return f"{command_of('push_to_hub')} {shlex.join([*arguments, *flags])}"

    def _open(self) -> None:
        """Create the repository if needed and make sure that it can be written to, once."""
        if self._opened:
            return
        self._api.token = token_for(self.repo_id, self._api.token)
        try:
            # `None` leaves the choice to the Hub, where an organisation may make its new repositories private.
            with self._understood():
                sdk = "gradio" if self.repo_type == "space" else None
                self._api.create_repo(
                    self.repo_id, repo_type=self.repo_type, space_sdk=sdk, private=self.private or None
                )
        except HfHubHTTPError as refusal:
            status = refusal.response.status_code
            if status not in (401, 402, 403, 409):
                raise
            # 409: it is there. The others: it may be, and a token of narrow scope may still write to it. Being allowed
            # to read it, which contents `create_repo(exist_ok=True)`, is not enough.
            try:
                self._api.auth_check(self.repo_id, repo_type=self.repo_type, write=True)
            except HfHubHTTPError as error:
                raise (error if status == 409 else refusal) from None
        with self._understood():
            is_public = self.private and not self._api.repo_info(self.repo_id, repo_type=self.repo_type).private
        if is_public:
            raise UserError(
                f"{self.repo_id} is already there and public, so it would not be private; change that in its settings "
                "on the Hub, or choose another name"
            )
        self._opened = True

    def _commit(self, files: Mapping[str, Path | bytes], revision: str, message: str) -> str:
        kind = self.repo_type
        with self._understood():
            if revision != "main":
                self._api.create_branch(self.repo_id, branch=revision, repo_type=kind, exist_ok=True)
            newest = self._newest_commit(revision)
            there = self._api.list_repo_files(self.repo_id, revision=revision, repo_type=kind)
        private = [name for name in there if PRIVATE_FILES.fullmatch(name)]
        stale = [name for name in there if name not in files and MODEL_FILES.fullmatch(name) and kind == "model"]
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        deleted = [CommitOperationDelete(name, is_folder=False) for name in (*stale, *private)]
        with self._understood():
            self._api.create_commit(
                self.repo_id,
                [*added, *deleted],
                commit_message=message,
                commit_description=OURS,
                repo_type=kind,
                revision=revision,
                parent_commit=newest,  # nobody's commit gets in between
            )
        if private:
            warn(
                f"{', '.join(private)}, which an earlier version pushed, were removed from {self.repo_id}; its history "
                "still holds them: delete the repository if nobody may read them"
            )
        url = f"{self._address}/{'spaces/' if kind == 'space' else ''}{self.repo_id}"
        return url if revision == "main" else f"{url}/tree/{revision}"

    def _newest_commit(self, revision: str) -> str:
        """The commit that a branch points at.

        Raises:
            UserError: the branch holds commits that are not ours, which a push would bury, and `overwrite` is false.
        """
        commits = self._api.list_repo_commits(self.repo_id, revision=revision, repo_type=self.repo_type)
        others = [c for c in commits if OURS not in c.message and not FORMER_TITLES.fullmatch(c.title)]
        if others[-1:] == commits[-1:] and CREATED_WITH.issuperset(
            self._api.list_repo_files(self.repo_id, revision=commits[-1].commit_id, repo_type=self.repo_type)
        ):
            others = others[:-1]  # what the Hub commits when it makes a repository
        if others and not self.overwrite:
            raise UserError(
                f"{self.repo_id}, branch {revision}, holds commits that were not made here ({others[0].title!r} of "
                f"{others[0].created_at:%Y-%m-%d}), and a push would replace their files; choose another name, or add "
                "--hub.overwrite"
            )
        return commits[0].commit_id

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """Around what the client asks: an answer in which it does not find what it looks for is not the Hub's."""
        try:
            yield
        except STUMBLES as error:
            raise StrangeAnswer(
                f"what answers at {self._address} does not answer as the Hub does ({type(error).__name__}: "
                f"{_quoted(str(error))}); is HF_ENDPOINT right, and does this network ask for a log-in first?"
            ) from error

    def _explain(self, error: BaseException) -> str:
        """One sentence on why the Hub did not take it."""
        if isinstance(error, StrangeAnswer):
            return str(error)
        response_error = _response_error(error)
        if response_error is None:
            if isinstance(error, OfflineModeIsEnabled):
                return "the Hub cannot be reached while HF_HUB_OFFLINE is set"
            if isinstance(error, HTTPError):
                return f"the Hub at {self._address} cannot be reached ({type(error).__name__})"
            return f"{type(error).__name__}: {_quoted(str(error))}"
        status, said = response_error.response.status_code, response_error.server_message
        said = f" ({_quoted(said)})" if said else ""
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


def token_for(repo_id: str, given: str | bool | None = None) -> str | bool:
    """The token to push with: the one that was given, or that of this machine; asks nobody.

    Raises:
        UserError: the id of the repository is malformed, or there is no token.
    """
    if not _is_repo_id(repo_id):
        raise UserError(f"'{repo_id}' is not a repository of the Hub; write it as user/name")
    if not (token := given or get_token()):
        raise UserError(f"pushing to {repo_id} needs a token of the Hub: run `hf auth login`, or set HF_TOKEN")
    return token


def _is_repo_id(name: str) -> bool:
    """Whether a name is one of a repository and its owner."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _shown(address: str) -> str:
    """An address without the name and password that it may hold."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def _quoted(said: str) -> str:
    """What somebody else's program said, in one line of bearable length, without passwords in its addresses."""
    line = " ".join(_shown(said).split())
    return line if len(line) <= MOST_QUOTED else f"{line[:MOST_QUOTED]}..."


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
