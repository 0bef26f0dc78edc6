"""What is found out before a run begins: about its numbers, and its output folder."""

import os
from pathlib import Path

import pytest

from nlp_ssl.config.command_line import parse
from nlp_ssl.config.common import ResumeConfig
from nlp_ssl.config.finetuning import ClassificationConfig
from nlp_ssl.config.pretraining import MLMConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.data.labelled import labelled_data
from nlp_ssl.objectives.objective import find_objective
from nlp_ssl.runs import pretraining_data
from nlp_ssl.runs.checks import check_run
from nlp_ssl.runs.folder import lock_folder


def config(folder: Path, resume: bool = False) -> MLMConfig:
    return MLMConfig(output_dir=str(folder), resume=ResumeConfig(enabled=resume))


# a line for every section with ranges, and for what belongs to all
OUT_OF_RANGE = {
    "mlm": ["--masking.probability 15", "--masking.mask_share 0.8 --masking.random_share 0.3", "--model.dropout 10"],
    "clm": ["--train.steps 0", "--schedule.decay 40", "--optimizer.lr=-1", "--optimizer.betas [0.9,1.5]"],
    "hybrid": ["--masking.probability 0", "--hybrid.share 2"],
    "rtd": ["--masking.probability 15", "--rtd.weight 0"],
    "sentence_order": ["--masking.probability 15", "--sentence_order.weight 0"],
    "diffusion": ["--diffusion.eps 1"],
    "autoencoder": ["--autoencoder.deleted 60"],
    "contrastive": ["--contrastive.temperature 0", "--contrastive.noise 50"],
    "span_corruption": ["--noise.share 15", "--noise.mean_span 0"],
    "fill_in_the_middle": ["--fim.rate 50"],
    "distillation": ["--distillation.temperature 0", "--masking.probability 15"],
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in OUT_OF_RANGE.items() for line in lines])
def test_a_number_out_of_its_range_is_refused_before_any_text_is_read(name, line, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pretraining_data, "open_corpus", lambda *_: pytest.fail("the corpus was read"))
    kind = find_objective(name)
    if name == "distillation":
        monkeypatch.setattr(kind, "for_config", lambda config: kind)  # a teacher would decide which
    given = parse(kind.Config, argv=[*line.split(), "--output_dir", str(tmp_path / "run")])
    option = line.split()[0].partition("=")[0]
    with pytest.raises(UserError, match=option):
        pretraining_data.prepare(given, kind)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--phases", "[{steps: 1, mask_probability: 30}]"], "--phases: mask_probability is 30"),
        (["--phases", "[{steps: 0}]"], "--phases: steps and global_batch_size must be at least 1"),
    ],
)
def test_a_phase_out_of_range_is_refused_before_any_text_is_read(options, said, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pretraining_data, "open_corpus", lambda *_: pytest.fail("the corpus was read"))
    given = parse(MLMConfig, argv=[*options, "--output_dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match=said):
        pretraining_data.prepare(given, find_objective("mlm"))


def test_a_member_of_a_mixture_out_of_range_is_refused_before_any_text_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pretraining_data, "open_corpus", lambda *_: pytest.fail("the corpus was read"))
    kind = find_objective("mixture")
    members = "[{objective: clm}, {objective: mlm, options: {masking.probability: 15}}]"
    given = parse(kind.Config, argv=["--members", members, "--output_dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"--masking.probability is 15"):
        pretraining_data.prepare(given, kind)


def test_a_number_of_labelled_rows_below_1_is_refused_before_any_is_read() -> None:
    given = parse(ClassificationConfig, argv=["--data.train_file", "nowhere.csv", "--data.max_validation", "0"])
    with pytest.raises(UserError, match=r"--data.max_validation is 0; it must be at least 1"):
        labelled_data.open_classification(given.data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("beside", [[], ["run_status.json"], ["model.safetensors", "config.json"], ["log.jsonl"]])
@pytest.mark.parametrize("name", ["step-00000012", "step-00000012.former"])
def test_a_folder_with_checkpoints_is_refused_without_resume_whatever_else_is_there(folder, beside, name) -> None:
    (folder / "checkpoints" / name).mkdir(parents=True)
    for file in beside:
        (folder / file).write_text("{}")
    with pytest.raises(UserError, match=r"holds a run already; give --resume"):
        check_run(config(folder))
    check_run(config(folder, resume=True))


def test_the_model_of_another_run_is_not_overwritten_though_only_its_status_says_so(folder: Path) -> None:
    (folder / "run_status.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    check_run(config(folder))  # interrupted before it learnt anything
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds other files"):
        check_run(config(folder))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [".lock", ".log.jsonl.0.tmp", ".run_status.json.0.tmp", "checkpoints", "log.jsonl"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_out_of_the_folder_is_refused(folder: Path, name: str, resume: bool, dangling: bool) -> None:
    victim = folder.parent / "victim"
    if not dangling:
        victim.mkdir() if name == "checkpoints" else victim.write_text("precious")
    (folder / name).symlink_to(victim)
    with pytest.raises(UserError, match=rf"{name} is a link to .*victim, outside of --output_dir.*remove it"):
        check_run(config(folder, resume))
    assert dangling is not victim.exists()
    assert dangling or name == "checkpoints" or victim.read_text() == "precious"


def test_a_folder_that_is_a_link_itself_and_links_inside_of_it_are_fine(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    check_run(config(link))
    (folder / "checkpoints" / "step-00000012").mkdir(parents=True)
    (folder / "best").symlink_to("checkpoints/step-00000012")
    check_run(config(link, resume=True))
    lock_folder(link).close()
    link.unlink()
    link.symlink_to(folder.parent / "nowhere")
    with pytest.raises(UserError, match=r"is a link to .*nowhere, which is not there"):
        check_run(config(link))


def test_the_lock_is_not_written_into_a_file_that_has_another_name_too(folder: Path) -> None:
    victim = folder.parent / "victim"
    victim.write_text("precious")
    os.link(victim, folder / ".lock")
    lock_folder(folder).close()
    assert victim.read_text() == "precious"


def test_what_a_killed_run_was_writing_is_removed_and_a_persons_file_is_not(folder: Path) -> None:
    (folder / ".log.jsonl.0123abcd.tmp").write_text("half")
    (folder / ".mine.tmp").write_text("mine")
    lock_folder(folder).close()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", ".mine.tmp"]
