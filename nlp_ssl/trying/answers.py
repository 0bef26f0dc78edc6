"""What a finished language model answers to a text: masks filled, text continued, classes, entities, neighbours.

What a model is for is read off its folder. Plain torch and transformers do the work, and nothing else of this package
is imported: with the page in `app.py` this file is all that a Space of the Hub runs.
"""

import inspect
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    TextStreamer,
    pipeline,
)

NEW_TOKENS = 40  # of a continuation, at most
REPETITION_PENALTY = 1.3  # likeliest tokens alone go round in circles
SPAN_TOKENS = 16  # of a gap that an encoder-decoder fills, at most
BATCH = 32  # texts whose vectors are made together
ANSWER_TOKENS = 30  # of the answer to a question, at most
_NO_LIMIT = 10**9  # transformers writes 10**30 in a tokenizer that announces no length
_GAP = r"<mask>|\[MASK\]|(?<!\w)_+(?!\w)"  # what people write where a word is missing
_PARTED = re.compile(r"\s*(?:\t|\|\|\|)\s*")  # between two texts in a line
_INFILLING = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_CARD = "README.md"


class CannotAnswer(Exception):
    """The model in a folder is none that answers texts; one sentence."""


# ---------------------------------------------------------------------------------------------------------------------
# an answer, as data


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: as it stands there.
        label: what it is, such as the type of an entity; empty where it only stands out, `None` where it does not.
    """

    text: str
    label: str | None = None


@dataclass(frozen=True)
class Ranking:
    """What was chosen from, the best first.

    Attributes:
        entries: names and numbers.
        title: which of several rankings this is; empty where there is one.
        unit: what the numbers are.
        chosen: how many of the first ones are the answer.
    """

    entries: tuple[tuple[str, float], ...]
    title: str = ""
    unit: Literal["probability", "cosine", "value"] = "probability"
    chosen: int = 1

    def shown(self, number: float) -> str:
        """A number of this ranking, for the eye."""
        return format(number, {"probability": ".0%", "cosine": ".2f", "value": ".4g"}[self.unit])


@dataclass(frozen=True)
class Answer:
    """What a model says of a text.

    Attributes:
        pieces: a text, with what stands out in it.
        rankings: what was chosen from.
        notes: sentences on what was read, or on what to write instead.
    """

    pieces: tuple[Piece, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    notes: tuple[str, ...] = ()


def _nowhere(text: str) -> None:
    """Where a text goes that nobody wants to see while it grows."""


# ---------------------------------------------------------------------------------------------------------------------
# models that answer


class Answerer(ABC):
    """A model with its tokenizer, and what it is for.

    Args:
        model: of transformers; put into evaluation mode.
        tokenizer: its; a fast one.
        folder: where further files of it lie.
        top: entries of a ranking.
    """

    auto_class: ClassVar[Any]
    task: str
    """What it does."""
    examples: ClassVar[tuple[str, ...]]
    """Texts to begin with."""
    streams = False
    """Whether an answer is shown while it grows."""
    compares = False
    """Whether it looks among other texts."""

    def __init__(self, model: Any, tokenizer: Any, folder: "Folder", top: int) -> None:
        self.model, self.tokenizer, self.folder, self.top = model.eval(), tokenizer, folder, top
        self.limit = longest_input(model, tokenizer)
        self._takes = inspect.signature(model.forward).parameters

    @property
    def hint(self) -> str:
        """How to write what it answers, in a sentence without its full stop."""
        return "write a text"

    @torch.inference_mode()
    def answer(self, text: str, others: Sequence[str] = (), show: Callable[[str], object] = _nowhere) -> Answer:
        """Read a text.

        Args:
            text: what a person wrote.
            others: texts to look among, for a model that `compares`.
            show: gets the parts of an answer that `streams`, as they come.
        """
        return self._answer(text, others, show)

    @abstractmethod
    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer: ...

    def _read(self, text: str, pair: str | None = None, cut: str | bool = True) -> tuple[Any, tuple[str, ...]]:
        """A batch of one text, or pair of texts, cut where it is too long, and what is to be said of that."""
        length = len(self.tokenizer(text, pair, verbose=False)["input_ids"])
        is_long = self.limit is not None and length > self.limit
        cutting = {"truncation": cut, "max_length": self.limit} if is_long else {}
        read = self.tokenizer(text, pair, return_tensors="pt", return_offsets_mapping=True, verbose=False, **cutting)
        return read, (_cut_note("first", self.limit, length),) if is_long else ()

    def _inputs(self, read: Any) -> dict[str, Tensor]:
        return {name: value.to(self.model.device) for name, value in read.items() if name in self._takes}

    def _logits(self, read: Any) -> Tensor:
        """Of the first sequence, on the host: float32 (..., outputs)."""
        return self.model(**self._inputs(read)).logits[0].float().cpu()

    def _token(self, token: int) -> str:
        """A token for the eye: without the space before it; white space alone as Python writes it."""
        text = self.tokenizer.decode([token])
        return text.strip() or repr(text)

    def _ranked(self, probabilities: Tensor, names: Callable[[int], str], **more: Any) -> Ranking:
        numbers, places = probabilities.topk(min(self.top, len(probabilities)))
        entries = zip(map(names, places.tolist()), numbers.tolist(), strict=True)
        return Ranking(tuple(entries), **more)


class Masks(Answerer):
    """Fills masks: the likeliest tokens of each, and the text with all of them filled, the surest first."""

    auto_class, task = AutoModelForMaskedLM, "fills masks"
    examples = ("Paris is the ___ of France.", "The ___ returns a ___ of strings.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        mask = self.tokenizer.mask_token
        if mask is None:
            raise CannotAnswer(f"the tokenizer of {self.folder.name} has no mask token, so there is nothing to fill")
        self._gap = re.compile(f"{re.escape(mask)}|{_GAP}")
        # some models guess a masked token at the token before it, and say so on their card
        self._shift = int("logits[0, mask - 1]" in self.folder.text(_CARD))

    @property
    def hint(self) -> str:
        """With the tokenizer's own mask."""
        return f"write ___ or {self.tokenizer.mask_token} where a word is missing, as in: {self.examples[0]}"

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        parts = self._gap.split(text)
        if len(parts) == 1:
            return Answer(notes=(self.hint,))
        read, notes = self._read(self.tokenizer.mask_token.join(parts))
        places = (read["input_ids"][0] == self.tokenizer.mask_token_id).nonzero()[:, 0]
        places = places[places >= self._shift]
        if not len(places):
            return Answer(notes=(*notes, "no mask is left in what is read"))
        guesses = self._logits(read)[places - self._shift].softmax(-1)
        titles = [f"mask {n}" for n in range(1, len(places) + 1)] if len(places) > 1 else [""]
        rankings = [self._ranked(each, self._token, title=title) for each, title in zip(guesses, titles, strict=True)]
        filled = [Piece(self._token(token), "") for token in self._fill(read, places)]
        filled += [Piece(self.tokenizer.mask_token)] * (len(parts) - 1 - len(filled))
        pieces = [Piece(parts[0])] + [
            p for each, part in zip(filled, parts[1:], strict=True) for p in (each, Piece(part))
        ]
        return Answer(tuple(pieces), tuple(rankings), notes)

    def _fill(self, read: Any, places: Tensor) -> list[int]:
        """A token for each mask, one after the other: where the model is surest, given those before."""
        ids, left = read["input_ids"].clone(), places.tolist()
        while left:
            logits = self._logits({**read, "input_ids": ids})[torch.tensor(left) - self._shift]
            logits[:, self.tokenizer.all_special_ids] = -torch.inf
            best, tokens = logits.softmax(-1).max(-1)
            surest = int(best.argmax())
            ids[0, left.pop(surest)] = tokens[surest]
        return ids[0, places].tolist()


class Continuation(Answerer):
    """Continues a text with the likeliest tokens; fills one gap where the model has learnt to fill a middle."""

    auto_class, streams = AutoModelForCausalLM, True
    task = f"continues a text with the likeliest tokens (at most {NEW_TOKENS}, repetition penalty {REPETITION_PENALTY})"
    examples = ("Once upon a time", "Return the number of")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._infills = set(_INFILLING) <= self.tokenizer.get_vocab().keys()

    @property
    def hint(self) -> str:
        """With a gap, for those that fill one."""
        return "write a beginning" + (", or a text with one gap, written ___" if self._infills else "")

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        parts = re.split(_GAP, text)
        if self._infills and len(parts) == 2:
            before, behind, middle = _INFILLING
            text = f"{before}{parts[0]}{behind}{parts[1]}{middle}"
        read = self.tokenizer(text, return_tensors="pt", verbose=False)
        length = read["input_ids"].shape[1]
        notes: tuple[str, ...] = ()
        room = None if self.limit is None else max(1, self.limit - NEW_TOKENS)
        if not length:
            return Answer(notes=(self.hint,))
        if room is not None and length > room:  # what is nearest counts
            read, notes = {name: value[:, -room:] for name, value in read.items()}, (_cut_note("last", room, length),)
        new = min(NEW_TOKENS, (self.limit or length + NEW_TOKENS) - read["input_ids"].shape[1])
        written = self.model.generate(
            **self._inputs(read),
            max_new_tokens=max(1, new),
            do_sample=False,
            repetition_penalty=REPETITION_PENALTY,
            pad_token_id=self.tokenizer.pad_token_id,
            streamer=_Shown(self.tokenizer, show),
        )[0, read["input_ids"].shape[1] :]
        return Answer((Piece(self.tokenizer.decode(written, skip_special_tokens=True)),), notes=notes)


class _Shown(TextStreamer):
    """Hands on what is generated, word by word."""

    def __init__(self, tokenizer: Any, show: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers."""
        self._show(text)


class Classes(Answerer):
    """Classes of a text, or of a pair of texts, with their probabilities; or a number."""

    auto_class = AutoModelForSequenceClassification
    task = "classifies texts"
    examples = ("I liked it very much.", "The film was too long, and I fell asleep.")

    @property
    def hint(self) -> str:
        """With the sign between two texts."""
        return "write a text, or two texts with ||| or a tab between them"

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        first, second, *_ = [*_PARTED.split(text, maxsplit=1), None]
        read, notes = self._read(first or "", second)
        logits, config = self._logits(read), self.model.config
        names = config.id2label
        if config.problem_type == "regression" or (config.problem_type is None and len(logits) == 1):
            values = tuple((names[i], value) for i, value in enumerate(logits.tolist()))
            return Answer((), (Ranking(values, unit="value", chosen=len(values)),), notes)
        is_several = config.problem_type == "multi_label_classification"
        probabilities = logits.sigmoid() if is_several or len(logits) == 1 else logits.softmax(-1)
        count = int((probabilities > 0.5).sum()) if is_several else 1
        ranking = self._ranked(probabilities, names.__getitem__)
        return Answer((), (Ranking(ranking.entries, chosen=min(count, len(ranking.entries))),), notes)


class Tags(Answerer):
    """Marks entities, as `pipeline` reads them in the way that the model's card names."""

    auto_class, task = AutoModelForTokenClassification, "marks entities"
    examples = ("Ada Lovelace was born in London.", "Returns a list of str, or raises ValueError if `path` is missing.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        named = re.search(r"aggregation_strategy=\"(simple|first|average|max)\"", self.folder.text(_CARD))
        self.strategy = named[1] if named else "simple"
        device = self.model.device
        self._pipeline = pipeline(
            "token-classification", self.model, tokenizer=self.tokenizer, device=device, trust_remote_code=False
        )

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        read, notes = self._read(text)
        if notes:
            text = text[: int(read["offset_mapping"].max())]
        if not text.strip():
            return Answer(notes=(self.hint,))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
            groups = self._pipeline(text, aggregation_strategy=self.strategy)
        spans = [(group["start"], group["end"], group["entity_group"]) for group in groups]
        return Answer(tuple(_marked(text, spans)), notes=notes)


class Questions(Answerer):
    """Finds the answer to a question in a text."""

    auto_class, task = AutoModelForQuestionAnswering, "answers questions from a text"
    examples = ("Where was she born? ||| Ada Lovelace was born in London in 1815.",)

    @property
    def hint(self) -> str:
        """With the sign between question and text."""
        return f"write a question and a text with ||| or a tab between them, as in: {self.examples[0]}"

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        question, context = [*_PARTED.split(text, maxsplit=1), ""][:2]
        if not question.strip() or not context.strip():
            return Answer(notes=(self.hint,))
        length = len(self.tokenizer(question, "", verbose=False)["input_ids"])
        if self.limit is not None and length >= self.limit:
            return Answer(notes=(f"the question alone has {length:,} tokens, and the model reads {self.limit:,}",))
        read, notes = self._read(question, context, cut="only_second")
        found = self.model(**self._inputs(read))
        is_context = torch.tensor([which == 1 for which in read.sequence_ids(0)])
        begins, ends = (
            logits[0].float().cpu().masked_fill(~is_context, -torch.inf).softmax(-1)
            for logits in (found.start_logits, found.end_logits)
        )
        spans = torch.outer(begins, ends).triu().tril(ANSWER_TOKENS - 1)
        best, places = spans.flatten().topk(min(self.top, int(is_context.sum())))
        offsets = read["offset_mapping"][0].tolist()
        entries, width = [], spans.shape[1]
        for probability, place in zip(best.tolist(), places.tolist(), strict=True):
            entries.append((offsets[place // width][0], offsets[place % width][1], probability))
        begin, end, _ = entries[0]
        pieces = _marked(context, [(begin, end, "answer")])
        return Answer(tuple(pieces), (Ranking(tuple((context[b:e].strip(), p) for b, e, p in entries)),), notes)


class Spans(Answerer):
    """An encoder-decoder: fills the gaps of a text (T5), writes it whole (BART), or whatever it has learnt to write."""

    auto_class, task = AutoModelForSeq2SeqLM, "writes what is missing in a text, by the likeliest tokens"
    examples = ("The function ___ of the list.", "The ___ of the string ___ in place.")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        vocabulary = self.tokenizer.get_vocab()
        self._blanks: list[str] = []
        while (name := f"<extra_id_{len(self._blanks)}>") in vocabulary:
            self._blanks.append(name)
        self._gap = re.compile(f"<extra_id_[0-9]+>|{re.escape(self.tokenizer.mask_token or '<mask>')}|{_GAP}")

    @property
    def hint(self) -> str:
        """How to write a gap."""
        return f"write ___ where words are missing, as in: {self.examples[0]}"

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        parts = self._gap.split(text)
        gaps = len(parts) - 1
        if self._blanks and gaps > len(self._blanks):
            return Answer(notes=(f"there are {gaps} gaps, and the tokenizer has names for {len(self._blanks)}",))
        marks = self._blanks or [self.tokenizer.mask_token or ""] * gaps
        read, notes = self._read("".join(p for each in zip(parts, [*marks[:gaps], ""], strict=True) for p in each))
        room = SPAN_TOKENS * gaps if self._blanks and gaps else read["input_ids"].shape[1] + SPAN_TOKENS * max(1, gaps)
        written = self.model.generate(**self._inputs(read), max_new_tokens=room, do_sample=False, num_beams=1)[
            0
        ].tolist()
        if not (self._blanks and gaps):
            return Answer((Piece(self.tokenizer.decode(written, skip_special_tokens=True)),), notes=notes)
        spans = self._spans(written)
        pieces = [Piece(parts[0])]
        for number, part in enumerate(parts[1:]):
            pieces += [Piece(spans.get(number, "").strip() or "...", ""), Piece(part)]
        return Answer(tuple(pieces), notes=notes)

    def _spans(self, written: list[int]) -> dict[int, str]:
        """By its number, what was written for each gap."""
        names = dict(zip(self.tokenizer.convert_tokens_to_ids(self._blanks), range(len(self._blanks)), strict=True))
        found: dict[int, list[int]] = {}
        number = None
        for token in written:
            if token in names:
                number = names[token]
                found.setdefault(number, [])
            elif number is not None:
                found[number].append(token)
        return {number: self.tokenizer.decode(ids, skip_special_tokens=True) for number, ids in found.items()}


class Replaced(Answerer):
    """An ELECTRA discriminator: marks the words that do not look as if they had stood there."""

    auto_class, task = AutoModelForPreTraining, "marks words that look replaced"
    examples = ("Paris is the banana of France.", "The chef ate the meal in the kitchen.")

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        read, notes = self._read(text)
        probabilities = self._logits(read).sigmoid().tolist()
        words: dict[int, tuple[int, int, float]] = {}
        offsets = read["offset_mapping"][0].tolist()
        for word, (begin, end), probability in zip(read.word_ids(0), offsets, probabilities, strict=True):
            if word is not None and end > begin:
                first, _, most = words.get(word, (begin, end, 0.0))
                words[word] = (first, end, max(most, probability))
        replaced = [(begin, end, "") for begin, end, probability in words.values() if probability > 0.5]
        ranked = sorted(words.values(), key=lambda each: -each[2])[: self.top]
        entries = tuple((text[begin:end].strip(), probability) for begin, end, probability in ranked)
        if not entries:
            return Answer(notes=(self.hint,))
        ranking = Ranking(entries, chosen=sum(probability > 0.5 for _, probability in entries))
        return Answer(tuple(_marked(text, replaced)), (ranking,), notes)


class Neighbours(Answerer):
    """Compares texts by their vectors: the nearest ones among others."""

    auto_class, compares = AutoModel, True
    task = "compares texts by the cosine of their vectors"
    examples = ("A cat sleeps on the sofa.", "The parliament passed a law.")
    _ways = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        modules = self.folder.json("modules.json", [])
        others = {str(each.get("type")).rpartition(".")[2] for each in modules} - {
            "Transformer",
            "Pooling",
            "Normalize",
        }
        if others:
            raise CannotAnswer(
                f"{self.folder.name} makes vectors by {', '.join(sorted(others))}, which is not read here"
            )
        if not modules:
            self.task = "has no head; compares texts by the mean of its tokens' vectors, which is not what it learnt"
        pooling = self.folder.json("1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
        ways = [
            key.removeprefix("pooling_mode_") for key, value in pooling.items() if value is True and "_mode_" in key
        ]
        if len(ways) != 1 or ways[0] not in self._ways:
            raise CannotAnswer(f"{self.folder.name} pools its vectors by {' and '.join(ways)}, which is not read here")
        (self.pooling,) = ways
        settings = self.folder.json("sentence_bert_config.json", {})
        self.limit = min(filter(None, (self.limit, settings.get("max_seq_length"))), default=None)
        prompts = self.folder.json("config_sentence_transformers.json", {})
        self._prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")) or ""
        self._known: dict[str, Tensor] = {}

    def _answer(self, text: str, others: Sequence[str], show: Callable[[str], object]) -> Answer:
        among = [other for other in dict.fromkeys(others) if other != text]
        if not among:
            return Answer(notes=("there is no other text yet to compare it with",))
        known = {each: self._known[each] for each in (text, *among) if each in self._known}
        new = sorted({text, *among} - known.keys(), key=lambda each: (len(each), each))
        for begin in range(0, len(new), BATCH):  # texts of like length
            some = new[begin : begin + BATCH]
            known |= dict(zip(some, self._vectors(some), strict=True))
        self._known = known  # of the texts of this question: nobody else's are kept
        cosines = torch.stack([known[other] for other in among]) @ known[text]
        _, notes = self._read(self._prompt + text)
        return Answer((), (self._ranked(cosines, among.__getitem__, unit="cosine"),), notes)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """Of length 1, float32 (texts, width)."""
        cutting = {"truncation": True, "max_length": self.limit} if self.limit else {}
        prompted = [self._prompt + text for text in texts]
        read = self.tokenizer(prompted, padding=True, return_tensors="pt", verbose=False, **cutting)
        hidden, mask = self.model(**self._inputs(read)).last_hidden_state.float().cpu(), read["attention_mask"]
        first, last = mask.argmax(1), mask.shape[1] - 1 - mask.flip(1).argmax(1)
        each, weights = torch.arange(len(texts)), mask[..., None].float()
        pooled = {
            "cls_token": lambda: hidden[each, first],
            "mean_tokens": lambda: (hidden * weights).sum(1) / weights.sum(1),
            "max_tokens": lambda: hidden.masked_fill(weights == 0, -torch.inf).amax(1),
            "lasttoken": lambda: hidden[each, last],
        }[self.pooling]()
        return F.normalize(pooled, dim=-1)


# ---------------------------------------------------------------------------------------------------------------------
# from folders to models


@dataclass(frozen=True)
class Folder:
    """A model's folder, here or on the Hub.

    Attributes:
        name: a path, or an id of the Hub.
        cached_only: whether what is of the Hub is looked for in its cache alone.
    """

    name: str
    cached_only: bool = False

    def text(self, file: str) -> str:
        """A file's content; empty where there is none."""
        path: str | Path = Path(self.name) / file
        if not Path(self.name).is_dir():
            try:
                path = hf_hub_download(self.name, file, local_files_only=self.cached_only)
            except EntryNotFoundError:
                return ""
        return Path(path).read_text(encoding="utf-8", errors="replace") if Path(path).is_file() else ""

    def json(self, file: str, default: Any) -> Any:
        """A file's values; `default` where there is none.

        Raises:
            CannotAnswer: it holds values of another kind.
        """
        try:
            values = json.loads(self.text(file) or json.dumps(default))
        except ValueError:
            values = None
        if not isinstance(values, type(default)):
            raise CannotAnswer(f"{file} of {self.name} cannot be read; copy or download it again")
        return values


_KINDS: tuple[tuple[str, type[Answerer]], ...] = (  # what the name of an architecture ends in
    ("ForMaskedLM", Masks),
    ("ElectraForPreTraining", Replaced),
    ("ForPreTraining", Masks),
    ("ForCausalLM", Continuation),
    ("LMHeadModel", Continuation),
    ("ForSequenceClassification", Classes),
    ("ForTokenClassification", Tags),
    ("ForQuestionAnswering", Questions),
    ("ForQuestionAnsweringSimple", Questions),
    ("ForConditionalGeneration", Spans),
    ("Model", Neighbours),
)


def open_model(name: str, *, tokenizer: Any = None, top: int = 5, cached_only: bool = False) -> Answerer:
    """Load a model as what it is.

    Args:
        name: a folder, or an id of the Hub.
        tokenizer: its, where it is loaded already.
        top: entries of a ranking.
        cached_only: do not ask the Hub for what is not in its cache.

    Raises:
        CannotAnswer: it is none that answers texts.
    """
    folder = Folder(name, cached_only)
    kind = kind_of(folder)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=cached_only, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    auto_class = kind.auto_class
    model, found = auto_class.from_pretrained(
        name,
        dtype="auto" if device == "cuda" else torch.float32,
        output_loading_info=True,
        local_files_only=cached_only,
        trust_remote_code=False,
    )
    missing = sorted(key for key in found["missing_keys"] if "pooler" not in key or kind is not Neighbours)
    if missing:
        raise CannotAnswer(f"the weights of {name} have no {missing[0]}: it is only a part of a {type(model).__name__}")
    return kind(model.to(device), tokenizer, folder, top)


def kind_of(folder: Folder) -> type[Answerer]:
    """What a model is for, read off its folder.

    Raises:
        CannotAnswer: it is none that answers texts.
    """
    name = folder.name
    config = AutoConfig.from_pretrained(name, local_files_only=folder.cached_only, trust_remote_code=False)
    architecture = [*(config.architectures or []), ""][0]
    named = next((kind for ending, kind in _KINDS if architecture.endswith(ending)), None)
    kind = Neighbours if folder.json("modules.json", []) else named
    is_half = kind is Neighbours and config.is_encoder_decoder
    if kind is None or is_half or type(config) not in kind.auto_class._model_mapping:
        what = f"is a {architecture}" if architecture else "does not say what it is (architectures in its config.json)"
        raise CannotAnswer(f"{name} {what}, and only models that read and write text are answered for here")
    return kind


def describe(answerer: Answerer) -> str:
    """What a model is: its architecture, its size, what it does."""
    count = sum(parameter.numel() for parameter in answerer.model.parameters())
    size = f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"
    return f"{type(answerer.model).__name__}, {size} parameters: {answerer.task}"


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Tokens of the longest input that both model and tokenizer take; `None` where there is no limit."""
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    for name, module in model.named_modules():  # RoBERTa's positions are counted from behind the padding's
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
            break
    return min((n for n in (positions, tokenizer.model_max_length) if 0 < n < _NO_LIMIT), default=None)


def _marked(text: str, spans: Iterable[tuple[int, int, str]]) -> Iterator[Piece]:
    """A text in pieces, those between two places with their labels, without the white space at their ends."""
    done = 0
    for begin, end, label in sorted(spans):
        inside = text[begin:end]
        begin, end = end - len(inside.lstrip()), begin + len(inside.rstrip())
        if max(done, begin) < end:
            yield from (Piece(text[done:begin]),) if begin > done else ()
            yield Piece(text[max(done, begin) : end], label)
            done = end
    if done < len(text):
        yield Piece(text[done:])


def _cut_note(which: str, kept: int | None, length: int) -> str:
    return f"only the {which} {kept:,} of {length:,} tokens were read: the model takes no more"
