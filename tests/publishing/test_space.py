"""A Space beside a pushed model: what it holds, that it buries nobody's work, and that it answers from the Hub."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from toys import tiny_model, tokenizer

from nlp_ssl.core.errors import UserError
from nlp_ssl.publishing.repository import HubRepository
from nlp_ssl.trying.answers import open_model
from nlp_ssl.trying.space import REQUIREMENTS, space_files

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import TOKEN, HubServer
from test_hub import ROOT, execute, recipe

FILES = {".gitattributes", "README.md", "answers.py", "app.py", "requirements.txt"}
# what a Space does, but for the page: `nlp_ssl` cannot be imported there
IN_THE_SPACE = """
import sys
sys.modules["nlp_ssl"] = None
sys.path.insert(0, sys.argv[1])
import answers
from huggingface_hub import metadata_load
(name,) = metadata_load(sys.argv[1] + "/README.md")["models"]
print(answers.open_model(name).answer("kalo ___ mi"))
"""


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model("bert", vocab_size=400).save_pretrained(tmp_path / "model")
    tokenizer("wordpiece").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# license: none\n")
    return tmp_path / "model"


def push(server: HubServer, model: Path, *more: str) -> subprocess.CompletedProcess:
    return recipe(server, "--folder", str(model), "--repo_id", "tester/model", *more)


def test_the_model_and_a_space_that_answers_with_it(server, model, tmp_path):
    done = push(server, model, "--space")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"pushed: {server.url}/spaces/tester/model-demo"
    files = server.repos["spaces/tester/model-demo"].files()
    assert set(files) == FILES
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["tester/model"])
    assert front["license"] == "apache-2.0"
    assert "model.safetensors" in server.repos["tester/model"].files()
    (tmp_path / "space").mkdir()
    for name, content in files.items():
        (tmp_path / "space" / name).write_bytes(content)
    command = [sys.executable, "-c", IN_THE_SPACE, str(tmp_path / "space")]
    asked = execute(server, command)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip() == str(open_model(str(model)).answer("kalo ___ mi"))
    assert push(server, model, "--hub.space").returncode == 0  # over what we pushed ourselves


def test_a_dry_run_lists_the_files_of_the_space_and_asks_nobody(server, model):
    done = push(server, model, "--space", "tester/page", "--dry-run")
    (line,) = [line for line in done.stdout.splitlines() if "to the Space tester/page: " in line]
    assert {each.split()[0] for each in line.split(": ")[1].split(", ")} == FILES - {".gitattributes"}
    assert server.requests == []


def test_a_space_with_somebody_elses_commits_is_refused_before_the_model_is_pushed(server, model):
    HubRepository("tester/page", repo_type="space", endpoint=server.url, token=TOKEN).check()
    page = server.repos["spaces/tester/page"]
    page.commit("main", {**page.files(), "app.py": b"theirs", "vocab.txt": b"theirs"}, "My page")
    refused = push(server, model, "--hub.space", "tester/page")
    assert refused.returncode == 2
    assert "tester/page, branch main, holds commits that were not made here ('My page'" in refused.stderr
    assert page.files()["app.py"] == b"theirs"
    assert "tester/model" not in server.repos
    assert push(server, model, "--hub.space", "tester/page", "--hub.overwrite").returncode == 0
    assert page.files()["app.py"] == (ROOT / "nlp_ssl" / "trying" / "app.py").read_bytes()
    assert page.files()["vocab.txt"] == b"theirs"  # nothing of a model is looked for in a page


def test_a_space_of_a_private_model_is_private_and_needs_a_secret(server, model):
    done = push(server, model, "--space", "--private")
    assert server.repos["spaces/tester/model-demo"].private
    assert server.repos["tester/model"].private
    assert done.stdout.splitlines()[-1].endswith("a secret HF_TOKEN that may read it")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--space", "--revision", "step-10"], "a Space shows the branch main, not step-10"),
        (["--space", "page"], "'page' is not a repository of the Hub; write it as user/name"),
    ],
)
def test_what_cannot_be_a_space_is_said_before_anything_is_pushed(server, model, more, said):
    refused = push(server, model, *more)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert server.repos == {}


def test_a_model_that_answers_no_texts_has_no_page(model):
    config = model / "config.json"
    config.write_text(config.read_text().replace("BertForMaskedLM", "BertForMultipleChoice"))
    with pytest.raises(UserError, match=r"is a BertForMultipleChoice.*; push it without --space"):
        space_files(model, "tester/model")


def test_a_space_installs_what_the_package_was_tested_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(REQUIREMENTS) <= set(project["dependencies"])
