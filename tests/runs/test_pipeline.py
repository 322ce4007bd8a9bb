"""A whole run on a tiny source: what it writes, what it keeps, and what it never writes."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
import yaml

import forgetmi
from forgetmi.config import load_config
from forgetmi.errors import ConfigError, ModelError, RequestError
from forgetmi.runs import pipeline, stages
from forgetmi.runs.folder import RunFolder
from forgetmi.runs.prepare import prepare
from tests.runs.tiny_source import FORGOTTEN, tiny_settings, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "Dr Smith")


@pytest.fixture(scope="module")
def finished(source):
    """One run that is done, for tests that only look."""
    return forgetmi.run(tiny_settings(source), progress=False)


def _weights(folder, names=("original", "unlearned", "retrained-0", "retrained-1")):
    return {name: (folder / "models" / name / "model.safetensors").read_bytes() for name in names}


def _made(folder):
    """Stages that were really done, from the log."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event["stage"] for event in events if event["event"] == "stage_finished"]


def test_a_run_with_every_attack_that_needs_more_than_one_look(source, tmp_path):
    settings = tiny_settings(source)
    settings["run"] = {**settings["run"], "folder": str(tmp_path / "run")}
    settings["audit"] = {
        **settings.get("audit", {}),
        "attacks": ["loss", "label_only", "cross_modal"],
        "label_queries": 3,
        "attack_options": {"cross_modal": {"score": "surplus"}},
    }
    evidence = forgetmi.run(settings, progress=False).evidence
    assert set(evidence["attacks"]) == {"loss", "label_only", "cross_modal"}
    assert evidence["attacks"]["cross_modal"]["options"]["score"] == "surplus"
    assert any(name.startswith("auc@") for name in evidence["models"]["unlearned"]["attacks"]["cross_modal"])
    assert "balanced_accuracy@gap" in evidence["models"]["unlearned"]["attacks"]["label_only"]


def test_a_run_leaves_everything_that_it_should(finished):
    there = {path.name for path in finished.folder.iterdir()}
    assert there == {
        "config.yaml", "log.jsonl", "models", "stages", "run.json", "evidence.json", "evidence_arrays.npz",
        "patients_restricted.csv", "report.html", "model_card.md",
    }  # fmt: skip
    assert {path.name for path in (finished.folder / "models").iterdir()} == {
        "original", "unlearned", "retrained-0", "retrained-1"
    }  # fmt: skip
    assert finished.decision in ("pass", "fail", "inconclusive")
    run = json.loads((finished.folder / "run.json").read_text())
    assert run["request"] == {
        **run["request"], "level": "patient", "n_ids": len(FORGOTTEN), "source_kind": "csv", "duplicates": 0
    }  # fmt: skip
    assert run["data"]["counts"]["forget"]["patients"] == len(FORGOTTEN)
    assert [stage["name"] for stage in run["stages"]] == [
        "original",
        "unlearned",
        "retrained-0",
        "retrained-1",
        "audit",
    ]
    assert all(stage["seconds"] > 0 for stage in run["stages"])


def test_models_of_different_seeds_and_of_the_same_run_differ(finished):
    assert len(set(_weights(finished.folder).values())) == 4


def test_no_patient_sample_or_folder_name_is_written(finished, source):
    for path in finished.folder.rglob("*"):
        assert b"SECRET" not in str(path.relative_to(source)).encode()
        if path.is_file():
            assert b"SECRET" not in path.read_bytes(), path
    for name in ("run.json", "evidence.json", "report.html", "model_card.md", "log.jsonl"):
        content = (finished.folder / name).read_bytes()
        assert str(source).encode() not in content, name
        assert b"Smith" not in content, name


def test_inline_ids_are_written_as_keyed_hashes_and_found_again(source, tmp_path):
    settings = tiny_settings(
        source, request={"level": "patient", "ids": list(FORGOTTEN)}, run__folder=str(tmp_path / "run")
    )
    result = forgetmi.run(settings, until="original", progress=False)
    text = (result.folder / "config.yaml").read_text()
    assert "SECRET" not in text
    assert len(yaml.safe_load(text)["request"]["hashed_ids"]) == len(FORGOTTEN)
    again = prepare(load_config(result.folder / "config.yaml"))
    assert again.partition.patients("forget") == frozenset(FORGOTTEN)
    # The written config is the same run: nothing is made again.
    forgetmi.run(result.folder / "config.yaml", until="original", progress=False)
    assert _made(result.folder) == ["original"]


def test_hashed_ids_of_another_key_are_refused(source, tmp_path):
    settings = tiny_settings(
        source, request={"level": "patient", "hashed_ids": ["0" * 16]}, run__folder=str(tmp_path / "run")
    )
    with pytest.raises(RequestError, match="stand for nobody"):
        prepare(load_config(settings))


def test_everything_is_private(finished):
    for path in [finished.folder, *finished.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_is_done_is_kept_and_the_figures_stay(finished):
    before = _weights(finished.folder), finished.evidence
    again = forgetmi.run(finished.folder / "config.yaml", progress=False)
    assert (_weights(again.folder), again.evidence) == before
    assert _made(finished.folder) == ["original", "unlearned", "retrained-0", "retrained-1", "audit"]


def test_other_settings_are_refused_resumed_or_overwritten(source, tmp_path):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    folder = forgetmi.run(settings, progress=False).folder
    first = _weights(folder)
    changed = {**settings, "unlearning": {"method": "fine_tune", "fit": {"epochs": 2, "batch_size": 16}}}
    with pytest.raises(ConfigError, match=r"unlearning\.fit\.epochs"):
        forgetmi.run(changed, progress=False)
    forgetmi.run(changed, resume=True, progress=False)
    assert _made(folder)[5:] == ["unlearned", "audit"]
    second = _weights(folder)
    assert [name for name in first if first[name] != second[name]] == ["unlearned"]
    forgetmi.run(changed, overwrite=True, progress=False)
    assert _made(folder) == ["original", "unlearned", "retrained-0", "retrained-1", "audit"]
    assert _weights(folder) == second


def test_a_run_from_scratch_is_bit_identical(finished, source, tmp_path):
    again = forgetmi.run(tiny_settings(source, run__folder=str(tmp_path / "run")), progress=False)
    assert _weights(again.folder) == _weights(finished.folder)
    assert again.evidence["criteria"] == finished.evidence["criteria"]


def test_a_broken_off_run_goes_on_to_the_same_weights(finished, source, tmp_path, monkeypatch):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    from forgetmi.training import trainer

    real, steps = trainer._Fit._step, []

    def break_off(self, *arguments, **options):
        steps.append(self.name)
        if len(steps) == 5:  # in the original's second epoch, after the first one's checkpoint
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(trainer._Fit, "_step", break_off)
    with pytest.raises(KeyboardInterrupt):
        forgetmi.run(settings, until="original", progress=False)
    monkeypatch.setattr(trainer._Fit, "_step", real)
    folder = tmp_path / "run"
    assert not (folder / "models").exists() or not list((folder / "models").iterdir())
    assert [path.name for path in folder.rglob("*.part")] == []
    assert list((folder / "checkpoints" / "original").glob("*.pt"))
    forgetmi.run(settings, until="original", resume=True, progress=False)
    assert _weights(folder, ["original"]) == _weights(finished.folder, ["original"])
    assert not (folder / "checkpoints").exists()


def test_processes_make_the_same_retrained_models(finished, source, tmp_path):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"), audit__workers=2, run__threads=1)
    forgetmi.run(settings, until="retrained", progress=False)
    names = ["retrained-0", "retrained-1"]
    assert _weights(tmp_path / "run", names) == _weights(finished.folder, names)


def test_bad_input_leaves_no_folder(source, tmp_path):
    (tmp_path / "forget.csv").write_text("patient_id\nSECRET-p99\n")
    settings = tiny_settings(source, request={"file": str(tmp_path / "forget.csv")}, run__folder=str(tmp_path / "run"))
    with pytest.raises(RequestError) as caught:
        forgetmi.run(settings, progress=False)
    assert "SECRET" not in caught.value.public
    assert "forget.csv:2" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_things_is_left_alone(source, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run"):
        forgetmi.run(tiny_settings(source, run__folder=str(tmp_path)), overwrite=True, progress=False)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_model_that_was_exchanged_is_not_audited(source, tmp_path):
    settings = tiny_settings(source, run__folder=str(tmp_path / "run"))
    folder = forgetmi.run(settings, progress=False).folder
    for name in ("model.json", "model.safetensors"):
        (folder / "models" / "unlearned" / name).write_bytes((folder / "models" / "original" / name).read_bytes())
    with pytest.raises(ModelError, match="not the one that this run made"):
        forgetmi.run(settings, progress=False, audit_again=True)


def test_an_audit_writes_its_document_once_and_is_done_only_then(finished, source, tmp_path, monkeypatch):
    shutil.copytree(finished.folder, tmp_path / "run")
    prepared = prepare(load_config(tiny_settings(source, run__folder=str(tmp_path / "run"))))
    folder, real, written = RunFolder(tmp_path / "run", progress=False), stages.write_json, []
    (folder.path / "evidence.json").unlink()
    (folder.path / "stages" / "audit.json").unlink()

    def broken_off(path, document):
        raise KeyboardInterrupt

    def noted(path, document):
        written.append(path.name)
        real(path, document)

    monkeypatch.setattr(stages, "write_json", broken_off)
    with pytest.raises(KeyboardInterrupt):
        stages.audit(prepared, folder)
    assert folder.done("audit") is None
    monkeypatch.setattr(stages, "write_json", noted)
    assert stages.audit(prepared, folder) == json.loads((finished.folder / "evidence.json").read_text())
    assert written == ["evidence.json", "run.json"]
    assert folder.done("audit") is not None


def test_a_stored_model_is_the_original_and_is_not_trained(finished, source, tmp_path):
    settings = tiny_settings(
        source, model={"load": str(finished.folder / "models" / "original")}, run__folder=str(tmp_path / "run")
    )
    forgetmi.run(settings, progress=False)
    names = ["original", "retrained-0", "retrained-1"]
    assert _weights(tmp_path / "run", names) == _weights(finished.folder, names)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["models"]["original"]["seconds"] is None
    assert "original" not in [stage["name"] for stage in run["stages"]]


def test_the_text_noise_knows_the_training_split_only(source, tmp_path):
    lines = (source / "records.csv").read_text().splitlines()
    marked = [line.replace("clear", "zebra") if line.endswith("test") else line for line in lines]
    (source / "marked.csv").write_text("\n".join(marked))
    settings = tiny_settings(source, data__path=str(source / "marked.csv"), run__folder=str(tmp_path / "run"))
    text = prepare(load_config(settings)).modalities["text"]
    assert "zebra" not in text.default_noise.keywords
    assert "zebra" not in text.tokenizer.get_vocab()
    assert "clear" in text.tokenizer.get_vocab()


def test_limit_keeps_the_request_and_whole_patients(source):
    prepared = prepare(load_config(tiny_settings(source, run__limit=9)))
    assert prepared.partition.patients("forget") == frozenset(FORGOTTEN)
    for part in ("retain", "validation", "test"):
        assert 0 < len(prepared.partition.indices(part)) <= 9
    assert any("at most 9 records" in note for note in prepared.dataset.notes)


def test_a_draw_depends_on_its_seed_only(source):
    def drawn(seed):
        config = load_config(tiny_settings(source, request={"draw": {"patients": 5, "seed": seed}}))
        return prepare(config).partition.patients("forget")

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(drawn(1)) == 5


def test_noise_that_no_modality_has_is_refused_before_training(source):
    settings = tiny_settings(
        source, unlearning={"method": "forget_mi", "noise": {"imgae": {"sd": 1}, "text": {"p": 1}}}
    )
    with pytest.raises(ConfigError) as caught:
        prepare(load_config(settings))
    assert len(caught.value.problems) == 2
    assert "Did you mean 'image'" in str(caught.value)


def test_a_prepared_run_does_not_show_who_it_is_about(source):
    assert "SECRET" not in repr(prepare(load_config(tiny_settings(source))))


def test_audit_without_a_model_says_so(source, tmp_path):
    config = load_config(tiny_settings(source, run__folder=str(tmp_path / "run")))
    with pytest.raises(ModelError, match="no original model yet"):
        stages.audit(prepare(config), RunFolder(tmp_path / "run"))


def test_the_first_line_counts_and_names_nobody(source):
    line = pipeline.first_line(prepare(load_config(tiny_settings(source))))
    assert "forget 4 patients" in line
    assert "SECRET" not in line
