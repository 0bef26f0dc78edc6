"""The one list of what is ever pushed to the Hub: a model's own files. Whatever else lies in its folder stays here.

A run's folder holds more than its model: what it predicted for every row, texts of its corpus, logs, and what somebody
left there. None of that is published by being forgotten in a list of exceptions.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from nlp_ssl.core.errors import UserError
from nlp_ssl.core.yaml_text import check_yaml
from nlp_ssl.publishing.card import PICTURES, SETTINGS, under_id
from nlp_ssl.publishing.local_paths import hide, is_local, name_of, names_only

CARD = "README.md"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
CONFIGURATION = re.compile(r"(generation_)?config\.json")
TOKENIZER = re.compile(
    r"tokenizer\.(json|model)|(tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt"
    r"|(spiece|sentencepiece\.bpe|spm)\.model|chat_template\.(jinja|json)|additional_chat_templates/[\w-]+\.jinja"
)
POOLING = "1_Pooling"  # how sentence-transformers makes a vector of a text, and the names that it looks for
VECTORS = re.compile(rf"modules\.json|(config_sentence_transformers|sentence_bert_config)\.json|{POOLING}/config\.json")
SHOWN = re.compile("|".join(map(re.escape, (CARD, *PICTURES, SETTINGS))))
TEMPLATES = "additional_chat_templates"
MODEL = (WEIGHTS, CONFIGURATION, TOKENIZER)
PUSHED = (*MODEL, VECTORS, SHOWN)
CODE = ("auto_map", "custom_pipelines")  # by which a configuration names Python code, perhaps of another repository


def model_files(folder: Path, repo_id: str | None = None) -> dict[str, Path | bytes]:
    """What of a model folder belongs on the Hub: name in the repository -> its file or its content, sorted by name.

    A folder in it with a model of its own, such as `generator/`, belongs to it.

    Settings and card are given without local paths, configurations without the names of other people's code.

    Args:
        folder: of a finished run, or one of its checkpoints.
        repo_id: where they are pushed, which the card then calls the model.

    Raises:
        UserError: there is no such folder, it holds no configuration or no weights, or a file of it cannot be read or
            is a link to a file elsewhere.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a finished run or one of its checkpoints")
    files: dict[str, Path] = {}
    for name, path in _all_files(folder).items():
        if _is_pushed(name):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{path} is a link to a file outside of its folder; put a copy of that file there")
            files[name] = path
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        missing = "weights" if "config.json" in files else "config.json"
        there, is_checkpoint = model_in(folder)
        advice = (
            f"push {'its newest checkpoint, ' if is_checkpoint else ''}{there}"
            if there
            else "give a finished run's folder"
        )
        raise UserError(f"{folder} holds no finished model (no {missing}); {advice}")
    return files | _rewritten(files, folder, repo_id)


def model_in(folder: Path) -> tuple[Path | None, bool]:
    """A model in a folder that is none itself: the newest checkpoint of a run, else the first run in a folder of runs.

    Returns:
        Its folder, if there is one, and whether it is a checkpoint.
    """
    checkpoints = sorted(path.parent for path in folder.glob("checkpoints/step-*/config.json"))
    runs = sorted(path.parent for path in folder.glob("*/config.json"))
    found = checkpoints[-1:] or runs[:1]
    return (found[0] if found else None), bool(checkpoints)


def kept_here(folder: Path) -> list[str]:
    """Names at the top of a model folder that are not pushed, folders with a slash, sorted."""
    pushed = {name.split("/")[0] for name in model_files(folder)}
    return sorted(
        f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir() if path.name not in pushed
    )


def _is_pushed(name: str) -> bool:
    if any(pattern.fullmatch(name) for pattern in PUSHED):
        return True
    outer, _, inner = name.partition("/")  # of a model in the model's folder
    return outer not in (TEMPLATES, POOLING) and any(pattern.fullmatch(inner) for pattern in MODEL)


def size_of(content: Path | bytes) -> int:
    """Bytes of a file or content."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _all_files(folder: Path) -> dict[str, Path]:
    below = folder / TEMPLATES
    found = {path.name: path for path in folder.iterdir() if path.is_file()}
    models = [path.parent for path in folder.glob("[!.]*/config.json")]
    for inner in (below, folder / POOLING, *filter(_is_inner_model, models)):
        found |= {f"{inner.name}/{path.name}": path for path in inner.glob("*") if path.is_file()}
    return dict(sorted(found.items()))


def _is_inner_model(folder: Path) -> bool:
    """Whether a folder in a model's folder is a model that belongs to it, and not a run of its own."""
    names = {path.name for path in folder.iterdir()}
    return any(map(WEIGHTS.fullmatch, names)) and SETTINGS not in names and not folder.is_symlink()


def _rewritten(files: dict[str, Path], folder: Path, repo_id: str | None) -> dict[str, bytes]:
    """The contents that are not published as they lie there."""
    changed, settings = {}, None
    if (path := files.get(SETTINGS)) is not None:
        settings = _read(path, _yaml)
        changed[SETTINGS] = yaml.safe_dump(
            names_only(settings, near=folder), sort_keys=False, allow_unicode=True
        ).encode()
    if (path := files.get(CARD)) is not None:
        card = _read(path, str)
        published = hide(card, settings, folder)
        if repo_id is not None:
            published = under_id(published, _names(settings, folder), repo_id)
        if published != card:
            changed[CARD] = published.encode()
    for name, path in files.items():
        if name.rpartition("/")[2] in ("config.json", "tokenizer_config.json", "generation_config.json"):
            content = _read(path, json.loads)
            if (cleaned := _without_code(content)) != content:
                changed[name] = (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()
    return changed


def _names(settings: Any, folder: Path) -> list[str]:
    """What a run's card may call its model, without local paths."""
    found, names = settings if isinstance(settings, dict) else {}, [folder.resolve().name]
    if isinstance(out := found.get("output_dir"), str):
        names.append(name_of(out))
    if isinstance(hub := found.get("hub"), dict) and isinstance(hub.get("repo_id"), str):
        names.append(hub["repo_id"])
    return names


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(f"{path} cannot be read, and is not pushed unread ({reason}); mend or remove it") from None


def _yaml(text: str) -> Any:
    check_yaml(text)
    return yaml.safe_load(text)


def _without_code(value: Any) -> Any:
    """Nested configuration without `CODE`, and with the name of where a model came from instead of its path."""
    if isinstance(value, list):
        return [_without_code(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_code(each) for key, each in value.items() if key not in CODE}
    for key in ("_name_or_path", "name_or_path"):
        if isinstance(kept.get(key), str) and is_local(kept[key]):
            kept[key] = name_of(kept[key])
    return kept
