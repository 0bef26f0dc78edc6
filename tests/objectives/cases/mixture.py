"""Mixtures: of language models over the same rows, and with a generator, labelled rows and weights besides."""

import json
import random
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from parity_cases import ROLES, SEED, TOKENIZER, VOCABULARY
from splits import SplitCase
from toys import tiny_model

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.config.mixture import MemberConfig, MixtureConfig
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.mixture import Mixture


def labelled_file():
    """A class a text, of words that the tokenizer knows."""
    rng, words = random.Random(0), sorted(word for word in TOKENIZER.get_vocab() if word.isalnum())
    rows = [{"text": " ".join(rng.choices(words, k=rng.randint(2, 20))), "label": rng.choice("abc")} for _ in range(40)]
    path = Path(tempfile.mkdtemp(prefix="nlp_ssl-mixture-"), "rows.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def case(*members):
    config = MixtureConfig(members=list(members), model=ModelConfig(name="bert-tiny"))
    kind = Mixture.for_config(config)

    def make():
        model = tiny_model("bert", isolated=True, vocab_size=VOCABULARY, **ROLES)
        module = kind(PackedModel(model, True), TOKENIZER, config).double()
        for part in module.parts:
            if hasattr(part, "queue"):  # of earlier steps, or the first one would have no negatives
                noise = torch.Generator().manual_seed(5)
                part.queue.put(F.normalize(torch.randn(20, 32, generator=noise, dtype=torch.float64)))
        return module

    return SplitCase(make, streams=lambda: kind.streams(TOKENIZER, config, seed=SEED))


CASES = {
    "mixture of two": case(MemberConfig("mlm", options={"masking.probability": 0.3}), MemberConfig("clm", weight=0.5)),
    "mixture with heads and labels": case(
        MemberConfig("mlm", share=2.0),
        MemberConfig("rtd", weight=0.3),
        MemberConfig("mlm", name="more", share=0.5, weight=2.0),
        MemberConfig("supervised", options={"supervised.data.train_file": labelled_file(), "supervised.batch_size": 8}),
    ),
}
CASES["mixture with contrast"] = case(
    MemberConfig("mlm"), MemberConfig("contrastive", options={"contrastive.loss": "moco", "contrastive.queue": 30})
)
