"""Pushing, with the real `huggingface_hub` client against a loopback server, and reading back with `from_pretrained`.

What cannot be tried offline is the xet wire (see `hub_server.py`): the two other upload modes are.
"""

import contextlib
import json
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import forks
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from launch import ROOT, environment
from safetensors.torch import load_file, save_file

from nlp_ssl.core import signals
from nlp_ssl.core.errors import UserError
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.publishing.card import Metric, model_card
from nlp_ssl.publishing.hub import HubPublisher
from nlp_ssl.publishing.pushed import model_files

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import TOKEN, HubServer, Repo

RECIPE = ROOT / "recipes" / "push_to_hub.py"


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """A run's folder with everything that a run leaves there, around the smallest thing that counts as a model."""
    folder = tmp_path / "run"
    for name in (
        "training_state/optimizer.pt",
        "checkpoints/step-00000010/config.json",
        "additional_chat_templates/a.jinja",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in (
        "README.md",
        "curves.png",
        "nlp_ssl_config.yaml",
        "MANIFEST.json",
        "run_status.json",
        "log.jsonl",
        "w.tmp",
        ".env",
    ):
        (folder / name).write_text("x")
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.arange(3.0)}, folder / "model.safetensors")
    return folder


PUSHED = {
    "README.md",
    "additional_chat_templates/a.jinja",
    "config.json",
    "curves.png",
    "model.safetensors",
    "nlp_ssl_config.yaml",
}


def publisher(server, repo_id="tester/model", **options) -> HubPublisher:
    return HubPublisher(repo_id, **{"endpoint": server.url, "token": TOKEN, "waits": (0.01, 0.01), **options})


def execute(server, arguments: list[str], **extra: str) -> subprocess.CompletedProcess:
    """Run a program that talks to the server."""
    return forks.run(arguments, cwd=ROOT, env=environment() | server.variables | extra, timeout=180)


# -- what is pushed ---------------------------------------------------------------------------------------------------


def test_a_push_is_one_commit_of_the_model_and_nothing_else(server, folder):
    hub = publisher(server)
    hub.check()
    hub.push(folder, message="step 10")
    assert hub.finish(30) == []
    repo = server.repos["tester/model"]
    assert set(repo.files()) == PUSHED | {".gitattributes"}
    assert repo.files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert repo.messages == [("main", "initial commit"), ("main", "step 10")]


def test_a_step_becomes_a_branch_and_leaves_main_alone(server, folder):
    hub = publisher(server)
    hub.push(folder, revision="step-10", message="step 10")
    hub.push(folder, revision="step-10", message="step 10 again")  # the branch is there already
    assert hub.finish(30) == []
    repo = server.repos["tester/model"]
    assert set(repo.files("main")) == {".gitattributes"}
    assert set(repo.files("step-10")) == PUSHED | {".gitattributes"}


def test_weights_of_an_earlier_push_do_not_linger(server, folder):
    """`from_pretrained` prefers model.safetensors to shards: left there, the old weights would be what people load."""
    hub = publisher(server)
    hub.upload(folder)
    server.repos["tester/model"].files()["NOTES.md"] = b"by hand"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    hub.upload(folder)
    files = server.repos["tester/model"].files()
    assert [name for name in files if "model" in name] == [
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
    ]
    assert files["NOTES.md"] == b"by hand"


def test_a_private_repository_is_private_or_refused(server, folder):
    publisher(server, "tester/secret", private=True).check()
    assert server.repos["tester/secret"].private
    publisher(server, "tester/open").check()
    assert not server.repos["tester/open"].private
    with pytest.raises(UserError, match="already there and public"):
        publisher(server, "tester/open", private=True).check()


@pytest.mark.parametrize(
    ("remove", "message"), [("config.json", "no config.json"), ("model.safetensors", "no weights")]
)
def test_a_folder_without_a_model_is_refused_with_the_checkpoint_to_push(folder, remove, message):
    (folder / remove).unlink()
    with pytest.raises(UserError, match=rf"{message}\); push its newest checkpoint, .*step-00000010"):
        model_files(folder)


# what lies in folders of runs: of ours, of other tools, of people
PRIVATE = [
    "predictions.jsonl",
    "errors.jsonl",
    "incidents.jsonl",
    "log.jsonl",
    "results.json",
    "run_status.json",
    "MANIFEST.json",
    "train.csv",
    "nohup.out",
    "id_rsa",
    "core.1234",
    "notes.txt",
    ".env",
    ".lock",
    ".netrc",
    "slurm-77.out",
    "wandb.json",
    "optimizer.pt",
    "training_args.bin",
    "events.out.x",
    "pytorch_model.bin",
    "model.py",
    "modeling_evil.py",
    "data.parquet",
    "corpus.txt",
    "README.md.bak",
    "config.json~",
    "model.safetensors.tmp",
    "checkpoints/step-00000010/training_state/rank-0.pt",
    "wandb/x.json",
    "tensorboard/events",
    "training_state/run.json",
    ".git/config",
    "1_Pooling/notes.txt",
    "2_Dense/config.json",
    "additional_chat_templates/notes.txt",
    "additional_chat_templates/config.json",
    "curves.png.bak",
    "model-extra.safetensors",
    "other.safetensors",
    "vocab.csv",
    ".config.json.0123abcd.tmp",
    "passwords.json",
    "tokenizer.json.orig",
]


@pytest.fixture
def full(folder):
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
    return folder


def test_only_files_of_the_list_are_pushed_whatever_lies_beside_them(server, full):
    assert set(model_files(full)) == PUSHED
    hub = publisher(server)
    hub.upload(full)
    hub.push(full, revision="step-10", message="Step 10")
    assert hub.finish(30) == []
    for branch in ("main", "step-10"):
        files = server.repos["tester/model"].files(branch)
        assert set(files) == PUSHED | {".gitattributes"}
        assert not any(b"secret" in content for content in files.values())


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt", "spiece.model",
    "chat_template.jinja",
    "generation_config.json", "confusion.png", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json"])  # fmt: skip
def test_what_makes_a_model_is_pushed(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    assert name in model_files(folder)


def test_settings_and_card_go_without_paths_and_configurations_without_code(server, folder):
    paths = {
        "output_dir": "/home/ann/runs/x",
        "data": {"sources": ["~/acme/a.txt", "../my acme/b.txt"], "weights": None},
    }
    (folder / "nlp_ssl_config.yaml").write_text(yaml.safe_dump(paths | {"model": {"name": "user/name"}}))
    (folder / "README.md").write_text("# x\nCorpus: ~/acme/a.txt, ../my acme/b.txt: 3 documents\n")
    strange = {"model_type": "bert", "_name_or_path": "/home/ann/bert", "auto_map": {"AutoModel": "evil/repo--m.M"}}
    strange |= {"text_config": {"auto_map": {"AutoConfig": "m.C"}, "custom_pipelines": {"x": {}}, "hidden_size": 3}}
    (folder / "config.json").write_text(json.dumps(strange))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": ["m.T", None], "name_or_path": "~/b"}))
    publisher(server).upload(folder)
    files = server.repos["tester/model"].files()
    assert yaml.safe_load(files["nlp_ssl_config.yaml"]) == {
        "output_dir": "x",
        "data": {"sources": ["a.txt", "b.txt"], "weights": None},
        "model": {"name": "user/name"},
    }
    assert files["README.md"] == b"# x\nCorpus: a.txt, b.txt: 3 documents\n"
    assert json.loads(files["config.json"]) == {
        "model_type": "bert", "_name_or_path": "bert", "text_config": {"hidden_size": 3}
    }  # fmt: skip
    assert json.loads(files["tokenizer_config.json"]) == {"name_or_path": "b"}
    assert "/home/ann/runs/x" in (folder / "nlp_ssl_config.yaml").read_text()  # here they are needed to go on


@pytest.mark.parametrize("out", ["runs/authors/seed-0", "/home/ann/runs/seed-0", "seed-0"])
def test_the_pushed_card_calls_the_model_by_the_repository_it_is_in(server, folder, tmp_path, out):
    (folder / "nlp_ssl_config.yaml").write_text(yaml.safe_dump({"output_dir": out, "hub": {"repo_id": None}}))
    metrics = [Metric("accuracy", 0.5, "authors")]
    text = model_card("seed-0", text=Classification.card, model=out, facts={}, metrics=metrics)
    (folder / "README.md").write_text(text)
    done = recipe(server, "--folder", str(folder), "--repo_id", "tester/german-authors")
    assert done.returncode == 0, done.stderr
    pushed = server.repos["tester/german-authors"].files()["README.md"].decode()
    assert "seed-0" not in pushed
    assert "pipeline(\"text-classification\", model='tester/german-authors')" in pushed
    assert ModelCard(pushed).data.model_name == "tester/german-authors"
    assert (folder / "README.md").read_text() == text


def test_a_link_to_a_file_elsewhere_is_not_followed(folder):
    (folder.parent / "id_rsa").write_text("secret")
    (folder / "vocab.txt").symlink_to(folder.parent / "id_rsa")
    with pytest.raises(UserError, match=r"vocab\.txt is a link to a file outside of its folder"):
        model_files(folder)


@pytest.mark.parametrize("name", ["config.json", "nlp_ssl_config.yaml", "README.md"])
def test_what_cannot_be_read_is_not_pushed_unread(folder, name):
    (folder / name).write_bytes(b"\xff\xfe{[")
    with pytest.raises(UserError, match=rf"{name} cannot be read, and is not pushed unread"):
        model_files(folder)


def test_private_files_that_an_earlier_version_pushed_are_removed(server, folder, capsys):
    hub = publisher(server)
    hub.upload(folder)
    server.repos["tester/model"].files()["predictions.jsonl"] = b"secret"
    hub.upload(folder)
    assert "predictions.jsonl" not in server.repos["tester/model"].files()
    assert "its history still holds them" in capsys.readouterr().err


# -- somebody else's repository ---------------------------------------------------------------------------------------


def others(server, files, message="Production model", branch="main"):
    repo = server.repos["tester/model"]
    repo.commit(branch, {**repo.files(), **files}, message)
    return repo


def test_a_repository_with_somebody_elses_commits_is_refused_without_overwrite(server, folder, capsys):
    publisher(server).check()
    repo = others(server, {"pytorch_model.bin": b"theirs", "vocab.txt": b"theirs"})
    before = dict(repo.files())
    sentence = r"tester/model, branch main, holds commits .*'Production model' of 2026-01-01.*--hub\.overwrite"
    with pytest.raises(UserError, match=sentence):
        publisher(server).check()
    with pytest.raises(UserError, match=sentence):
        publisher(server).upload(folder)
    hub = publisher(server)
    hub.push(folder, message="Trained for 3 steps")
    assert len(hub.finish(30)) == 1
    assert repo.files() == before
    hub = publisher(server, overwrite=True)
    hub.check()
    hub.upload(folder)
    assert set(repo.files()) >= PUSHED


def test_a_commit_of_somebody_else_behind_ours_is_noticed_at_the_next_push(server, folder):
    hub = publisher(server)
    hub.upload(folder)
    hub.upload(folder, message="again")  # our own commits are no reason
    others(server, {"README.md": b"a card written by hand"}, "Update README.md")
    with pytest.raises(UserError, match=r"'Update README\.md'"):
        hub.upload(folder)
    assert server.repos["tester/model"].files()["README.md"] == b"a card written by hand"


def test_commits_of_versions_that_left_no_mark_are_known_by_their_titles(server, folder):
    publisher(server).check()
    others(server, {"config.json": b"{}"}, "Trained for 12,000 steps")
    publisher(server).upload(folder)


@pytest.mark.parametrize(("files", "fine"), [({"README.md": b"", "LICENSE": b""}, True), ({"model.bin": b""}, False)])
def test_what_the_hub_puts_into_a_new_repository_is_nobodys(server, folder, files, fine):
    publisher(server).check()
    repo = server.repos["tester/model"]
    repo.commits[repo.branches["main"]].update(files)  # in its first and only commit
    if fine:
        publisher(server).upload(folder)
    else:
        with pytest.raises(UserError, match="'initial commit'"):
            publisher(server).upload(folder)


def test_a_branch_with_somebody_elses_commits_is_refused_too(server, folder):
    hub = publisher(server)
    hub.upload(folder, revision="step-10")
    others(server, {"x": b""}, "Mine", branch="step-10")
    with pytest.raises(UserError, match="branch step-10, holds commits"):
        hub.upload(folder, revision="step-10")
    hub.upload(folder)


def test_a_commit_that_comes_in_between_is_not_buried(server, folder, monkeypatch):
    hub = publisher(server, waits=())
    hub.upload(folder)
    listed = hub._api.list_repo_files

    def late(*args, **options):
        found = listed(*args, **options)
        others(server, {"late": b""}, "In between")
        return found

    monkeypatch.setattr(hub._api, "list_repo_files", late)
    with pytest.raises(UserError, match="412"):
        hub.upload(folder)
    assert "late" in server.repos["tester/model"].files()


# -- the check before training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo_id", ["model", "a/b/c", "tester/mo del", "tester/a--b", "", "/model"])
def test_check_malformed_repo_id(server, repo_id):
    with pytest.raises(UserError, match="write it as user/name"):
        publisher(server, repo_id).check()
    assert server.requests == []


def test_check_no_token(server, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match="hf auth login"):
        publisher(server, token=None).check()


def test_check_wrong_token(server):
    with pytest.raises(UserError, match=r"does not accept the token.*hf auth login"):
        publisher(server, token="hf_wrong").check()


def test_check_someone_elses_repository_although_it_can_be_read(server, folder):
    publisher(server).upload(folder)
    server.repos["other/model"] = server.repos["tester/model"]
    with pytest.raises(UserError, match="may not write to other/model"):
        publisher(server, "other/model").check()


def test_check_without_network_says_how_to_push_later():
    hub = HubPublisher("tester/model", endpoint="http://127.0.0.1:9", token=TOKEN)  # nobody listens on "discard"
    with pytest.raises(UserError, match=r"cannot be reached.*without --hub.repo_id.*nlp-ssl push-to-hub.*tester/model"):
        hub.check()


def test_check_gives_up_on_a_hub_that_does_not_answer(server, monkeypatch):
    monkeypatch.setattr("nlp_ssl.publishing.repository.ANSWER_WITHIN", 0.3)
    server.fail("repos/create", delay=3)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        publisher(server).check()
    assert time.monotonic() - start < 2


STRANGE = [{}, [], [{}], {"url": 3}, b"<html>Log in to Hotel WiFi</html>", b"null", b"7", b"", b"\xff\xfe"]


@pytest.mark.parametrize("asked", ["", "POST", "model$", "/commits/", "/tree/"])
@pytest.mark.parametrize("content", STRANGE, ids=str)
def test_answers_that_are_not_the_hub_s_end_in_a_sentence(server, folder, content, asked):
    server.repos["tester/model"] = Repo(private=True)
    server.repos["tester/model"].commit("main", {".gitattributes": b""}, "initial commit")
    server.fail(asked, content=content)
    for attempt in (lambda hub: hub.check(), lambda hub: hub.upload(folder)):
        if not asked:  # the log-in page of a hotel
            with pytest.raises(UserError, match=r"does not answer as the Hub does .* is HF_ENDPOINT right"):
                attempt(publisher(server, private=True))
        else:
            with contextlib.suppress(UserError):  # one strange answer may not matter; any other error is a traceback
                attempt(publisher(server, private=True))


def test_an_answer_is_quoted_in_bearable_length_and_without_passwords(server, monkeypatch):
    server.fail("repos/create", status=418, message="\x1b[2J teapot " * 2000)
    with pytest.raises(UserError, match=r"answered 418 for tester/model \(.*teapot .*\.\.\.\)") as refused:
        publisher(server).check()
    assert len(str(refused.value)) < 600
    hub = HubPublisher("tester/model", endpoint="http://me:secret@127.0.0.1:9", token=TOKEN)
    with pytest.raises(UserError, match="cannot be reached") as refused:
        hub.check()
    assert "http://127.0.0.1:9" in str(refused.value)
    assert "secret" not in str(refused.value)


# -- when the Hub fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"reset": True}, {"status": 429}], ids=str)
def test_two_failures_then_it_works(server, folder, fault):
    server.fail("POST .*/commit/main", times=2, **fault)
    hub = publisher(server)
    hub.push(folder, message="step 10")
    assert hub.finish(30) == []
    assert set(server.repos["tester/model"].files()) >= PUSHED
    assert sum("/commit/main" in request for request in server.requests) == 3


@pytest.mark.parametrize("fault", [{"status": 500}, {"reset": True}], ids=str)
def test_a_hub_that_keeps_failing_costs_the_run_a_command_to_type_later(server, folder, fault, capsys):
    server.fail("POST .*/commit/", **fault)
    hub = publisher(server, private=True)
    hub.push(folder, revision="step-10", message="step 10")
    commands = hub.finish(30)
    assert commands == [f"nlp-ssl push-to-hub --folder {folder} --repo_id tester/model --revision step-10 --private"]
    assert commands[0] in capsys.readouterr().err


def test_the_command_that_finish_returns_pushes_it(server, folder, tmp_path):
    server.fail("POST .*/commit/", status=500)
    hub = publisher(server, private=True)
    hub.push(folder, revision="step-10", message="step 10")
    (command,) = hub.finish(30)
    server.faults.clear()
    arguments = [sys.executable, "-m", "nlp_ssl", *shlex.split(command)[1:]]
    done = execute(server, arguments)
    assert done.returncode == 0, done.stderr
    assert set(server.repos["tester/model"].files("step-10")) >= PUSHED


def test_a_refusal_is_not_tried_again_and_later_pushes_still_go(server, folder):
    server.fail("POST .*/commit/step-10", status=403)
    hub = publisher(server)
    hub.push(folder, revision="step-10", message="step 10")
    hub.push(folder, message="last")
    commands = hub.finish(30)
    assert len(commands) == 1
    assert commands[0].endswith("--revision step-10")
    assert sum("/commit/step-10" in request for request in server.requests) == 1
    assert set(server.repos["tester/model"].files()) >= PUSHED


def test_push_returns_at_once_holds_the_folder_and_finish_keeps_its_time(server, folder):
    server.fail("POST .*/commit/", delay=4)
    hub = publisher(server)
    start = time.monotonic()
    hub.push(folder, message="step 10")
    assert time.monotonic() - start < 0.5
    assert hub.holds(folder)
    assert not hub.holds(folder.parent)
    assert len(hub.finish(1.0)) == 1
    assert time.monotonic() - start < 3
    assert not hub.holds(folder)


def test_a_run_that_is_asked_to_stop_does_not_wait_for_the_hub(server, folder, monkeypatch):
    server.fail("POST .*/commit/", delay=4)
    hub = publisher(server)
    hub.push(folder, message="step 10")
    monkeypatch.setattr(signals.interrupts, "reason", "SIGTERM")
    start = time.monotonic()
    assert len(hub.finish(600)) == 1  # the command that pushes it later
    assert time.monotonic() - start < 3


def test_a_folder_that_was_pruned_meanwhile_is_reported_without_a_useless_command(server, folder, capsys):
    hub = publisher(server)
    hub.push(folder.parent / "gone", message="step 10")
    assert hub.finish(30) == []
    assert "has been removed" in capsys.readouterr().err


def test_nothing_starts_before_it_is_asked_for(server):
    before = threading.active_count()
    hub = publisher(server, "not a repository")
    assert hub.finish(1) == []
    assert threading.active_count() == before
    assert server.requests == []


# -- the recipe, and reading back -------------------------------------------------------------------------------------


def recipe(server, *arguments: str, **extra: str) -> subprocess.CompletedProcess:
    return execute(server, [sys.executable, str(RECIPE), *arguments], **extra)


READ_BACK = """
import json, sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from safetensors.torch import save_file
out = sys.argv[1]
for number, (repo, revision) in enumerate(json.loads(sys.argv[2])):
    model = AutoModelForMaskedLM.from_pretrained(repo, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision)
    assert tokenizer("hello world")["input_ids"] == [2, 5, 6, 3], tokenizer("hello world")
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, f"{out}/{number}.safetensors")
"""


def bert(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Save a tiny BERT with its tokenizer; return its weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForMaskedLM(BertConfig(vocab_size=len(vocab), **sizes))
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# Tiny\n")
    (folder / "training_state").mkdir()
    (folder / "training_state" / "rank-0.pt").write_bytes(b"secret")
    return model.state_dict()


def test_pushed_models_load_with_from_pretrained_in_both_upload_modes(tmp_path):
    weights = {seed: bert(tmp_path / f"bert-{seed}", seed) for seed in (1, 2)}
    with HubServer(lfs_repos=("tester/lfs",)) as server:
        for repo_id in ("tester/lfs", "tester/regular"):
            for seed, revision in ((1, "step-100"), (2, "main")):
                done = recipe(
                    server,
                    "--folder",
                    str(tmp_path / f"bert-{seed}"),
                    "--repo_id",
                    repo_id,
                    "--revision",
                    revision,
                )
                assert done.returncode == 0, done.stderr
                assert f"{server.url}/{repo_id}" in done.stdout.splitlines()[-1]
        assert len(server.large_files) == 2  # the two weight files, and of tester/lfs only
        assert not any("training_state" in name for repo in server.repos.values() for name in repo.files())
        wanted = [(f"tester/{mode}", revision) for mode in ("lfs", "regular") for revision in ("step-100", "main")]
        command = [sys.executable, "-c", READ_BACK, str(tmp_path), json.dumps(wanted)]
        read = execute(server, command)
        assert read.returncode == 0, read.stderr
    for number, (_, revision) in enumerate(wanted):
        loaded = load_file(tmp_path / f"{number}.safetensors")
        expected = weights[1 if revision == "step-100" else 2]
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_a_dry_run_lists_what_goes_and_what_stays_and_asks_nobody(server, full, tmp_path, spelling):
    done = recipe(server, "--folder", str(full), spelling, HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    go, stay = done.stdout.split("would stay here: ")
    assert {line.split()[0] for line in go.splitlines()[1:]} == PUSHED
    size = (full / "model.safetensors").stat().st_size
    assert f"model.safetensors  {size} B" in go
    assert {name.split("/")[0] for name in PRIVATE} - {"additional_chat_templates"} <= {
        name.rstrip("/") for name in stay.strip().split(", ")
    }
    assert server.requests == []


@pytest.mark.parametrize("flag", ["--overwrite", "--hub.overwrite"])
def test_the_recipe_pushes_over_others_when_told_to(server, folder, tmp_path, flag):
    publisher(server).check()
    others(server, {"x": b""})
    arguments = ["--folder", str(folder), "--repo_id", "tester/model"]
    refused = recipe(server, *arguments)
    assert refused.returncode == 2
    assert "--hub.overwrite" in refused.stderr.splitlines()[-1]
    assert recipe(server, *arguments, flag).returncode == 0


def test_a_missing_token_is_said_before_anything_is_pushed(server, folder):
    done = recipe(server, "--folder", str(folder), "--repo_id", "tester/model", HF_TOKEN="")
    assert done.returncode == 2
    assert "hf auth login" in done.stderr
    assert "pushing" not in done.stdout
    assert server.requests == []


def test_of_a_folder_of_seeds_the_first_is_named(folder, tmp_path):
    (tmp_path / "runs").mkdir()
    folder.rename(tmp_path / "runs" / "seed-0")
    with pytest.raises(UserError, match=r"runs holds no finished model \(no config\.json\); push \S+/runs/seed-0$"):
        model_files(tmp_path / "runs")


@pytest.mark.parametrize(
    ("arguments", "token", "sentence"),
    [
        (["--repo_id", "tester/model"], "hf_wrong", "does not accept the token"),
        (["--repo_id", "other/model"], TOKEN, "may not write to other/model"),
        ([], TOKEN, "--folder runs/mlm --repo_id user/name"),
    ],
)
def test_the_recipe_ends_with_one_sentence_and_exit_code_2(server, folder, tmp_path, arguments, token, sentence):
    done = recipe(server, "--folder", str(folder), *arguments, HF_TOKEN=token)
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
