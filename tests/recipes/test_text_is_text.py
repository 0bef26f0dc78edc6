"""A corpus that spells special tokens teaches what the same corpus with other tags does."""

from pathlib import Path

import pytest
from launch import TINY, events, run, write_corpus


def test_bits_per_byte_do_not_depend_on_whether_a_tag_is_also_a_special_token(tmp_path: Path) -> None:
    plain = write_corpus(tmp_path / "plain.txt").read_text()
    found = {}
    for tag in ("s", "q"):
        corpus = tmp_path / f"{tag}.txt"
        corpus.write_text(plain.replace(" and ", f" <{tag}>and</{tag}> "))
        folder = tmp_path / f"run-{tag}"
        options = ["--model.name", "llama-tiny", "--train.steps", "2", "--train.global_batch_size", "8"]
        run("pretrain_clm.py", *TINY, *options, "--data.sources", corpus, "--output_dir", folder)
        found[tag] = [event["bits_per_byte"] for event in events(folder, "evaluation")]
    assert found["s"] == pytest.approx(found["q"], rel=0.03)
