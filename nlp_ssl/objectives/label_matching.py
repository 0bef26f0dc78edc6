"""Whether a trained head is the one that a labelled task needs: its classes are matched by name, never by position.

Published models of one task order their classes in every way (of MNLI three orders are in use), so equal shapes say
nothing. A head whose classes are the task's is kept, in its own order; any other is made anew.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from nlp_ssl.core.console import counted, say, warn
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled.labelled_data import LabelledData, arrange
from nlp_ssl.models.loading import model_class

MOST_SHOWN = 10  # labels in a message
NAME_THEM = "name them in its config.json (id2label), or by --head_labels in fine-tuning"


@dataclass(frozen=True)
class Match:
    """How the classes of a head and of a data set go together.

    Attributes:
        rows: the name of each of the head's rows, the data's own where it has that class; `None` where the head does
            not know all classes of the data.
        by_number: whether one side has no names, so that numbers were compared.
        new: classes of the data that the head does not have.
        gone: classes of the head that the data does not have.
    """

    rows: list[str] | None
    by_number: bool
    new: list[str]
    gone: list[str]


def match_labels(
    head: Sequence[str],
    labels: Sequence[str],
    other_names: Sequence[str] | None = None,
    optional: Collection[str] = (),
) -> Match:
    """Match the classes of a data set with the rows of a head, by the first of these that finds all of them.

    1. Names. Case, blanks, hyphens and underscores make no difference, unless they are all that tells two classes
       apart. `LABEL_3` is the number 3. The head may have more classes than the data, unless it has no names at all
       (`LABEL_0`, `LABEL_1`, ... or `0`, `1`, ...).
    2. `other_names`, likewise; where they are numbers, of all classes.
    3. Numbers, where the data's labels are `0` to `n - 1`, nobody names them, and the head has `n` rows: its own.

    Args:
        head: the names of its rows, in their order.
        labels: of the data.
        other_names: what the data's source calls each of its labels besides: their numbers, or the names of numbers.
        optional: labels that no row has, which the head may lack.
    """
    without_names = is_unnamed(head) or set(head) == set(map(str, range(len(head))))
    rows = _find(head, labels)
    found = _name_rows(head, labels, rows, optional, whole=without_names)
    new = [label for label, row in zip(labels, rows, strict=True) if row is None and label not in optional]
    gone = [name for i, name in enumerate(head) if i not in rows]
    if found is not None:
        return Match(found, False, new, gone)
    if other_names is not None and list(other_names) != list(labels):
        numbers = all(name.isdecimal() for name in other_names)
        rows = _find(head, other_names)
        found = _name_rows(head, labels, rows, () if numbers else optional, whole=numbers or without_names)
        gone_too = [name for i, name in enumerate(head) if i not in rows]
        return Match(found, numbers, new, gone) if found is None else Match(found, numbers, [], gone_too)
    if len(new) == len(labels) and sorted(labels) == sorted(map(str, range(len(head)))):
        return Match(sorted(labels, key=int), True, [], [])
    return Match(None, False, new, gone)


def is_unnamed(head: Sequence[str]) -> bool:
    """Whether the classes of a head have no names but those that transformers gives by itself."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(head))


def _find(head: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """The head's row of each name: the one that is called just so, else the only one that is but for its writing."""
    times, asked = Counter(head), set(wanted)
    exact = {name: i for i, name in enumerate(head) if times[name] == 1 and name in asked}
    alike: dict[str, list[int]] = {}
    for i, name in enumerate(head):
        if name not in exact:
            alike.setdefault(_plain(name), []).append(i)
    rows = []
    for name in wanted:
        others = alike.get(_plain(name), [])
        rows.append(exact.get(name, others[0] if len(others) == 1 else None))
    claims = Counter(rows)  # a row that two names ask for belongs to neither
    return [None if row is None or claims[row] > 1 else row for row in rows]


def _name_rows(
    head: Sequence[str], labels: Sequence[str], rows: list[int | None], optional: Collection[str], whole: bool
) -> list[str] | None:
    """The names of the head's rows, if all labels but the optional ones have one; `whole`: and all rows a label."""
    if any(row is None and label not in optional for label, row in zip(labels, rows, strict=True)):
        return None
    names = dict(zip(rows, labels, strict=True))
    named = [names.get(i, name) for i, name in enumerate(head)]
    if len(set(named)) < len(named) or (whole and any(i not in names for i in range(len(head)))):
        return None
    return named


def _plain(name: str) -> str:
    """A name without what people write differently: `"Not-Entailment"` and `"not_entailment"` are one."""
    name = unicodedata.normalize("NFKC", name).casefold().strip()
    name = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", name)  # a sign, as in -1, stays
    return re.sub(r"^label (?=\d+$)", "", name)


# ---------------------------------------------------------------------------------------------------------------------
# a model and a task


def head_labels(config: PreTrainedConfig, auto_class: Any) -> list[str] | None:
    """The names of the rows of a stored model's head, in their order; `None` where it has no head of this kind.

    `id2label` gives them, which is what `pipeline` prints; `label2id` where the former has no names.
    """
    if type(config) not in auto_class._model_mapping:
        return None
    wanted = model_class(config, auto_class).__name__
    stored = getattr(config, "architectures", None) or [wanted]
    if all(name.partition("For")[2] != wanted.partition("For")[2] for name in stored):
        return None
    ids = range(config.num_labels or 0)
    names = [str((config.id2label or {}).get(i, f"LABEL_{i}")) for i in ids]
    by_id = {i: str(name) for name, i in (config.label2id or {}).items()}
    return [by_id[i] for i in ids] if is_unnamed(names) and sorted(by_id) == list(ids) else names


def fit_head(
    name: str, config: PreTrainedConfig, auto_class: Any, data: LabelledData, names: list[str] | None = None
) -> tuple[LabelledData, bool]:
    """Bring a task's classes into the order of a trained model's head, if they are the same; say what was found.

    Args:
        name: of the model, for messages.
        config: the model's, as it is stored.
        auto_class: the `AutoModelFor...` whose head is needed.
        data: the task.
        names: of the head's rows, in their order, where the user knows better than the configuration.

    Returns:
        The task, its classes in the order of the head where that is kept, and whether it is.

    Raises:
        UserError: `names` are not as many different ones as the head has rows.
    """
    head = head_labels(config, auto_class)
    if names is not None:
        rows = 0 if head is None else len(head)
        if len(set(names)) != rows or len(names) != rows:
            if head is None:
                raise UserError(f"--head_labels names the outputs of a trained head, and {name} has none; leave it out")
            raise UserError(
                f"--head_labels gives {len(names)} names, but {name} has a head of {counted(rows, 'label')}; give each "
                "its own"
            )
        head = names
    if head is None:
        wanted = "one score per row" if data.labels is None else f"{counted(len(data.labels), 'class')}"
        kinds = [kind for kind in config.architectures or [] if kind.endswith("Classification")]
        if kinds:
            say(f"head: new, for {wanted}; that of {name}, a {kinds[0]}, is for other labels")
        else:
            say(f"head: new, for {wanted}; {name} has none")
        return data, False
    if data.labels is None or len(head) == 1 or config.problem_type == "regression":
        return data, _fit_score(name, config, head, data)
    match = match_labels(head, data.labels, data.other_names, _dispensable(data))
    if match.rows is None:
        say(f"head: made anew; {_why_not(name, head, match)}")
        return data, False
    if match.by_number:
        pairs = _listed([f"{row} is {label}" for row, label in zip(head, match.rows, strict=True)])
        warn(
            f"head: that of {name} is kept; one side has no names for its classes, so they are matched by number: "
            f"{pairs}; if that is wrong, {NAME_THEM}"
        )
    else:
        more = f"; the data has no rows of {_listed(match.gone)}" if match.gone else ""
        say(f"head: that of {name} is kept, its classes are found by name: {_listed(match.rows)}{more}")
    return arrange(data, match.rows), True


def _fit_score(name: str, config: PreTrainedConfig, head: list[str], data: LabelledData) -> bool:
    """Whether a head and a task are both of one score per row."""
    scores = len(head) == 1 or config.problem_type == "regression"
    if data.labels is None and len(head) == 1:
        say(f"head: that of {name} is kept, it gives one score per row")
        return True
    what = f"{len(head)} score{'s' * (len(head) > 1)} a row" if scores else f"the classes {_listed(head)}"
    wanted = "one score per row" if data.labels is None else f"the classes {_listed(data.labels)}"
    say(f"head: made anew; that of {name} gives {what}, the data has {wanted}")
    return False


def _why_not(name: str, head: list[str], match: Match) -> str:
    if is_unnamed(head):
        return (
            f"the {len(head)} classes of {name} have no names (LABEL_0, ...), so which of the data's they are is not "
            f"known; to keep it, {NAME_THEM}"
        )
    if not match.new:
        return f"that of {name} has a name for two of its classes ({_listed(head)}); {NAME_THEM}"
    gone = f"; gone: {_listed(match.gone)}" if match.gone else ""
    return f"that of {name} has other classes than the data (new: {_listed(match.new)}{gone})"


def _dispensable(data: LabelledData) -> set[str]:
    """Classes that no row has and a head may do without."""
    sets = [part for part in (data.train, data.validation, data.test) if part is not None]
    labels = (data.kind.written(label, data.names) for part in sets for label in part[data.kind.column])
    return data.kind.dispensable(data.names, {name for label in labels for name in data.kind.classes_in(label)})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
