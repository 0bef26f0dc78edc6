"""Push a finished model folder, or one checkpoint of a run, to the Hugging Face Hub.

    hf auth login
    python recipes/push_to_hub.py --folder runs/mlm --repo_id user/name --dry-run
    python recipes/push_to_hub.py --folder runs/mlm --repo_id user/name
    python recipes/push_to_hub.py --folder runs/mlm/checkpoints/step-00001000 --repo_id user/name --revision step-1000
    python recipes/push_to_hub.py --folder runs/mlm --repo_id user/name --space

The folder goes up as one commit: weights, configuration, tokenizer, card, curves, confusion matrix, and the settings
with local paths reduced to names. Everything else stays here: predictions, texts, logs, training state, and whatever
else lies in the folder; --dry-run lists both and sends nothing. A repository that is not there is created, a branch
that is not there is made from `main`, and one that holds somebody else's commits is refused without --overwrite.

--space pushes a page beside it on which anybody can try the model, as `nlp-ssl try FOLDER --web` does here: a Gradio
Space, user/name-demo, or the one that is named (--space user/page).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from nlp_ssl.config.command_line import parse
from nlp_ssl.core.console import human_bytes, say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.program import run
from nlp_ssl.publishing.pushed import kept_here, model_files, size_of
from nlp_ssl.publishing.repository import HubRepository, token_for


@dataclass
class PushConfig:
    """What to push, and where to."""

    folder: str = ""
    """Folder of a finished run, or one of its checkpoints."""
    repo_id: str = ""
    """`user/name` of the model repository."""
    revision: str = "main"
    """Branch to push to."""
    private: bool = False
    """Make the repository private when it is created."""
    overwrite: bool = False
    """Also push to a branch that holds somebody else's commits; their files may be replaced or removed."""
    space: bool | str = False
    """Also push a Space on which the model answers: its `user/name`, or nothing for the model's name and `-demo`."""
    dry_run: bool = False
    """List what would be pushed and what would stay, and send nothing."""


def main(config: PushConfig) -> None:
    """Push one folder, and say where it went."""
    if not config.folder or not (config.repo_id or config.dry_run):
        raise UserError("say what to push and where to: --folder runs/mlm --repo_id user/name")
    folder = Path(config.folder)
    files = model_files(folder, config.repo_id or None)
    size = human_bytes(sum(map(size_of, files.values())))
    page = _page(config, folder) if config.space else {}
    space = config.space if isinstance(config.space, str) else f"{config.repo_id}-demo"
    if config.dry_run:
        say(f"would be pushed ({size}):")
        for name, content in files.items():
            say(f"  {name}  {human_bytes(size_of(content))}{', rewritten' if isinstance(content, bytes) else ''}")
        if page:
            listed = (f"{name} {human_bytes(size_of(content))}" for name, content in page.items())
            say(f"would be pushed to the Space {space}: {', '.join(listed)}")
        say(f"would stay here: {', '.join(kept_here(folder)) or 'nothing'}")
        return
    token_for(config.repo_id)  # before anything is said to be pushed
    demo = HubRepository(space, repo_type="space", private=config.private, overwrite=config.overwrite)
    if page:
        demo.check()  # before anything is pushed
    say(f"pushing {folder} ({size}) to {config.repo_id}, branch {config.revision}")
    repository = HubRepository(config.repo_id, private=config.private, overwrite=config.overwrite)
    url = repository.upload(folder, revision=config.revision, message=f"Push {folder.resolve().name}")
    say(f"pushed: {url}")
    if page:
        say(f"pushed: {demo.upload(page, message=f'Push the page of {config.repo_id}')}")
    if page and config.private:
        say("the Space reads a private model once its settings hold a secret HF_TOKEN that may read it")


def _page(config: PushConfig, folder: Path) -> dict[str, bytes]:
    """The files of the Space."""
    if not config.repo_id:
        raise UserError("--space needs --repo_id user/name, the model that its page loads")
    if config.revision != "main":
        raise UserError(f"a Space shows the branch main, not {config.revision}: push without --space or --revision")
    from nlp_ssl.trying.space import space_files  # it needs torch

    return space_files(folder, config.repo_id)


def options() -> PushConfig:
    """The command line; `--hub.overwrite`, as the training recipes call it, is `--overwrite` here."""
    given = [arg.replace("--hub.", "--", 1) for arg in sys.argv[1:]]
    followed = zip(given, [*given[1:], "--"][: len(given)], strict=True)
    return parse(
        PushConfig, __doc__, [a + "=true" if a == "--space" and b.startswith("--") else a for a, b in followed]
    )


if __name__ == "__main__":
    run(main, options)
