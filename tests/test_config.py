"""Configs: strict, every problem at once, with lines; paths; overrides; YAML without surprises."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgetmi.config import load_config
from forgetmi.errors import ConfigError
from forgetmi.pseudonyms import patient_hasher
from forgetmi.runs.redact import redacted_given, resolved, result_settings, without_folders, without_ids
from forgetmi.settings import read_settings
from tests.runs.tiny_source import tiny_settings

HASHER = patient_hasher(b"k" * 32)


def _problems(source, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return caught.value.problems


def _only(source, *overrides):
    (problem,) = _problems(source, *overrides)
    return problem


def _file(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


# --- YAML -----------------------------------------------------------------------------------------------------------


def test_scalars_are_what_people_mean(tmp_path):
    values = read_settings(
        _file(
            tmp_path, "a: 1e-3\nb: no\nc: 0012\nd: 2020-01-01\ne: .5\nf:\ng: true\nh: -3\ni: 12:30\nj: 1_000\nk: 2.\n"
        )
    ).values
    assert values == {
        "a": 1e-3, "b": "no", "c": "0012", "d": "2020-01-01", "e": 0.5, "f": None, "g": True, "h": -3, "i": "12:30",
        "j": "1_000", "k": 2.0,
    }  # fmt: skip


def test_repeated_keys_are_all_named_with_their_lines(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_settings(_file(tmp_path, "a: 1\nb:\n  c: 1\n  c: 2\na: 2\n"))
    assert caught.value.problems == (
        "line 4: b.c stands here for the second time, first on line 3",
        "line 5: a stands here for the second time, first on line 1",
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [("a: [1\n", "line 2: no YAML"), ("- 1\n", "no mapping"), ("", "no mapping"), ("!!python/name:os.system x", "no ")],
)
def test_what_is_no_config_is_refused(tmp_path, text, match):
    with pytest.raises(ConfigError, match=match):
        read_settings(_file(tmp_path, text))


def test_nothing_is_run_by_reading(tmp_path):
    with pytest.raises(ConfigError):
        read_settings(_file(tmp_path, "a: !!python/object/apply:os.system ['touch x']\n"))


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_overrides_are_yaml_and_make_sections():
    values = read_settings({"a": {"b": 1}}, ["a.b=1e-3", "a.c.d=[x, 2]", "e=no", "f=a=b"]).values
    assert values == {"a": {"b": 1e-3, "c": {"d": ["x", 2]}}, "e": "no", "f": "a=b"}


def test_another_method_does_not_inherit_options(tmp_path):
    settings = tiny_settings(tmp_path, unlearning={"method": "forget_mi", "direction": "repel", "fit": {"epochs": 3}})
    config = load_config(settings, ["unlearning.beta=0.5", "unlearning.method=npo"])
    assert (config.method.name, config.method.beta, config.method.fit.epochs) == ("npo", 0.5, 5)
    same = load_config(settings, ["unlearning.method=forget_mi"])
    assert (same.method.direction, same.method.fit.epochs) == ("repel", 3)


def test_the_given_mapping_is_not_changed():
    given = {"a": {"b": 1}}
    read_settings(given, ["a.b=2"])
    assert given == {"a": {"b": 1}}


def test_bad_overrides_are_all_named():
    with pytest.raises(ConfigError) as caught:
        read_settings({"a": 1}, ["a.b=2", "novalue", "=3", "a..b=1", "c=[1"])
    assert len(caught.value.problems) == 5


# --- what is wrong is all said at once ------------------------------------------------------------------------------


def test_every_problem_at_once_with_its_line_and_the_nearest_word(tmp_path):
    path = _file(
        tmp_path,
        """\
data:
  adapter: indiana_demo
  n_tran: 5
request:
  draw: {patients: 0}
trainng:
  epochs: 3
model:
  modalities:
    image: {sise: 64}
  encoders:
    image: {name: small_resnt}
training:
  lrr: 1
  epochs: -1
unlearning:
  method: fine_tune
  fit: {lr: -1, epoch: 2}
audit:
  retrains: 1
  atacks: [loss]
run:
  device: gpu
""",
    )
    problems = _problems(path)
    expected = [
        ("line 3: data: unknown option 'n_tran'", "Did you mean 'n_train'"),
        ("line 5: request.draw.patients", "greater than or equal to 1"),
        ("line 6: trainng: unknown section 'trainng'", "Did you mean 'training'"),
        ("line 10: model.modalities.image: unknown option 'sise'", "Did you mean 'size'"),
        ("line 12: model.encoders.image.name: unknown encoder 'small_resnt'", "Did you mean 'small_resnet'"),
        ("line 14: training: unknown option 'lrr'", "Did you mean 'lr'"),
        ("line 13: training: epochs must be >= 0", ""),
        ("line 18: unlearning.fit: unknown option 'epoch'", "Did you mean 'epochs'"),
        ("line 18: unlearning.fit: lr must be >= 0", ""),
        ("line 20: audit.retrains", "at least 2"),
        ("line 21: audit: unknown option 'atacks'", "Did you mean 'attacks'"),
        ("line 23: run.device", "'auto', 'cpu' or 'cuda'"),
    ]
    for start, hint in expected:
        assert any(p.startswith(start) and hint in p for p in problems), (start, problems)
    assert len(problems) == len(expected)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("data.adapter=manifst", "Did you mean 'manifest'"),
        ("unlearning.method=forget_im", "Did you mean 'forget_mi'"),
        ("task.name=clasification", "Did you mean 'classification'"),
        ("task.loss_kind=fusd", "fused"),
        ("model.fusion=gat", "Did you mean 'gate'"),
        ("model.kind=clasifier", "Did you mean 'classifier'"),
        ("model.encoders.image.channels=3", "the modality image has 1"),
        ("model.encoders.film={name: small_resnet}", "no modality 'film'"),
        ("model.dims=3", "Did you mean 'dim'"),
        ("model.modalities.text.vocab_size=2", "vocab_size must be at least 5"),
        ("model.modalities.text.keywords=nowhere.txt", "there is no"),
        ("data.columns.patients=x", "unknown option 'patients'"),
        ("request.level=pacient", "request.level"),
        ("request.draw={patients: 3}", "give exactly one of file, ids, query and draw, not file and draw"),
        ("run.seed=-1", "run.seed"),
        ("run.seed=1.5", "run.seed"),
        ("audit.workers=true", "audit.workers"),
        ("case.refrence=x", "Did you mean 'reference'"),
        ("training=5", "training: expected `key: value` lines"),
    ],
)
def test_one_thing_wrong_is_one_problem(tmp_path, override, match):
    assert match in _only(tiny_settings(tmp_path), override)


def test_missing_sections_are_named():
    assert _problems({}) == tuple(f"section {name!r} is missing" for name in ("data", "request", "model", "unlearning"))


def test_ids_must_be_text_and_are_not_repeated_in_the_message(tmp_path):
    problem = _only(tiny_settings(tmp_path, request={"level": "patient", "ids": [4711]}))
    assert "quote ids" in problem
    assert "4711" not in problem


def test_a_stored_model_brings_its_own_modalities(tmp_path):
    assert "leave it out beside load" in _only(tiny_settings(tmp_path, model={"load": "x", "dim": 3}))


# --- what is right --------------------------------------------------------------------------------------------------


def test_a_method_keeps_its_own_defaults_where_fit_is_given_in_part(tmp_path):
    config = load_config(tiny_settings(tmp_path, unlearning={"method": "forget_mi", "fit": {"lr": 3e-4}}))
    assert (config.method.fit.lr, config.method.fit.epochs, config.method.fit.mode) == (3e-4, 30, "eval")


def test_paths_are_relative_to_the_file_and_those_of_overrides_to_the_shell(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    path = _file(
        tmp_path / "configs",
        """\
data: {adapter: manifest, path: ../records.csv, columns: {sample_id: a, label: b, split: c},
       modalities: {image: {column: d, kind: image}}}
request: {file: forget.csv}
model: {modalities: {image: {size: 8}}, encoders: {image: {name: small_resnet}}, dim: 8}
unlearning: {method: retrain}
""",
    )
    (tmp_path / "shell").mkdir()
    monkeypatch.chdir(tmp_path / "shell")
    config = load_config(path, ["run.key_file=site.key"])
    assert config.adapter.path == tmp_path / "records.csv"
    assert config.request.file == tmp_path / "configs" / "forget.csv"
    assert config.run.folder == tmp_path / "configs" / "runs" / "run"
    assert config.run.key_file == tmp_path / "shell" / "site.key"


def test_what_is_resolved_is_read_again_as_the_same(tmp_path):
    config = load_config(tiny_settings(tmp_path, unlearning={"method": "forget_mi", "noise": {"image": {"sd": 0.2}}}))
    once = resolved(config, HASHER)
    assert resolved(load_config(once), HASHER) == once


def test_ids_leave_as_hashes_and_counts_only(tmp_path):
    config = load_config(tiny_settings(tmp_path, request={"level": "patient", "ids": ["0012", "0045"]}))
    once = resolved(config, HASHER)
    assert once["request"]["hashed_ids"] == sorted(map(HASHER, ("0012", "0045")))
    given = redacted_given(config)
    assert given["request"] == {"level": "patient", "ids": "2 ids, not written"}
    assert "0012" not in str(once) + str(given)
    assert resolved(load_config(once), HASHER) == once


def test_documents_do_not_say_what_a_query_asks_for():
    asked = {"request": {"level": "study", "query": {"AccessionNumber": ["4711"], "StudyDate": {"from": "2019-01-01"}}}}
    written = without_ids(asked)
    assert "4711" not in str(written)
    assert "2019" not in str(written)
    assert "AccessionNumber, StudyDate" in written["request"]["query"]


def test_documents_name_no_folder(tmp_path):
    given = redacted_given(load_config(tiny_settings(tmp_path)))
    assert str(tmp_path) not in str(given)
    assert given["data"]["path"] == "records.csv"
    assert without_folders({"a": ["/x/y/z.csv", "one / two words", 3]}) == {"a": ["z.csv", "one / two words", 3]}


def test_how_a_run_is_carried_out_does_not_change_what_it_is(tmp_path):
    def essence(**changes):
        return result_settings(resolved(load_config(tiny_settings(tmp_path, **changes)), HASHER))

    assert essence() == essence(audit__workers=4, run__folder=str(tmp_path / "other"), case={"reference": "A1"})
    assert essence() != essence(run__seed=1)


def test_the_demo_and_the_init_template_are_sound(tmp_path):
    templates = Path(__file__).parents[1] / "forgetmi" / "cli" / "templates"
    demo = load_config(templates / "demo.yaml", [f"run.folder={tmp_path / 'demo'}"])
    assert (demo.adapter.name, demo.method.name, demo.retrains) == ("indiana_demo", "forget_mi", 5)
    mine = load_config(templates / "init" / "run.yaml")
    assert (mine.adapter.name, mine.split, mine.adapter.split.test) == ("manifest", None, 0.2)


def test_a_query_in_the_config_is_checked_and_found_again(tmp_path):
    asked = {"level": "study", "query": {"StudyDate": {"from": "2019-01-01"}}, "missing": "leave"}
    config = load_config(tiny_settings(tmp_path, request=asked))
    assert config.request.as_query().level == "study"
    again = resolved(config, HASHER)["request"]
    assert again["query"] == asked["query"] and again["missing"] == "leave"
    assert "a level is needed" in _only(tiny_settings(tmp_path, request={"query": {"a": "b"}}))
    assert "no date" in _only(tiny_settings(tmp_path, request={"level": "study", "query": {"StudyDate": {"to": "x"}}}))
