"""Resuming a run: from which checkpoint, and whether what was changed since allows it."""

from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from nlp_ssl.config.common import flatten, plain, to_dict
from nlp_ssl.config.described import sections
from nlp_ssl.config.pretraining import PretrainConfig
from nlp_ssl.config.renamed import renamed
from nlp_ssl.core import console
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.fingerprint import fingerprint
from nlp_ssl.core.yaml_text import check_yaml
from nlp_ssl.runs.folder import CONFIG_FILE, RunConfig
from nlp_ssl.training.checkpoints import NAME, RUN_STATE, Checkpoints, read_state

# Options that do not change the result. Whatever is in none of these lists does, an objective's own section among them.
HARMLESS: tuple[str, ...] = ("hub.", "tracking.", "train.micro_batch_size", "train.workers", "train.cpu_threads")
HARMLESS += ("train.gradient_checkpointing", "train.deterministic", "train.log_every", "train.incident_texts")
HARMLESS += ("evaluation.", "checkpoint.")
# of these, those that change its rounding
ROUNDING = ("train.micro_batch_size", "train.cpu_threads", "train.gradient_checkpointing", "train.deterministic")
# of data, tokenizer and model the identity holds what matters: fingerprints, and the architecture
IDENTIFIED = ("data.", "tokens.", "tokenizer.", "model.", "head_labels", "pooling")
ELSEWHERE = ("resume.", "output_dir", "seeds", "train.compile")  # or in the set-up
# what is not applied, and what is taken for the best, from now on
JUDGING: tuple[str, ...] = ("train.spike_factor", "train.on_spike", "train.on_nonfinite")
JUDGING += ("evaluation.metric", "evaluation.patience", "checkpoint.keep_best")
EVALUATED = ("evaluation.every", "evaluation.max_rows")  # likewise, where the best evaluation decides
NEEDED = ("step", "identity", "setup", "horizon", "guard", "early_stopping")  # of a checkpoint, whatever its format
NAMES = {
    "model": "the model's architecture",
    "tokenizer": "the tokenizer (trained on the corpus, unless one is named)",
    "optimizer": "the kind of optimizer",
    "lora_rank": "the adapters (--transfer.lora_rank)",
}
NAMES |= {"data": "the corpus, or how it is packed"}


def choose_checkpoint(checkpoints: Checkpoints) -> Path | None:
    """The newest checkpoint that verifies, chosen by rank 0 for all; newer ones are set aside."""
    names: list[str | None] = [None]
    if console.rank() == 0:
        found = checkpoints.newest()
        if found is None and any(NAME.fullmatch(path.name) for path in checkpoints.folder.glob("step-*")):
            raise UserError(
                f"every checkpoint in {checkpoints.folder} is damaged; nothing was changed there: put a copy back, or "
                "start anew in another --output_dir"
            )
        checkpoints.pass_over(found)
        names = [found.name if found else None]
    if console.world_size() > 1:
        broadcast_object_list(names)
    if names[0] is None:
        return None
    path = checkpoints.folder / names[0]
    if not path.exists():
        raise UserError(f"{path} is not here; --output_dir must be on a file system that all processes share")
    return path


def check_changes(checkpoint: Path, config: RunConfig, identity: dict[str, Any], setup: dict[str, Any]) -> None:
    """Name what is not as it was when a checkpoint was made, and refuse what would make it another run.

    Args:
        checkpoint: to resume from.
        config: of now, resolved.
        identity: of now; see `run_identity`.
        setup: what may change the rounding, such as `{"torch": "2.13.0", "processes": 2}`.

    Raises:
        UserError: the weights would mean something else (another model, tokenizer or optimizer); or the result would
            change (other data, rates, batches, ...) and `--resume.allow_changed` was not given.
    """
    state = read_state(checkpoint)
    if missing := [name for name in NEEDED if name not in state]:
        raise UserError(
            f"{checkpoint / RUN_STATE} has no {missing[0]}, so no version of nlp_ssl made it whose runs this one can "
            "continue; continue with the version that did, or start anew in another --output_dir"
        )
    changed = {key for key in NAMES if state["identity"].get(key) != identity[key]}
    files = _changed_files(state["identity"].get("files", {}), identity.get("files", {}))
    trained = isinstance(config, PretrainConfig) and config.tokenizer.path is None  # the tokenizer, on the corpus
    if changed == {"data", "tokenizer"} and files and trained:
        raise UserError(
            f"cannot continue from {checkpoint}: the corpus changed ({files}), and with it "
            "the tokenizer trained on it; give the corpus as it was, or continue with the new text by "
            f"--tokenizer.path {checkpoint} --resume.allow_changed, or start anew in another --output_dir"
        )
    fatal = [NAMES[key] for key in sorted(changed - {"data"})]
    had, has = (each.get("others", {}) for each in (state["identity"], identity))
    fatal += [what for what in sorted(had.keys() | has.keys()) if had.get(what) != has.get(what)]
    if fatal:
        raise UserError(
            f"cannot continue from {checkpoint}: {' and '.join(fatal)} changed; start anew in another folder"
        )

    settings = checkpoint / CONFIG_FILE
    if not settings.is_file():
        raise UserError(f"{settings} is missing, so nothing says how that run was made; start anew in another folder")
    check_yaml(settings.read_text(encoding="utf-8"), settings)
    before = renamed(flatten(yaml.safe_load(settings.read_text(encoding="utf-8"))))
    now = flatten(plain(to_dict(config)))
    deciding = [f"the corpus changed ({files})" if files else f"{NAMES['data']} changed"] if "data" in changed else []
    before = flatten(plain(to_dict(type(config)()))) | before  # of an option that there was not, its default
    derived = {option.key for section in sections(type(config)) for option in section.options if option.derived}
    for key in sorted(now.keys() | before.keys()):
        if key.startswith(ELSEWHERE) or before.get(key) == now.get(key):
            continue
        none = "derived" if key in derived else "not given"
        was, become = (none if value is None else value for value in (before.get(key), now.get(key)))
        change = f"--{key} was {was} and is {become}"
        if key in _judging(config):
            console.warn(f"{change} from here on")
        elif key.startswith((*HARMLESS, *IDENTIFIED)):
            rounding = " to rounding" if key.startswith(ROUNDING) else ""
            console.warn(f"{change} from here on; the result stays the same{rounding}")
        else:
            deciding.append(change)
    if deciding and not config.resume.allow_changed:
        raise UserError(
            f"continuing from {checkpoint} would give another result: {'; '.join(deciding)}. Give what it was, or "
            "--resume.allow_changed"
        )
    for change in deciding:
        console.warn(f"{change} from here on")
    for key, value in setup.items():
        if state["setup"].get(key) != value:
            console.warn(f"{key}: {state['setup'].get(key)} before, {value} now; the rest is the same to rounding")


def _judging(config: RunConfig) -> tuple[str, ...]:
    """Options that decide, from where they are changed, which steps are applied and which evaluation is the best."""
    found = JUDGING
    if config.checkpoint.keep_best:
        found += EVALUATED
    if "rewind" in (config.train.on_spike, config.train.on_nonfinite):
        found += ("checkpoint.every",)
    return found


def _changed_files(before: dict[str, str], now: dict[str, str]) -> str:
    """The first few files that are not what they were, such as `"a.txt has changed, b.txt is gone"`."""
    if not before:  # a checkpoint from before they were noted
        return ""
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    what = {(True, True): "has changed", (True, False): "is gone", (False, True): "is new"}
    said = [f"{name} {what[name in before, name in now]}" for name in names[:3]]
    return ", ".join(said) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def run_identity(
    config: RunConfig,
    model: PreTrainedModel,
    data: str,
    tokenizer: str,
    files: dict[str, str] | None = None,
    lora_rank: int | None = None,
    others: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What makes a run that run: nothing of it may change when it is resumed, but the data if that is allowed.

    Args:
        config: of the run.
        model: as it is published.
        data: fingerprint.
        tokenizer: fingerprint.
        files: sha256 of the data's files, by name, to say which of them changed.
        lora_rank: of adapters.
        others: what else it is made of, such as a teacher, and the fingerprint of that (`Objective.identity`).
    """
    elsewhere = ("transformers_version", "_name_or_path")  # a model may be moved
    return {
        "files": files or {},
        "data": data,
        "tokenizer": tokenizer,
        "model": fingerprint({k: v for k, v in model.config.to_dict().items() if k not in elsewhere}),
        "optimizer": config.optimizer.name,
        "lora_rank": lora_rank,
        "others": others or {},
    }
