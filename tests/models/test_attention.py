"""Documents of a row cannot see each other: against each alone in plain transformers, for many architectures."""

import pytest
import torch
from toys import CAUSAL, MASKED, tiny_model

from nlp_ssl.core.errors import UserError
from nlp_ssl.models import attention
from nlp_ssl.models.attention import can_isolate, document_mask
from nlp_ssl.models.checks import check_isolation, text_ids
from nlp_ssl.models.packed import PackedModel

REFUSED = ("mpnet", "gemma2")
ISOLATING = [name for name in (*MASKED, *CAUSAL) if name not in REFUSED]


def row(*documents, pad=0):
    ids = torch.cat([*documents, torch.ones(pad, dtype=torch.int64)])[None]
    document_ids = torch.cat([torch.full_like(d, n) for n, d in enumerate(documents, 1)] + [torch.zeros(pad).long()])
    position_ids = torch.cat([torch.arange(len(d)) for d in documents] + [torch.zeros(pad).long()])
    return ids, {"document_ids": document_ids[None], "position_ids": position_ids[None]}


@pytest.fixture(scope="module")
def documents():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 100, (n,), generator=generator) for n in (13, 13, 22, 7)]


def close(a, b):
    return float((a - b).abs().max() / b.abs().max()) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ISOLATING)
def test_another_document_changes_no_bit_and_alone_is_the_same(name, documents):
    first, other, middle, last = documents
    model = tiny_model(name, isolated=True)
    assert can_isolate(type(model))
    packed = PackedModel(model, True).eval()
    together, swapped = (packed(ids, **kw) for ids, kw in (row(d, middle, last, pad=5) for d in (first, other)))
    assert torch.equal(together[:, 13:42], swapped[:, 13:42])
    assert not torch.equal(together[:, :13], swapped[:, :13])
    reordered, kwargs = row(last, middle, first)
    assert close(packed(reordered, **kwargs)[0, 7:29], together[0, 13:35])
    # plain transformers, the document alone: also says that windows and causality are the architecture's own
    plain = tiny_model(name)
    plain.load_state_dict(model.state_dict())
    for document, begin in ((first, 0), (middle, 13), (last, 35)):
        alone = plain(input_ids=document[None], use_cache=False) if name in CAUSAL else plain(document[None])
        assert close(together[0, begin : begin + len(document)], alone.logits[0])
    assert check_isolation(packed, 100) < 1e-5


@pytest.mark.parametrize("name", [name for name in ISOLATING if "roberta" in name or name in ("bert", "gpt2")])
def test_the_proof_draws_words_and_no_padding_however_small_the_vocabulary(name):
    """RoBERTa counts no position for padding, also in the middle of a text, where packed rows do."""
    model = tiny_model(name, isolated=True)
    assert check_isolation(PackedModel(model, True), 12) < 1e-5
    special = {model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id} - {None}
    assert special.isdisjoint(text_ids(model.config, 12).tolist())


@torch.no_grad()
def test_the_test_would_see_a_leak(documents):
    """Stock attention over the same packed row leaks, in BERT and in a decoder given a mask of ones."""
    first, other, middle, _ = documents
    for name in ("bert", "modernbert", "gpt2"):
        plain = tiny_model(name)
        ids = [torch.cat([d, middle])[None] for d in (first, other)]
        logits = [plain(i, attention_mask=torch.ones_like(i)).logits[:, 13:] for i in ids]
        assert not torch.equal(*logits)


@torch.no_grad()
@pytest.mark.parametrize("name", REFUSED)
def test_architectures_that_cannot_are_refused_with_one_sentence(name):
    with pytest.raises(UserError, match=r"give --tokens\.packing one_document"):
        check_isolation(PackedModel(tiny_model(name, isolated=True), True), 100)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "distilbert", "gpt2", "gemma2"])
def test_one_document_a_row_needs_no_isolation(name, documents):
    packed = PackedModel(tiny_model(name), False).eval()
    ids, kwargs = row(documents[2], pad=6)
    alone = tiny_model(name)(documents[2][None]).logits
    assert close(packed(ids, **kwargs)[:, :22], alone)


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "llama"])
def test_gradients_do_not_leak_either(name, documents):
    packed = PackedModel(tiny_model(name, isolated=True), True)
    embedded = {}

    def keep(module, args, output):
        output.retain_grad()
        embedded["out"] = output

    packed.model.get_input_embeddings().register_forward_hook(keep)
    ids, kwargs = row(documents[0], documents[2])
    packed(ids, **kwargs)[0, 13:].square().sum().backward()
    gradient = embedded["out"].grad[0]
    assert (gradient[:13] == 0).all()
    assert (gradient[13:].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("paths", [(256, 2048), (0, 2048)], ids=["formula", "tiles"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "llama"])
def test_bfloat16_has_paths_of_its_own_with_the_same_result(name, paths, documents, monkeypatch):
    """On a CPU: the same as the flash kernel to the rounding of bfloat16, in values and gradients, and no leak."""
    first, other, middle, last = documents
    packed = PackedModel(tiny_model(name, isolated=True), True).eval()

    def run(document, paths):
        monkeypatch.setattr(attention, "_SHORT", paths[0])
        monkeypatch.setattr(attention, "_LONG", paths[1])
        packed.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            ids, kwargs = row(document, middle, last, pad=5)
            logits = packed(ids, **kwargs)[0, 13:42].float()
        logits.logsumexp(-1).sum().backward()
        return logits.detach(), torch.cat([p.grad.flatten() for p in packed.parameters() if p.grad is not None])

    (ours, gradient), (swapped, _), (flash, expected) = run(first, paths), run(other, paths), run(first, (0, 0))
    exact, _ = (packed(ids, **kw) for ids, kw in [row(first, middle, last, pad=5)] * 2)
    assert torch.equal(ours, swapped)
    for found, reference in ((ours, flash), (gradient, expected)):
        assert float((found - reference).norm() / reference.norm()) < 0.02
    # nor is it further from float32 than the kernel is
    exact = exact[0, 13:42].detach()
    assert float((ours - exact).norm()) < 1.2 * float((flash - exact).norm())


def test_document_mask_by_hand():
    ids = torch.tensor([[1, 1, 1, 2, 2, 0]])
    full = document_mask(ids, False, None)[0, 0].int().tolist()
    assert full == [[1, 1, 1, 0, 0, 0]] * 3 + [[0, 0, 0, 1, 1, 0]] * 2 + [[0, 0, 0, 0, 0, 1]]
    causal = document_mask(ids, True, None)[0, 0].int().tolist()
    assert causal[:3] == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    window = document_mask(ids, False, 2)[0, 0].int().tolist()
    assert window[0] == [1, 1, 0, 0, 0, 0]
    assert window[2] == [0, 1, 1, 0, 0, 0]
    assert document_mask(ids, True, 2)[0, 0].int().tolist()[2] == [0, 1, 1, 0, 0, 0]


def test_a_forgotten_document_id_is_an_error():
    model = tiny_model("bert", isolated=True)
    with pytest.raises(ValueError, match="document_ids"):
        model(torch.ones(1, 4, dtype=torch.int64))


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2"])
def test_an_encoder_can_be_made_to_see_only_the_past(name, documents):
    first, _, middle, last = documents
    packed = PackedModel(tiny_model(name, isolated=True), True).eval()
    ids, kwargs = row(first, middle, last, pad=5)
    changed = ids.clone()
    changed[0, 13 + 9] = (ids[0, 13 + 9] + 1) % 90 + 5  # the tenth token of the second document
    logits, after = (packed(i, **kwargs, causal=True)[0] for i in (ids, changed))
    same = (logits == after).all(-1)
    assert same[:22].all()  # everything before it
    assert not same[22:35].any()  # itself and what follows in its document
    assert same[35:].all()
    both_ways = packed(ids, **kwargs)[0]
    assert not (both_ways[13:22] == packed(changed, **kwargs)[0][13:22]).all(-1).any()


@torch.no_grad()
@pytest.mark.parametrize("paths", [(256, 2048), (0, 2048), (0, 0)], ids=["formula", "tiles", "kernel"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "gpt2", "llama"])
def test_rows_of_a_batch_may_differ_in_what_their_tokens_see(name, paths, documents, monkeypatch):
    """Each row as where all rows are like it; of a decoder the others see both sides."""
    monkeypatch.setattr(attention, "_SHORT", paths[0])
    monkeypatch.setattr(attention, "_LONG", paths[1])
    first, _, middle, last = documents
    packed = PackedModel(tiny_model(name, isolated=True), True).eval()
    ids, kwargs = row(first, middle, last, pad=5)
    ids, kwargs = ids.repeat(2, 1), {key: value.repeat(2, 1) for key, value in kwargs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        found, past, both = (
            packed(ids, **kwargs, causal=torch.tensor(causal))
            for causal in ([True, False], [True, True], [False, False])
        )
        real = kwargs["document_ids"][0] > 0
        assert torch.equal(found[0, real], past[0, real])
        assert torch.equal(found[1, real], both[1, real])
        assert torch.equal(past[:, real], packed(ids, **kwargs, causal=True)[:, real])
        if name in MASKED:
            assert torch.equal(both[:, real], packed(ids, **kwargs)[:, real])
    changed = ids.clone()
    changed[:, 22] += 1  # the tenth token of the second document
    after = packed(changed, **kwargs, causal=torch.tensor([True, False]))
    same = (packed(ids, **kwargs, causal=torch.tensor([True, False])) == after).all(-1)
    assert same[0, 13:22].all()
    assert not same[1, 13:22].any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2"])
def test_hidden_states_are_those_that_the_logits_are_made_of(name, documents):
    packed = PackedModel(tiny_model(name, isolated=True), True).eval()
    ids, kwargs = row(documents[0], documents[2])
    labels = torch.tensor([3, 20])
    logits, hidden = packed.with_hidden(ids, **kwargs, label_positions=labels)
    assert torch.equal(logits, packed(ids, **kwargs, label_positions=labels))
    plain = tiny_model(name).eval()
    plain.load_state_dict(packed.model.state_dict())
    alone = plain.base_model(documents[2][None]).last_hidden_state
    assert close(hidden[:, 13:], alone)
    assert packed.labelled.hidden is None


@torch.no_grad()
def test_segments_reach_a_model_that_has_them(documents):
    packed = PackedModel(tiny_model("bert", isolated=True), True).eval()
    ids, kwargs = row(documents[0])
    types = (torch.arange(13) > 5).long()[None]
    expected = tiny_model("bert").eval()
    expected.load_state_dict(packed.model.state_dict())
    assert close(packed(ids, **kwargs, token_type_ids=types), expected(ids, token_type_ids=types).logits)
