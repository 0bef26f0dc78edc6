"""`python -m nlp_ssl.doctor`: what holds, on a user's own options; and that it says so when something does not."""

import sys
from pathlib import Path

import pytest
from launch import execute, write_corpus

from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.doctor import examination
from nlp_ssl.doctor.__main__ import main

SMALL = ["--model.overrides.hidden_size", "32", "--model.overrides.intermediate_size", "48"]
SMALL += ["--model.overrides.num_hidden_layers", "2", "--tokenizer.vocab_size", "320", "--tokens.sequence_length", "48"]


def test_all_holds_on_a_model_with_dropout(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    options = ["--data.sources", str(corpus), "--data.held_out_fraction", "0.1", *SMALL, "--model.dropout", "0.1"]
    printed = execute([sys.executable, "-m", "nlp_ssl.doctor", *options], timeout=600)
    table = printed[printed.index("measured") :]
    assert " 0 of " in table  # pairs of documents
    assert "micro-batches of 3 = one of 16" in table
    assert "8, 1,000, 1,024 processes = 1" in table
    assert "same rows, masks, targets in steps [0, " in table
    assert "log and weights the same bits" in table
    assert "same rows and masks in 10 of 10 steps" in table
    assert "all holds on this set-up" in table
    assert "DOES NOT HOLD" not in table


def test_what_does_not_hold_is_said_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        examination.Finding("documents apart", "3 of 8 pairs changed a bit", False),
        examination.Finding("resumed", "", True),
    ]
    monkeypatch.setattr(examination, "examine", lambda config, name: found)
    with pytest.raises(SystemExit) as ended:
        main(MLMConfig())
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "DOES NOT HOLD  documents apart  3 of 8 pairs changed a bit" in printed
    assert "NOT all holds" in printed
