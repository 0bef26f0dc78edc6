"""Tokenizers: train one on a stream of text, save it, load one that exists.

Three kinds, each in the form its best-known model made conventional, each a fast tokenizer that `AutoTokenizer` loads
with no code of ours:

| kind | as in | normalisation | unknown text |
|---|---|---|---|
| `wordpiece` | BERT | control characters out, CJK characters apart; lowercase and accents if asked | `[UNK]`, a word |
| `bpe` | RoBERTa, GPT-2 | none: what is decoded is what was encoded | none: all 256 bytes are entries |
| `unigram` | SentencePiece | Unicode NFKC; lowercase and accents if asked | none: falls back to bytes |

The same text gives the same `tokenizer.json`, byte for byte, in every process (`tokenizer_kinds.py` says how).
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from pyarrow import compute
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nlp_ssl.core.console import counted, human_bytes, progress, say
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import make_folder
from nlp_ssl.core.network import hub_answers
from nlp_ssl.core.signals import run_in_thread
from nlp_ssl.core.vocabulary import num_ids
from nlp_ssl.data.tokens.text_only import is_panic
from nlp_ssl.data.tokens.tokenizer_training import TRAINERS, Kind, VocabularyTooSmall

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# Every tokenizer has all seven roles, so that one serves encoders and decoders alike. The order is that of the ids.
_BERT_ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_BERT_ROLES |= {"mask_token": "[MASK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
_ROBERTA_ROLES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
_ROBERTA_ROLES |= {"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}

_BLANK = re.compile("<mask>|<extra_id_[0-9]+>")  # stands for text that is not there

_PIECE_BYTES = 1 << 20  # a longer document is sampled in pieces, so that no single one can fill the memory
_UNIGRAM_BYTES = (
    32e6  # its trainer takes about ten times as long as the others, and gigabytes where there are no spaces
)
_VOCAB_SIZES: tuple[tuple[float, int], ...]  # at least this many bytes -> entries
_VOCAB_SIZES = ((30e3, 1_024), (100e3, 2_048), (300e3, 4_096), (1e6, 8_192))
_VOCAB_SIZES += ((50e6 + 1, 16_384), (500e6 + 1, 32_768), (10e9 + 1, 50_304))

_TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}


def train_tokenizer(
    texts: Iterable[str],
    kind: Kind,
    vocab_size: int,
    *,
    lowercase: bool = False,
    special_tokens: Sequence[str] = (),
    model_max_length: int | None = None,
    sample_bytes: float = 256e6,
    min_frequency: int = 2,
    exact: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on a stream of texts.

    Args:
        texts: documents; read once, never held in memory beyond `sample_bytes` of UTF-8.
        kind: `"wordpiece"`, `"bpe"` (byte-level) or `"unigram"`.
        vocab_size: number of entries, special tokens included.
        lowercase: lowercase and strip accents (not for `bpe`, which changes no text).
        special_tokens: further special tokens; they get the ids after the five conventional ones.
        model_max_length: longest input in tokens that the tokenizer announces; `None` for no limit.
        sample_bytes: a stream with more text than this (for `unigram`, than 32 MB) is sampled: documents with the
            smallest hash are kept.
        min_frequency: a pair of pieces must be seen so often to be merged (`wordpiece`, `bpe`).
        exact: refuse a size that the text does not fit. Otherwise, as for a derived one, a text that fills fewer
            entries gets these, and one whose alphabet needs more gets half of `vocab_size` beside its alphabet.

    Returns:
        A tokenizer with all of cls, sep, bos, eos, pad, unk and mask; `len(tokenizer) == vocab_size` if exact.

    Raises:
        UserError: no text; a vocabulary too small for the alphabet, or larger than the text can fill.
    """
    if kind not in TRAINERS:
        raise UserError(f"there is no tokenizer of kind {kind!r}; choose one of {', '.join(TRAINERS)}")
    if kind == "bpe" and lowercase:
        raise UserError("a byte-level bpe tokenizer keeps text as it is: for lowercase choose wordpiece or unigram")
    roles = _BERT_ROLES if kind == "wordpiece" else _ROBERTA_ROLES
    specials = [*dict.fromkeys(roles.values()), *special_tokens]
    if len(set(specials)) < len(specials) or not all(token.strip() for token in specials):
        raise UserError(
            f"the additional special tokens {list(special_tokens)} must be different from each other and from the"
            f" {', '.join(specials[:5])} that a {kind} tokenizer has, and none may be empty"
        )
    sample = _sample(texts, min(sample_bytes, _UNIGRAM_BYTES) if kind == "unigram" else sample_bytes)
    say(f"training a {kind} tokenizer of {vocab_size:,} entries")
    # RoBERTa's mask takes the space before it, so that what is predicted is a word with its space; so do T5's blanks.
    added = [AddedToken(t, special=True, normalized=False, lstrip=bool(_BLANK.fullmatch(t))) for t in specials]
    try:
        backend = run_in_thread(lambda: TRAINERS[kind](sample, vocab_size, added, lowercase, min_frequency))
    except VocabularyTooSmall as error:
        if exact:
            raise
        larger = error.needed + vocab_size // 2
        say(f"the alphabet of the text needs {error.needed:,} entries: {larger:,} in all")
        backend = run_in_thread(lambda: TRAINERS[kind](sample, larger, added, lowercase, min_frequency))
    if exact and (size := backend.get_vocab_size()) < vocab_size:
        raise UserError(
            f"the text fills only {size:,} of the {vocab_size:,} entries of the {kind} tokenizer: lower the"
            f" vocabulary size to {size:,} or less, or give more text than {human_bytes(sum(map(len, sample)))}"
        )
    token_types = ["token_type_ids"] if kind == "wordpiece" else []
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **roles,
        extra_special_tokens=list(special_tokens),
        model_input_names=["input_ids", *token_types, "attention_mask"],
        clean_up_tokenization_spaces=False,
        **({} if model_max_length is None else {"model_max_length": model_max_length}),
    )


def add_bos_only(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Let the tokenizer of a decoder put BOS before a text and nothing behind it, so that a prompt can be continued."""
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {eos} $B",
        special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)],
    )
    return tokenizer


def add_eos_only(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Let the tokenizer of an encoder-decoder put EOS behind a text and nothing before it, as T5's does."""
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    return tokenizer


def derive_vocab_size(num_bytes: int) -> int:
    """Vocabulary size for a corpus of `num_bytes` of text, when none is asked for.

    A rule of thumb of ours, no law: 8,192 from 1 MB, 16,384 above 50 MB, 32,768 above 500 MB and 50,304 above 10 GB
    (GPT-2's size rounded up to a multiple of 128, as tensor cores like it). Small corpora see rare entries too seldom
    to learn their embeddings; large ones repay the shorter rows. Below 1 MB it is about half of what English filled
    (1,000 entries at 10 kB, 3,000 at 100 kB, 6,000 at 300 kB), so that a first try on a small file works.
    """
    vocab_size = 512
    for least, larger in _VOCAB_SIZES:
        if num_bytes >= least:
            vocab_size = larger
    return vocab_size


def num_text_bytes(documents: "Dataset | IterableDataset") -> int:
    """Bytes of UTF-8 in the `text` column: read off Arrow for a data set on disk, by reading all of a stream."""
    total = 0
    with progress(desc="measure text", unit="B") as bar:
        for batch in documents.select_columns("text").with_format("arrow").iter(batch_size=1000):
            num_bytes = compute.sum(compute.binary_length(batch["text"])).as_py() or 0
            total += num_bytes
            bar.update(num_bytes)
    return total


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write the tokenizer to `folder`; a tokenizer that is there is replaced, anything else refused.

    The folder is renamed to its name when it is whole. One that is replaced is deleted after that: of a process that is
    killed between the two renames, it is left beside it with the ending `.old`.

    Raises:
        UserError: the folder holds other files, or is a file.
    """
    folder = Path(folder).resolve()  # which may be a link to a folder
    check_tokenizer_folder(folder)
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        without_code(tokenizer).save_pretrained(temporary)
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        old = temporary.with_suffix(".old")
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_tokenizer_folder(folder: str | Path) -> None:
    """Raise a `UserError` when `save_tokenizer` would refuse `folder`: to know before an hour of training."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write a tokenizer to {folder}: it is a file; choose another folder")
    others = sorted(path.name for path in folder.glob("*") if path.name not in _TOKENIZER_FILES)
    if others:
        raise UserError(
            f"the folder {folder} holds something else than a tokenizer ({', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}): choose another folder or empty this one"
        )


def load_tokenizer(path: str, revision: str | None = None, needs_mask: bool = False) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from the Hub or a folder.

    A tokenizer without a padding token pads with its end-of-text token, in memory only; this is said.

    Args:
        path: Hub id or folder.
        revision: branch, tag or commit of a Hub id.
        needs_mask: refuse a tokenizer without a mask token.

    Raises:
        UserError: nothing there, no network, no fast tokenizer, no mask token, nothing to pad with.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        path = str(local)
    elif local.exists() or path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        problem = "is a file, not a folder" if local.exists() else "does not exist"
        raise UserError(f"the tokenizer folder {path} {problem}; give a folder with a tokenizer.json, or a Hub id")
    if local.is_dir():
        _check_sentencepiece(path, local)
    cached_only = not local.is_dir() and not hub_answers()
    try:
        # Without `trust_remote_code=False` a repository with code of its own would ask a question and wait.
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, local_files_only=cached_only, trust_remote_code=False
        )
        if tokenizer.is_fast:
            _try(tokenizer)
    except BaseException as error:  # `tokenizers` raises no narrower class for a broken file, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"the tokenizer {path} is made of Python code of its own (auto_map in its tokenizer_config.json), and "
                "code that comes with a tokenizer is never run here; take one that has a tokenizer.json"
            ) from None
        _check_sentencepiece(path, local, revision)
        raise UserError(_explain(error, path, revision, local.is_dir(), cached_only)) from None
    if not tokenizer.is_fast:
        raise UserError(
            f"{path} holds only a slow tokenizer ({type(tokenizer).__name__}), which gives no offsets and word ids:"
            " take one that has a tokenizer.json"
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        _check_sentencepiece(path, local, revision)
        raise UserError(f"{path} holds a model but no tokenizer: give a folder or Hub id with a tokenizer.json")
    if needs_mask and tokenizer.mask_token is None:
        raise UserError(
            f"the tokenizer {path} has no mask token, so no masked language model can use it: take another, or train"
            " a causal model with it"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer {path} has neither a padding nor an end-of-text token: set one and save it")
        tokenizer.pad_token = tokenizer.eos_token
        say(f"the tokenizer {path} has no padding token: padding with {tokenizer.eos_token}")
    return without_code(tokenizer)


def _try(tokenizer: PreTrainedTokenizerBase) -> None:
    """Read two short texts: rules that fit together in a file may fail, or give ids that there are not, on any text.

    Raises:
        ValueError: a template, or the unknown token, is not in the vocabulary.
    """
    ids = tokenizer.backend_tokenizer.encode("a b \u4e2d", "c").ids
    if ids and not 0 <= min(ids) <= max(ids) < num_ids(tokenizer):
        raise ValueError(f"a text gets the id {max(ids):,}, and there are {num_ids(tokenizer):,}")


def without_code(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Remove the name of other people's code (`auto_map`), which is not run but would be saved and published."""
    tokenizer.init_kwargs.pop("auto_map", None)
    tokenizer._auto_map = None
    return tokenizer


# ---------------------------------------------------------------------------------------------------------------------
# what is trained on


def _sample(texts: Iterable[str], sample_bytes: float) -> list[bytes]:
    """Documents as UTF-8, at most `sample_bytes` of them, whatever the length of the stream.

    Kept are documents whose hash is below a threshold; it starts at "all" and halves whenever more than
    `sample_bytes` are held. The outcome depends on the set of documents, not on their order. A document over 1 MB
    counts as several.
    """
    kept: list[tuple[int, bytes]] = []
    kept_bytes = read_bytes = num_read = 0
    threshold = 1 << 64
    piece_bytes = max(1, min(_PIECE_BYTES, int(sample_bytes // 16)))
    with progress(desc="read text", unit="B") as bar:
        for text in texts:
            num_read += 1
            for data in _pieces(text, num_read, piece_bytes):
                bar.update(len(data))
                read_bytes += len(data)
                # A name of its own: the held-out split hashes the same documents, and must not decide who is here.
                key = int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"nlp_ssl/sample").digest())
                if key >= threshold:
                    continue
                kept.append((key, data))
                kept_bytes += len(data)
                while kept_bytes > sample_bytes and len(kept) > 1:
                    threshold >>= 1
                    # Were nothing left (one text, thousands of times over), one copy stays.
                    kept = [entry for entry in kept if entry[0] < threshold] or [min(kept)]
                    kept_bytes = sum(len(data) for _, data in kept)
    if not any(data.strip() for _, data in kept):
        raise UserError(
            f"there is no text to train a tokenizer on: the corpus gave {counted(num_read, 'document')}, none with "
            "more than white space; check the source and its text column"
        )
    if threshold == 1 << 64:
        say(f"read {counted(num_read, 'document')}, {human_bytes(read_bytes)}")
    else:
        say(
            f"read {num_read:,} documents, {human_bytes(read_bytes)}; sampled {len(kept):,} of them by their hash,"
            f" {human_bytes(kept_bytes)} (documents over {human_bytes(piece_bytes)} in pieces)"
        )
    return [data for _, data in kept]


def _pieces(text: str, number: int, piece_bytes: int) -> Iterator[bytes]:
    """A document as UTF-8, in one piece if it is no longer than `piece_bytes`."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"document {number:,} has half a surrogate pair at character {error.start}, which UTF-8 cannot hold: was it"
            " cut out of UTF-16? write the source again as UTF-8"
        ) from None
    start = 0
    while len(data) - start > piece_bytes:
        end = start + piece_bytes
        while end > start + 1 and data[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        yield data[start:end]
        start = end
    yield data[start:]


# ---------------------------------------------------------------------------------------------------------------------
# small things


def _explain(error: BaseException, path: str, revision: str | None, is_folder: bool, cached_only: bool) -> str:
    """One sentence for what `AutoTokenizer.from_pretrained` raised."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if "instantiate the backend tokenizer" in reason:
        reason = "there are no tokenizer files"
    reason = reason if len(reason) <= 160 else reason[:157] + "..."
    if is_folder and (Path(path) / "tokenizer.json").exists():
        return f"cannot use the tokenizer in the folder {path} ({reason}): copy or save it again"
    if is_folder:
        return f"cannot load a tokenizer from the folder {path} ({reason}): give one with a tokenizer.json"
    name = f"{path!r} at revision {revision!r}" if revision else repr(path)
    if cached_only:
        return (
            f"the tokenizer {name} is not a folder here and not in the local cache, and the Hugging Face Hub cannot be"
            " reached: offline, give a folder with a tokenizer.json, or no path at all to train a new tokenizer"
        )
    return f"cannot load the tokenizer {name} from the Hugging Face Hub ({reason}): check the name"


def _check_sentencepiece(name: str, folder: Path, revision: str | None = None) -> None:
    """Refuse a SentencePiece model without a tokenizer.json where the package that reads it is missing.

    Of a Hub id, whose folder is not here, what has been downloaded is looked at.
    """
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:  # nothing
            return
    if (model := _sentencepiece_model(folder)) and find_spec("sentencepiece") is None:
        raise UserError(
            f"the tokenizer in {name} is a SentencePiece model ({model}) without a tokenizer.json, and reading one"
            " takes one more package: pip install sentencepiece"
        )


def _sentencepiece_model(folder: Path) -> str | None:
    """The name of a folder's SentencePiece file where it has no other; such a file begins with a tag, 0A."""
    if any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        return None
    files = (path for path in sorted(folder.glob("*.model")) if path.is_file())
    return next((path.name for path in files if path.read_bytes()[:1] == b"\n"), None)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
