"""What plain transformers reads with a finished tagger: the same sentences, given to it in each way that people do.

A tagger's score in training counts words. Who uses it gives text to `pipeline("token-classification")`, or words to the
tokenizer, and gets something else where the tokens differ; so each way has its own score beside the run's.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from nlp_ssl.data.labelled.detokenize import Span, as_typed, as_written
from nlp_ssl.data.labelled.tag_schemes import entities
from nlp_ssl.objectives.labelled import Prediction
from nlp_ssl.objectives.tagging import Tagging, TaggingCollator, read_plainly

Found = set[tuple[Any, ...]]


@dataclass(frozen=True)
class TaggerReadings:
    """Scores of one sample of sentences: entity F1, or the share of right tags where tags mark no entities.

    Attributes:
        num_sentences: how many were read.
        metric: `"F1"` or `"tag accuracy"`.
        reading: the `aggregation_strategy` of `pipeline`.
        run: as the run scores it, word by word.
        pipeline: `pipeline` on text written as in training.
        typed: `pipeline` on text whose punctuation touches its neighbours; `None` where that is the same text.
        split: `tokenizer(words, is_split_into_words=True)` and each word's first token; `None` where the tokenizer
            refuses words.
        why: why `pipeline` differs from the run, where it does.
    """

    num_sentences: int
    metric: str
    reading: str
    run: float
    pipeline: float
    typed: float | None
    split: float | None
    why: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """A table of who reads what, as `format_table` takes it."""
        strategy = f'pipeline(..., aggregation_strategy="{self.reading}")'
        ways = {
            "this run, word by word": self.run,
            f"{strategy}, text written as in training": self.pipeline,
            f"{strategy}, punctuation without blanks": self.typed,
            "tokenizer(words, is_split_into_words=True), first token of a word": self.split,
        }
        return [{"read by": way, self.metric: f"{score:.4f}"} for way, score in ways.items() if score is not None]

    def advice(self) -> str:
        """A sentence for the model card: the way that works, and the score of each."""
        others = {"with punctuation that touches its neighbours": self.typed}
        others["word by word (`is_split_into_words=True`)"] = self.split
        listed = "".join(f", {score:.4f} {way}" for way, score in others.items() if score is not None)
        way = f"`aggregation_strategy={self.reading!r}`".replace("'", '"')
        return (
            f"Give it text as above, with {way}, written as in training: blanks between words and before punctuation, "
            f"none in languages that write none. {self.metric} of {self.num_sentences} validation sentences: "
            f"{self.run:.4f} counted by the run, {self.pipeline:.4f} by this call{listed}."
        )


def read_tagger(
    folder: Path, reader: TaggingCollator, sentences: Sequence[list[str]], predictions: Sequence[Prediction]
) -> TaggerReadings:
    """Let plain transformers load a model from its folder and read sentences.

    Args:
        folder: a finished tagger.
        reader: made the batches that it was trained on.
        sentences: their words; each fits into one window.
        predictions: what the run says of them.
    """
    plain = pipeline(Tagging.card.pipeline_tag, str(folder), device="cpu", trust_remote_code=False)
    is_plain = not any(tag.startswith(("B-", "I-")) for tag in reader.tags)
    find, score = (_tags, _accuracy) if is_plain else (_entities, _f1)
    truth = [find(p.reference) for p in predictions]

    def read(lay_out: Callable[[Sequence[str]], tuple[str, list[Span]]]) -> float:
        found = []
        for words in sentences:
            text, spans = lay_out(words)
            groups = read_plainly(plain, text, reader.reading)
            found.append(_tags_of(groups, spans) if is_plain else _entities_of(groups, text, spans))
        return score(found, truth)

    is_typed_otherwise = any(as_typed(words)[0] != as_written(words)[0] for words in sentences)
    split = [_tags_split(plain, words, reader.max_length) for words in sentences]
    whole = [tags for tags in split if tags is not None]
    ours, theirs = score([find(p.predicted) for p in predictions], truth), read(as_written)
    return TaggerReadings(
        num_sentences=len(sentences),
        metric="tag accuracy" if is_plain else "F1",
        reading=reader.reading,
        run=ours,
        pipeline=theirs,
        typed=read(as_typed) if is_typed_otherwise else None,
        split=score([find(tags) for tags in whole], truth) if len(whole) == len(split) else None,
        why=None if ours == theirs else _why(reader, sentences),
    )


def _why(reader: TaggingCollator, sentences: Sequence[list[str]]) -> str:
    """Why `pipeline` reads otherwise than the run: what the tokenizer hides from it, else what the model gets wrong."""
    dropped, joined, run_on = [], [], []
    for words, tokens in zip(sentences, reader.word_tokens(sentences), strict=True):
        run_on += tokens.run_on
        for word, first, has_token in zip(words, tokens.first, tokens.has_token, strict=True):
            if not has_token:
                dropped.append(word)
            elif reader.reading == "first" and first is not None and not tokens.begins[first]:
                joined.append(word)
    causes = []
    if run_on:
        causes.append(
            f"cannot begin or end an entity inside a token, and {len(run_on):,} tokens, such as {run_on[0]!r}, run "
            "from one word into the next"
        )
    if joined:
        causes.append(f"takes {len(joined):,} words, such as {joined[0]!r}, for parts of the word before them")
    if dropped:
        causes.append(f"sees nothing of {len(dropped):,} words, such as {dropped[0]!r}, which have no token")
    if not causes:
        causes.append(
            "reads more tokens than the first of each word (blanks, parts of words), for which the model predicts "
            "another tag"
        )
    return f"pipeline {' and '.join(causes)}"


def _entities(tags: list[str]) -> Found:
    """Type, first word and word behind the last of each entity."""
    return {tuple(entity) for entity in entities(tags)}


def _entities_of(groups: list[dict[str, Any]], text: str, spans: list[Span]) -> Found:
    """What `pipeline` found, in words; an entity that begins or ends inside a word keeps its place in the text."""
    starts = {start: word for word, (start, _) in enumerate(spans)}
    ends = {end: word + 1 for word, (_, end) in enumerate(spans)}
    found: Found = set()
    for group in groups:
        surface = text[group["start"] : group["end"]]
        start, end = group["end"] - len(surface.lstrip()), group["start"] + len(surface.rstrip())
        # characters that a tokenizer may drop (accents as marks, joiners, selectors) belong to their neighbour
        while start > 0 and unicodedata.category(text[start - 1]) == "Cf":
            start -= 1
        while end < len(text) and unicodedata.category(text[end])[0] in "MC":
            end += 1
        if start in starts and end in ends:
            found.add((group["entity_group"], starts[start], ends[end]))
        else:
            found.add((group["entity_group"], start, end, "inside a word"))
    return found


def _tags(tags: list[str]) -> Found:
    """Each word and its tag, as `pipeline` shows it: without what is before the first dash."""
    return {(word, tag.split("-", 1)[-1]) for word, tag in enumerate(tags)}


def _tags_of(groups: list[dict[str, Any]], spans: list[Span]) -> Found:
    """Each word and the tag of the group that it begins in, `O` outside of all; neighbours of one tag are one group."""
    found = {
        word: group["entity_group"]
        for group in groups
        for word, (start, _) in enumerate(spans)
        if group["start"] <= start < group["end"]
    }
    return {(word, found.get(word, "O")) for word in range(len(spans))}


def _tags_split(reader: Any, words: list[str], max_length: int) -> list[str] | None:
    """The tag of each word's first token, as transformers' `run_ner.py` reads it; `None` if the tokenizer refuses."""
    try:
        encoded = reader.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
    except (AssertionError, ValueError):  # GPT-2's and RoBERTa's, without `add_prefix_space`
        return None
    with torch.inference_mode():
        best = reader.model(**encoded).logits[0].argmax(dim=-1).tolist()
    tags: dict[int, str] = {}
    for word, tag in zip(encoded.word_ids(0), best, strict=True):
        if word is not None:
            tags.setdefault(word, reader.model.config.id2label[tag])
    return [tags.get(word, "O") for word in range(len(words))]


def _f1(found: Sequence[Found], truth: Sequence[Found]) -> float:
    hits = sum(len(f & t) for f, t in zip(found, truth, strict=True))
    total = sum(map(len, found)) + sum(map(len, truth))
    return 2 * hits / total if total else 0.0


def _accuracy(found: Sequence[Found], truth: Sequence[Found]) -> float:
    hits = sum(len(f & t) for f, t in zip(found, truth, strict=True))
    return hits / max(1, sum(map(len, truth)))
