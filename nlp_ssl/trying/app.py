"""A page on which a model answers, with Gradio: on this machine (`nlp-ssl try FOLDER --web`), or as a Space of the Hub.

Needs gradio, and of this package nothing but `answers.py` beside it: started as a program, as a Space does, it answers
for the model that the README.md beside it names.
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

LONGEST_TEXT, LONGEST_LIST = 20_000, 200_000  # characters that the page takes
COLOURS = (
    "#f59e0b",
    "#06b6d4",
    "#22c55e",
    "#d946ef",
    "#3b82f6",
    "#ef4444",
)  # of labels, in the order in which they come


def page(answerer: Any, *, title: str, about: str, against: Sequence[str] | None = None) -> Any:
    """Lay out the page of a model.

    Args:
        answerer: from `answers.open_model`.
        title: the model's name.
        about: what it is.
        against: texts to look among, for a model that compares; asked for on the page when `None`.

    Returns:
        `gradio.Blocks`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
    import gradio

    def answer(text: str, others: str = "") -> str:
        if not text.strip():
            return ""
        return as_html(answerer.answer(text.strip(), against if against is not None else _lines(others)))

    asks_for_others = answerer.compares and against is None
    with gradio.Blocks(analytics_enabled=False, title=title) as blocks:
        gradio.HTML(f"<h2>{_shown(title)}</h2><p>{_shown(about)}; {_shown(answerer.hint.rstrip('.'))}.</p>")
        text = gradio.Textbox(label="Text", lines=2, max_lines=12, max_length=LONGEST_TEXT, autofocus=True)
        given = [text]
        if asks_for_others:
            given.append(gradio.Textbox(label="Texts to look among, one per line", lines=6, max_length=LONGEST_LIST))
        button = gradio.Button("Answer", variant="primary")
        shown = gradio.HTML(label="Answer", min_height=80)
        button.click(answer, given, shown, api_name="answer")
        text.submit(answer, given, shown, api_visibility="private")
        first, *rest = answerer.examples
        examples = [[first, "\n".join(rest)]] if asks_for_others else [[each] for each in answerer.examples]
        gradio.Examples(examples, given, cache_examples=False)
    return blocks


def launch(blocks: Any, **where: Any) -> tuple[Any, str, str]:
    """Serve a page without links to it, to its makers, or to anything that a browser would fetch elsewhere.

    Args:
        blocks: from `page`.
        where: of `gradio.Blocks.launch`, such as `server_name`.
    """
    import gradio

    return blocks.launch(
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        share=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        **where,
    )


def as_html(answer: Any) -> str:
    """An answer as HTML, in which nothing that a model or a person wrote is anything but text."""
    parts = []
    if answer.pieces:
        labels = [label for label in dict.fromkeys(piece.label for piece in answer.pieces) if label is not None]
        colours = {label: COLOURS[at % len(COLOURS)] for at, label in enumerate(labels)}
        marked = "".join(_piece(piece, colours.get(piece.label, "")) for piece in answer.pieces)
        parts.append(f'<p style="font-size: 1.15em; line-height: 1.9; white-space: pre-wrap">{marked}</p>')
    parts += [_table(ranking) for ranking in answer.rankings]
    parts += [f'<p style="opacity: 0.7">{_shown(note)}</p>' for note in answer.notes]
    return "\n".join(parts)


def _piece(piece: Any, colour: str) -> str:
    if piece.label is None:
        return _shown(piece.text)
    label = f' <small style="opacity: 0.75">{_shown(piece.label)}</small>' if piece.label else ""
    style = f"background: {colour}40; border-radius: 4px; padding: 1px 4px; color: inherit"
    return f'<mark style="{style}">{_shown(piece.text)}{label}</mark>'


def _table(ranking: Any) -> str:
    cells = [f'<div style="grid-column: 1 / -1; opacity: 0.7">{_shown(ranking.title)}</div>'] if ranking.title else []
    for at, (name, number) in enumerate(ranking.entries):
        bar = ""
        if ranking.unit == "probability":
            style = f"background: {COLOURS[1]}; width: {100 * number:.1f}%; height: 0.7em; border-radius: 3px"
            bar = f'<div style="{style}"></div>'
        weight = "bold" if at < ranking.chosen else "normal"
        name_style = f"font-weight: {weight}; white-space: pre-wrap; overflow-wrap: anywhere"
        cells.append(f'<div style="{name_style}">{_shown(name)}</div>')
        cells.append(f'<div style="font-weight: {weight}; text-align: right">{ranking.shown(number)}</div>')
        cells.append(f"<div>{bar}</div>")
    style = "display: grid; grid-template-columns: minmax(8em, auto) 4em 1fr; gap: 4px 16px; align-items: center"
    return f'<div style="{style}; margin: 8px 0 16px">{"".join(cells)}</div>'


def _shown(text: str) -> str:
    """A text in HTML: what is no character that one sees, such as ESC, is written out."""
    seen = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    return escape("".join(seen))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def main() -> None:
    """Serve the model that the README.md beside this file names, as a Space does."""
    from answers import describe, open_model  # the file beside this one
    from huggingface_hub import metadata_load

    name = (metadata_load(Path(__file__).with_name("README.md")) or {})["models"][0]
    answerer = open_model(name)
    launch(page(answerer, title=name, about=describe(answerer)))


if __name__ == "__main__":
    main()
