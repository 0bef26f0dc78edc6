"""Cards are read back by the Hub's own reader, and their snippets are run."""

import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from nlp_ssl.config.distillation import DistillationConfig
from nlp_ssl.config.finetuning import ClassificationConfig, NERConfig
from nlp_ssl.config.pretraining import CLMConfig, MLMConfig
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.clm import CausalLanguageModeling
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.objective import find_objective
from nlp_ssl.objectives.tagging import Tagging
from nlp_ssl.publishing.card import Metric, command_again, model_card, under_id
from nlp_ssl.runs.card_facts import again, detected, names, own_options
from nlp_ssl.training.schedules import Horizon

OBJECTIVES = (MaskedLanguageModeling, CausalLanguageModeling, Classification, Tagging)
TEXTS = {each.card.pipeline_tag: each.card for each in OBJECTIVES}

FACTS = {
    "architecture": "ModernBertForMaskedLM",
    "parameters": 3_456_789,
    "corpus": "documentation of the installed packages",
    "corpus_fingerprint": "0123abcd",
    "documents": 30_123,
    "corpus_tokens": 7_654_321,
    "steps": 400,
    "lr": 4e-3,
    "precision": "bf16",
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "held_out_loss": np.float32(3.57123),
    "unigram_entropy": 6.001,
}


def card(**changes) -> str:
    given = {"title": "Tiny", "text": TEXTS["fill-mask"], "model": "me/tiny", "facts": FACTS}
    return model_card(**{**given, **changes})


def test_the_hubs_reader_finds_the_metadata(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(card(language="en", license="apache-2.0", base_model="answerdotai/ModernBERT-base", tags=["mlm"]))
    data = ModelCard.load(path).data.to_dict()
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["nlp_ssl", "mlm"],
        "language": "en",
        "license": "apache-2.0",
        "base_model": "answerdotai/ModernBERT-base",
    }


def test_a_card_says_what_it_was_detected_to_speak_or_what_it_was_given(tmp_path):
    config, spoken = MLMConfig(output_dir=str(tmp_path / "run")), {"sw": 0.91, "en": 0.09}
    (tmp_path / "corpus").mkdir()
    sources = ["builtin", str(tmp_path / "corpus"), "wikimedia/wikipedia"]
    config.model.name = "bert-tiny"
    data = ModelCard(card(**names(config, spoken, sources))).data
    assert data.language == ["sw"]  # a twentieth may be a mistake
    assert data.datasets == ["wikimedia/wikipedia"]
    assert data.license is None
    assert detected(spoken) == "sw 91 %, en 9 %"
    config.hub.license, config.hub.language = "cc-by-4.0", ["swh"]
    data = ModelCard(card(**names(config, spoken, sources))).data
    assert (data.license, data.language) == ("cc-by-4.0", ["swh"])


SPECIAL = ("autoencoder", "contrastive", "diffusion", "fill_in_the_middle", "hybrid", "rtd", "span_corruption")


@pytest.mark.parametrize("text", [*TEXTS.values(), *(find_objective(name).card for name in SPECIAL)])
def test_on_the_hub_a_card_calls_its_model_by_the_id_of_the_repository(text):
    ours = card(text=text, title="1_ner", model="1_ner", metrics=[Metric("f1", 0.5, "conll2003")])
    pushed = under_id(ours, ["x", "1_ner"], "me/german-ner")
    assert ModelCard(pushed).data.model_name == "me/german-ner"
    assert "\n# me/german-ner\n" in pushed
    assert "1_ner" not in pushed
    assert pushed.count("'me/german-ner'") == text.snippet.count("{model}") > 0
    assert len(pushed.splitlines()) == len(ours.splitlines())


def test_what_a_person_put_into_a_card_stays_and_so_do_other_cards():
    ours = card(title="ner", model="ner", metrics=[Metric("f1", 0.5, "conll2003")])
    edited = ours.replace("\n# ner\n", "\n# Names in German novels, by ner\n\n'ner' is short.\n")
    pushed = under_id(edited, ["ner"], "me/german-ner")
    assert "\n# Names in German novels, by ner\n\n'ner' is short.\n" in pushed
    assert "pipeline(\"fill-mask\", model='me/german-ner')" in pushed
    for other in ("# ner\n", "---\ntags:\n- ner\n---\n\n# ner\n", ours.replace("- nlp_ssl\n", "- mine\n")):
        assert under_id(other, ["ner"], "me/german-ner") == other


@pytest.mark.parametrize(
    ("given", "said"),
    [("runs/a/seed-0", "runs/a/seed-0"), ("./ner", "ner"), ("/home/ann/ner", "ner"), ("~/ner", "ner")],
)
def test_a_snippet_works_where_the_run_was_started_and_names_no_home(given, said):
    config = MLMConfig(output_dir=given)
    config.model.name = "bert-tiny"
    assert names(config, {}, [])["model"] == said


def test_the_command_that_makes_a_model_again_takes_the_steps_of_the_minutes_and_the_trained_tokenizer():
    config, measured = MLMConfig(), Horizon(77, minutes=3.0)
    config.model.name = "bert-tiny"
    begin = "nlp-ssl pretrain-mlm --config nlp_ssl_config.yaml"
    assert again(config, "pretrain_mlm", measured) == f"{begin} --train.steps 77 --tokenizer.path ."
    config.tokenizer.path = "tokenizers/german"
    assert again(config, "pretrain_mlm", measured) == f"{begin} --train.steps 77"
    assert again(config, "pretrain_mlm", Horizon(77)) == begin
    config.tokenizer.path, config.model.name = None, "user/model"  # which has its own tokenizer
    assert again(config, "pretrain_mlm", Horizon(77)) == begin
    assert again(ClassificationConfig(), "finetune_classification", measured).endswith("yaml --train.steps 77")
    assert "'my runs/nlp_ssl_config.yaml'" in command_again("pretrain_mlm", Path("my runs"))


def test_a_card_has_the_options_on_which_its_loss_depends(tmp_path):
    config = MLMConfig()
    config.masking.probability, config.masking.unit = 0.3, "span"
    text = card(facts={"objective_options": own_options(config)})
    assert "masking.probability 0.3, masking.mask_share 0.8, masking.random_share 0.1, masking.unit span |" in text
    taught = DistillationConfig()
    taught.distillation.teacher = str(tmp_path / "teacher")
    found = own_options(taught)
    assert found["distillation.teacher"] == "teacher"
    assert found["distillation.temperature"] == 2
    assert own_options(CLMConfig()) is None
    assert own_options(NERConfig()) is None


def test_a_card_shows_the_pictures_that_lie_beside_it():
    assert "](confusion.png)" not in card(pictures=["curves.png"])
    text = card(pictures=["confusion.png", "curves.png"])
    assert text.index("](curves.png)") < text.index("](confusion.png)")


def test_a_card_names_the_paper_of_its_objective():
    assert "[arXiv:1810.04805](https://arxiv.org/abs/1810.04805)" in card()
    assert "## Citation" not in card(text=TEXTS["text-classification"])


def test_metrics_become_a_model_index_that_the_hub_reads_back():
    metrics = [
        Metric("accuracy", 0.8125, "glue/sst2", "validation", seeds=3, mean=0.8, std=0.01),
        Metric("f1", np.float32(0.75), "glue/sst2", "validation"),
        Metric("pearson", float("nan"), "glue/stsb"),
    ]
    text = card(text=TEXTS["text-classification"], metrics=metrics)
    results = ModelCard(text).data.eval_results
    assert [(r.metric_type, r.metric_value, r.dataset_name, r.dataset_split) for r in results] == [
        ("accuracy", 0.8125, "glue/sst2", "validation"),
        ("f1", 0.75, "glue/sst2", "validation"),
    ]
    assert "| glue/sst2 | validation | accuracy | 0.8125; over 3 seeds 0.8 ± 0.01 |" in text
    assert "| glue/stsb |  | pearson | nan |" in text
    assert "single seed" in text


def test_numbers_say_what_they_count():
    text = card()
    assert "| Held-out loss, nats per masked token (masks fixed, weighted by token) | 3.571 |" in text
    assert "| For reference: unigram entropy of the same text, nats per token | 6.001 |" in text
    assert "| Documents | 30,123 |" in text
    assert "| Versions | torch 2.13.0, transformers 5.23.0 |" in text


def test_a_causal_model_says_what_its_own_numbers_count():
    text = card(text=TEXTS["text-generation"], facts={"held_out_loss": 3.5, "perplexity": 33.1, "bits_per_byte": 1.25})
    assert "| Held-out loss, nats per predicted token (weighted by token) | 3.5 |" in text
    assert "| Held-out perplexity, per predicted token of this tokenizer | 33.1 |" in text
    assert "| Bits per byte of held-out text (predicted bytes only) | 1.25 |" in text


@pytest.mark.parametrize("missing", [*FACTS, "everything"])
def test_a_missing_fact_leaves_out_its_line(missing):
    """One line fewer (or a whole section), every other line the same, and nowhere a None."""
    facts = {name: None if missing in (name, "everything") else value for name, value in FACTS.items()}
    text = card(facts=facts)
    assert "None" not in text
    assert text == card(facts={name: value for name, value in facts.items() if value is not None})
    assert len(text.splitlines()) < len(card().splitlines())
    assert not re.search(r"^## [^\n]*\n+(?=##|\Z)", text, re.M), "a heading with nothing under it"


def test_the_same_facts_give_the_same_text():
    assert card() == card()


def test_a_fact_of_another_name_is_shown_under_it():
    assert "| Ema decay | 0.999 |" in card(facts={**FACTS, "ema_decay": 0.999})


def test_a_local_base_model_is_no_hub_id_and_its_path_stays_private(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mlm").mkdir(parents=True)
    for base in ("runs/mlm", "./mlm", str(tmp_path / "runs" / "mlm")):
        text = card(base_model=base)
        assert ModelCard(text).data.base_model is None
        assert "continued from the local model `mlm`" in text
        assert "fine-tuned from the local model `mlm`" in card(base_model=base, text=Classification.card)
        assert str(tmp_path) not in text


def test_a_label_is_a_text_and_no_link_picture_code_or_control_of_a_terminal():
    labels = "<img src=https://evil.example/x.png>, [click](javascript:alert), ![x](y), `code`, a\\[b](c), \x1b]0;X\x07"
    labels += ", $x^2$, **bold**, ~~struck~~, _slanted_"
    text = card(facts={"labels": labels}, title="<script>", metrics=[Metric("f1", 1.0, "<b>")])
    shown = [line for line in text.splitlines() if "script" in line or "<b" in line][-3:]
    for line in shown:
        unescaped = re.sub(r"\\[\\`<\[|$*~_]", "", line)  # CommonMark 2.4: what follows a backslash is a character
        assert not re.search(r"[<`\[$*~]", unescaped), line
        assert unescaped.count("|") in (0, 3, 5)
    assert len(shown) == 3
    assert "\\_slanted\\_" in text
    assert "\x1b" not in text


def test_hostile_texts_break_neither_table_nor_metadata():
    corpus = "a | b\n---\nlicense: mit\n| c |"
    text = card(
        title='We: "#1"\n---\n', facts={"corpus": corpus}, language="no", metrics=[Metric("f1", 1.0, "a: |\n- b")]
    )
    data = ModelCard(text).data
    assert data.license is None
    assert data.language == "no"  # Norwegian, which careless YAML reads as false
    assert data.eval_results[0].dataset_name == "a: |\n- b"
    assert "| Corpus | a \\| b --- license: mit \\| c \\| |" in text


def tiny_model(tag: str, folder) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        BertForTokenClassification,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
    )

    words = ["[PAD]", "[UNK]", "[MASK]", "The", "function", "returns", "text", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "eos_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    if tag == "text-generation":
        config = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=64, eos_token_id=0, bos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(folder)
        return
    heads = {
        "fill-mask": BertForMaskedLM,
        "text-classification": BertForSequenceClassification,
        "token-classification": BertForTokenClassification,
    }
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    heads[tag](config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("tag", "example"),
    [
        ("fill-mask", None),
        ("fill-mask", 'The "function"\'s [MASK]'),
        ("text-generation", None),
        ("text-classification", None),
        ("text-classification", ("The text", "returns")),
        ("token-classification", "The function"),
    ],
)
def test_the_snippet_runs(tag, example, tmp_path, capsys):
    tiny_model(tag, tmp_path)
    text = card(text=TEXTS[tag], model=str(tmp_path), example=example)
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(snippet, {})
    assert capsys.readouterr().out.strip()
