"""PTB-XL: signals as stored, statements as the benchmark counts them, folds that respect patients."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.ptb_xl import LEADS as WANTED
from forgetmi.data_adapters.signals import WfdbSignal
from forgetmi.errors import ConfigError, DataError, ForgetMIError
from forgetmi.modalities.signal import SignalModality
from tests.data_adapters.ptb_xl_files import LEADS, ROWS, ecg, samples, write_record, write_release, write_table


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("ptb"))


@pytest.fixture
def root(release, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(release, tmp_path / "ptb")


def load(root, **options):
    return load_dataset("ptb_xl", {"root": root, **options})


def by_id(data):
    return {record.sample_id: record for record in data}


def test_ids_splits_and_texts(release):
    data = load(release)
    assert [(r.sample_id, r.patient_id, r.split) for r in data] == [
        ("3", "13243", "train"),  # written as 13243.0
        ("1", "15709", "train"),
        ("2", "15709", "train"),
        ("5", "17014", "test"),
        ("4", "20372", "validation"),
    ]
    records = by_id(data)
    assert records["1"].value("text") == "sinusrhythmus periphere niederspannung"
    assert records["3"].value("text") is None
    said = {"Device": "CS-12   E", "Site": "0.0", "StudyDate": "19841109"}
    assert records["1"].attributes == {**said, "PatientSex": "female", "PatientAge": "56.0"}
    assert data.levels == ("patient", "sample", "modality")
    assert "1 of 5 ECGs have no report: their text is missing" in data.notes


@pytest.mark.parametrize(("rate", "length"), [(100, 20), (500, 100)])
def test_signals_are_the_stored_millivolts_lead_by_lead(release, rate, length):
    for record in load(release, rate=rate):
        value = record.value("signal")
        stored = samples(int(record.sample_id), rate, length)
        assert value["rate"] == rate and value["samples"].dtype == np.float32
        np.testing.assert_allclose(value["samples"], stored.T / 1000, atol=1e-6)
    example = SignalModality(12, 20, 100).prepare(value)
    assert example.shape == (12, 20)


def test_leads_in_another_order_are_put_in_place(tmp_path):
    values = samples(1)
    order = np.random.default_rng(0).permutation(12)
    write_record(tmp_path / "mixed", values[:, order], 100, [LEADS[i] for i in order])
    np.testing.assert_allclose(
        WfdbSignal(str(tmp_path / "mixed"), WANTED).load()["samples"], values.T / 1000, atol=1e-6
    )


def test_records_of_other_leads_or_units_are_refused(tmp_path):
    write_record(tmp_path / "few", samples(1)[:, :11], 100, LEADS[:11])
    write_record(tmp_path / "twice", samples(1), 100, (*LEADS[:11], "I"))
    write_record(tmp_path / "micro", samples(1), 100, unit="uV")
    for name, problem in (("few", "leads"), ("twice", "leads"), ("micro", "not in mV")):
        with pytest.raises(DataError, match=problem) as caught:
            WfdbSignal(str(tmp_path / name), WANTED).load()
        assert name in str(caught.value) and str(tmp_path) not in caught.value.public


def test_an_invalid_sample_is_missing(tmp_path):
    values = samples(1)
    values[3, 4] = -32768  # how format 16 marks it
    write_record(tmp_path / "a", values, 100)
    found = WfdbSignal(str(tmp_path / "a"), WANTED).load()["samples"]
    assert np.isnan(found[4, 3]) and np.isnan(found).sum() == 1


@pytest.mark.parametrize(
    ("kind", "classes", "expected"),
    [
        ("superclass", ("HYP", "MI", "NORM", "STTC"),
         {"1": (0, 0, 1, 0), "2": (0, 1, 0, 0), "3": (1, 1, 0, 0), "4": (0, 0, 0, 1), "5": (0, 0, 1, 0)}),
        ("subclass", ("AMI", "IMI", "LVH", "NORM", "STTC"),
         {"1": (0, 0, 0, 1, 0), "2": (1, 1, 0, 0, 0), "3": (0, 1, 1, 0, 0), "4": (0, 0, 0, 0, 1),
          "5": (0, 0, 0, 1, 0)}),
        ("form", ("ABQRS", "NDT"), {"2": (1, 0), "4": (0, 1), "6": (1, 0)}),
        ("rhythm", ("AFIB", "SR"), {"1": (0, 1), "2": (0, 1), "4": (1, 0), "5": (1, 0), "6": (0, 1)}),
    ],
)  # fmt: skip
def test_labels_of_each_kind(release, kind, classes, expected):
    data = load(release, labels=kind, modalities=["signal"])
    assert data.classes == classes
    assert {r.sample_id: r.label for r in data} == expected
    assert data.skipped.counts.get("no label", 0) == 6 - len(expected)
    assert data.levels == ("patient", "sample")


def test_all_statements_and_none(release):
    data = load(release, labels="all")
    assert data.classes == ("ABQRS", "AFIB", "ASMI", "IMI", "LVH", "NDT", "NORM", "SR") and len(data) == 6
    assert {r.label for r in load(release, labels=None)} == {None}


def test_an_unlikely_diagnosis_is_unknown_and_rhythms_have_no_likelihood(release):
    labels = {r.sample_id: r.label for r in load(release, min_likelihood=60)}
    assert labels["2"] == (0, None, 0, 0) and labels["3"] == (None, 1, 0, 0) and labels["5"] == (0, 0, 1, 0)
    assert len(load(release, labels="rhythm", min_likelihood=60)) == 5
    data = load(release, target="MI", min_likelihood=30)
    assert data.classes == ("MI: no", "MI: yes")
    assert {r.sample_id: r.label for r in data} == {"1": 0, "2": 1, "3": 1, "4": 0, "5": 0}  # IMI 35 decides
    assert "2" not in by_id(load(release, target="MI", min_likelihood=60))  # nobody knows


def test_what_is_known_of_the_patient(release):
    records = by_id(load(release, modalities=["tabular"]))
    assert records["1"].value("tabular") == {"age": 56.0, "weight": 63.0, "sex": "female"}
    assert records["3"].value("tabular") == {"age": 90.0, "weight": 63.0, "sex": "male"}  # 300 means older than 89


def test_other_folds_and_a_patient_in_two_of_them(root):
    data = load(root, validation_folds=[1], test_folds=[9, 10])
    assert {r.sample_id: r.split for r in data} == {"1": "train", "2": "train", "3": "validation", "4": "test",
                                                    "5": "test"}  # fmt: skip
    write_table(root, [*ROWS[:1], {**ROWS[1], "strat_fold": 10}, *ROWS[2:]])
    with pytest.raises(DataError, match="more than one split") as caught:
        load(root)
    assert "15709" not in caught.value.public


def test_missing_signals_are_listed_or_counted(root):
    (root / "records100/00000/00003_lr.dat").unlink()
    (root / "records100/00000/00004_lr.hea").unlink()
    with pytest.raises(DataError, match="1 of 5 signals are missing"):
        load(root)
    data = load(root, on_missing_file="skip")
    assert set(by_id(data)) == {"1", "2", "5"}
    assert data.skipped.examples["signal is missing"] == ("ptbxl_database.csv:5", "ptbxl_database.csv:4")
    assert len(load(root, rate=500)) == 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scp_codes": "NORM"}, "1 cells of column 'scp_codes'"),
        ({"scp_codes": "{'NORM': 'high'}"}, "1 cells of column 'scp_codes'"),
        ({"scp_codes": "{'UNHEARD': 1.0}"}, "1 cells of column 'scp_codes'"),
        ({"strat_fold": 11}, "1 cells of column 'strat_fold'"),
        ({"patient_id": "15709.5"}, "no exact whole number"),
        ({"ecg_id": 1}, "occur more than once"),
    ],
)
def test_cells_that_cannot_be_used_are_named(root, change, problem):
    write_table(root, [*ROWS[:1], {**ROWS[1], **change}, *ROWS[2:]])
    with pytest.raises(DataError, match=problem) as caught:
        load(root)
    assert "ptbxl_database.csv" in str(caught.value) and "15709.5" not in caught.value.public


def test_an_ecg_without_patient_is_counted(root):
    write_table(root, [*ROWS, ecg(7, "", 1, {"NORM": 100.0})])
    assert load(root).skipped.examples["column 'patient_id' is blank"] == ("ptbxl_database.csv:8",)


def test_statements_that_are_not_as_published(root):
    (root / "scp_statements.csv").write_text(",description,diagnostic\nNORM,normal,1.0\n")
    with pytest.raises(DataError, match="no column 'diagnostic_class'"):
        load(root)
    (root / "scp_statements.csv").write_text(",diagnostic,diagnostic_class\nNORM,1.0,\n")
    with pytest.raises(DataError, match="names no superclass") as caught:
        load(root)
    assert caught.value.where == "scp_statements.csv:2"


def test_wrong_options(release):
    with pytest.raises(ConfigError) as caught:
        load(release, labels=None, target="MI", min_likelihood=101, validation_folds=[10], test_folds=[10, 11])
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="Did you mean 'NORM'"):
        load(release, target="NORMAL")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.booleans(), place=st.integers(0, 700), put=st.binary(max_size=12), cut=st.none() | st.integers(0, 700))
def test_any_bytes_of_a_record_end_in_a_signal_or_our_own_error(tmp_path, header, place, put, cut):
    write_record(tmp_path / "a", samples(1), 100)
    path = tmp_path / ("a.hea" if header else "a.dat")
    before = path.read_bytes()
    path.write_bytes((before[:place] + put + before[place + len(put) :])[:cut])
    try:
        value = WfdbSignal(str(tmp_path / "a"), WANTED).load()
    except ForgetMIError:
        return
    assert value["samples"].shape[0] == 12
