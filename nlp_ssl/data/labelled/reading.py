"""One line that says how a file was read, with an example and the options that have it read otherwise."""

from nlp_ssl.core.console import say, warn
from nlp_ssl.data.labelled.label_form import LabelForm, some
from nlp_ssl.data.labelled.rows import Rows
from nlp_ssl.data.labelled.tag_schemes import OUTSIDE, is_tag, split_tag


def say_classes(rows: Rows, table: dict[str, list], form: LabelForm, classes: list[str] | None) -> None:
    """The line for texts with labels.

    Args:
        rows: the training rows.
        table: what they became: the columns of text, and then `label`.
        form: how labels were read.
        classes: their names; `None` for scores.
    """
    *texts, _ = table
    text, label = table[texts[0]][0], table["label"][0]
    say(
        f"{rows.where}: text from {' and '.join(map(repr, texts))}, label from {form.column!r}: "
        f"{form.summary(table['label'], classes)}; such as {text[:60]!r}: {label!r:.60}; "
        f"--data.text_columns and --data.label_column decide otherwise{form.otherwise(classes)}"
    )
    if classes and "-1" in classes and not form.names:
        warn(f"{rows.where}: -1 is a class like others; if it means that there is no label, remove its rows")


def say_tags(rows: Rows, table: dict[str, list[list[str]]], tokens_column: str, tags_column: str) -> None:
    """The line for sentences with tags.

    Args:
        rows: the training rows.
        table: what they became: `tokens` and `tags`.
        tokens_column: where the words were.
        tags_column: where the tags were.
    """
    columns = [rows.called.get(name, repr(name)) for name in (tokens_column, tags_column)]
    used = {tag for row in table["tags"] for tag in row} - {OUTSIDE}
    entities = all(map(is_tag, used))
    kinds = sorted({split_tag(tag)[1] if entities else tag for tag in used})
    what = f"{len(kinds)} types of entities" if entities else "tags of words, not of entities"
    words = " ".join(table["tokens"][0])
    say(
        f"{rows.where}: words from {columns[0]}, tags from {columns[1]}: {rows.num_rows:,} sentences, {what} "
        f"({some(kinds)}); such as {words[:60]!r}; --data.tokens_column and --data.label_column decide otherwise"
    )
