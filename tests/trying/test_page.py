"""The page: what it shows is text, what it runs on is two files, and it asks nobody else for anything."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import forks
import psutil
import pytest
from launch import ROOT, environment, free_port
from tried import ESCAPING

from nlp_ssl.trying.answers import Answer, Piece, Ranking, open_model
from nlp_ssl.trying.app import as_html

FILES = [ROOT / "nlp_ssl" / "trying" / name for name in ("answers.py", "app.py")]
gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: pip install gradio")
# refuses this package, wherever it is installed, then runs what stands behind it
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nlp_ssl":
            raise ImportError("nlp_ssl is not to be imported")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
"""


@contextmanager
def served(command: list[str], port: int, **variables: str) -> Iterator[str]:
    """A program that serves a page, until the block ends; gives its address."""
    address = f"http://127.0.0.1:{port}/"
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment() | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=30)


def asked(address: str, *texts: str) -> str:
    from gradio_client import Client

    return Client(address, verbose=False).predict(*texts, api_name="/answer")


def fetched(address: str) -> set[str]:
    """The other hosts that a browser would ask for something on this page: not those of links, nor of names."""
    html = urllib.request.urlopen(address).read().decode()
    style = urllib.request.urlopen(f"{address}theme.css").read().decode()
    attributes = re.findall(r"<(?:script|link|img|iframe)[^>]*?\b(?:src|href)=[\"']?([^\"' >]+)", html)
    urls = attributes + re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", html + style)
    return {url for url in urls if re.match(r"(https?:)?//", url) and not url.startswith(address)}


@gradio
def test_a_model_answers_on_a_page_of_this_machine_that_fetches_nothing_elsewhere(folder):
    port = free_port()
    command = [sys.executable, "-m", "nlp_ssl.trying", str(folder("masked")), "--web", "--port", str(port)]
    with served(command, port) as address:
        assert asked(address, "kalo ___ mi.") == as_html(open_model(str(folder("masked"))).answer("kalo ___ mi."))
        assert fetched(address) == set()
        settings = json.loads(urllib.request.urlopen(f"{address}config").read())
        assert settings["analytics_enabled"] is False
        assert {c.laddr.ip for c in psutil.net_connections() if c.status == "LISTEN" and c.laddr.port == port} == {
            "127.0.0.1"
        }


@gradio
def test_the_two_files_are_a_space_without_this_package(folder, tmp_path):
    for file in FILES:
        shutil.copy(file, tmp_path)
    (tmp_path / "README.md").write_text(f"---\nsdk: gradio\nmodels: [{folder('mean')}]\n---\n")
    port = free_port()
    program = f"{ALONE}\nimport runpy; runpy.run_path(sys.argv[1] + '/app.py', run_name='__main__')"
    with served([sys.executable, "-c", program, str(tmp_path)], port, GRADIO_SERVER_PORT=str(port)) as address:
        answer = open_model(str(folder("mean"))).answer("kalo", ["mi va", "tus"])
        assert asked(address, "kalo", "mi va\n\ntus") == as_html(answer)
        assert fetched(address) == set()


def test_answers_and_page_need_nothing_of_this_package(folder, tmp_path):
    for file in FILES:
        shutil.copy(file, tmp_path)
    program = f"{ALONE}\nimport answers, app; print(app.as_html(answers.open_model(sys.argv[2]).answer('kalo mi')))"
    command = [sys.executable, "-c", program, str(tmp_path), str(folder("tags"))]
    done = forks.run(command, timeout=120, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == as_html(open_model(str(folder("tags"))).answer("kalo mi"))


def test_nothing_that_is_written_becomes_markup():
    attack = "<script>alert(1)</script>\x1b[2J\u202e"
    ranking = Ranking(((attack, 0.5), (ESCAPING, 0.25)), attack)
    html = as_html(Answer((Piece(attack), Piece(attack, attack)), (ranking,), (attack,)))
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e") == 6
    assert "\x1b" not in html
