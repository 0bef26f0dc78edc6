"""Tags of words: how entities are written (IOB1, IOB2, BIOES, BILOU, BMES), read, checked, and rewritten as IOB2.

All schemes are read by one rule, that of the CoNLL evaluation script: a tag continues the entity before it exactly
when it is `I-` or `E-` of the same type and that entity is still open. So `entities` needs no scheme; the scheme only
decides which tags are mistakes.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
# BILOU writes the last word of an entity as L and a one-word entity as U; the rest of the world says E and S. BMES and
# BMEWO write the words between as M, and BMEWO a one-word entity as W.
_PREFIXES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
ONLY_TYPE = "ENTITY"


class Entity(NamedTuple):
    """One entity of a sentence: its type and the half-open range of its words."""

    type: str
    start: int
    end: int


def split_tag(tag: str) -> tuple[str, str]:
    """`"B-PER"` -> `("B", "PER")`, `"O"` -> `("O", "")`; L, U, M and W come back as E, S, I and S.

    Raises:
        ValueError: the tag is neither `O` nor one of `B- I- E- S- L- U- M- W-` followed by a type, or with `_`.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag[:1], tag[1:2], tag[2:]
    if prefix not in _PREFIXES or dash not in ("-", "_") or not kind:
        raise ValueError(f"{tag!r} is neither O nor B-, I-, E-, S-, L-, U-, M- or W- with a type")
    return _PREFIXES[prefix], kind


def is_tag(tag: str) -> bool:
    """Whether a tag belongs to a scheme of entities."""
    try:
        split_tag(tag)
    except ValueError:
        return False
    return True


def without_types(tags: Iterable[str]) -> bool:
    """Whether the tags of a whole file are prefixes alone: `B`, `I` and `O`, or those of another scheme."""
    used = set(tags) - {OUTSIDE}
    return bool(used & {"B", "I"}) and used <= _PREFIXES.keys()


def with_type(tag: str) -> str:
    """`"B"` -> `"B-ENTITY"`, `"O"` -> `"O"`."""
    return tag if tag == OUTSIDE else f"{tag}-{ONLY_TYPE}"


def are_entities(tags: Iterable[str]) -> bool:
    """Whether all of some tags belong to a scheme of entities, and not all are outside of any."""
    used = set(tags)
    return without_types(used) or (bool(used - {OUTSIDE}) and all(map(is_tag, used)))


def entities(tags: Sequence[str], strict: bool = False) -> list[Entity]:
    """The entities of one sentence, left to right, whichever scheme its tags follow.

    The reading is that of the CoNLL-2000 and 2003 evaluation script (`conlleval`): broken sequences are mended, not
    dropped; an `I-` with nothing to continue begins an entity.

    Args:
        tags: one tag per word.
        strict: read IOB2 to the letter instead: an entity begins with `B-`, and an `I-` that continues none is outside.

    Raises:
        ValueError: a tag of no scheme.
    """
    found: list[Entity] = []
    start, kind, open_ = 0, "", False
    for i, tag in enumerate(tags):
        prefix, this_kind = split_tag(tag)
        if open_ and prefix in "IE" and this_kind == kind:
            open_ = prefix == "I"
            found[-1] = Entity(kind, start, i + 1)
            continue
        open_ = prefix in "BI" and not (strict and prefix == "I")
        if prefix != OUTSIDE and not (strict and prefix != "B"):
            start, kind = i, this_kind
            found.append(Entity(kind, start, i + 1))
    return found


def to_bio2(tags: Sequence[str]) -> list[str]:
    """The same entities as IOB2 tags: `B-` on the first word of every entity, `I-` on the others, `O` elsewhere."""
    rewritten = [OUTSIDE] * len(tags)
    for entity in entities(tags):
        rewritten[entity.start] = f"B-{entity.type}"
        rewritten[entity.start + 1 : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.start - 1)
    return rewritten


def find_scheme(sentences: Iterable[Sequence[str]]) -> tuple[str, list[tuple[int, int, str]]]:
    """Which scheme a whole file follows, and the tags in it that break that scheme.

    Args:
        sentences: the tags of every sentence of one file.

    Returns:
        The scheme, one of `"BIOES"`, `"IOB2"`, `"IOB1"` and `"plain"` (no tag has a prefix: parts of speech, for
        example), and the misfits as (sentence, word, what is wrong).

    Raises:
        ValueError: tags with and without prefixes in one file; the second argument is (sentence, word).
    """
    sentences = list(sentences)
    used = {tag for tags in sentences for tag in tags}
    if not any(re.match(r"[BIESLU]-.", tag) for tag in used) and not (used - {OUTSIDE} and all(map(is_tag, used))):
        return ("plain" if used - {OUTSIDE} else "IOB2"), []
    loose_inside, loose_begin, unclosed, ends = [], [], [], False
    for s, tags in enumerate(sentences):
        before, before_kind = OUTSIDE, ""
        for w, tag in enumerate(tags):
            try:
                prefix, kind = split_tag(tag)
            except ValueError as error:
                raise ValueError(str(error), (s, w)) from None
            ends = ends or prefix in "ES"
            goes_on = before in "BI" and kind == before_kind
            shown = f"{tag} follows {tags[w - 1]}" if w else f"{tag} begins the sentence"
            if prefix in "IE" and not goes_on:
                loose_inside.append((s, w, shown))
            if prefix == "B" and not (before != OUTSIDE and kind == before_kind):
                loose_begin.append((s, w, shown))
            if before in "BI" and w and not (prefix in "IE" and kind == before_kind):
                unclosed.append((s, w - 1, f"{tags[w - 1]} is not closed by an E-"))
            before, before_kind = prefix, kind
        if before in "BI":
            unclosed.append((s, len(tags) - 1, f"{tags[-1]} is not closed by an E-"))
    if ends:
        return "BIOES", sorted(loose_inside + unclosed)
    # IOB1 begins entities with I- and keeps B- for one that touches another of its type; IOB2 always begins with B-
    if len(loose_inside) > len(loose_begin):
        return "IOB1", loose_begin
    return "IOB2", loose_inside


def tag_set(types: Iterable[str]) -> list[str]:
    """`["PER", "LOC"]` -> `["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]`: every IOB2 tag, types sorted."""
    return [OUTSIDE] + [f"{prefix}-{kind}" for kind in sorted(set(types)) for prefix in "BI"]
