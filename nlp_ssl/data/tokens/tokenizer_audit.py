"""What a tokenizer does to text it was not trained on, in numbers, and several tokenizers side by side."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from datasets import Dataset, IterableDataset
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from nlp_ssl.core.console import counted, human_bytes, progress, say, warn
from nlp_ssl.core.vocabulary import special_ids
from nlp_ssl.data.tokens.text_only import backend_of, read_each, text_rules
from nlp_ssl.data.tokens.word_boundaries import byte_level_alphabet

_NUM_LONGEST = 8
_BATCH = 64  # texts encoded together
_SAMPLED_TEXTS, _SAMPLED_CHARACTERS = 500, 2_000  # for the share of unknown characters of a corpus
LITTLE = 1e6  # bytes of held-out text, in which many an entry cannot occur
_MUCH_UNKNOWN = 0.01


@dataclass(frozen=True)
class TokenizerAudit:
    """Measurements of one tokenizer on one set of texts; special tokens around a text are not counted."""

    vocab_size: int
    """Entries, special tokens included."""
    num_texts: int
    """Texts measured."""
    num_bytes: int
    """Bytes of these texts as UTF-8."""
    num_tokens: int
    """Tokens of these texts."""
    fertility: float
    """Tokens a whitespace-separated word (Chinese has few spaces: compare bytes per token there)."""
    bytes_per_token: float
    """Bytes of text a token stands for: how much of a text fits into a row."""
    unknown_rate: float
    """Share of the tokens that are the unknown token."""
    unknown_characters: float
    """Share of the characters that are inside unknown tokens: one of them may swallow a word, or a sentence."""
    whole_words: float
    """Share of the words (here: runs of letters and digits) that are one token, and not the unknown one."""
    unused: float
    """Share of the entries, special tokens aside, that no text used."""
    longest_pieces: tuple[str, ...]
    """The longest entries of the vocabulary, decoded: a rule of dashes here is room lost."""
    tokens_to_baseline: float | None = None
    """Tokens divided by those of the baseline on the same texts; below 1 is shorter."""


def audit(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], baseline: PreTrainedTokenizerFast | None = None
) -> TokenizerAudit:
    """Measure a tokenizer on texts, best on held-out ones.

    Args:
        tokenizer: any fast tokenizer.
        texts: documents; read once. Empty ones count as texts and add nothing. Without any text the ratios are NaN.
        baseline: another tokenizer, run on the same texts for `tokens_to_baseline`.
    """
    num_characters = num_lost = 0
    num_texts = num_bytes = num_tokens = num_words = num_unknown = num_letter_words = num_whole = baseline_tokens = 0
    unknown_id = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    ordinary = set(tokenizer.get_vocab().values()) - set(special_ids(tokenizer))
    unused = set(ordinary)
    reader = backend_of(text_rules(tokenizer))
    baseline_reader = None if baseline is None else backend_of(text_rules(baseline))
    with progress(desc="audit", unit="B") as bar:
        for batch in _batches(texts):
            encodings = read_each(partial(reader.encode_batch, add_special_tokens=False), batch)
            for text, encoding in zip(batch, encodings, strict=True):
                ids = np.array(encoding.ids, dtype=np.int64)
                unused.difference_update(encoding.ids)
                words, whole = _whole_words(text, encoding, ids, unknown_id)
                num_letter_words += words
                num_whole += whole
                num_words += len(text.split())
                num_tokens += len(ids)
                num_unknown += int((ids == unknown_id).sum())
                num_characters += len(text)
                num_lost += _num_lost(encoding, unknown_id)
            if baseline_reader is not None:
                others = read_each(partial(baseline_reader.encode_batch, add_special_tokens=False), batch)
                baseline_tokens += sum(len(encoding.ids) for encoding in others)
            batch_bytes = sum(len(text.encode()) for text in batch)
            num_texts += len(batch)
            num_bytes += batch_bytes
            bar.update(batch_bytes)

    return TokenizerAudit(
        vocab_size=len(tokenizer),
        num_texts=num_texts,
        num_bytes=num_bytes,
        num_tokens=num_tokens,
        fertility=_ratio(num_tokens, num_words),
        bytes_per_token=_ratio(num_bytes, num_tokens),
        unknown_rate=_ratio(num_unknown, num_tokens),
        unknown_characters=_ratio(num_lost, num_characters),
        whole_words=_ratio(num_whole, num_letter_words),
        unused=_ratio(len(unused), len(ordinary)),
        longest_pieces=_longest_pieces(tokenizer, ordinary),
        tokens_to_baseline=None if baseline is None else _ratio(num_tokens, baseline_tokens),
    )


def format_audit(audits: dict[str, TokenizerAudit]) -> str:
    """A table with a column a tokenizer, for a person to read.

    Args:
        audits: name -> audit; all on the same texts, or the numbers do not compare.
    """
    rows: list[tuple[str, list[str]]] = [("", list(audits))]
    columns = list(audits.values())
    rows += [
        ("entries", [f"{a.vocab_size:,}" for a in columns]),
        ("tokens", [f"{a.num_tokens:,}" for a in columns]),
        ("tokens per word", [f"{a.fertility:.3f}" for a in columns]),
        ("bytes per token", [f"{a.bytes_per_token:.3f}" for a in columns]),
        ("unknown tokens", [f"{a.unknown_rate:.4%}" for a in columns]),
        ("characters in them", [f"{a.unknown_characters:.4%}" for a in columns]),
        ("words kept whole", [f"{a.whole_words:.1%}" for a in columns]),
        ("entries not used", [f"{a.unused:.1%}" for a in columns]),
    ]
    if any(a.tokens_to_baseline is not None for a in columns):
        ratios = ["-" if a.tokens_to_baseline is None else f"{a.tokens_to_baseline:.3f}" for a in columns]
        rows.append(("tokens to baseline's", ratios))
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(columns))]
    lines = [
        f"{label:<20}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for label, cells in rows
    ]
    for name, a in audits.items():
        lines.append(f"longest, {name}: " + " ".join(repr(_shorten(piece)) for piece in a.longest_pieces))
    measured = {f"{counted(a.num_texts, 'text')}, {human_bytes(a.num_bytes)}" for a in columns}
    few = min((a.num_bytes for a in columns), default=LITTLE) < LITTLE
    little = f", which is little: below {human_bytes(LITTLE)} more text would use more of the entries" if few else ""
    return "\n".join([*lines, f"measured on {'; '.join(sorted(measured))}{little}"])


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The tokens of a text, for a person to read: a space is `▁`, and single bytes of a character are `\\x..`."""
    tokens = tokenizer.tokenize(text)
    if "ByteLevel" not in tokenizer.backend_tokenizer.to_str():
        return tokens
    byte_of = byte_level_alphabet()
    written = (b"".join(bytes([byte_of[c]]) if c in byte_of else c.encode() for c in token) for token in tokens)
    return [each.decode("utf-8", "backslashreplace").replace(" ", "▁") for each in written]


def sample_of(rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Some rows, spread evenly; of a stream, the first."""
    if isinstance(rows, Dataset):
        return rows.select(range(0, len(rows), max(1, len(rows) // _SAMPLED_TEXTS)))
    return rows.take(_SAMPLED_TEXTS)


@dataclass(frozen=True)
class UnknownText:
    """How much of some text a tokenizer loses in unknown tokens.

    Attributes:
        lost: characters inside unknown tokens.
        total: characters looked at.
    """

    lost: int
    total: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> "UnknownText":
        """Of the beginnings of texts; `tokenizer` is any fast one."""
        beginnings = [text[:_SAMPLED_CHARACTERS] for text in texts]
        unknown_id = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        reader = backend_of(text_rules(tokenizer))
        encodings = read_each(partial(reader.encode_batch, add_special_tokens=False), beginnings)
        return cls(sum(_num_lost(encoding, unknown_id) for encoding in encodings), sum(map(len, beginnings)))

    @property
    def share(self) -> float:
        """Of the characters, from 0 to 1."""
        return self.lost / max(1, self.total)

    def say(self) -> None:
        """Print the share; above 1 % it is a warning."""
        said = f"{self.share:.2%} of the characters are inside unknown tokens ({self.total:,} characters looked at)"
        if self.share > _MUCH_UNKNOWN:
            warn(f"unknown text: {said}: the model never sees them; take a tokenizer made for this text, or a new one")
        else:
            say(f"unknown text: {said}")


def _num_lost(encoding: Encoding, unknown_id: int) -> int:
    """Characters inside unknown tokens."""
    spans = zip(encoding.ids, encoding.offsets, strict=True)
    return sum(end - start for token_id, (start, end) in spans if token_id == unknown_id)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _whole_words(text: str, encoding: Encoding, ids: np.ndarray, unknown_id: int) -> tuple[int, int]:
    """How many words there are, and how many of them exactly one token overlaps."""
    spans = np.array([match.span() for match in re.finditer(r"\w+", text)], dtype=np.int64).reshape(-1, 2)
    if not len(spans) or not len(ids):
        return len(spans), 0
    offsets = np.array(encoding.offsets, dtype=np.int64)
    first = np.searchsorted(offsets[:, 1], spans[:, 0], side="right")  # the first token to end after the word begins
    after = np.searchsorted(offsets[:, 0], spans[:, 1], side="left")  # the first token to begin where it has ended
    alone = after - first == 1
    return len(spans), int((ids[first[alone]] != unknown_id).sum())


def _longest_pieces(tokenizer: PreTrainedTokenizerFast, ordinary: set[int]) -> tuple[str, ...]:
    decoded = {tokenizer.backend_tokenizer.decode([token_id]).strip() for token_id in ordinary}
    return tuple(sorted(decoded, key=lambda piece: (-len(piece), piece))[:_NUM_LONGEST])


def _shorten(piece: str, limit: int = 32) -> str:
    return piece if len(piece) <= limit else piece[: limit - 3] + "..."


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
