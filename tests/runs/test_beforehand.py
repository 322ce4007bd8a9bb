"""What can be known before anything is trained is said then, and nothing is left behind."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
import yaml
from typer.testing import CliRunner

import forgetmi
from forgetmi.cli import app
from forgetmi.config import load_config
from forgetmi.errors import ConfigError, DataError, MethodError
from forgetmi.methods import build_method, check_job
from forgetmi.runs import stages
from forgetmi.runs.check import refuse_own_places
from forgetmi.training.trainer import Trainer
from tests.runs.tiny_source import tiny_settings, write_source
from tests.tiny import classifier_case


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def no_training(monkeypatch):
    def refused(*args, **options):
        raise AssertionError("something was trained")

    monkeypatch.setattr(Trainer, "fit", refused)


def _without_fusion(settings):
    settings["model"] = {**settings["model"], "heads": "per_modality", "fusion": None}
    settings["task"] = {"loss_kind": "per_modality"}


def _without_validation(settings):
    path = settings["data"]["path"]
    with open(path) as file:
        rows = file.read().replace(",validation", ",test")
    with open(path + ".none.csv", "w") as file:
        file.write(rows)
    settings["data"] = {**settings["data"], "path": path + ".none.csv"}


FORGET_MI = {"method": "forget_mi"}
CASES = {
    "a model that fuses nothing": (_without_fusion, FORGET_MI, "fuses nothing"),
    "the same, a stage": (_without_fusion, {"method": "rum", "methods": ["nothing", "forget_mi"]}, "fuses nothing"),
    "modalities that are not joined": (_without_fusion, {"method": "multi_delete"}, "does not join several"),
    "a last layer of several": (_without_fusion, {"method": "boundary_expand"}, "not one linear layer"),
    "no validation records": (_without_validation, {**FORGET_MI, "select": "validation"}, "validation records"),
    "none of the forget records' classes": (_without_validation, {"method": "scrub_r"}, "validation records"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_job_that_the_method_cannot_do_is_refused_before_training(source, tmp_path, no_training, case):
    change, unlearning, words = CASES[case]
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"), unlearning=unlearning)
    change(settings)
    with pytest.raises(MethodError, match=words):
        forgetmi.run(settings, until="original", progress=False)
    assert not (tmp_path / "run").exists()
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    dry = CliRunner().invoke(app, ["run", "-c", str(config), "--dry-run"])
    assert dry.exit_code == 1
    assert words in " ".join(dry.stderr.split())


@pytest.mark.parametrize("wrapper", ["guarded", "salun"])
def test_a_wrapper_is_refused_what_its_method_cannot_do(wrapper):
    job = classifier_case(fusion=None, heads="per_modality").job()
    with pytest.raises(MethodError, match="fuses nothing"):
        check_job(build_method(wrapper, {"inner": "forget_mi"}), job)
    check_job(build_method(wrapper, {"inner": "forget_mi", "options": {"joint": "gate"}}), job)


@pytest.mark.parametrize("dry", [True, False])
def test_nothing_is_written_into_a_data_folder(source, tmp_path, dry):
    films = shutil.copytree(source, tmp_path / "films")
    before = sorted(films.rglob("*"))
    settings = tiny_settings(films, data__root=str(films))
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(app, ["run", "-c", str(config), *(["--dry-run"] if dry else [])])
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2
    assert "run.folder: run would be written into the data folder" in said
    assert "run.key_file: site.key would be written into the data folder" in said
    assert sorted(films.rglob("*")) == before


def test_the_data_folder_itself_is_no_run_folder_and_beside_it_is_fine(source, tmp_path):
    films = shutil.copytree(source, tmp_path / "films")
    (tmp_path / "link").symlink_to(films)
    elsewhere = {"run__key_file": str(tmp_path / "site.key"), "data__root": str(films)}
    for folder in (films, films / "deep" / "er", tmp_path / "link" / "run"):
        with pytest.raises(ConfigError, match=r"1 setting is wrong:\n  - run\.folder"):
            refuse_own_places(load_config(tiny_settings(films, run__folder=str(folder), **elsewhere)))
    refuse_own_places(load_config(tiny_settings(films, run__folder=str(tmp_path / "films2"), **elsewhere)))
    refuse_own_places(load_config(tiny_settings(films)))  # a table is no folder: what stands beside it is no data


def _count_reads(monkeypatch):
    """Film to how often it was read."""
    from forgetmi.data_adapters import images

    read: Counter[str] = Counter()
    load = images.ImageFile.load

    def counted(self):
        read[self.path] += 1
        return load(self)

    monkeypatch.setattr(images.ImageFile, "load", counted)
    return read


PARTS = {"forget": "film1.png", "retain": "film2.png", "validation": "film30.png", "test": "film40.png"}


@pytest.mark.parametrize("part", PARTS)
def test_a_truncated_film_of_any_part_is_found_before_training(source, tmp_path, no_training, part):
    spoilt = shutil.copytree(source, tmp_path / "spoilt")
    film = spoilt / PARTS[part]
    film.write_bytes(film.read_bytes()[:40])
    settings = tiny_settings(spoilt, run__folder=str(tmp_path / "run"))
    with pytest.raises(DataError) as caught:
        forgetmi.run(settings, progress=False)
    assert film.name in str(caught.value)
    assert "forgetmi check --read" in caught.value.fix
    assert caught.value.private[-1] == f"sample SECRET-s{film.stem[4:].zfill(2)}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["forget", "validation", "test"])
def test_what_no_epoch_reads_is_read_where_nothing_is_kept(source, tmp_path, no_training, part):
    spoilt = shutil.copytree(source, tmp_path / "spoilt")
    film = spoilt / PARTS[part]
    film.write_bytes(film.read_bytes()[:40])
    with pytest.raises(DataError, match=film.name):
        forgetmi.run(tiny_settings(spoilt, run__folder=str(tmp_path / "run"), run__cache=False), progress=False)


def test_no_film_is_read_twice_where_examples_are_kept(source, tmp_path, monkeypatch):
    read = _count_reads(monkeypatch)
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    forgetmi.run(settings, until="original", progress=False)
    assert len(read) == 72
    assert set(read.values()) == {1}
    forgetmi.run(settings, until="original", progress=False)  # all of it is done already
    assert sum(read.values()) < 72 + 8


def test_the_check_leaves_no_trace_in_what_comes_out(source, tmp_path, monkeypatch):
    def original(folder):
        settings = tiny_settings(source, run__folder=str(tmp_path / folder), unlearning=FORGET_MI)
        made = forgetmi.run(settings, until="original", progress=False).folder
        return (made / "models" / "original" / "model.safetensors").read_bytes()

    checked = original("checked")
    monkeypatch.setattr(stages, "check_method", lambda *args: None)
    assert original("unchecked") == checked
