"""The model card: what a stranger must know to use the model, to judge its numbers, and to make it again.

The text is a pure function of its arguments: the same run gives the same card, and a fact that is not known leaves out
its line. Nothing is filled in for the author: no language, licence or claim that the run does not know.
"""

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from nlp_ssl.core.console import counted, printable
from nlp_ssl.core.invocation import COMMAND, dashed

SETTINGS = "nlp_ssl_config.yaml"
OURS = "nlp_ssl"  # the first tag of every card
# Facts that both pretraining and fine-tuning know, in the order of the card. A fact under any other name goes to the
# end of the procedure, under its own name.
MODEL_FACTS = {
    "architecture": "Architecture",
    "preset": "Preset",
    "parameters": "Parameters",
    "layers": "Layers",
    "hidden_size": "Hidden size",
    "vocab_size": "Vocabulary",
    "tokenizer": "Tokenizer",
    "max_positions": "Longest input (tokens)",
    "labels": "Labels",
}
DATA_FACTS = {
    "corpus": "Corpus",
    "corpus_fingerprint": "Fingerprint",
    "documents": "Documents",
    "corpus_tokens": "Tokens in the corpus",
    "corpus_bytes": "Bytes of UTF-8 text",
    "train_rows": "Training rows",
    "languages": "Languages (detected)",
    "held_out": "Held out",
    "held_out_documents": "Held-out documents",
    "packing": "Packing",
}
PROCEDURE_FACTS = {
    "objective": "Objective",
    "objective_options": "Options of the objective",
    "steps": "Optimizer steps",
    "epochs": "Passes over the data",
    "batch_size": "Global batch size",
    "sequence_length": "Sequence length (tokens)",
    "tokens_seen": "Tokens seen",
    "training_flops": "Training FLOPs (6 x weights of the body x tokens seen)",
    "optimizer": "Optimizer",
    "lr": "Peak learning rate",
    "muon_lr": "Peak learning rate of Muon",
    "schedule": "Schedule",
    "warmup": "Warm-up",
    "weight_decay": "Weight decay",
    "max_grad_norm": "Gradient clipping (norm)",
    "dropout": "Dropout",
    "precision": "Precision",
    "seed": "Seed",
    "hardware": "Hardware",
    "processes": "Processes",
    "minutes": "Training time (minutes)",
    "energy": "Energy (what processors and GPUs of the first machine counted, other programs on them included)",
    "tokens_per_second": "Tokens per second (real ones, no padding)",
    "versions": "Versions",
}
# Pictures that may lie beside a card, in the order in which it shows them.
PICTURES = {
    "curves.png": "Training and held-out loss",
    "confusion.png": "Confusion matrix of the validation set: true classes down, predicted classes across",
}
_MARKUP = re.compile(r"[\\`<\[|$*~]|(?<!\w)_|_(?!\w)")  # by which Markdown would take a text for more than a text
# Results besides those that an objective names.
RESULT_FACTS = {
    "unigram_entropy": "For reference: unigram entropy of the same text, nats per token",
    "evaluated_targets": "Tokens that the held-out loss was measured on",
}


@dataclass(frozen=True)
class CardText:
    """What a card says of every model of an objective.

    What a number counts is said beside it: losses of different objectives cannot be compared.
    """

    pipeline_tag: str
    """The task of `pipeline` that reads the model."""
    what: str
    """What the model is, after "This is"."""
    limit: str
    """What it cannot do, in a sentence."""
    recipe: str
    """The program that makes it."""
    snippet: str
    """Python that uses it: a format with `{model}`, `{example}` and `{strategy}`, Python literals."""
    example: str
    """The snippet's input where none is given: a Python expression."""
    objective: str = ""
    """What it was trained on, as the field calls it."""
    results: Mapping[str, str] = field(default_factory=dict)
    """Held-out numbers that the card shows, by the names that `evaluate` gives them: what each counts."""
    papers: tuple[str, ...] = ()
    """Where the objective is from: numbers of arXiv, such as `1810.04805`."""


@dataclass
class Metric:
    """One measured number of a fine-tuned model, for the table and for the Hub's `model-index`."""

    name: str
    """As `evaluate` calls it: `accuracy`, `f1`, `matthews_correlation`."""
    value: float
    dataset: str
    """Name or Hub id of the data set."""
    split: str | None = None
    seeds: int | None = None
    """Runs of this one's options with other seeds, itself among them."""
    mean: float | None = None
    """Over these runs."""
    std: float | None = None
    """Standard deviation over these runs."""


def model_card(
    title: str,
    *,
    text: CardText,
    model: str,
    facts: Mapping[str, Any],
    metrics: Iterable[Metric] = (),
    base_model: str | None = None,
    language: str | list[str] | None = None,
    license: str | None = None,
    datasets: list[str] | None = None,
    tags: Iterable[str] = (),
    example: str | tuple[str, str] | None = None,
    limits: Iterable[str] = (),
    pictures: Iterable[str] = (),
    again: str | None = None,
) -> str:
    """Write a model card.

    Args:
        title: name of the model.
        text: what the objective says of its models.
        model: what the snippet gives to `pipeline`: the repository id, or the model's folder.
        facts: what is known about the run, by the names in `MODEL_FACTS`, `DATA_FACTS`, `PROCEDURE_FACTS`,
            `RESULT_FACTS` and `text.results`; `None` leaves out the line.
        metrics: what was measured on labelled data.
        base_model: Hub id or folder of the model that this one went on from.
        language: ISO 639 code(s), when known.
        license: the Hub's name of the licence, when given.
        datasets: Hub ids of the training data.
        tags: further tags for the Hub.
        example: input of the snippet, a pair of texts for a pair classifier; in the model's language and with its mask
            token.
        limits: further sentences on what the model cannot do.
        pictures: those of `PICTURES` that lie beside the card.
        again: the command that trains such a model again, from `command_again`.

    Returns:
        Markdown with YAML front matter, ending in a newline.
    """
    facts = {name: value for name, value in facts.items() if value is not None}
    metrics, pictures = list(metrics), set(pictures)
    results = {**text.results, **RESULT_FACTS}
    known = {**MODEL_FACTS, **DATA_FACTS, **PROCEDURE_FACTS, **results}
    others = {name: name.replace("_", " ").capitalize() for name in facts if name not in known}
    parts = [
        f"---\n{_front_matter(title, text.pipeline_tag, metrics, base_model, language, license, datasets, tags)}\n---",
        f"# {_cell(title)}",
        _what(text, facts, base_model),
        _table(MODEL_FACTS, facts),
        "## How to use",
        f"```python\n{_snippet(text, model, example)}\n```",
        _section("## Training data", _table(DATA_FACTS, facts)),
        _section("## Training procedure", _table({**PROCEDURE_FACTS, **others}, facts)),
        _section(
            "## Results",
            _results(results, facts, metrics),
            *(f"![{caption}]({name})" for name, caption in PICTURES.items() if name in pictures),
        ),
        "## Limits",
        "\n".join(f"- {_line(limit)}" for limit in [text.limit, *_known_limits(facts, metrics), *limits]),
        "## How to make it again",
        f"`{SETTINGS}` in this folder holds the options of the run as resolved. Paths of data in it are relative to "
        "where the run was started, and on the Hub only their last names: give yours.\n\n"
        f"```bash\n{again or command_again(text.recipe)}\n```",
        _section("## Citation", _papers(text.papers)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def command_again(recipe: str, folder: Path = Path(), *, steps: int | None = None, tokenizer: bool = False) -> str:
    """The command that trains a model again as its run did.

    Args:
        recipe: the program.
        folder: of the finished run, from where the command is typed.
        steps: that the run's budget came to, where it was in minutes: on another machine it would come to others.
        tokenizer: whether the run trained the tokenizer, which lies in the folder.
    """
    budget = [] if steps is None else ["--train.steps", str(steps)]
    trained = ["--tokenizer.path", str(folder)] if tokenizer else []
    return shlex.join([COMMAND, dashed(recipe), "--config", str(folder / SETTINGS), *budget, *trained])


def under_id(card: str, names: Iterable[str], repo_id: str) -> str:
    """A card under the id of the repository that it is pushed to: in its title, its `model-index` and its snippet.

    Only what `model_card` wrote is replaced: whatever a person has put in its place stays, and so do other cards.

    Args:
        card: its text.
        names: what the card may call the model.
        repo_id: of the Hub.
    """
    parts = re.fullmatch(r"---\n(.*?\n)---\n(.*)", card, re.DOTALL)
    if parts is None or f"\ntags:\n- {OURS}\n" not in f"\n{parts[1]}":
        return card
    front, body = parts[1], parts[2]
    for name in names:
        listed = yaml.safe_dump(_line(name), allow_unicode=True).splitlines()[0]
        front = front.replace(f"\nmodel-index:\n- name: {listed}\n", f"\nmodel-index:\n- name: {repo_id}\n")
        body = re.sub(rf"\A\n# {re.escape(_cell(name))}\n", lambda _: f"\n# {_cell(repo_id)}\n", body)
        called = rf"(pipeline\([^()\n]*model=|\.from_pretrained\(){re.escape(repr(name))}(?=[,)])"
        body = re.sub(called, lambda found: f"{found[1]}{repo_id!r}", body)
    return f"---\n{front}---\n{body}"


def _front_matter(
    title: str,
    pipeline_tag: str,
    metrics: list[Metric],
    base_model: str | None,
    language: str | list[str] | None,
    license: str | None,
    datasets: list[str] | None,
    tags: Iterable[str],
) -> str:
    """The Hub's metadata. A number that is not finite stays out of it: the Hub refuses the whole card for one."""
    evaluations = [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=metric.dataset,
            dataset_name=metric.dataset,
            dataset_split=metric.split,
            metric_type=metric.name,
            metric_value=round(float(metric.value), 6),
        )
        for metric in metrics
        if math.isfinite(metric.value)
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=[OURS, *tags],
        base_model=base_model if _is_hub_id(base_model) else None,
        language=language,
        license=license,
        datasets=[name for name in datasets or [] if _is_hub_id(name)] or None,
        metrics=sorted({metric.name for metric in metrics}) or None,
        model_name=_line(title) if evaluations else None,
        eval_results=evaluations or None,
    )
    return data.to_yaml(line_break="\n")


def _what(text: CardText, facts: Mapping[str, Any], base_model: str | None) -> str:
    way = "fine-tuned" if text.recipe.startswith("finetune") else "continued"
    if base_model is None:
        origin = "trained from scratch"
    elif _is_hub_id(base_model):
        origin = f"{way} from [{base_model}](https://huggingface.co/{base_model})"
    else:  # where the folder was on someone's disk is nobody's business
        name = _line(Path(base_model).name).replace("`", "'")
        origin = f"{way} from the local model `{name}`"
    size = f" of {_value(facts['parameters'])} parameters" if "parameters" in facts else ""
    return f"This is {text.what}. It is a model{size}, {origin} with `nlp_ssl`; plain `transformers` loads it."


def _snippet(text: CardText, model: str, example: str | tuple[str, str] | None) -> str:
    given = {"text": example[0], "text_pair": example[1]} if isinstance(example, tuple) else example
    return text.snippet.format(model=repr(model), example=repr(given) if given else text.example)


def _results(labels: Mapping[str, str], facts: Mapping[str, Any], metrics: list[Metric]) -> str:
    tables = [_table(labels, facts)]
    if metrics:
        rows = ["| Data | Split | Metric | Value |", "|---|---|---|---|"]
        for metric in metrics:
            value = _value(metric.value)
            if metric.seeds is not None:
                spread = "" if metric.std is None else f" ± {_value(metric.std)}"
                value += f"; over {counted(metric.seeds, 'seed')} {_value(metric.mean)}{spread}"
            rows.append(f"| {_cell(metric.dataset)} | {_cell(metric.split or '')} | {_cell(metric.name)} | {value} |")
        tables.append("\n".join(rows))
    return "\n\n".join(table for table in tables if table)


def _known_limits(facts: Mapping[str, Any], metrics: list[Metric]) -> list[str]:
    limits = ["It has the gaps, errors and prejudices of its training data; nobody has examined it for them."]
    if "held_out_loss" in facts:
        limits.append("The held-out text comes from the same sources as the training text; on other text it is worse.")
    if any(metric.seeds is None or metric.seeds < 2 for metric in metrics):
        limits.append("Scores of a single seed: another seed gives others, on small data by several points.")
    return limits


def _papers(numbers: tuple[str, ...]) -> str:
    listed = " and ".join(f"[arXiv:{number}](https://arxiv.org/abs/{number})" for number in numbers)
    return f"The model was made with `nlp_ssl`; its objective is that of {listed}." if numbers else ""


def _section(heading: str, *bodies: str) -> str:
    """A heading with what is under it, or nothing when nothing is."""
    there = [body for body in bodies if body]
    return "\n\n".join([heading, *there]) if there else ""


def _table(labels: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    rows = [f"| {_line(label)} | {_cell(_value(facts[name]))} |" for name, label in labels.items() if name in facts]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):  # numpy's too
        return f"{value:,}"
    if isinstance(value, Real):
        large = f"{value:,.0f}" if abs(float(value)) < 1e12 else f"{value:.3g}"
        return f"{value:.4g}" if abs(float(value)) < 1e4 else large
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value if item is not None)
    return str(value)


def _line(text: str) -> str:
    return printable(" ".join(str(text).split()))


def _cell(text: str) -> str:
    """A text that somebody else may have written: no table, link, picture, code or HTML begins in it."""
    return _MARKUP.sub(r"\\\g<0>", _line(text))


def _is_hub_id(name: str | None) -> bool:
    """Whether a name can be a Hub id and is no folder here (`runs/mlm` looks like both)."""
    if not name:
        return False
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII) is not None and not Path(name).exists()
