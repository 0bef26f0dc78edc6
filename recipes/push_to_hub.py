"""Push a finished model folder, or one checkpoint of a run, to the Hugging Face Hub.

    hf auth login
    python recipes/push_to_hub.py --folder runs/mlm --repo_id user/name
    python recipes/push_to_hub.py --folder runs/mlm/checkpoints/step-00001000 --repo_id user/name --revision step-1000

The folder goes up as one commit: weights, tokenizer, configuration, card, curves. Training state, logs and other
checkpoints stay here. A repository that is not there is created; a branch that is not there is made from `main`.
"""

from dataclasses import dataclass
from pathlib import Path

from nlp_ssl.command_line import parse
from nlp_ssl.console import UserError, human_bytes, run, say
from nlp_ssl.publishing.hub import HubPublisher, model_files


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


def main(config: PushConfig) -> None:
    """Push one folder, and say where it went."""
    if not config.folder or not config.repo_id:
        raise UserError("say what to push and where to: --folder runs/mlm --repo_id user/name")
    folder = Path(config.folder)
    size = sum(path.stat().st_size for path in model_files(folder).values())
    say(f"pushing {folder} ({human_bytes(size)}) to {config.repo_id}, branch {config.revision}")
    publisher = HubPublisher(config.repo_id, private=config.private)
    url = publisher.upload(folder, revision=config.revision, message=f"Push {folder.resolve().name}")
    say(f"pushed: {url}")


if __name__ == "__main__":
    run(main, lambda: parse(PushConfig, __doc__))
