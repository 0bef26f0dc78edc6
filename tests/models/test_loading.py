"""Models from presets and folders: what is refused, and that a saved model owes nothing to us."""

import copy
import json
import sys
from pathlib import Path

import forks
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import tiny_config, tiny_model, tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    RobertaConfig,
    XLNetConfig,
)

from nlp_ssl.config.common import ModelConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.models.loading import (
    architecture,
    build_model,
    find_config,
    longest_input,
    max_positions,
    model_class,
    save_model,
)
from nlp_ssl.models.packed import PackedModel

MLM, CLM = AutoModelForMaskedLM, AutoModelForCausalLM


def make(config, sequence_length=64, dropout=None, auto_class=MLM, kind="bpe"):
    return architecture(config, auto_class, tokenizer(kind), sequence_length, dropout)


@pytest.fixture
def folder(tmp_path):
    model = tiny_model("bert", vocab_size=len(tokenizer("bpe")), dropout=0.1).bfloat16()
    model.save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def train_a_little(model):
    packed = PackedModel(model, True)
    packed.train()
    ids = torch.randint(5, 100, (2, 30), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[1] * 13 + [2] * 17] * 2)
    positions = torch.tensor([[*range(13), *range(17)]] * 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        packed(ids, document_ids=documents, position_ids=positions).square().mean().backward()
        optimizer.step()
    packed.eval()
    with torch.no_grad():
        return ids, packed(ids, document_ids=documents, position_ids=positions)


LOAD = """
import sys, torch, transformers
for name in ("AutoModelForMaskedLM", "AutoModelForCausalLM"):
    model = getattr(transformers, name).from_pretrained(f"{sys.argv[1]}/{name}")
    ids, ours = torch.load(f"{sys.argv[1]}/{name}.pt")
    with torch.no_grad():
        alone = torch.cat([model(input_ids=ids[:, :13]).logits, model(input_ids=ids[:, 13:]).logits], 1)
    print(float((alone - ours).abs().max() / ours.abs().max()))
assert not any(name.startswith("nlp_ssl") for name in sys.modules)
"""


def test_a_saved_model_loads_in_plain_transformers_and_gives_the_same_logits(tmp_path):
    for name, auto_class in (("modernbert-tiny", MLM), ("llama-tiny", CLM)):
        config = ModelConfig(name=name)
        model = build_model(config, make(config, dropout=0.0, auto_class=auto_class), auto_class, isolated=True)
        torch.save(train_a_little(model), tmp_path / f"{auto_class.__name__}.pt")
        model.save_pretrained(tmp_path / auto_class.__name__)
        stored = json.loads((tmp_path / auto_class.__name__ / "config.json").read_text())
        assert "isolated" not in json.dumps(stored)
        assert not [key for key in stored if "attn_implementation" in key]
    result = forks.run([sys.executable, "-c", LOAD, str(tmp_path)], env=forks.ENVIRONMENT, timeout=120)
    assert result.returncode == 0, result.stderr
    differences = [float(line) for line in result.stdout.split()]
    assert len(differences) == 2
    assert max(differences) < 1e-5


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "gpt2"])
def test_no_trace_in_config_json(name, tmp_path):
    model = tiny_model(name, isolated=True)
    PackedModel(model, True)
    model.save_pretrained(tmp_path)
    assert "isolated" not in (tmp_path / "config.json").read_text()
    plain = (CLM if name == "gpt2" else MLM).from_pretrained(tmp_path)
    assert plain.config._attn_implementation in ("sdpa", "eager")


def test_a_preset_takes_vocabulary_and_special_ids_of_its_tokenizer():
    t = tokenizer("bpe")
    config = make(ModelConfig(name="roberta-tiny"))
    assert config.vocab_size == len(t)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (
        t.pad_token_id, t.bos_token_id, t.eos_token_id,
    )  # fmt: skip


def test_one_architecture_makes_an_isolated_model_and_then_a_plain_one():
    config = ModelConfig(name="modernbert-tiny")
    architecture = make(config, dropout=0.0)
    build_model(config, architecture, MLM, isolated=True)
    model = build_model(config, architecture, MLM, isolated=False)
    assert model(input_ids=torch.arange(10, 20)[None]).logits.isfinite().all()


def test_the_seed_decides_the_weights():
    config = ModelConfig(name="bert-tiny")
    one, same, other = (build_model(config, make(config), MLM, isolated=True, seed=s) for s in (0, 0, 1))
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_going_on_from_a_folder_keeps_the_weights_in_float32_and_says_so(folder, capsys):
    config = ModelConfig(name=folder)
    model = build_model(config, make(config), MLM, isolated=True)
    stored = MLM.from_pretrained(folder)
    assert stored.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for a, b in zip(model.parameters(), stored.parameters(), strict=True):
        assert torch.equal(a, b.float())
    assert "bfloat16" in capsys.readouterr().out


def test_from_scratch_takes_the_shape_and_not_the_weights(folder):
    config = ModelConfig(name=folder, from_scratch=True, overrides={"num_hidden_layers": 1})
    model = build_model(config, make(config, kind="unigram"), MLM, isolated=True)
    assert model.config.num_hidden_layers == 1
    assert model.config.hidden_size == 32
    assert model.config.vocab_size == len(tokenizer("unigram"))


def test_dropout(folder):
    def probabilities(model):
        return {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}

    config = ModelConfig(name=folder)
    assert probabilities(build_model(config, make(config, dropout=0.0), MLM, isolated=True)) == {0.0}
    assert probabilities(build_model(config, make(config), MLM, isolated=True)) == {0.1}
    for name, auto_class in (("gpt2-tiny", CLM), ("deberta-v2-tiny", MLM), ("roberta-tiny", MLM)):
        preset = ModelConfig(name=name)
        model_config = make(preset, dropout=0.25, auto_class=auto_class)
        assert probabilities(build_model(preset, model_config, auto_class, isolated=True)) == {0.25}


@pytest.mark.parametrize(
    ("config", "more", "sentence"),
    [
        (
            ModelConfig(name="bert-huge"),
            {},
            r"^'bert-huge' is no preset.*; did you mean bert-large\? presets work offline: ",
        ),
        (
            ModelConfig(name="modernbert"),
            {},
            r"did you mean modernbert-\w+\?.*bart, each in tiny, mini, small, base or large",
        ),
        (ModelConfig(name="zzz"), {}, r"^'zzz' is no preset, [^?]*$"),
        (ModelConfig(name="bert-tiny", overrides={"num_layer": 3}), {}, "num_layer.*BertConfig has no such field"),
        (ModelConfig(name="bert-tiny", overrides={"num_hidden_layers": "four"}), {}, "num_hidden_layers.*four"),
        (ModelConfig(name="bert-tiny"), {"dropout": 1.5}, "--model.dropout is 1.5"),
        (ModelConfig(name="bert-tiny", overrides={"hidden_size": 100, "num_attention_heads": 3}), {}, "100"),
        (ModelConfig(name="bert-tiny"), {"sequence_length": 600}, "rows of 600 tokens.*512"),
        (ModelConfig(name="gpt2-tiny"), {}, "no head for AutoModelForMaskedLM"),
        (ModelConfig(name="roberta-tiny"), {"sequence_length": 513}, "512"),
    ],
)
def test_mistakes(config, more, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=sentence) as caught:
        build_model(config, make(config, **more), MLM, isolated=True)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named_with_those_beside_it(folder, monkeypatch):
    folder = Path(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=rf"^there is no folder {folder.parent}/nope; models there: .*{folder.name}"):
        make(ModelConfig(name=f"{folder.parent}/nope"))
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/nope"  # which could be the id of a model of the Hub as well
    with pytest.raises(
        UserError, match=rf"^there is no folder {name} \(looked in .*models there: .*as the id of a model of"
    ):
        make(ModelConfig(name=name))


def test_mistakes_with_a_folder(folder, tmp_path):
    with pytest.raises(UserError, match=r"add --model\.from_scratch"):
        make(ModelConfig(name=folder, overrides={"num_hidden_layers": 1}))
    with pytest.raises(UserError, match="no head for AutoModelForImageClassification"):
        make(ModelConfig(name=folder), auto_class=AutoModelForImageClassification)
    tiny_config("bert", vocab_size=50).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="more than the 50"):
        make(ModelConfig(name=str(tmp_path / "small")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        find_config(str(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "deberta-v2", "electra", "gpt2", "llama"])
@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
def test_a_head_of_other_labels_is_new_and_nothing_else(name, auto_class, tmp_path):
    stored = tiny_model(name, vocab_size=len(tokenizer("bpe")), auto_class=auto_class, num_labels=3)
    stored.save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path))

    def loaded(**more):
        shape = make(config, auto_class=auto_class)
        return build_model(config, shape, auto_class, isolated=False, **more).state_dict()

    stored, kept, new, other = stored.state_dict(), loaded(), loaded(keep_head=False), loaded(keep_head=False, seed=1)
    assert all(torch.equal(kept[key], value) for key, value in stored.items())
    changed = {key for key, value in stored.items() if not torch.equal(new[key], value)}
    assert {len(stored[key]) for key in changed} == {3}
    assert len(changed) == sum(len(value) == 3 for value in stored.values() if value.ndim)
    matrix = next(key for key in changed if stored[key].ndim == 2)
    assert 0.005 < float(new[matrix].std()) < 0.3
    assert abs(float(new[matrix].mean())) < 0.05
    assert not torch.equal(new[matrix], other[matrix])


def test_a_body_without_a_head_gets_the_one_that_transformers_makes(folder):
    config, auto_class = ModelConfig(name=folder), AutoModelForSequenceClassification
    model = build_model(
        config, make(config, auto_class=auto_class), auto_class, isolated=False, seed=7, keep_head=False
    )
    torch.manual_seed(7)
    plain = auto_class.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_positions_that_begin_after_padding():
    assert max_positions(tiny_config("roberta")) == 64
    assert max_positions(tiny_config("bert")) == 64
    assert PackedModel.can_isolate(model_class(tiny_config("bert"), MLM))
    assert not PackedModel.can_isolate(model_class(tiny_config("mpnet"), MLM))


def test_settings_for_generation_are_saved_as_they_were_published(tmp_path):
    published = {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 5, "eos_token_id": 2, "pad_token_id": 1}
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "published")
    settings = tmp_path / "published" / "generation_config.json"
    settings.write_text(json.dumps(published))
    config = ModelConfig(name=str(tmp_path / "published"))
    shape = find_config(config.name)
    loaded = build_model(config, shape, AutoModelForCausalLM, isolated=True)
    with pytest.raises(ValueError, match="temperature"):  # what some versions of transformers would say when saving
        loaded.generation_config.validate(strict=True)
    save_model(loaded, tmp_path / "saved", loaded.state_dict())
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved.items() >= published.items()
    assert loaded.generation_config.temperature == 0.6
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    prompt = torch.tensor([[5, 6, 7]])
    assert torch.equal(again.generate(prompt), model.generate(prompt, **published))


@pytest.mark.parametrize(
    ("announced", "config", "expected"),
    [
        (10**30, BertConfig(max_position_embeddings=48), 48),  # how transformers writes that nobody said
        (-1, BertConfig(max_position_embeddings=48), 48),
        (32, BertConfig(max_position_embeddings=48), 32),
        (100, BertConfig(max_position_embeddings=48), 48),
        (10**30, RobertaConfig(max_position_embeddings=50, pad_token_id=1), 48),
        (10**30, XLNetConfig(), None),  # announces -1
        (-1, XLNetConfig(), None),
        (64, XLNetConfig(), 64),
    ],
)
def test_the_longest_input_is_the_smallest_limit_that_is_one(announced, config, expected):
    t = copy.copy(tokenizer("bpe"))
    t.model_max_length = announced
    assert longest_input(t, config) == expected


SPOILT = {
    "cut": lambda folder: spoil(folder, lambda data: data[: len(data) // 2]),
    "empty": lambda folder: spoil(folder, lambda data: b""),
    "a header without end": lambda folder: spoil(folder, lambda data: (2**62).to_bytes(8, "little") + b"{}"),
    "an index that is no JSON": lambda folder: index(folder, "nope"),
    "an index without files": lambda folder: index(folder, "{}"),
    "an index of a file that is not there": lambda folder: index(
        folder, '{"metadata": {}, "weight_map": {"a": "missing.safetensors"}}'
    ),
}


def spoil(folder, change):
    file = folder / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))


def index(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize("name", SPOILT)
def test_weights_that_cannot_be_read_get_one_sentence(tmp_path, name):
    tiny_model("bert").save_pretrained(tmp_path)
    SPOILT[name](tmp_path)
    config = ModelConfig(name=str(tmp_path))
    with pytest.raises(UserError, match=rf"the weights of {tmp_path} cannot be read \(.*copy or download them again"):
        build_model(config, find_config(config.name), AutoModelForMaskedLM, isolated=False)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model_type": "bert", "hidden_size": "x"}', "[]", "{"])
def test_a_config_that_is_none_gets_one_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="holds no model that transformers can read"):
        find_config(str(tmp_path))


def test_weights_of_the_body_that_are_missing_or_left_over_are_named_and_heads_are_not(folder, caplog, capsys):
    """As transformers' own table has them, which is not printed."""
    head = AutoModelForSequenceClassification
    config = ModelConfig(name=folder)

    def load() -> str:
        build_model(
            config, architecture(config, head, tokenizer("bpe"), 1, None), head, isolated=False, keep_head=False
        )
        said = capsys.readouterr()
        assert "LOAD REPORT" not in said.out + said.err + caplog.text
        return said.err

    assert "warning" not in load()
    file = Path(folder, "model.safetensors")
    weights = load_file(file)
    gone = next(name for name in weights if "attention.self.query.weight" in name)
    weights["bert.encoder.layer.0.extra.weight"] = weights.pop(gone)
    save_file(weights, file, {"format": "pt"})
    said = load()
    assert f"not found in {folder}, and begun at random: 1 weight of the body ({gone})" in said
    left = "BertForSequenceClassification has no such: 1 weight (bert.encoder.layer.0.extra.weight)"
    assert f"found in {folder}, and not used, as a {left}" in said
