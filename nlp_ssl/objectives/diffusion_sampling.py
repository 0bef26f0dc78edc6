"""Text from a masked diffusion model, by plain transformers: masks are replaced by tokens, a few at a time.

Each step the model predicts all masked tokens, a token is drawn for each, and some of them are kept: any, as in the
reverse process (Sahoo et al. 2024), or those that the model is surest of (Nie et al. 2025). Probabilities are float64:
draws in less precision prefer likely tokens, and so flatter the model (Zheng et al. 2024).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from nlp_ssl.core.vocabulary import special_ids
from nlp_ssl.data.tokens.token_corpus import TokenCorpus
from nlp_ssl.objectives.samples import held_out_paragraphs

GAP, LENGTH = 5, 24  # tokens of a gap, and of a text from nothing, that are shown


@torch.no_grad()
def unmask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    input_ids: Tensor,
    *,
    steps: int | None = None,
    order: Literal["confidence", "random"] = "confidence",
    temperature: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Replace all mask tokens of some texts; everything else stays.

    Args:
        model: a masked language model of transformers.
        tokenizer: its.
        input_ids: int64, (B, S), without padding; masks may stand anywhere.
        steps: how many times the model is asked, at most. `None`: once for every mask of the text with the most.
        order: which of the drawn tokens are kept first: the likeliest, or any.
        temperature: what logits are divided by; 0 takes the likeliest token.
        seed: of the draws.

    Returns:
        int64, (B, S), on the CPU.
    """
    ids, mask = input_ids.clone().cpu(), tokenizer.mask_token_id
    ordinary = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    ordinary[list(tokenizer.get_vocab().values())] = True
    ordinary[special_ids(tokenizer)] = False
    generator = torch.Generator().manual_seed(seed)
    for left in range(steps or int((ids == mask).sum(-1).max()), 0, -1):
        masked = ids == mask
        logits = model(input_ids=ids.to(model.device)).logits.cpu().double()
        tokens, chances = _draw(logits.masked_fill(~ordinary, -math.inf), temperature, generator)
        if order == "random":
            chances = torch.rand(chances.shape, generator=generator, dtype=torch.float64)
        ranks = chances.masked_fill(~masked, -1.0).argsort(dim=-1, descending=True, stable=True).argsort(-1)
        count = (masked.sum(-1, keepdim=True) + left - 1) // left
        ids = torch.where(masked & (ranks < count), tokens, ids)
    return ids


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A token for each position, by the inverse of its cumulative distribution, and its probability."""
    if temperature == 0:
        chances, tokens = logits.softmax(-1).max(-1)
        return tokens, chances
    probabilities = (logits / temperature).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    draws = torch.rand((*logits.shape[:-1], 1), generator=generator, dtype=torch.float64) * cumulative[..., -1:]
    tokens = torch.searchsorted(cumulative, draws, right=True)
    return tokens.squeeze(-1), probabilities.gather(-1, tokens).squeeze(-1)


def shown_samples(
    folder: Path, held_out: TokenCorpus, tokenizer: PreTrainedTokenizerFast, count: int = 3
) -> Iterator[str]:
    """Gaps in held-out sentences filled by the model in a folder, the surest token first; and a text of its own."""
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False).eval()
    for text in held_out_paragraphs(held_out, tokenizer, count):
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=64).input_ids])
        begin = (ids.shape[1] - GAP) // 2
        gap = slice(begin, begin + GAP)
        cut = ids.clone()
        cut[:, gap] = tokenizer.mask_token_id
        filled = unmask(model, tokenizer, cut, temperature=0.0)[0]
        before, there, behind, was = (
            _text(tokenizer, part) for part in (filled[:begin], filled[gap], filled[gap.stop :], ids[0, gap])
        )
        yield f"{before} [ {there} ] {behind}  (it was: {was})"
    around = tokenizer("").input_ids  # such as CLS and SEP
    half = (len(around) + 1) // 2
    masks = torch.tensor([[*around[:half], *[tokenizer.mask_token_id] * LENGTH, *around[half:]]])
    yield f"from nothing: {_text(tokenizer, unmask(model, tokenizer, masks, order='random')[0])}"


def _text(tokenizer: PreTrainedTokenizerFast, ids: Tensor) -> str:
    return " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
