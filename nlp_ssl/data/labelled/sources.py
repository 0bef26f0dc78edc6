"""Where labelled rows come from: built-in tasks, local files, Hub data sets; unchanged, each with its place."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from datasets import DatasetDict, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError

from nlp_ssl.config.finetuning import LabelledConfig
from nlp_ssl.core.console import say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.invocation import command_of
from nlp_ssl.data.files.forms import extensions_of
from nlp_ssl.data.labelled.files import FORMATS, files_of, read_files
from nlp_ssl.data.labelled.glue import GLUE_TASKS, read_glue
from nlp_ssl.data.labelled.rows import Rows, Task, from_dataset

# Hub ids that hold parquet: `datasets` 5 runs no loading scripts
TASKS = {
    **GLUE_TASKS,
    "imdb": Task("stanfordnlp/imdb", None, None, ["text"], "label", ["accuracy"]),
    "ag_news": Task("fancyzhx/ag_news", None, None, ["text"], "label", ["accuracy"]),
    "conll2003": Task("eriktks/conll2003", None, "refs/convert/parquet", None, "ner_tags"),
}


def read_splits(
    config: LabelledConfig, builtin: Callable[[], tuple[Rows, Task]], tagged: bool = False
) -> tuple[dict[str, Rows], Task]:
    """Read the splits that there are, of `train`, `validation` and `test`, and what is known about the task.

    Args:
        config: where they are.
        builtin: makes the built-in task.
        tagged: whether there is one label a word.

    Raises:
        UserError: no file or data set, one that cannot be read, no network, no training split, a limit below 1.
    """
    for name in ("max_train", "max_validation"):
        if (most := getattr(config, name)) is not None and most < 1:
            raise UserError(f"--data.{name} is {most}; it must be at least 1")
    if config.train_file is not None:
        files = {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}
        paths = {
            split: files_of(file, f"data.{split}_file", config) for split, file in files.items() if file is not None
        }
        splits = {split: read_files(found, config, tagged) for split, found in paths.items()}
        return splits, Task(paths["train"][0].name.split(".")[0])
    if config.validation_file is not None or config.test_file is not None:
        raise UserError("--data.validation_file and --data.test_file need --data.train_file beside them")
    if config.glue_dir:
        if config.task not in TASKS or not config.task.startswith("glue/"):
            raise UserError(
                f"--data.glue_dir needs --data.task with a task of GLUE, such as glue/sst2, not {config.task}"
            )
        return read_glue(Path(config.glue_dir), config.task), replace(TASKS[config.task], path=config.task)
    if config.task == "builtin":
        rows, task = builtin()
        return {"train": rows}, task
    return _read_hub(config)


def _read_hub(config: LabelledConfig) -> tuple[dict[str, Rows], Task]:
    if config.task.startswith("glue/") and config.task not in TASKS:
        near = difflib.get_close_matches(config.task, TASKS, n=1) or ["glue/sst2"]
        raise UserError(f"there is no task {config.task!r}; did you mean {near[0]}?")
    if extensions_of(Path(config.task))[0] in FORMATS:
        raise UserError(f"--data.task {config.task} looks like a file; give it as --data.train_file")
    task = TASKS.get(config.task, Task(config.task))
    task = replace(task, subset=config.subset or task.subset, revision=config.revision or task.revision)
    say(f"opening data set {task.path}")  # without a network the Hub's client tries for half a minute
    try:
        loaded = load_dataset(task.path, task.subset, revision=task.revision)
    except DatasetNotFoundError:
        raise UserError(
            f"{task.path!r} is no data set on the Hub that you may read; names of ours: builtin, {', '.join(TASKS)}"
        ) from None
    except ConnectionError:
        published = (
            f"the benchmark's published files with --data.glue_dir ({command_of('evaluate_glue')}: --glue_dir), "
        )
        raise UserError(
            f"the Hub cannot be reached for {task.path!r}; what works without a network: "
            f"{published if config.task in GLUE_TASKS else ''}--data.task builtin, or --data.train_file with a local "
            f"{', '.join(FORMATS)} file"
        ) from None
    except (ValueError, RuntimeError, FileNotFoundError) as error:  # no such subset or revision, a script, no data
        raise UserError(f"data set {task.path!r} cannot be opened: {' '.join(str(error).split())}") from None
    assert isinstance(loaded, DatasetDict)
    if "train" not in loaded:
        raise UserError(f"data set {task.path!r} has no split 'train', only {', '.join(loaded)}")
    splits = {"train": from_dataset(f"{task.path} (train)", loaded["train"])}
    validation = next((s for s in (task.validation, "valid", "dev", "val") if s in loaded), None)
    if validation:
        splits["validation"] = from_dataset(f"{task.path} ({validation})", loaded[validation])
    if task.test in loaded:
        splits["test"] = from_dataset(f"{task.path} ({task.test})", loaded[task.test])
    hidden = [loaded[name] for name in task.hidden if name in loaded]
    if hidden:
        splits["hidden"] = from_dataset(f"{task.path} (hidden)", concatenate_datasets(hidden))
    return splits, replace(task, path=config.task)
