"""Distillation, beside plain transformers reading one document at a time in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, ModernBertConfig

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "equivalence", "objectives"))
sys.path.append(str(Path(__file__).with_name("cases")))
from launch import TINY, events, run, write_corpus
from parity_cases import ROLES, ROW_LENGTH, SEED, TOKENIZER, VOCABULARY, documents, packed_row
from toys import tiny_model, word_tokenizer

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.distillation import DistillationConfig, DistillationSection
from nlp_ssl.config.pretraining import MLMConfig, PhaseConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.sequences.phases import Selection
from nlp_ssl.doctor.proofs import stock_copy
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives import divergence
from nlp_ssl.objectives.curriculum import Curriculum
from nlp_ssl.objectives.distillation import Distillation
from nlp_ssl.objectives.divergence import summed_divergence
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.student_layers import spread_layers
from nlp_ssl.training.objective_state import unpublished

MASKED, CAUSAL = ("bert", "modernbert", "deberta-v2", "albert"), ("gpt2", "llama")
ROWS = [packed_row(row, ROW_LENGTH) for row in documents(True)]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folders of models of three layers, by architecture, made when they are first asked for."""
    folder = tmp_path_factory.mktemp("teachers")

    def of(name):
        if not (folder / name).exists():
            tiny_model(name, vocab_size=VOCABULARY, **ROLES).save_pretrained(folder / name)
            TOKENIZER.save_pretrained(folder / name)
        return str(folder / name)

    return of


def config_for(teacher, from_scratch=True, **options):
    config = DistillationConfig(distillation=DistillationSection(teacher=teacher, **options))
    config.model.name, config.model.from_scratch = teacher, from_scratch
    config.tokens.sequence_length = ROW_LENGTH
    return config


def student(name, layers=2, **more):
    field = "n_layer" if name == "gpt2" else "num_hidden_layers"
    return PackedModel(tiny_model(name, isolated=True, vocab_size=VOCABULARY, **ROLES, **{field: layers}, **more), True)


def distilled(teacher, name, count=2, **options):
    config = config_for(teacher, **options)
    return Distillation.for_config(config)(student(name, count), TOKENIZER, config).double()


def batch_of(teacher, numbers):
    config = config_for(teacher)
    numbers = np.array(numbers)
    collator = Distillation.for_config(config).collator(TOKENIZER, config, seed=SEED)
    batch = collator(Selection(ROWS, numbers, np.zeros_like(numbers)))
    batch.pop("digest")
    return batch, collator.counts(batch)


# ---------------------------------------------------------------------------------------------------------------------
# the losses


def plain_sums(module, teacher, batch, temperature):
    """The three sums, of plain models that read a document at a time; and how often they agree."""
    auto = AutoModelForCausalLM if "clm" in module.terms else AutoModelForMaskedLM
    models = [stock_copy(each) for each in (module.model.model, module.teacher.model)]
    assert auto.from_pretrained(teacher).config.num_hidden_layers == 3
    causal = auto is AutoModelForCausalLM
    labels = batch["labels"].clone()
    if not causal:
        labels = torch.full_like(batch["input_ids"], -100, dtype=torch.long)
        there = batch["labels"] >= 0
        labels.view(-1)[batch["label_positions"][there].long()] = batch["labels"][there]
    found = dict.fromkeys(("kl", "label", "cosine", "agreed"), 0.0)
    for row, its_documents in enumerate(batch["document_ids"]):
        for document in its_documents.unique():
            at = torch.nonzero(its_documents == document)[:, 0]
            if document == 0:
                continue
            ids = batch["input_ids"][row, at].long()[None]
            more = {"use_cache": False} if causal else {}
            outputs = [model(ids, **more) for model in models]
            bodies = [model.base_model(ids)[0][0] for model in models]
            wanted = labels[row, at] >= 0
            ours, theirs = (output.logits[0][wanted] for output in outputs)
            p, q = (theirs / temperature).softmax(-1), (ours / temperature).softmax(-1)
            found["kl"] += float(temperature**2 * (p * (p / q).log()).sum())
            found["label"] += float(F.cross_entropy(ours, labels[row, at][wanted], reduction="sum"))
            found["cosine"] += float((1 - (F.normalize(bodies[0]) * F.normalize(bodies[1])).sum(-1)).sum())
            found["agreed"] += float((ours.argmax(-1) == theirs.argmax(-1)).sum())
    return found


@pytest.mark.parametrize("name", MASKED + CAUSAL)
@torch.no_grad()
def test_the_three_losses_are_those_of_plain_models_on_documents_alone(name, teachers):
    teacher = teachers(name)
    module = distilled(teacher, name, temperature=3.0)
    noise = torch.Generator().manual_seed(5)
    for parameter in module.model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
    batch, counts = batch_of(teacher, range(6))
    sums = module.eval()(batch)
    expected = plain_sums(module, teacher, batch, 3.0)
    assert sums["kl"].item() == pytest.approx(expected["kl"], rel=1e-10)
    assert sums[module.label_term].item() == pytest.approx(expected["label"], rel=1e-10)
    assert sums["cosine"].item() == pytest.approx(expected["cosine"], rel=1e-10)
    assert expected["kl"] > 1
    assert expected["cosine"] > 1
    labels = int((batch["labels"] >= 0).sum())
    tokens = int((batch["document_ids"] > 0).sum())
    assert counts == {module.label_term: labels, "kl": labels, "cosine": tokens, "relations": tokens}
    found = module.evaluate({key: value.double() for key, value in sums.items()}, counts, 1.0)
    weighted = 5 * expected["kl"] / labels + 2 * expected["label"] / labels + expected["cosine"] / counts["cosine"]
    assert found["held_out_loss"] == pytest.approx(weighted)
    assert found["agreement"] == pytest.approx(expected["agreed"] / labels)
    assert found["student_loss"] == pytest.approx(expected["label"] / labels)


@pytest.mark.parametrize("name", MASKED + CAUSAL)
@torch.no_grad()
def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_it(name, teachers):
    module = distilled(teachers(name), name, count=3).eval()
    batch, counts = batch_of(teachers(name), range(6))
    sums = module(batch)
    assert abs(sums["kl"]) < 1e-12
    assert abs(sums["cosine"]) < 1e-12
    found = module.evaluate({key: value.double() for key, value in sums.items()}, counts, 1.0)
    assert found["agreement"] == 1
    assert found["student_accuracy"] == found["teacher_accuracy"]
    assert found["student_loss"] == found["teacher_loss"]
    assert found["agreement_of_a_constant"] < 1


def test_the_divergence_and_its_gradient_are_those_of_pytorch_in_any_block(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 9, 50, generator=generator, dtype=torch.float64) * 3
    counted = torch.arange(9) % 3 > 0
    ours.requires_grad_()
    kl = F.kl_div((ours / 2).log_softmax(-1), (theirs / 2).log_softmax(-1), log_target=True, reduction="none")
    expected = 4 * kl[counted].sum()
    (gradient,) = torch.autograd.grad(expected, ours)
    for block in (1, 120, 10**6):
        monkeypatch.setitem(divergence.BLOCK, "cpu", block)
        found = summed_divergence(ours, theirs, counted, 2.0)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(torch.autograd.grad(found, ours)[0], gradient, rtol=1e-12, atol=1e-14)
    half = summed_divergence(ours.bfloat16(), theirs.bfloat16(), counted, 2.0)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("name", ["bert", pytest.param("modernbert", marks=pytest.mark.long), "gpt2"])
def test_a_step_is_one_graph(name, teachers):
    torch.compiler.reset()
    batch, _ = batch_of(teachers(name), range(4))
    module = distilled(teachers(name), name).float().train()
    explained = torch._dynamo.explain(module)(batch)
    assert explained.graph_break_count == 0, explained.break_reasons
    found, expected = torch.compile(module, backend="eager")(batch), module(batch)
    for term, value in expected.items():
        assert found[term].item() == pytest.approx(value.item(), rel=1e-4)


def test_the_teacher_learns_nothing_has_no_dropout_and_is_in_no_checkpoint(teachers):
    module = distilled(teachers("bert"), "bert", label_weight=1.0).train()
    batch, _ = batch_of(teachers("bert"), range(4))
    assert module.model.training
    assert not any(each.training for each in module.teacher.modules())
    sum(module(batch).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in module.teacher.parameters())
    assert all(p.grad is not None for p in module.model.parameters())
    assert not unpublished(module)
    assert module.published().keys() == {""}
    in_phases = Curriculum(module, [MaskedLanguageModeling(module.model, TOKENIZER, MLMConfig())])
    assert not unpublished(in_phases)
    assert in_phases.identity() == module.identity()
    other = distilled(teachers("modernbert"), "modernbert")
    assert other.identity().keys() == module.identity().keys()
    assert other.identity() != module.identity()


def test_terms_of_weight_0_are_not_computed(teachers):
    module = distilled(teachers("bert"), "bert", kl_weight=0.0, cosine_weight=0.0).train()
    batch, _ = batch_of(teachers("bert"), range(4))
    module.teacher.forward = None  # it is not read
    assert module.terms == {"mlm": 2.0}
    assert module(batch).keys() == {"mlm"}
    assert distilled(teachers("bert"), "bert", cosine_weight=0.0).train()(batch).keys() == {"kl", "mlm"}


# ---------------------------------------------------------------------------------------------------------------------
# what a student begins with


@pytest.mark.parametrize("name", MASKED + CAUSAL)
def test_a_student_begins_with_embeddings_head_and_layers_of_its_teacher(name, teachers):
    layers = [0, 2] if name == "modernbert" else [2, 0]  # whose first layer has a norm less
    module = distilled(teachers(name), name, **({} if name == "albert" else {"layers": layers}))
    ours, theirs = module.model.model.state_dict(), module.teacher.model.state_dict()
    moved = {str(i): str(layer) for i, layer in enumerate(layers)} if name != "albert" else {}  # one layer's weights
    seen = set()
    for key, value in ours.items():
        parts = [moved.get(part, part) if part.isdigit() else part for part in key.split(".")]
        seen |= {part for part in parts if part.isdigit()}
        assert torch.equal(value, theirs[".".join(parts)]), key
    assert name == "albert" or seen == {"0", "2"}


def test_layers_are_spread_as_in_distilbert_and_keep_their_kind():
    twelve = BertConfig(num_hidden_layers=12)
    assert spread_layers(BertConfig(num_hidden_layers=6), twelve) == [0, 2, 4, 7, 9, 11]
    assert spread_layers(BertConfig(num_hidden_layers=1), twelve) == [0]
    assert spread_layers(twelve, twelve) == list(range(12))
    half, whole = ModernBertConfig(num_hidden_layers=11), ModernBertConfig(num_hidden_layers=22)
    found = spread_layers(half, whole)
    assert found == sorted(set(found))
    assert [whole.layer_types[layer] for layer in found] == half.layer_types


def test_an_empty_list_begins_with_new_weights_and_so_does_another_shape(teachers):
    before = student("bert").model.state_dict()
    config = config_for(teachers("bert"), layers=[])
    module = Distillation.for_config(config)(student("bert"), TOKENIZER, config)
    assert all(torch.equal(value, before[key]) for key, value in module.model.model.state_dict().items())
    assert "base_model" not in module.facts()
    config = config_for(teachers("bert"))
    wide = student("bert", intermediate_size=48)
    before = {key: value.clone() for key, value in wide.model.state_dict().items()}
    Distillation.for_config(config)(wide, TOKENIZER, config)
    assert all(torch.equal(value, before[key]) for key, value in wide.model.state_dict().items())


def test_half_the_layers_and_the_teachers_tokenizer_by_default(teachers):
    teacher = teachers("gpt2")
    given = DistillationConfig(distillation=DistillationSection(teacher=teacher))
    found = Distillation.for_config(given).completed(given)
    assert (found.model.name, found.model.from_scratch, found.tokenizer.path) == (teacher, True, teacher)
    assert found.model.overrides == {"num_hidden_layers": 1, "vocab_size": VOCABULARY}
    assert given.model.name is None
    given.distillation.layers = [0, 2]
    assert Distillation.for_config(given).completed(given).model.overrides["num_hidden_layers"] == 2
    given.model.name = "gpt2-tiny"
    assert Distillation.for_config(given).completed(given).model == given.model


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kl_weight": -1.0}, r"--distillation.kl_weight is -1.0; it must be 0 or more"),
        ({"cosine_weight": float("nan")}, r"cosine_weight is nan"),
        ({"kl_weight": 0.0, "label_weight": 0.0}, r"both 0, so nothing would train the head"),
        ({"temperature": 0.0}, r"--distillation.temperature is 0.0; it must be above 0"),
        ({"layers": [0]}, r"layers \[0\] must name one of the teacher's 3 layers, from 0, for each of the student's 2"),
        ({"layers": [0, 3]}, r"layers \[0, 3\] must name one of the teacher's 3 layers"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said, teachers):
    config = config_for(teachers("bert"), **options)
    with pytest.raises(UserError, match=said):
        Distillation.for_config(config)(student("bert"), TOKENIZER, config)


def test_models_that_do_not_go_together_are_refused(teachers, tmp_path):
    config = config_for(teachers("bert"))
    with pytest.raises(UserError, match=r"student are 48 wide, the teacher's 32.*give --distillation.cosine_weight 0"):
        Distillation.for_config(config)(student("bert", hidden_size=48), TOKENIZER, config)
    config = config_for(teachers("bert"), layers=[0, 1])
    with pytest.raises(UserError, match="needs a student of the teacher's shape"):
        Distillation.for_config(config)(student("bert", intermediate_size=48), TOKENIZER, config)
    config = config_for(teachers("bert"), from_scratch=False, layers=[0, 1])
    with pytest.raises(UserError, match="is for a new student"):
        Distillation.for_config(config)(student("bert"), TOKENIZER, config)
    tiny_model("bert", vocab_size=VOCABULARY, **ROLES).base_model.save_pretrained(tmp_path / "body")
    config = config_for(str(tmp_path / "body"))
    with pytest.raises(UserError, match=r"have no cls\.predictions.*it is no finished BertForMaskedLM"):
        Distillation.for_config(config)(student("bert"), TOKENIZER, config)
    with pytest.raises(UserError, match=r"--distillation\.teacher is missing"):
        Distillation.for_config(DistillationConfig())


def test_the_teacher_says_what_kind_of_model_is_distilled(teachers):
    kinds = {name: Distillation.for_config(config_for(teachers(name))) for name in ("bert", "gpt2")}
    assert {name: kind.auto_class for name, kind in kinds.items()} == {
        "bert": AutoModelForMaskedLM,
        "gpt2": AutoModelForCausalLM,
    }
    assert kinds["bert"].for_config(config_for(teachers("gpt2"))) is kinds["gpt2"]


def test_tokens_must_be_the_teachers_and_rows_no_longer_than_it_reads(teachers):
    config = config_for(teachers("bert"))
    objective = Distillation.for_config(config)
    assert objective.frame(TOKENIZER, config) == ((), ())  # this tokenizer adds nothing
    with pytest.raises(UserError, match=r"another vocabulary than .*bert: 1 entries differ, such as 'w95'"):
        objective.frame(word_tokenizer(VOCABULARY + 1), config)
    config.phases = [PhaseConfig(steps=1, sequence_length=65)]
    with pytest.raises(UserError, match="rows of 65 tokens are longer than the 64 positions of"):
        objective.frame(TOKENIZER, config)


# ---------------------------------------------------------------------------------------------------------------------
# runs


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    write_corpus(folder / "corpus.txt", documents=120)
    shared = ["--data.sources", folder / "corpus.txt", *TINY, "--train.global_batch_size", "12", "--train.steps", "3"]
    for name, recipe in (("mlm", "pretrain_mlm.py"), ("clm", "pretrain_clm.py")):
        run(recipe, *shared, "--model.overrides.num_hidden_layers", "3", "--output_dir", folder / name)
    return folder


def distil(work, teacher, out, *more, **how):
    options = ["--data.sources", work / "corpus.txt", "--data.held_out_fraction", "0.1", "--train.log_every", "1"]
    options += ["--tokens.sequence_length", "48", "--train.mixed_precision", "no", "--train.cpu_threads", "1"]
    options += ["--train.global_batch_size", "12", "--checkpoint.every", "2", "--schedule.name", "constant"]
    if teacher is not None:
        options += ["--distillation.teacher", work / teacher]
    return run("distill.py", *options, "--output_dir", out, *more, **how)


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_a_student_of_either_kind_is_a_model_that_plain_transformers_loads(kind, work, tmp_path):
    layers = ["--distillation.layers", "[0, 2]"]
    said = distil(work, kind, tmp_path / "run", *layers, "--train.steps", 4)
    assert "begins with its layers [0, 2]" in said
    assert "same likeliest token as the teacher in" in said
    auto = AutoModelForMaskedLM if kind == "mlm" else AutoModelForCausalLM
    model, info = auto.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 2
    assert not list((tmp_path / "run").glob("**/objective.pt"))
    last = events(tmp_path / "run", "evaluation")[-1]
    teachers = events(work / kind, "evaluation")[-1]
    assert last["teacher_loss"] == pytest.approx(teachers["held_out_loss"], rel=1e-5)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| Teacher | {kind}, 3 layers of 32" in card
    assert f"continued from the local model `{kind}`" in card
    assert str(work) not in card

    # resumed, it is the run that was never stopped; with another teacher it is not resumed
    distil(work, kind, tmp_path / "again", *layers, "--train.steps", 2)
    if kind == "mlm":
        weights = (work / "mlm" / "model.safetensors").read_bytes()
        model = auto.from_pretrained(work / "mlm")
        with torch.no_grad():
            next(model.parameters()).add_(0.1)
        model.save_pretrained(work / "mlm")
        refused = distil(work, kind, tmp_path / "again", *layers, "--resume.allow_changed", expect=2)
        assert "the teacher (--distillation.teacher) changed" in refused
        (work / "mlm" / "model.safetensors").write_bytes(weights)
    distil(work, kind, tmp_path / "again", *layers, "--train.steps", 4, "--resume.allow_changed")
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again"))
    assert whole == resumed


def test_the_shipped_options_are_read():
    shipped = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "distill_own_corpus.yaml"
    assert parse(DistillationConfig, argv=["--config", str(shipped)]).distillation.kl_weight == 5


def test_what_cannot_be_distilled_is_said_in_a_sentence_before_hours_of_work(work, tmp_path):
    def refused(teacher, *more):
        said = distil(work, teacher, tmp_path / "run", "--train.steps", 1, *more, expect=2)
        assert "Traceback" not in said
        assert not (tmp_path / "run").exists()
        return said.splitlines()[-1]

    assert "--distillation.teacher is missing" in refused(None)
    assert "there is no folder" in refused("nothing")
    assert "other special tokens than" in refused("mlm", "--tokenizer.path", work / "clm")
    assert "gpt2-tiny is a decoder, and distillation" in refused("mlm", "--model.name", "gpt2-tiny")
    assert "cosine_weight 0" in refused("mlm", "--model.name", "modernbert-tiny")
