"""Batches without their padding: the same logits and gradients as with it, and no work on it."""

import copy

import pytest
import torch
from toys import CAUSAL, MASKED, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from nlp_ssl.models.attention import ISOLATED
from nlp_ssl.models.padding_free import UNPADDED, unpad

LENGTHS = [13, 2, 30, 7, 1]
PAD = 1
ALBERT = ("albert", "rows")  # its base pools the first token in a way of its own
WITH_PADDING = {"deberta-v2", "mpnet", "gemma2"}  # attention of their own
HEADS = {"rows": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}


def inputs():
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 100, mask.shape, generator=torch.Generator().manual_seed(3))
    return {"input_ids": torch.where(mask > 0, ids, PAD), "attention_mask": mask}


def models(family, head, **changes):
    """The same weights twice: as transformers has them, and without padding."""
    stock = tiny_model(family, auto_class=HEADS[head], num_labels=3, pad_token_id=PAD, **changes).eval()
    ours = copy.deepcopy(stock)
    return stock, ours, unpad(ours, max(LENGTHS))


@pytest.mark.parametrize(
    ("family", "head"), [(f, h) for f in sorted({*MASKED, *CAUSAL} - WITH_PADDING) for h in HEADS if (f, h) != ALBERT]
)
def test_logits_and_gradients_are_those_of_the_padded_batch(family, head):
    stock, ours, difference = models(family, head)
    assert difference is not None
    assert difference < 1e-5
    assert ours.config._attn_implementation == UNPADDED
    stock, ours = stock.double(), ours.double()
    batch = inputs()
    logits = [model(**batch).logits for model in (stock, ours)]
    if head == "tokens":
        logits = [each[batch["attention_mask"] > 0] for each in logits]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-12)
    weights = torch.randn(logits[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for each in logits:
        (each.tanh() * weights).sum().backward()
    gradients = dict(ours.named_parameters())
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in gradients.values())
    for name, parameter in stock.named_parameters():
        found = gradients[name].grad
        assert (parameter.grad is None) == (found is None), name
        if found is not None:
            torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-11, msg=name)


def test_mean_pooling_does_not_count_padding():
    stock, ours, difference = models("modernbert", "rows", classifier_pooling="mean")
    assert difference is not None
    batch = inputs()
    torch.testing.assert_close(ours(**batch).logits, stock(**batch).logits, rtol=0, atol=1e-5)


def test_no_layer_works_on_padding():
    stock, ours, _ = models("modernbert", "rows")
    seen = []
    for model in (stock, ours):
        layer = next(module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear))
        layer.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2].numel()))
        model(**inputs())
    assert seen[0] == len(LENGTHS) * max(LENGTHS)
    assert sum(LENGTHS) < seen[1] <= sum(LENGTHS) + 8


def test_segments_go_with_their_tokens():
    stock, ours, _ = models("bert", "rows")
    batch = inputs()
    batch["token_type_ids"] = (torch.arange(30) > 4).long() * batch["attention_mask"]
    torch.testing.assert_close(ours(**batch).logits, stock(**batch).logits, rtol=0, atol=1e-5)
    batch["token_type_ids"] = 1 - batch["token_type_ids"]
    assert (ours(**batch).logits - stock(**batch | {"token_type_ids": None}).logits).abs().max() > 1e-4


@pytest.mark.parametrize("family", [*sorted(WITH_PADDING), "albert"])
def test_what_cannot_do_without_padding_keeps_it(family):
    stock, ours, difference = models(family, "rows")
    assert difference is None
    assert ours.config._attn_implementation not in (UNPADDED, ISOLATED)
    batch = inputs()
    torch.testing.assert_close(ours(**batch).logits, stock(**batch).logits, rtol=0, atol=0)


def test_a_model_that_would_answer_otherwise_keeps_its_padding():
    model = tiny_model("bert", auto_class=HEADS["rows"], num_labels=3).eval()
    model.base_model.encoder.register_forward_hook(  # it mixes what stands in one row, whosever it is
        lambda module, args, output: output.__class__(output[0] + output[0].mean(1, keepdim=True))
    )
    batch = inputs()
    before = model(**batch).logits
    assert unpad(model, max(LENGTHS)) is None
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=0)


def test_a_window_that_attention_is_not_told_of_is_noticed():
    """Some architectures write their window into the mask alone."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"intermediate_size": 64, "num_local_experts": 2, "sliding_window": 8, "pad_token_id": PAD}
    config = AutoConfig.for_model("phimoe", vocab_size=100, num_labels=3, **shape)
    torch.manual_seed(0)
    model = HEADS["rows"].from_config(config).eval()
    batch = inputs()
    before = model(**batch).logits
    assert unpad(model, max(LENGTHS)) is None
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=0)


def test_more_tokens_than_positions_and_recomputed_layers():
    stock, ours, _ = models("bert", "rows")
    batch = {key: value.repeat(4, 1) for key, value in inputs().items()}  # 212 tokens, 64 positions
    for model in (stock, ours):
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch).logits.square().sum().backward()
    expected = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_model_of_few_positions_is_asked_for_no_more():
    model = tiny_model("bert", auto_class=HEADS["rows"], num_labels=3, max_position_embeddings=6).eval()
    assert unpad(model, 6) is not None
