"""Options that had another name: a sentence for who gives the old one, and older checkpoints are still read."""

import dataclasses

import pytest

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import flatten, plain, to_dict
from nlp_ssl.config.finetuning import ClassificationConfig
from nlp_ssl.config.pretraining import MLMConfig, PhaseConfig
from nlp_ssl.config.renamed import RENAMED, RENAMED_OF_PHASES, renamed
from nlp_ssl.core.errors import UserError


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_option_is_told_its_new_name(old, new, tmp_path):
    assert new in flatten(to_dict(MLMConfig()))
    for argv in ([f"--{old}", "3"], [f"--{old}=3"]):
        with pytest.raises(UserError, match=rf"--{old}: it is now --{new}$"):
            parse(MLMConfig, argv=argv)
    section, _, name = old.partition(".")
    (tmp_path / "old.yaml").write_text(f"{section}:\n  {name}: 3\n")
    with pytest.raises(UserError, match=rf"'{old}' .*: it is now --{new}$"):
        parse(MLMConfig, argv=["--config", str(tmp_path / "old.yaml")])


def test_fine_tuning_knows_them_too():
    with pytest.raises(UserError, match=r"it is now --train\.global_batch_size"):
        parse(ClassificationConfig, argv=["--train.batch_size", "3"])


@pytest.mark.parametrize(("old", "new"), RENAMED_OF_PHASES.items())
def test_an_old_key_of_a_phase_is_told_its_new_name(old, new):
    assert new in {f.name for f in dataclasses.fields(PhaseConfig)}
    with pytest.raises(UserError, match=rf"'{old}' .*: it is now '{new}"):
        parse(MLMConfig, argv=["--phases", f"[{{steps: 3, {old}: 1}}]"])


def test_the_options_of_an_earlier_run_are_read_under_their_new_names():
    config = MLMConfig(
        phases=[PhaseConfig(3, global_batch_size=4, sequence_length=64), PhaseConfig(2, objective="clm")]
    )
    config.train.global_batch_size, config.tokens.sequence_length = 12, 128
    now = flatten(plain(to_dict(config)))
    old = {next((o for o, n in RENAMED.items() if n == key), key): value for key, value in now.items()}
    none = {"mask_probability": None}
    old["phases"] = [
        {"steps": 3, "batch_size": 4, "row_length": 64, "causal": False, **none},
        {"steps": 2, "batch_size": None, "row_length": None, "causal": True, **none},
    ]
    assert old != now
    assert renamed(old) == now
    assert renamed(now) == now
