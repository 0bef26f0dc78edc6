"""Relations between tokens, beside plain transformers reading one document at a time in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence"))
from parity_cases import ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model

from nlp_ssl.config.distillation import DistillationConfig, DistillationSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.doctor.proofs import stock_copy
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives import relations
from nlp_ssl.objectives.distillation import Distillation
from nlp_ssl.objectives.relations import summed_relation_divergence

ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]


@pytest.fixture
def make(tmp_path):
    """Distils a tiny model of three layers into one of two, by their relations."""

    def of(name, student=None, isolated=True, **options):
        if not (tmp_path / name).exists():
            tiny_model(name, vocab_size=VOCABULARY, **ROLES).save_pretrained(tmp_path / name)
        options = {"relation_weight": 1.0, "layers": []} | options
        config = DistillationConfig(distillation=DistillationSection(teacher=str(tmp_path / name), **options))
        config.model.name, config.model.from_scratch = str(tmp_path / name), True
        shape = {"vocab_size": VOCABULARY, **ROLES, "num_hidden_layers": 2} | (student or {})
        model = PackedModel(tiny_model(name, isolated=isolated, **shape), isolated)
        with torch.no_grad():  # unlike the teacher, whose weights are of the same seed
            for parameter in model.parameters():
                parameter.mul_(1.1)
        return Distillation.for_config(config)(model, TOKENIZER, config).double()

    return of


def batch_for(module, numbers):
    collator = type(module).collator(TOKENIZER, DistillationConfig(), seed=SEED)
    batch = collator(Selection(ROWS, np.array(numbers), np.zeros(len(numbers), dtype=np.int64)))
    batch.pop("digest")
    return batch, collator.counts(batch)


def projections(plain, layer, ids):
    """(S, width) each: what a plain BERT's linear maps give for one document."""
    found, attention = [], plain.bert.encoder.layer[layer].attention.self
    hooks = [
        getattr(attention, name).register_forward_hook(lambda _, args, output: found.append(output[0]))
        for name in ("query", "key", "value")
    ]
    plain(ids[None])
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 1])
def test_relations_are_those_of_plain_models_on_documents_alone(make, layer):
    module = make("bert", relation_layer=layer, relation_heads=4).eval()
    batch, counts = batch_for(module, range(6))
    student, teacher = (stock_copy(each) for each in (module.model.model, module.teacher.model))
    expected = tokens = 0
    for row in range(6):
        for document in batch["document_ids"][row].unique():
            if document == 0:
                continue
            ids = batch["input_ids"][row, batch["document_ids"][row] == document].long()
            tokens += len(ids)
            pairs = zip(
                projections(student, 1, ids), projections(teacher, 2 if layer is None else layer, ids), strict=True
            )
            for own, theirs in pairs:
                for ours, known in zip(own.chunk(4, -1), theirs.chunk(4, -1), strict=True):
                    p, q = (Categorical(logits=x @ x.T / x.shape[1] ** 0.5) for x in (known, ours))
                    expected += kl_divergence(p, q).sum().item() / 4
    sums = module(batch)
    assert sums["relations"].item() == pytest.approx(expected, rel=1e-10)
    assert counts["relations"] == tokens
    trained = module.train()(batch)
    assert trained["relations"].item() == pytest.approx(expected, rel=1e-10)
    sums = {name: value.double() for name, value in sums.items()}
    assert module.evaluate(sums, counts, 1.0)["relation_divergence"] == pytest.approx(expected / tokens)


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_a_student_of_another_width_is_taught_and_few_heads_at_a_time_are_all(make, name, monkeypatch):
    wide = {"hidden_size": 48} | ({} if name != "llama" else {"num_key_value_heads": 1, "num_attention_heads": 2})
    module = make(name, wide, cosine_weight=0.0).train()
    batch, _ = batch_for(module, range(4))
    found = []
    for scores in (2**26, 4 * ROW_LENGTH**2, 1):
        monkeypatch.setattr(relations, "_SCORES", scores)
        module.zero_grad()
        module(batch)["relations"].backward()
        found.append({n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for parameter, gradient in other.items():
            torch.testing.assert_close(gradient, found[0][parameter], rtol=1e-10, atol=1e-13)
    assert any(gradient.abs().max() > 0 for gradient in found[0].values())
    assert all(p.grad is None for p in module.teacher.parameters())


def test_recomputed_layers_have_the_same_gradient(make):
    module = make("bert").train()
    batch, _ = batch_for(module, range(4))
    found = []
    for recomputed in (False, True):
        if recomputed:
            module.model.model.gradient_checkpointing_enable()
        module.zero_grad()
        module(batch)["relations"].backward()
        found.append({n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-10, atol=1e-13)


def test_equal_relations_have_no_divergence():
    own = [torch.randn(2, 4, 6, 8, dtype=torch.float64) for _ in range(3)]
    ids = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    assert summed_relation_divergence(own, own, ids, 16).item() == pytest.approx(0, abs=1e-12)


def test_a_step_is_one_graph(make):
    torch.compiler.reset()
    module = make("bert").float().train()
    explained = torch._dynamo.explain(module)(batch_for(module, range(4))[0])
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"relation_heads": 7}, "relation_heads is 7, which does not divide widths of"),
        ({"relation_layer": 3}, "relation_layer is 3; the teacher's layers are 0 to 2"),
        ({"relation_weight": -1.0}, "relation_weight is -1.0; it must be 0 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, options, sentence):
    with pytest.raises(UserError, match=sentence):
        make("bert", **options)


def test_an_attention_that_keeps_nothing_is_refused(make):
    with pytest.raises(UserError, match="DebertaV2ForMaskedLM is not trained with here"):
        make("deberta-v2")
    with pytest.raises(UserError, match="BertForMaskedLM is not trained with here"):
        make("bert", isolated=False)
