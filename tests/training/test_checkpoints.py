"""Checkpoints: whole or not there, wherever the process dies; damaged ones are noticed; what is loaded is what was."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from disks import Disk
from toys import tiny_model, tokenizer
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from nlp_ssl.config.common import CheckpointConfig, EvaluationConfig, OptimizerConfig
from nlp_ssl.core.errors import UserError
from nlp_ssl.core.files import remove_abandoned
from nlp_ssl.models.packed import PackedModel
from nlp_ssl.objectives.classification import Classification
from nlp_ssl.objectives.mlm import MaskedLanguageModeling
from nlp_ssl.objectives.objective import Objective
from nlp_ssl.training import checkpoints as module
from nlp_ssl.training.adapters import add_adapters
from nlp_ssl.training.checkpoints import Checkpoints, SaveError, load, newest_name, publish, to_host, verify
from nlp_ssl.training.early_stopping import EarlyStopping
from nlp_ssl.training.optimizers import build_optimizer


class Trained:
    """A model in training, small."""

    def __init__(self, name="modernbert", optimizer="muon", lr=1e-2):
        self.objective = self.make(name)
        self.model = self.objective.published()[""]
        self.optimizer = build_optimizer(self.objective, OptimizerConfig(name=optimizer, lr=lr))
        self.taken = 0

    def make(self, name):
        model = tiny_model(name, vocab_size=len(tokenizer("bpe")))
        return MaskedLanguageModeling(PackedModel(model, False), tokenizer("bpe"), None)

    def step(self, count=1):
        for _ in range(count):
            self.taken += 1
            generator = torch.Generator().manual_seed(self.taken)
            for parameter in self.objective.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            self.optimizer.step()
        return self

    def write(self, folder, weights, facts):
        for name, model in self.objective.published().items():
            model.save_pretrained(folder / name, state_dict=weights[name])
        tokenizer("bpe").save_pretrained(folder)
        (folder / "README.md").write_text(str(facts))

    def store(self, tmp_path, keep_last=2, **more):
        return Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=keep_last), self.write, **more)

    def save(self, store):
        state = {"step": self.taken, "evaluated_at": -1, "results": {}}
        store.save(self.taken, self.objective, self.optimizer, state, {})
        return store


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_checkpoint_is_a_hub_model_folder_and_goes_on_bit_by_bit(tmp_path):
    whole = Trained().step(5)
    first = Trained().step(3)
    path = first.save(first.store(tmp_path)).finish()
    assert path.name == "step-00000003"
    assert verify(path) is None
    model, info = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True)
    assert same(model, first.model)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(path)("ka lo")["input_ids"] == tokenizer("bpe")("ka lo")["input_ids"]
    second = Trained()
    assert load(path, second.objective, second.optimizer)["step"] == 3
    second.taken = 3
    assert same(second.step(2).model, whole.model)


def test_rates_asked_for_at_a_resume_hold(tmp_path):
    first = Trained(lr=1e-2).step()
    path = first.save(first.store(tmp_path)).finish()
    second = Trained(lr=1e-3)
    load(path, second.objective, second.optimizer)
    assert {g["peak_lr"] for g in second.optimizer.param_groups} == {0.02, 1e-3}
    assert second.optimizer.adamw.state


def test_random_state_comes_back(tmp_path):
    first = Trained()
    path = first.save(first.store(tmp_path)).finish()
    drawn = [(random.random(), np.random.rand(), torch.rand(1).item()) for _ in range(1)]
    load(path, first.objective, first.optimizer)
    # everything drawn since the save is drawn again
    assert [(random.random(), np.random.rand(), torch.rand(1).item()) for _ in range(1)] == drawn


def test_training_that_goes_on_during_a_save_does_not_change_it(tmp_path, monkeypatch):
    trained = Trained().step()
    expected = {k: v.clone() for k, v in trained.model.state_dict().items()}
    write = trained.write
    import threading

    gate = threading.Event()
    trained.write = lambda *args: (gate.wait(10), write(*args))
    store = trained.store(tmp_path)
    trained.save(store)
    trained.step(3)
    assert store.state == "writing"
    assert store.list() == []
    gate.set()
    path = store.finish()
    loaded = AutoModelForMaskedLM.from_pretrained(path).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in expected.items())


def test_killed_between_writing_and_committing_there_is_no_checkpoint(tmp_path):
    trained = Trained().step()
    store = trained.save(trained.store(tmp_path))
    store.thread.join()  # all is written; the process dies here
    again = trained.store(tmp_path)
    assert again.list() == []
    assert again.newest() is None
    path = trained.step().save(again).finish()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [path.name]  # the remains are gone


class Killed(BaseException):
    pass


def dies_at(monkeypatch, number):
    """The process dies at its n-th call that changes the disk; returns a list that grows with every call."""
    calls = []

    def wrap(function):
        def wrapped(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == number:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    for owner, name in ((module.os, "rename"), (module.shutil, "rmtree"), (module, "sync"), (module, "sha256")):
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    return calls


@pytest.mark.parametrize("resaved", [False, True])
def test_wherever_a_commit_dies_the_newest_checkpoint_is_whole(tmp_path, resaved):
    trained = Trained("bert", "adamw").step()
    trained.save(trained.store(tmp_path, keep_last=1)).finish()
    template = tmp_path / "checkpoints"
    if not resaved:  # else a resumed run saves the same step again
        trained.step()
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        store = Checkpoints(folder, CheckpointConfig(keep_last=1), trained.write)
        trained.save(store)
        store.thread.join()
        with pytest.MonkeyPatch.context() as patch:
            calls = dies_at(patch, number)
            try:
                store.commit()
                died = False
            except Killed:
                died = True
        after = Checkpoints(folder, CheckpointConfig(keep_last=1), trained.write)
        newest = after.newest()
        assert newest is not None, calls
        assert verify(newest) is None
        path = trained.save(after).finish()  # and the next run saves as if nothing had happened
        assert [p.name for p in folder.iterdir()] == [path.name]
        if not died:
            break
        shutil.rmtree(folder)
    assert number > 5  # this many calls does a commit make at least; hashing is the thread's


def test_a_checkpoint_has_its_name_when_all_of_it_is_on_disk(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    assert disk.named == [path]  # in one go, never half of it
    assert disk.lost == []
    assert all(disk.has(folder) for folder in (path, path / "training_state", path.parent))
    publish(path, tmp_path)
    assert disk.lost == []
    assert {p.name for p in disk.named[1:]} == {p.name for p in path.iterdir() if p.is_file()} - {"MANIFEST.json"}


@pytest.mark.parametrize("file", ["model.safetensors", "training_state/optimizer.pt", "MANIFEST.json", "config.json"])
def test_a_flipped_bit_is_found_and_the_older_one_used(tmp_path, capsys, file):
    trained = Trained("bert", "adamw").step()
    store = trained.store(tmp_path)
    older = trained.save(store).finish()
    newer = trained.step().save(store).finish()
    assert store.newest() == newer
    data = bytearray((newer / file).read_bytes())
    data[len(data) // 2] ^= 0x80
    (newer / file).write_bytes(data)
    assert store.newest() == older
    assert f"{newer} is damaged ({file}" in capsys.readouterr().err
    (older / "model.safetensors").unlink()
    assert store.newest() is None


def test_pruning_keeps_the_newest_and_what_is_in_use(tmp_path):
    trained, used = Trained("bert", "adamw"), set()
    store = trained.store(tmp_path, in_use=lambda path: path.name in used)
    used.add("step-00000001")
    for _ in range(4):
        trained.step().save(store).finish()
    assert [p.name for p in store.list()] == ["step-00000001", "step-00000003", "step-00000004"]
    zero = trained.store(tmp_path, keep_last=0, in_use=lambda path: path.name in used)
    zero.prune()
    assert [p.name for p in zero.list()] == ["step-00000001", "step-00000004"]  # the newest stays


def test_older_ones_stay_until_the_new_one_is_committed(tmp_path):
    trained = Trained("bert", "adamw").step()
    store = trained.store(tmp_path, keep_last=1)
    first = trained.save(store).finish()
    trained.step().save(store)
    store.thread.join()
    assert store.list() == [first]
    second = store.commit()
    assert store.list() == [second]


def test_a_full_disk_is_one_sentence_and_older_ones_are_kept(tmp_path):
    trained = Trained("bert", "adamw").step()
    store = trained.store(tmp_path)
    first = trained.save(store).finish()

    def full(folder, weights, facts):
        raise OSError(28, "No space left on device")

    store.write_model = full
    trained.step().save(store)
    with pytest.raises(SaveError, match=r"checkpoint of step 2 could not be written .*No space left"):
        store.finish()
    assert store.list() == [first] == list(store.folder.iterdir())
    store.write_model = trained.write
    assert trained.save(store).finish().name == "step-00000002"  # and the next save works


def test_what_is_kept(tmp_path):
    trained = Trained("bert", "adamw")
    keep = CheckpointConfig(keep_last=2, keep_every=4, keep_best=True)
    store = Checkpoints(tmp_path / "checkpoints", keep, trained.write)
    losses = {1: 5.0, 2: 3.0, 3: 4.0, 5: 3.5, 7: None, 9: 3.1}
    for _ in range(10):
        step = trained.step().taken
        store.save(step, trained.objective, trained.optimizer, {"step": step, "value": losses.get(step)}, {})
        store.finish()
    assert [int(path.name.split("-")[1]) for path in store.list()] == [2, 4, 8, 9, 10]
    assert store.chosen(10).name == "step-00000002"
    # a best one that is damaged, or holds a link to what is not its own, does not become the model
    (store.of(2) / "model.safetensors").write_bytes(b"flipped")
    assert store.chosen(10).name == "step-00000009"
    (tmp_path / "secret").write_bytes((store.of(9) / "tokenizer.json").read_bytes())
    (store.of(9) / "tokenizer.json").unlink()
    (store.of(9) / "tokenizer.json").symlink_to(tmp_path / "secret")
    assert store.chosen(10).name == "step-00000010"
    with pytest.raises(OSError, match="symbolic links"):
        publish(store.of(9), tmp_path)


def test_the_manifest_lists_every_file(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(json.loads((path / "MANIFEST.json").read_text())) == files - {"MANIFEST.json"}
    assert {"model.safetensors", "config.json", "training_state/rank-0.pt", "training_state/run.json"} <= files


def rewrite(checkpoint, name, content):
    """A file of a checkpoint made another, with its sha256 in the manifest, as whoever sends the folder can."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    manifest[name] = hashlib.sha256(content).hexdigest()
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest))


class Program:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(value, path):
    torch.save(value, path)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize("file", ["optimizer.pt", "rank-0.pt", "objective.pt", "trained.pt"])
def test_a_program_in_a_checkpoint_whose_manifest_fits_is_refused_and_not_run(tmp_path, file):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    rewrite(path, f"training_state/{file}", saved(Program(tmp_path / "ran"), tmp_path / "program"))
    assert verify(path) is None
    with pytest.raises(UserError, match=rf"{file} holds \w+\.mkdir, which could run a program.*start anew in another"):
        load(path, trained.objective, trained.optimizer)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["training_state/optimizer.pt", "training_state/rank-0.pt", "training_state/run.json", "config.json",
             "model.safetensors", "tokenizer.json"]
)  # fmt: skip
def test_a_file_that_the_manifest_does_not_name_is_not_read(tmp_path, capsys, name):
    trained = Trained("bert", "adamw").step()
    store = trained.store(tmp_path)
    older = trained.save(store).finish()
    newer = trained.step().save(store).finish()
    manifest = json.loads((newer / "MANIFEST.json").read_text())
    del manifest[name]
    (newer / "MANIFEST.json").write_text(json.dumps(manifest))
    assert store.newest() == older
    assert f"{newer} is damaged ({name} is not named in MANIFEST.json)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_config.json", "training_state/rank-1.pt", "model.py"])
def test_a_file_put_beside_those_of_the_manifest_is_not_read(tmp_path, name):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    (path / "notes.txt").write_text("the good one")  # nothing reads it
    (path / ".DS_Store").write_text("")
    assert verify(path) is None
    (path / name).write_text("{}")
    assert verify(path) == f"{name} is not named in MANIFEST.json"


@pytest.mark.parametrize("content", ["{}", "[]", "3", "null", '{"model.safetensors": 3}', "[" * 100_000])
def test_a_manifest_that_is_none_is_no_whole_checkpoint(tmp_path, content):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    (path / "MANIFEST.json").write_text(content)
    assert verify(path) is not None


def test_a_manifest_names_nothing_outside_of_its_folder(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    (tmp_path / "secret").write_text("secret")
    (path / "extra.json").symlink_to(tmp_path / "secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    for name in ("extra.json", "../../secret", str(tmp_path / "secret")):
        manifest = json.loads((path / "MANIFEST.json").read_text()) | {name: digest}
        (path / "MANIFEST.json").write_text(json.dumps(manifest))
        assert verify(path) == f"{name} lies outside of it"
        (path / "MANIFEST.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != name}))
        (path / "extra.json").unlink(missing_ok=True)


def test_a_checkpoint_of_the_first_format_goes_on_bit_by_bit(tmp_path):
    """It kept NumPy's random state as an array and had no number."""
    whole, first = Trained().step(3), Trained().step(2)
    path = first.save(first.store(tmp_path)).finish()
    drawn = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": None}
    expected = (np.random.rand(), random.random(), torch.rand(1).item())
    rewrite(path, "training_state/rank-0.pt", saved(drawn, tmp_path / "drawn"))
    state = json.loads((path / "training_state/run.json").read_text())
    assert state.pop("format") == module.FORMAT
    rewrite(path, "training_state/run.json", json.dumps(state).encode())
    second = Trained()
    assert load(path, second.objective, second.optimizer) == state
    assert (np.random.rand(), random.random(), torch.rand(1).item()) == expected
    second.taken = 2
    assert same(second.step().model, whole.model)


def test_early_stopping_goes_on_from_a_checkpoint_of_the_second_format(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    older = {"format": 2, "step": 1, "judge": {"best": -0.5, "stale": 2}}
    rewrite(path, "training_state/run.json", json.dumps(older).encode())
    stopping = EarlyStopping(EvaluationConfig(metric="f1", patience=3))
    stopping.load_state_dict(module.read_state(path)["early_stopping"])
    assert not stopping.should_stop
    stopping.update({"f1": 0.4})
    assert stopping.should_stop


class Adapted(Trained):
    """A classifier that learns by adapters."""

    seed = 5  # of the adapters

    def make(self, name):
        model = tiny_model(name, auto_class=AutoModelForSequenceClassification, num_labels=3)
        torch.manual_seed(self.seed)
        add_adapters(model, 2)
        return Classification(model, None)


class AdaptedAnew(Adapted):
    seed = 6


@pytest.mark.parametrize("number", [3, module.FORMAT])
def test_adapters_go_on_bit_by_bit_and_so_they_do_from_the_third_format(tmp_path, number):
    """It kept all that learns, the head too, in the model's own names in `trained.pt`."""
    whole, first = Adapted("bert", "adamw").step(3), Adapted("bert", "adamw").step(2)
    path = first.save(first.store(tmp_path)).finish()
    if number == 3:
        manifest = json.loads((path / "MANIFEST.json").read_text())
        del manifest["training_state/objective.pt"]
        (path / "MANIFEST.json").write_text(json.dumps(manifest))
        (path / "training_state/objective.pt").unlink()
        learns = {name: p.detach() for name, p in first.model.named_parameters() if p.requires_grad}
        assert "classifier.weight" in learns
        rewrite(path, "training_state/trained.pt", saved(learns, tmp_path / "trained"))
        state = json.loads((path / "training_state/run.json").read_text())
        rewrite(path, "training_state/run.json", json.dumps(state | {"format": number}).encode())
    assert verify(path) is None
    second = AdaptedAnew("bert", "adamw")
    assert not same(second.model, Adapted("bert", "adamw").model)
    load(path, second.objective, second.optimizer)
    second.taken = 2
    assert same(second.step().model, whole.model)


class Two(Objective):
    """Two models that share their embeddings, a head that is no model's, and a buffer."""

    def __init__(self):
        super().__init__(PackedModel(tiny_model("bert"), False))
        self.generator = tiny_model("bert", hidden_size=32, num_hidden_layers=1)
        self.generator.bert.embeddings = self.model.model.bert.embeddings
        self.head = torch.nn.Linear(32, 2)
        self.register_buffer("average", torch.zeros(3))

    def published(self):
        return {**super().published(), "generator": self.generator}


class TrainedTwo(Trained):
    def make(self, name):
        torch.manual_seed(len(name))
        return Two()

    def step(self, count=1):
        self.objective.average += count
        return super().step(count)


def test_all_of_an_objective_is_kept_and_its_models_are_folders(tmp_path):
    first = TrainedTwo("bert", "adamw").step(2)
    path = first.save(first.store(tmp_path)).finish()
    kept = torch.load(path / "training_state" / "objective.pt", weights_only=True)
    assert kept.keys() == {"head.weight", "head.bias", "average"}
    (tmp_path / "run").mkdir()
    publish(path, tmp_path / "run")
    assert not (tmp_path / "run" / "training_state").exists()
    for name, model in first.objective.published().items():
        for folder in (path, tmp_path / "run"):
            assert same(AutoModelForMaskedLM.from_pretrained(folder / name), model)
    second = TrainedTwo("other", "adamw")
    before = first.objective.state_dict()
    assert not all(torch.equal(value, before[name]) for name, value in second.objective.state_dict().items())
    load(path, second.objective, second.optimizer)
    assert all(torch.equal(value, before[name]) for name, value in second.objective.state_dict().items())
    second.taken = 2
    for one, other in zip(second.step().objective.parameters(), first.step().objective.parameters(), strict=True):
        assert torch.equal(one, other)
    assert verify(path) is None
    (path / "generator" / "model.py").write_text("")
    assert verify(path) == "generator/model.py is not named in MANIFEST.json"
    (path / "generator" / "config.json").write_text("{}")
    assert verify(path) == "generator/config.json has changed"


class Plain(Trained):
    def make(self, name):
        return Classification(tiny_model(name, auto_class=AutoModelForSequenceClassification, num_labels=3), None)


class One(Trained):
    """The first model of `Two`."""

    def make(self, name):
        return MaskedLanguageModeling(PackedModel(tiny_model(name), False), tokenizer("bpe"), None)


@pytest.mark.parametrize(
    ("stored", "asked"), [(Adapted, Plain), (Plain, Adapted), (TrainedTwo, One), (One, TrainedTwo)]
)
def test_a_checkpoint_of_another_objective_is_refused(tmp_path, stored, asked):
    trained, other = stored("bert", "adamw").step(), asked("bert", "adamw")
    path = trained.save(trained.store(tmp_path)).finish()
    with pytest.raises(UserError, match="is of another objective"):
        load(path, other.objective, other.optimizer)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    rewrite(path, "training_state/run.json", json.dumps({"format": 99, "step": 1}).encode())
    with pytest.raises(UserError, match=r"made by a newer nlp_ssl .its format is 99"):
        load(path, trained.objective, trained.optimizer)


def test_the_state_of_another_optimizer_gets_a_sentence(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    for other in ({}, {"state": 3, "param_groups": []}, [1, 2], None):
        rewrite(path, "training_state/optimizer.pt", saved(other, tmp_path / "other"))
        with pytest.raises(UserError, match=r"training state in .* does not fit this run"):
            load(path, trained.objective, trained.optimizer)


def test_the_checkpoint_of_this_run_is_chosen_whatever_lies_beside_it(tmp_path):
    trained = Trained("bert", "adamw").step()
    store = trained.store(tmp_path, keep_last=1)
    path = trained.save(store).finish()
    for name in ("step-00000999", "step-best", "step-00000001-good"):  # of an older run, and a person's copies
        shutil.copytree(path, store.folder / name)
    assert store.chosen(1) == path
    newer = trained.step().save(store).finish()
    assert store.chosen(2) == newer
    assert newer.is_dir()  # though the older run's has the higher name
    assert {"step-best", "step-00000001-good"} <= {p.name for p in store.folder.iterdir()}


def test_no_room_for_the_model_at_the_top_names_the_place_and_leaves_nothing_half(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    (tmp_path / "run").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (path / "model.safetensors").stat().st_size - 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as stopped:
            publish(path, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stopped.value.filename == str(tmp_path / "run" / "model.safetensors")
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert not any(name.endswith(".tmp") or name == "model.safetensors" for name in names)
    assert all((tmp_path / "run" / name).read_bytes() == (path / name).read_bytes() for name in names)


def test_what_a_person_keeps_under_a_similar_name_stays(tmp_path):
    mine = ["step-best", "step-00000001-good", ".step-mine.tmp"]
    for name in mine:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    trained = Trained("bert", "adamw").step()
    store = trained.store(tmp_path, keep_last=1)
    store.keep.keep_every = 2
    assert [trained.step().save(store).finish().name for _ in range(3)][-1] == store.list()[-1].name
    assert set(mine) < {path.name for path in store.folder.iterdir()}
    assert newest_name(store.folder) == store.list()[-1].name


def test_what_a_killed_run_left_is_removed_but_not_what_a_link_leads_to(tmp_path):
    (tmp_path / "precious" / "training_state").mkdir(parents=True)
    (tmp_path / "precious" / "kept").write_text("kept")
    trained = Trained("bert", "adamw").step()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-00000001.tmp").symlink_to(tmp_path / "precious")
    trained.save(trained.store(tmp_path)).finish()
    assert sorted(path.name for path in (tmp_path / "precious").rglob("*")) == ["kept", "training_state"]


def test_publish_writes_through_no_link_and_takes_what_the_manifest_names(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    (path / "notes.txt").write_text("private")
    out, victim = tmp_path / "run", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    for name in ("README.md", ".README.md.tmp", ".model.safetensors.tmp"):
        (out / name).symlink_to(victim)
    publish(path, out)
    assert victim.read_text() == "precious"
    assert (out / "README.md").read_bytes() == (path / "README.md").read_bytes()
    assert not (out / "notes.txt").exists()


def test_publish_puts_the_model_and_no_training_state_at_the_top(tmp_path):
    trained = Trained("bert", "adamw").step()
    path = trained.save(trained.store(tmp_path)).finish()
    (tmp_path / "run").mkdir()
    publish(path, tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        p.name for p in path.iterdir() if p.is_file() and p.name != "MANIFEST.json"
    }
    assert same(AutoModelForMaskedLM.from_pretrained(tmp_path / "run"), trained.model)


def test_a_kill_while_the_model_is_put_at_the_top_leaves_no_mixture_of_two(tmp_path):
    trained, run = Trained("bert", "adamw").step(), tmp_path / "run"
    store, content = trained.store(tmp_path, keep_last=2), {}
    run.mkdir()
    for step in (1, 2):
        path = trained.save(store).finish()
        for name in ("config.json", "tokenizer.json"):  # two models whose files cannot be confused
            (path / name).write_text(f'{{"step": {step}}}')
        content[path] = {name: (path / name).read_bytes() for name in json.loads((path / "MANIFEST.json").read_text())}
        trained.step()
    old, new = content
    calls, done = 0, False
    while not done:
        publish(old, run)
        process = os.fork()
        if process == 0:
            left = iter(range(calls))

            def until_killed(call, left=left):
                def killed(*args, **kwargs):
                    if next(left, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*args, **kwargs)

                return killed

            os.replace, os.unlink, os.fsync = map(until_killed, (os.replace, os.unlink, os.fsync))
            publish(new, run)
            os._exit(0)
        done = os.waitpid(process, 0)[1] == 0
        there = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
        if "model.safetensors" in there:  # without weights nothing loads
            assert any(there.items() <= content[path].items() for path in content), calls
        calls += 1
        publish(new, run)  # as the run does when it is resumed
        assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}.items() <= content[new].items()
        remove_abandoned(run)
        assert not list(run.glob(".*"))
    assert calls > 10


def test_a_copy_in_host_memory_shares_what_was_shared():
    weight = torch.arange(6.0).view(2, 3)
    copied = to_host({"a": weight, "b": [weight, (weight.T,)], "n": 3})
    weight.zero_()
    assert copied["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copied["b"][0] is copied["a"]
    assert copied["b"][1][0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert copied["n"] == 3
