"""MIMIC-IV: joins by subject and visit, with everything that has neither counted."""

from __future__ import annotations

import pytest

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError
from tests.data_adapters.mimic_iv_files import ROWS, write_release, write_table


def load(root, **options):
    return load_dataset("mimic_iv", {"root": root, **options})


def by_id(data):
    return {record.sample_id: record for record in data}


@pytest.fixture
def root(tmp_path):
    return write_release(tmp_path)


def test_admissions_with_their_notes_and_last_values(root):
    data = load(root)
    records = by_id(data)
    assert list(records) == ["21", "22", "23"]
    first = records["21"]
    assert (first.patient_id, first.study_id) == ("10000001", "21")
    assert first.value("text") == 'clear lungs\n\nwent home,\nquoted "well"'  # in the order of their times
    assert first.value("tabular") == {"gender": "F", "age": 52.0, "race": "WHITE", "50912 [mg/dL]": 1.5}
    assert first.attributes == {"VisitDate": "2150-01-01"}
    # The same item in another unit is another column; a word stays a word.
    assert records["23"].value("tabular") == {"gender": "M", "age": 71.0, "50912 [umol/L]": 133.0, "51463": "FEW"}
    assert records["22"].value("text") is None and records["22"].value("tabular") == {"gender": "F", "age": 52.0}
    assert "2 measurements belong to no visit: they are in no record" in data.notes
    assert "1 notes belong to no visit: they are in no record" in data.notes


@pytest.mark.parametrize(("how", "expected"), [("last", 1.5), ("first", 0.5), ("mean", 1.0)])
def test_several_values_of_one_item(root, how, expected):
    assert by_id(load(root, aggregate=how))["21"].value("tabular")["50912 [mg/dL]"] == expected


def test_a_patient_gets_what_belongs_to_no_visit_too(root):
    records = by_id(load(root, unit="patient"))
    assert list(records) == ["10000001", "10000002", "10000003"]
    assert records["10000003"].value("text") == "no fracture"
    assert records["10000003"].value("tabular")["50912 [mg/dL]"] == 1.0
    assert load(root, unit="patient").levels == ("patient", "modality")


def test_notes_as_records_keep_their_admission(root):
    records = by_id(load(root, unit="note"))
    assert {k: (r.study_id, r.patient_id) for k, r in records.items()} == {
        "10000001-DS-21": ("21", "10000001"),
        "10000001-RR-14": ("21", "10000001"),
        "10000003-RR-15": ("10000003-RR-15", "10000003"),
    }
    assert records["10000001-RR-14"].value("tabular")["50912 [mg/dL]"] == 1.5
    assert records["10000003-RR-15"].value("tabular") == {"gender": "F", "age": 33.0}
    assert records["10000001-RR-14"].attributes["NoteDate"] == "2150-01-01"


def test_stays_of_intensive_care_and_of_the_emergency_department(root):
    (stay,) = load(root, visits="icu_stay", measurements=["chartevents"], modalities=["tabular"])
    assert stay.sample_id == "31" and stay.value("tabular")["220045 [bpm]"] == 100.0
    visits = by_id(load(root, visits="ed_stay"))
    assert visits["41"].value("text") == "Dyspnea" and visits["42"].patient_id == "10000003"
    assert visits["41"].value("tabular")["temperature"] == 98.6
    assert "temperature" not in visits["42"].value("tabular")


def test_labels_by_mortality_and_by_diagnosis_with_its_icd_version(root):
    data = load(root, labels="mortality")
    assert [r.label for r in data] == [0, 1, 0] and data.classes == ("survived", "died")
    codes = {"heart failure": ["10:I50", "9:428"], "any 428": ["10:428", "9:428"]}
    data = load(root, diagnoses=codes)
    assert [r.label for r in data] == [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]  # 428 in ICD-10 is no heart failure
    assert data.classes == ("heart failure", "any 428")


def test_an_admission_without_codes_has_no_label(tmp_path):
    write_release(tmp_path, diagnoses_icd=ROWS["hosp/diagnoses_icd"][:1])
    data = load(tmp_path, diagnoses={"heart failure": ["10:I50"]})
    assert [r.sample_id for r in data] == ["21"]
    assert data.skipped.examples == {"no label": ("admissions.csv.gz:3", "admissions.csv.gz:4")}


def test_tables_of_patients_that_are_not_read_are_named_and_others_are_not(root):
    (note,) = [note for note in load(root).notes if "were not read" in note]
    assert "hosp/emar" in note and "icu/icustays" in note and "ed/edstays" in note
    assert "d_labitems" not in note and "provider" not in note  # no subject_id: not patient data
    assert "hosp/labevents" not in note


def test_a_row_that_names_another_subjects_admission_is_refused(tmp_path):
    rows = [*ROWS["hosp/labevents"], {**ROWS["hosp/labevents"][0], "subject_id": 10000002}]
    write_release(tmp_path, labevents=rows)
    with pytest.raises(DataError, match="visit of another patient") as caught:
        load(tmp_path)
    assert "labevents.csv.gz:8" in str(caught.value) and "10000002" not in caught.value.public


def test_rows_of_unknown_subjects_are_counted(tmp_path):
    rows = [*ROWS["hosp/labevents"], {**ROWS["hosp/labevents"][0], "subject_id": 99, "hadm_id": ""}]
    write_release(tmp_path, labevents=rows)
    assert load(tmp_path).skipped.examples == {"subject_id is not in patients": ("labevents.csv.gz:8",)}


def test_ids_that_a_program_made_floats_are_read_and_inexact_ones_refused(tmp_path):
    rows = [{**row, "hadm_id": f"{row['hadm_id']}.0" if row["hadm_id"] else ""} for row in ROWS["hosp/labevents"]]
    write_release(tmp_path, labevents=rows)
    assert by_id(load(tmp_path))["21"].value("tabular")["50912 [mg/dL]"] == 1.5
    for cell in ("1e7", "21.5", "90071992547409930.0", "x"):
        write_table(tmp_path, "hosp/labevents", [{**rows[0], "hadm_id": cell}])
        with pytest.raises(DataError, match="no exact whole number") as caught:
            load(tmp_path)
        assert caught.value.where == "labevents.csv.gz:2"


def test_repeated_ids_are_refused(tmp_path):
    for table in ("hosp/patients", "hosp/admissions"):
        write_release(tmp_path, **{table.split("/")[1]: [*ROWS[table], ROWS[table][0]]})
        with pytest.raises(DataError, match="stands on two rows"):
            load(tmp_path)


@pytest.mark.parametrize("broken", ["1,2\n", '"open\n', "\xff"])
def test_malformed_rows_are_named(tmp_path, broken):
    write_release(tmp_path, gz=False)
    path = tmp_path / "hosp" / "admissions.csv"
    path.write_bytes(path.read_bytes() + broken.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert caught.value.where == "admissions.csv:5"


def test_items_are_chosen_and_separate_folders_are_used(tmp_path):
    for part in ("note", "ed"):
        for table in [name for name in ROWS if name.startswith(part)]:
            write_table(tmp_path / f"mimic-iv-{part}", table, ROWS[table])
    for table in [name for name in ROWS if name[:4] in ("hosp", "icu/")]:
        write_table(tmp_path / "mimic-iv", table, ROWS[table], gz=False)
    data = load(
        tmp_path / "mimic-iv", note_root=tmp_path / "mimic-iv-note", ed_root=tmp_path / "mimic-iv-ed", items=["51463"]
    )
    assert by_id(data)["21"].value("text") is not None
    assert "50912 [mg/dL]" not in by_id(data)["21"].value("tabular")
    assert by_id(data)["23"].value("tabular")["51463"] == "FEW"


def test_a_label_table_by_visit(root, tmp_path):
    (tmp_path / "y.csv").write_text("hadm,readmitted\n21,1\n22,0\n")
    data = load(root, labels={"path": tmp_path / "y.csv", "id_column": "hadm", "ids": "visit", "label": "readmitted"})
    assert {r.sample_id: r.label for r in data} == {"21": 1, "22": 0}


def test_wrong_options_are_listed_together(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            visits="icu_stay",
            labels="mortality",
            diagnoses={"a": ["428"]},
            modalities=["tabular"],
            unit="note",
        )
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="triage belong to visits: ed_stay"):
        load(tmp_path, measurements=["triage"])
