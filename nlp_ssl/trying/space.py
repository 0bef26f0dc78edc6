"""A Space of the Hub on which a published model answers: its files."""

import re
from pathlib import Path

import yaml

from nlp_ssl.core.errors import UserError
from nlp_ssl.models.loading import find_config
from nlp_ssl.publishing.pushed import CARD

GRADIO = "6.31.0"  # with which the page was looked at
PYTHON = "3.12"
REQUIREMENTS = ("torch>=2.11,<2.14", "transformers>=5.17,<6")  # as in pyproject.toml; the Space installs Gradio itself
FILES = ("app.py", "answers.py")  # as they stand here


def space_files(folder: Path, repo_id: str) -> dict[str, bytes]:
    """What a Space holds: the page, the answers, what they need, and a README.md that names the model.

    Args:
        folder: of the model; its licence, where its card has one, is the page's too.
        repo_id: of the model on the Hub, which the page loads.

    Returns:
        Contents by their names, sorted.

    Raises:
        UserError: the model is none that answers texts.
    """
    from nlp_ssl.trying.answers import CannotAnswer, Folder, kind_of  # they need torch

    find_config(str(folder))
    try:
        task = kind_of(Folder(str(folder))).task
    except CannotAnswer as error:
        raise UserError(f"{error}; push it without --space") from None
    settings = {
        "title": repo_id.rpartition("/")[2],
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": PYTHON,
        "app_file": FILES[0],
        "models": [repo_id],
        "tags": ["nlp_ssl"],
    }
    if (licence := _licence(folder / CARD)) is not None:
        settings["license"] = licence
    front = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    text = f"A page on which [{repo_id}](https://huggingface.co/{repo_id}) answers: it {task}."
    files = {name: Path(__file__).with_name(name).read_bytes() for name in FILES}
    files[CARD] = f"---\n{front}---\n\n{text}\n".encode()
    files["requirements.txt"] = "".join(f"{line}\n" for line in REQUIREMENTS).encode()
    return dict(sorted(files.items()))


def _licence(card: Path) -> str | None:
    """The Hub's name of a licence, from the metadata of a model card."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license: *([\w.-]+) *$", front[1], re.MULTILINE | re.ASCII) if front else None
    return named[1] if named else None
