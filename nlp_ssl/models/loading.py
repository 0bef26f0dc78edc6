"""Models from presets, Hub ids and folders; from scratch, or continuing from their weights."""

import contextlib
import copy
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.core.console import counted, say, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.memory import is_out_of_memory
from nlp_ssl.core.network import hub_answers
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.models import presets
from nlp_ssl.models.attention import ISOLATED
from nlp_ssl.models.load_report import warn_of_body, without_table

_NO_LIMIT = 10**9  # transformers writes 10**30 in a tokenizer that announces no length, and people write -1
# Their positions begin after the padding index.
_COUNT_FROM_PADDING = {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "mpnet", "longformer", "data2vec-text"}
_COUNT_FROM_PADDING |= {"roberta-prelayernorm", "ibert", "luke", "xmod", "lilt", "markuplm", "esm"}
_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask")


def find_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration at a Hub id or in a folder, without what it names of other people's code.

    Raises:
        UserError: there is none, or no network to look for it, or the model is made of code of its own.
    """
    try:
        return without_code(AutoConfig.from_pretrained(name, **_source(name, revision)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{name} is made of Python code of its own (auto_map in its config.json), and code that comes with a "
                "model is never run here; take a model of an architecture that transformers has"
            ) from None
        if Path(name).exists():
            raise UserError(f"{name} holds no model that transformers can read: {_first_line(error)}") from None
        raise UserError(_not_there(name, _first_line(error))) from None


def _not_there(name: str, reason: str) -> str:
    """The sentence for a name of no model.

    Args:
        name: what was given.
        reason: why the Hub has none, or none that can be read.
    """
    folder, is_hub_id = Path(name).expanduser(), re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) is not None
    if not is_hub_id or (len(folder.parts) > 1 and folder.parent.is_dir()):
        place = "" if folder.is_absolute() else f" (looked in {Path.cwd()})"
        hub = f"; as the id of a model of the Hub it could not be downloaded ({reason})" if is_hub_id else ""
        return f"there is no folder {name}{place}{models_beside(folder)}{hub}"
    near = presets.nearest(name)
    meant = f"did you mean {near}? " if near else ""
    return (
        f"'{name}' is no preset, no folder here, and could not be downloaded from the Hub ({reason}); {meant}"
        f"presets work offline: {presets.described()}"
    )


def models_beside(folder: Path) -> str:
    """What to say of the models in the folder above one that is not there; nothing where there are none."""
    found = sorted(str(path.parent) for path in folder.parent.glob("*/config.json"))
    return f"; models there: {', '.join(found[:5])}{', ...' * (len(found) > 5)}" if found else ""


def _source(name: str, revision: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where to look, and that code found there is not run."""
    cached_only = not Path(name).is_dir() and not hub_answers()
    return {"revision": revision, "local_files_only": cached_only, "trust_remote_code": False}


def inner_folder(config: ModelConfig, name: str) -> Path | None:
    """A further model inside a trained one's folder, of this machine or of the Hub; `None` where there is none."""
    folder = Path(config.name)
    if not folder.is_dir():
        files = [f"{name}/*.json", f"{name}/*.safetensors"]
        try:
            folder = Path(
                snapshot_download(
                    config.name, revision=config.revision, allow_patterns=files, local_files_only=not hub_answers()
                )
            )
        except LocalEntryNotFoundError:  # without a network, and nothing of it was ever downloaded
            return None
    return folder / name if (folder / name / "config.json").is_file() else None


def without_code(config: PreTrainedConfig) -> PreTrainedConfig:
    """Remove what a configuration names of other people's code; nothing of it would be run, but it would be published.

    `auto_map` and `custom_pipelines` name classes, and an attention with a slash is a kernel to download.
    """
    parts = [getattr(config, name, None) for name in config.sub_configs]
    for part in [config, *(part for part in parts if isinstance(part, PreTrainedConfig))]:
        for name in ("auto_map", "custom_pipelines"):
            if hasattr(part, name):
                delattr(part, name)
        if "/" in str(part._attn_implementation or ""):
            part._attn_implementation = None
    return config


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(". ")


def is_from_scratch(config: ModelConfig) -> bool:
    """Whether the weights are new: presets always, Hub ids and folders when asked."""
    return config.from_scratch or presets.split_name(config.name) is not None


def architecture(
    config: ModelConfig,
    auto_class: Any,
    tokenizer: PreTrainedTokenizerFast,
    sequence_length: int,
    dropout: float | None,
) -> PreTrainedConfig:
    """The configuration of the model to train, complete.

    Args:
        config: what the user asked for.
        auto_class: the `AutoModelFor...` whose head is needed.
        tokenizer: gives the vocabulary and the special ids of a model from scratch.
        sequence_length: longest input.
        dropout: probability for every dropout; `None` keeps the model's own.

    Raises:
        UserError: an unknown name or field, no such head, a vocabulary or a row that does not fit.
    """
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in _SPECIAL
        if name != "mask" and getattr(tokenizer, f"{name}_token_id") is not None
    }
    if config.overrides and not is_from_scratch(config):
        raise UserError(
            f"--model.overrides.{next(iter(config.overrides))} would change a trained model; add --model.from_scratch"
        )
    try:
        model_config = _complete(config, tokenizer, special)
    except StrictDataclassError as error:
        raise UserError(f"--model.overrides: {' '.join(str(error).split())}") from None
    if type(model_config) not in auto_class._model_mapping:
        raise UserError(f"{config.name} ({model_config.model_type}) has no head for {auto_class.__name__}")
    if num_ids(tokenizer) > model_config.vocab_size:
        raise UserError(
            f"the tokenizer has {num_ids(tokenizer):,} ids, more than the {model_config.vocab_size:,} entries of"
            f" {config.name}; use its own tokenizer (leave --tokenizer.path out)"
        )
    if (limit := max_positions(model_config)) and sequence_length > limit:
        raise UserError(f"rows of {sequence_length} tokens are longer than the {limit} positions of {config.name}")
    if dropout is not None:
        if not 0 <= dropout < 1:
            raise UserError(f"--model.dropout is {dropout}; it must be at least 0 and below 1")
        for key, value in model_config.to_dict().items():
            if _is_dropout(key, value):
                setattr(model_config, key, dropout)
    if config.overrides:
        try:
            with torch.device("meta"):  # fields that do not go together are found here, and cost no memory
                auto_class.from_config(model_config, trust_remote_code=False)
        except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            raise UserError(f"--model.overrides make no {model_config.model_type}: {_first_line(error)}") from None
    return model_config


def _complete(config: ModelConfig, tokenizer: PreTrainedTokenizerFast, special: dict[str, int]) -> PreTrainedConfig:
    """The preset's or the folder's configuration, with the tokenizer's ids and the user's fields if from scratch."""
    if presets.split_name(config.name):
        model_config = presets.preset_config(config.name, num_ids(tokenizer), **special)
        _check_fields(model_config, config.overrides)
        return presets.preset_config(config.name, num_ids(tokenizer), **{**special, **config.overrides})
    model_config = find_config(config.name, config.revision)
    if not config.from_scratch:
        return model_config
    _check_fields(model_config, config.overrides)
    fields = {**model_config.to_dict(), "vocab_size": num_ids(tokenizer), **special}
    # what a decoder begins with is also another special token: the padding in T5, the end in BART
    start = getattr(model_config, "decoder_start_token_id", None)
    role = next((key for key in special if start is not None and getattr(model_config, key, None) == start), None)
    fields |= ({} if role is None else {"decoder_start_token_id": special[role]}) | config.overrides
    if "num_hidden_layers" in config.overrides:
        fields.pop("layer_types", None)  # one entry a layer; made anew
    return type(model_config).from_dict(fields)


def _check_fields(config: PreTrainedConfig, overrides: dict[str, Any]) -> None:
    for key in overrides:
        if not hasattr(config, key):
            raise UserError(f"--model.overrides.{key}: {type(config).__name__} has no such field")


def max_positions(config: PreTrainedConfig) -> int | None:
    """Longest input of an architecture, or `None` where there is no limit (XLNet writes that as -1)."""
    limit = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in _COUNT_FROM_PADDING:
        limit -= (config.pad_token_id or 0) + 1
    return limit if limit > 0 else None


def longest_input(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int | None:
    """The smaller one of the limits that a tokenizer announces and a model has; `None` where there is none."""
    limits = [tokenizer.model_max_length, max_positions(config) or 0]
    return min((n for n in limits if 0 < n < _NO_LIMIT), default=None)


def model_class(config: PreTrainedConfig, auto_class: Any) -> type[PreTrainedModel]:
    """The class that an auto class makes of a configuration."""
    found = auto_class._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def build_model(
    config: ModelConfig,
    model_config: PreTrainedConfig,
    auto_class: Any,
    *,
    isolated: bool,
    seed: int = 0,
    keep_head: bool = True,
) -> PreTrainedModel:
    """The model to train, in float32, with new weights or its own.

    Args:
        config: what the user asked for.
        model_config: from `architecture`.
        auto_class: the head.
        isolated: with document-isolated attention.
        seed: of new weights; the same on every process.
        keep_head: whether a stored head is of these labels; otherwise its last layer, whose shape depends on the number
            of labels, is new.
    """
    model_config = copy.deepcopy(model_config)  # the model writes into it, its attention for one
    by_name = isolated and model_class(model_config, auto_class)._supports_attention_backend
    attention = ISOLATED if by_name else config.attention
    extra = {"attn_implementation": attention} if attention else {}
    torch.manual_seed(seed)
    if is_from_scratch(config):
        model = auto_class.from_config(model_config, dtype=torch.float32, trust_remote_code=False, **extra)
    else:
        source = _source(config.name, config.revision)
        stored = find_config(config.name, config.revision).dtype
        # the head of another number of classes, such as MNLI's, is made anew
        other_head = auto_class not in (AutoModelForMaskedLM, AutoModelForCausalLM)
        with readable_weights(config.name), without_table():
            model, found = auto_class.from_pretrained(
                config.name,
                config=model_config,
                dtype=torch.float32,
                ignore_mismatched_sizes=other_head,
                output_loading_info=True,
                **source,
                **extra,
            )
        warn_of_body(model, config.name, found)
        if other_head:
            new = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
            last = _last_layer(model, auto_class)
            if not keep_head:
                _renew(model, last - new, seed)
            elif last & new:
                warn(f"head: made anew; the weights of {config.name} do not have the one that its config.json tells of")
        elif head := [key for key in found["missing_keys"] if key.partition(".")[0] != model.base_model_prefix]:
            warn(f"head: new, as the weights of {config.name} have none ({', '.join(sorted(head)[:3])})")
        dtype = str(stored or "float32").removeprefix("torch.")
        dropout = dropouts(model_config) or [0.0]
        say(
            f"model: continuing from the weights of {config.name}, stored as {dtype}, kept in float32 while training; "
            f"dropout {', '.join(map(str, dropout))} (--model.dropout)"
        )
    return model


def trained_model(name: str, revision: str | None, auto_class: Any, *, isolated: bool) -> PreTrainedModel:
    """A finished model that is read and not trained, such as a teacher: with its head, in float32, without gradients.

    Args:
        name: Hub id or folder.
        revision: branch, tag or commit of a Hub id.
        auto_class: the head.
        isolated: with document-isolated attention.

    Raises:
        UserError: there is none, it cannot be read, or its architecture or its weights have no such head.
    """
    model_config = find_config(name, revision)
    if type(model_config) not in auto_class._model_mapping:
        raise UserError(f"{name} ({model_config.model_type}) has no head for {auto_class.__name__}")
    by_name = isolated and model_class(model_config, auto_class)._supports_attention_backend
    extra: dict[str, Any] = {"attn_implementation": ISOLATED} if by_name else {}
    with readable_weights(name), without_table():
        model, found = auto_class.from_pretrained(
            name, config=model_config, dtype=torch.float32, output_loading_info=True, **_source(name, revision), **extra
        )
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"the weights of {name} have no {missing[0]}: it is no finished {type(model).__name__}, only a part of one"
        )
    warn_of_body(model, name, found)
    return model.eval().requires_grad_(False)


def trained_body(name: str, revision: str | None = None) -> PreTrainedModel:
    """A finished model without a head, whose last layer is read."""
    with readable_weights(name), without_table():
        model, found = AutoModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **_source(name, revision)
        )
    warn_of_body(model, name, found)
    return model.eval()


def weights_digest(model: PreTrainedModel) -> str:
    """A hash of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def readable_weights(name: str) -> Iterator[None]:
    """Say of weights that are cut, missing, or not those of their config.json what to do about it."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the weights of {name} cannot be read ({' '.join(str(error).split())[:200]}); copy or download them again"
        ) from None


def save_model(model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Save a model with some weights as `save_pretrained` does, its settings for generation as they were published.

    Published ones are often such as transformers before 5.23 refuses to save: a temperature, and no sampling.
    """
    settings: Any = model.generation_config if model.can_generate() else None
    try:
        if settings is not None:
            settings.validate(strict=True)
    except ValueError:
        model.generation_config = type(settings)()
        try:
            model.save_pretrained(folder, state_dict=weights)
        finally:
            model.generation_config = settings
        (folder / "generation_config.json").write_text(settings.to_json_string(), encoding="utf-8")
    else:
        model.save_pretrained(folder, state_dict=weights)


def _last_layer(model: PreTrainedModel, auto_class: Any) -> set[str]:
    """The parameters of a head that have another shape with another number of labels."""
    wider = copy.deepcopy(model.config)
    wider.num_labels += 1
    with torch.device("meta"):
        shapes = {
            name: p.shape for name, p in auto_class.from_config(wider, trust_remote_code=False).named_parameters()
        }
    return {name for name, p in model.named_parameters() if p.shape != shapes[name]}


def _renew(model: PreTrainedModel, stale: set[str], seed: int) -> None:
    """Draw some parameters of a loaded model anew, as transformers does with those that it does not find."""
    if not stale:
        return
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor._is_hf_initialized = name not in stale
    for module in model.modules():
        module._is_hf_initialized = False
    torch.manual_seed(seed)
    model.initialize_weights()


def dropouts(config: PreTrainedConfig) -> list[float]:
    """The different probabilities of the dropouts of an architecture, in their order."""
    return sorted({value for key, value in config.to_dict().items() if _is_dropout(key, value)})


def _is_dropout(key: str, value: Any) -> bool:
    """Whether a field of a model's configuration is the probability of a dropout."""
    return isinstance(value, float) and ("dropout" in key or key.endswith("_pdrop"))


def decoder_layers(config: PreTrainedConfig) -> int:
    """Layers of an encoder-decoder's second stack; T5 and others call them in a way of their own, or do not tell."""
    own = getattr(config, "num_decoder_layers", None)
    return own if own is not None else config.get_text_config(decoder=True).num_hidden_layers


def describe(model: PreTrainedModel) -> str:
    """One line: architecture, shape, parameters with and without embeddings."""
    config = model.config
    total = sum(p.numel() for p in model.parameters())
    embeddings = model.get_input_embeddings().weight.numel()
    layers = counted(config.num_hidden_layers, "layer")
    if config.is_encoder_decoder:
        layers = f"{config.num_hidden_layers} + {decoder_layers(config)} layers"
    return (
        f"{type(model).__name__}, {layers} of {config.hidden_size}, vocabulary "
        f"{config.vocab_size:,}, {total / 1e6:.1f} M parameters ({(total - embeddings) / 1e6:.1f} M without embeddings)"
    )
