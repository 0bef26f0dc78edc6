"""How each kind of tokenizer is trained from a sample of text, the same way in every process.

The trainers of `tokenizers` walk over hash maps in a random order, so that WordPiece's ids (and with them its ties)
and Unigram's order and last decimals would differ from run to run; each function says what it does about that.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from nlp_ssl.core.console import progress, rank
from nlp_ssl.core.errors import UserError

Kind = Literal["wordpiece", "bpe", "unigram"]

# Share of the characters (white space aside) that must have an entry of their own. Unigram's is SentencePiece's
# default, the rest being bytes; WordPiece loses the whole word to [UNK], so it is stricter.
_COVERAGE = {"wordpiece": 0.9999, "unigram": 0.9995}

_WORD_CHARS = {"wordpiece": 100, "bpe": 1000, "unigram": 100}  # training cuts longer words, at which it would be slow
_BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
# Each of these characters has an entry, so that a text that says `<0x41>` is spelt, and not made an A.
_BYTE_SPELLING = {*"".join(_BYTE_PIECES)}
_ASCII = {chr(code) for code in range(0x21, 0x7F)}  # that is no white space
_NEVER_IN_TEXT = -1000.0  # Unigram score of entries that text is not to be cut into


def _train_bpe(
    sample: list[bytes], vocab_size: int, added: list[AddedToken], lowercase: bool, min_frequency: int
) -> Tokenizer:
    _check_minimum("bpe", vocab_size, len(added), 256, "bytes")
    backend = Tokenizer(models.BPE())
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.FixedLength(_WORD_CHARS["bpe"])])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=_show_progress(),
    )
    backend.train_from_iterator(_texts(sample), trainer, length=len(sample))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    cls, sep = _token_and_id(backend, "<s>"), _token_and_id(backend, "</s>")
    backend.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    return backend


def _train_wordpiece(
    sample: list[bytes], vocab_size: int, added: list[AddedToken], lowercase: bool, min_frequency: int
) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
    )
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet, rare = _alphabet(sample, normalizer, "wordpiece")
    inside = [c for c in alphabet if len(pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"a{c}a"))) == 1]
    _check_minimum("wordpiece", vocab_size, len(added), len(alphabet) + len(inside), "forms of characters")

    # The trainer would give `##c` its id when it first meets it, in the random order of a hash map, and break ties
    # between merges by id. Named as special tokens they have fixed ids beforehand (and, as in BERT's own vocabulary,
    # every character has both forms).
    scratch = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    scratch.normalizer = normalizer
    scratch.pre_tokenizer = _for_training(pre_tokenizer, rare, "wordpiece")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*added, *(f"##{c}" for c in inside)],
        initial_alphabet=alphabet,
        show_progress=_show_progress(),
    )
    scratch.train_from_iterator(_texts(sample), trainer, length=len(sample))

    backend = Tokenizer(models.WordPiece(vocab=scratch.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100))
    backend.add_special_tokens(added)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[_token_and_id(backend, "[CLS]"), _token_and_id(backend, "[SEP]")],
    )
    return backend


def _train_unigram(
    sample: list[bytes], vocab_size: int, added: list[AddedToken], lowercase: bool, min_frequency: int
) -> Tokenizer:
    steps: list[normalizers.Normalizer] = [normalizers.NFKC()]
    if lowercase:
        steps += [normalizers.Lowercase(), normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
    normalizer = normalizers.Sequence(steps)
    lines = pre_tokenizers.Split("\n", "isolated")  # no piece spans two lines
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    pre_tokenizer = pre_tokenizers.Sequence([lines, metaspace])
    alphabet, rare = _alphabet(sample, normalizer, "unigram")
    fixed = [token.content for token in added] + _BYTE_PIECES
    _check_minimum(
        "unigram", vocab_size, len(added), 256 + len({*alphabet, "▁"} | _BYTE_SPELLING), "bytes and characters"
    )

    # More than asked for: what the trainer keeps at the very edge depends on rounding, and the edge is cut off below.
    num_pieces = vocab_size - len(fixed)
    scratch = Tokenizer(models.Unigram())
    scratch.normalizer = normalizer
    scratch.pre_tokenizer = _for_training(pre_tokenizer, rare, "unigram")
    trainer = trainers.UnigramTrainer(
        vocab_size=num_pieces + num_pieces // 10 + 1,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        show_progress=_show_progress(),
    )
    scratch.train_from_iterator(_texts(sample), trainer, length=len(sample))
    found = {piece: score for piece, score in json.loads(scratch.to_str())["model"]["vocab"] if piece not in fixed}
    found |= dict.fromkeys(_BYTE_SPELLING - found.keys(), min(found.values()))
    pieces = _with_blanks(_canonical_pieces(found), _begin_words(sample, normalizer), num_pieces)

    vocab = [(token, _NEVER_IN_TEXT) for token in fixed] + pieces
    backend = Tokenizer(models.Unigram(vocab=vocab, unk_id=fixed.index("<unk>"), byte_fallback=True))
    backend.add_special_tokens(added)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="first")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B:0 </s>:0",
        special_tokens=[_token_and_id(backend, "<s>"), _token_and_id(backend, "</s>")],
    )
    return backend


TRAINERS: dict[str, Callable[..., Tokenizer]] = {
    "wordpiece": _train_wordpiece,
    "bpe": _train_bpe,
    "unigram": _train_unigram,
}


def _canonical_pieces(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Unigram pieces in an order, and with scores, that do not depend on the order in which the trainer added floats.

    That order moves a score by up to 4e-11 (the trainer's digamma jumps there at whole counts). Characters that
    training dropped get the lowest score plus 1e-4 times their place in a hash set: here, all the lowest. Characters
    come first, since each must stay, then the pieces with the highest scores, as SentencePiece takes them.
    """
    characters = [piece for piece in scores if len(piece) == 1]
    lowest = min(scores.values())
    filled_in = lowest + 1e-4 * (len(characters) + 1)
    exact = {
        piece: round(lowest if len(piece) == 1 and score < filled_in else score, 4) for piece, score in scores.items()
    }
    return sorted(exact.items(), key=lambda entry: (len(entry[0]) > 1, -entry[1], entry[0]))


def _begin_words(sample: list[bytes], normalizer: normalizers.Normalizer) -> list[str]:
    """The characters that begin words behind a blank, the most frequent first; all of ASCII, others if seen twice."""
    counts: Counter[str] = Counter()
    with progress(total=sum(map(len, sample)), desc="count beginnings of words", unit="B") as bar:
        for data in sample:
            counts.update(word[0] for word in normalizer.normalize_str(data.decode()).split(" ") if word)
            bar.update(len(data))
    seen = [c for c in {*counts, *_ASCII} if not c.isspace() and (counts[c] > 1 or c in _ASCII)]
    return sorted(seen, key=lambda c: (-counts[c], c))


def _with_blanks(pieces: list[tuple[str, float]], beginnings: list[str], num_pieces: int) -> list[tuple[str, float]]:
    """The first `num_pieces` Unigram pieces, among them those that let a word begin together with its blank.

    The trainer keeps `▁` and drops most pieces of `▁` and one letter, so that words that it does not know begin with a
    token that is nothing but a blank. Here `▁` with a character that begins words is a piece too, worth as much as the
    two apart; `▁` alone is left for a blank that no word follows and for characters that never or seldom begin one.

    Args:
        pieces: in the order of `_canonical_pieces`.
        beginnings: characters that begin words, the most frequent first.
        num_pieces: how many to return, if there are that many. Blanks with a character take at most half of those that
            are not single characters.
    """
    scores = dict(pieces)
    characters = [(piece, _NEVER_IN_TEXT if piece == "▁" else score) for piece, score in pieces if len(piece) == 1]
    begin = {f"▁{c}": round(scores["▁"] + scores[c], 4) for c in beginnings if c in scores and "▁" in scores}
    chosen = [*begin][: max(0, num_pieces - len(characters)) // 2]
    first = {piece: scores.get(piece, begin[piece]) for piece in chosen}
    longer = {piece: score for piece, score in pieces if len(piece) > 1}
    return [*characters, *(first | longer | (begin | longer)).items()][:num_pieces]


def _alphabet(sample: list[bytes], normalizer: normalizers.Normalizer, kind: Kind) -> tuple[list[str], list[str]]:
    """The characters that get an entry, and the rare ones that do not, each sorted by code point."""
    counts: Counter[str] = Counter()
    with progress(total=sum(map(len, sample)), desc="count characters", unit="B") as bar:
        for data in sample:
            counts.update(normalizer.normalize_str(data.decode()))
            bar.update(len(data))
    # "\0" ends a text inside Unigram's trainer; a space ends a word.
    counts = Counter({c: n for c, n in counts.items() if c not in " \0"})
    left_out, kept = counts.total() * (1 - _COVERAGE[kind]), []
    by_rarity = sorted(counts, key=lambda c: (counts[c], c))
    for place, character in enumerate(by_rarity):
        left_out -= counts[character]
        if left_out < 0:
            kept = by_rarity[place:]
            break
    return sorted(kept), sorted({*counts} - {*kept})


def _for_training(pre_tokenizer: pre_tokenizers.PreTokenizer, rare: list[str], kind: Kind) -> pre_tokenizers.Sequence:
    """The pre-tokenizer, blind to rare characters and cutting very long words."""
    without = [*rare, "\0"] if kind == "unigram" else rare
    characters = "".join(f"\\x{{{ord(c):x}}}" for c in without)
    drop = [pre_tokenizers.Split(Regex(f"[{characters}]+"), "removed")] if without else []
    return pre_tokenizers.Sequence([*drop, pre_tokenizer, pre_tokenizers.FixedLength(_WORD_CHARS[kind])])


class VocabularyTooSmall(UserError):
    """A vocabulary has no room for the alphabet of a text.

    Attributes:
        needed: entries that have.
    """

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


def _check_minimum(kind: Kind, vocab_size: int, num_special: int, num_basic: int, basic: str) -> None:
    if vocab_size < (needed := num_special + num_basic):
        raise VocabularyTooSmall(
            f"a vocabulary of {vocab_size:,} is too small for a {kind} tokenizer on this text: {num_special} special"
            f" tokens and {num_basic:,} {basic} need at least {needed:,}",
            needed,
        )


def _texts(sample: list[bytes]) -> Iterator[str]:
    return (data.decode() for data in sample)


def _token_and_id(backend: Tokenizer, token: str) -> tuple[str, int]:
    number = backend.token_to_id(token)
    assert number is not None, f"{token} was not added"
    return token, number


def _show_progress() -> bool:
    """The trainers' own bars, on rank 0 of a terminal (elsewhere they print empty lines)."""
    return rank() == 0 and sys.stderr.isatty()
