"""OMOP CDM: one reading of files, Parquet and a database; ids that no float can hold; two people never mixed."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError, ForgetMIError
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters.omop_files import (
    ANCESTORS,
    CREATININE,
    FIRST,
    HEART_FAILURE,
    ROWS,
    SECOND,
    THIRD,
    write_files,
    write_parquet,
    write_sqlite,
    write_table,
)


def load(root, **options):
    return load_dataset("omop", {"root": root, **options})


def by_id(data):
    return {record.sample_id: record for record in data}


def content(data):
    names = sorted(data.modality_kinds)
    return [(r.sample_id, r.study_id, r.patient_id, *(r.value(n) for n in names), r.attributes) for r in data]


@pytest.fixture
def root(tmp_path):
    return write_files(tmp_path)


def test_visits_with_their_notes_and_last_values(root):
    data = load(root)
    records = by_id(data)
    assert [(r.sample_id, r.patient_id) for r in data] == [("7", str(SECOND)), ("-5", str(FIRST)), ("6", str(FIRST))]
    assert records["-5"].value("text") == 'clear lungs\n\nwent home,\nquoted "well"'  # in the order of their dates
    assert records["-5"].value("tabular") == {
        "birth_year": 1950.0,
        "gender": "concept:8532",  # a category, though it is written as a number; race 0 is not known
        "visit_type": "concept:9201",
        f"{CREATININE} [8840]": 1.5,
    }
    assert records["-5"].attributes == {"VisitDate": "2020-01-01", "CareSite": "77"}
    assert records["7"].value("text") is None
    assert records["7"].value("tabular") == {
        "birth_year": 1961.0,
        "gender": "concept:8507",
        f"{CREATININE} [umol/L]": 133.0,  # another unit is another column
        "source:LAB9": "FEW",  # concept 0 stands for every unmapped code
        "3009261": "concept:9189",
    }
    assert data.skipped.examples == {"measurement without a concept and without a source code": ("measurement.csv:8",)}
    assert "1 measurements belong to no visit: they are in no record" in data.notes
    assert "1 notes belong to no visit: they are in no record" in data.notes


@pytest.mark.parametrize("unit", ["visit", "note", "patient"])
def test_files_parquet_and_a_database_are_read_alike(tmp_path, unit):
    folders = [tmp_path / name for name in ("csv", "gz", "parquet")]
    for folder in folders:
        folder.mkdir()
    write_files(folders[0]), write_files(folders[1], ".csv.gz"), write_parquet(folders[2])
    database = write_sqlite(tmp_path / "cdm.sqlite")
    options = {"unit": unit, "measurements": ["measurement", "observation"]}
    expected = content(load(folders[0], **options))
    assert any("4275495" in row[3] for row in expected if row[3])
    for source in (*folders[1:], database):
        data = load(source, **options)
        assert content(data) == expected
        assert data.skipped.total == 1


def test_a_database_behind_an_environment_variable(tmp_path, monkeypatch):
    path = write_sqlite(tmp_path / "cdm.sqlite")
    monkeypatch.setenv("HOSPITAL_CDM", f"sqlite:///{path}")
    data = load_dataset("omop", {"database_env": "HOSPITAL_CDM"})
    assert content(data) == content(load(path))
    monkeypatch.delenv("HOSPITAL_CDM")
    with pytest.raises(DataError, match="HOSPITAL_CDM is not set"):
        load_dataset("omop", {"database_env": "HOSPITAL_CDM"})
    for url in ("no url", "postgresql://clerk:secret@host:port/cdm", "nothing://clerk:secret@host/cdm"):
        monkeypatch.setenv("HOSPITAL_CDM", url)
        with pytest.raises(DataError, match="URL cannot be read") as caught:
            load_dataset("omop", {"database_env": "HOSPITAL_CDM"})
        assert "secret" not in str(caught.value)


def test_a_database_is_not_written_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOSPITAL_CDM", f"sqlite:///{tmp_path / 'misspelt.db'}")
    with pytest.raises(DataError, match="no such SQLite file"):
        load_dataset("omop", {"database_env": "HOSPITAL_CDM"})
    assert not list(tmp_path.iterdir())
    path = write_sqlite(tmp_path / "cdm.db")
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(a[0]) or connect(*a, **k))
    load(path)
    assert opened and all(address.startswith("file:") and address.endswith("?mode=ro") for address in opened)
    assert [p.name for p in tmp_path.iterdir()] == ["cdm.db"]


def test_what_is_no_cdm(tmp_path):
    with pytest.raises(DataError, match="there is no table person"):
        load(tmp_path)
    with pytest.raises(DataError, match="no folder and no database"):
        load(tmp_path / "absent")
    (tmp_path / "broken.db").write_bytes(b"\x00 this is no database" * 99)
    with pytest.raises(DataError, match=r"broken\.db cannot be read"):
        load(tmp_path / "broken.db")


def test_ids_that_no_float_can_hold_are_exact(root, tmp_path):
    assert FIRST != SECOND and float(FIRST) == float(SECOND)  # as floats, these two people are one
    data = load(root)
    assert data.patients() == {str(FIRST), str(SECOND)}
    rows = [{**row, "person_id": f"{row['person_id']}.0"} for row in ROWS["person"]]
    write_table(tmp_path / "person.csv", rows)
    with pytest.raises(DataError, match="no exact whole number") as caught:
        load(tmp_path)
    assert caught.value.where == "person.csv:2" and str(FIRST) not in caught.value.public


def test_ids_of_gaps_that_a_program_made_floats(tmp_path):
    rows = [{**row, "visit_occurrence_id": f"{v}.0" if (v := row["visit_occurrence_id"]) else ""}
            for row in ROWS["measurement"]]  # fmt: skip
    write_files(tmp_path, measurement=rows)
    assert by_id(load(tmp_path))["-5"].value("tabular")[f"{CREATININE} [8840]"] == 1.5


def test_requests_by_record_number_and_visit_number(root):
    data = load(root)
    for typed in (str(FIRST), "0012", "person_source_value|0012"):
        assert resolve(data, ForgetRequest.of("patient", [typed])).forget == (1, 2)
    assert resolve(data, ForgetRequest.of("study", ["CSN1"]), remaining="exclude").forget == (1,)
    assert "12" not in data.aliases["patient"]  # person 12 is somebody else than record number 0012


def test_a_record_number_that_is_another_persons_id_or_two_peoples(tmp_path):
    numbers = (str(THIRD), "M", "M")
    people = [{**row, "person_source_value": number} for row, number in zip(ROWS["person"], numbers, strict=True)]
    write_files(tmp_path, person=people)
    data = load(tmp_path, unit="patient")
    assert data.aliases["patient"] == {f"person_source_value|{THIRD}": str(FIRST)}
    assert any(note.startswith("3 other ids of a patient lead to several") for note in data.notes)


def test_a_note_and_a_visit_of_one_number_stay_apart(root):
    data = load(root, unit="note")
    assert {r.sample_id: (r.study_id, r.patient_id) for r in data} == {
        "note/1": ("-5", str(FIRST)),
        "note/2": ("-5", str(FIRST)),
        "note/7": ("note/7", str(THIRD)),  # visit 7 is another person's
    }
    assert data[0].attributes["NoteDate"] in ("2020-01-01", "2020-03-03")


def test_a_row_that_names_another_persons_visit_is_refused(tmp_path):
    for table, key in (("measurement", "measurement_id"), ("note", "note_id")):
        rows = [*ROWS[table], {**ROWS[table][0], key: 99, "person_id": SECOND}]
        write_files(tmp_path, **{table: rows})
        with pytest.raises(DataError, match="visit of another patient") as caught:
            load(tmp_path)
        assert caught.value.where.startswith(f"{table}.csv:") and str(SECOND) not in caught.value.public
        write_files(tmp_path)


def test_rows_of_unknown_people_are_counted_and_repeated_ones_refused(tmp_path):
    write_files(tmp_path, note=[*ROWS["note"], {**ROWS["note"][0], "person_id": 99, "visit_occurrence_id": ""}])
    assert load(tmp_path).skipped.counts["person_id is not in person"] == 1
    for table in ("person", "visit_occurrence"):
        write_files(tmp_path, **{table: [*ROWS[table], ROWS[table][0]]})
        with pytest.raises(DataError, match="stands on two rows"):
            load(tmp_path)
        write_files(tmp_path)


def test_tables_of_people_that_are_not_read_are_named(root):
    (note,) = [note for note in load(root).notes if "were not read" in note]
    assert note.endswith("were not read: condition_occurrence, death, note_nlp, observation")
    # specimen is empty, care_site is about no person


def test_diagnoses_mean_their_descendants_where_the_vocabulary_is_there(tmp_path):
    write_files(tmp_path)
    wanted = {"heart failure": [HEART_FAILURE]}
    data = load(tmp_path, diagnoses=wanted)
    assert {r.sample_id: r.label for r in data} == {"-5": (0.0,), "7": (0.0,)}
    assert any(note.startswith("no concept_ancestor") for note in data.notes)
    assert "1 conditions belong to no visit: they label no record" in data.notes
    assert data.skipped.examples["no label"] == ("visit_occurrence.csv:3",)  # nothing says that it is healthy
    # As the vocabularies are downloaded: upper case, and separated by tabs.
    write_table(tmp_path / "CONCEPT_ANCESTOR.csv", ANCESTORS, delimiter="\t")
    data = load(tmp_path, diagnoses=wanted)
    assert {r.sample_id: r.label for r in data} == {"-5": (1.0,), "7": (0.0,)}
    whole = load(tmp_path, diagnoses=wanted, unit="patient")
    assert {r.patient_id: r.label for r in whole} == {str(FIRST): (1.0,), str(SECOND): (0.0,)}


def test_chosen_concepts_and_a_label_table(root):
    (root / "y.csv").write_text("mrn,y\n0012,sick\nM2,well\n")
    labels = {"path": root / "y.csv", "id_column": "mrn", "ids": "patient", "label": "y"}
    data = load(root, concepts=[3009261], labels=labels)
    assert {r.sample_id: r.label for r in data} == {"-5": 0, "6": 0, "7": 1}
    assert set(by_id(data)["7"].value("tabular")) == {"birth_year", "gender", "3009261"}


def test_one_table_in_two_files_is_refused_and_a_zipped_twin_is_harmless(root):
    write_table(root / "person.csv.gz", ROWS["person"][:1])
    assert len(load(root)) == 3
    (root / "Person.tsv").write_text("person_id\n")
    with pytest.raises(DataError, match="person is there 2 times"):
        load(root)


def test_wrong_options_are_listed_together(tmp_path):
    labels = {"path": "y.csv", "id_column": "a", "ids": "mrn", "label": "y"}
    with pytest.raises(ConfigError) as caught:
        load_dataset(
            "omop", {"unit": "note", "modalities": ["tabular"], "labels": labels, "diagnoses": {"a": [0], "b": []}}
        )
    assert len(caught.value.problems) == 6


CELLS = st.sampled_from(
    ["", "0", "-1", "1.5", "1e30", "NaN", "x", '"', "é\U0001f600", "\x00", ",", "7", str(FIRST), "9" * 400]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.sampled_from(["person", "visit_occurrence", "note", "measurement", "condition_occurrence"]),
       row=st.integers(0, 2), column=st.integers(0, 22), cell=CELLS,
       unit=st.sampled_from(["note", "visit", "patient"]), cut=st.none() | st.integers(0, 800))  # fmt: skip
def test_any_cell_ends_in_records_or_our_own_error(tmp_path, table, row, column, cell, unit, cut):
    write_files(tmp_path)
    path = tmp_path / f"{table}.csv"
    lines = path.read_text().split("\n")
    cells = lines[row].split(",")
    cells[column % len(cells)] = cell
    lines[row] = ",".join(cells)
    path.write_bytes("\n".join(lines).encode()[:cut])
    try:
        data = load(tmp_path, unit=unit, diagnoses={"a": [HEART_FAILURE]})
    except ForgetMIError:
        return
    for record in data:
        str((record.value("text"), record.value("tabular"))).encode()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    binary=st.sampled_from(["parquet", "sqlite"]), place=st.integers(0, 10**6), put=st.binary(min_size=1, max_size=9)
)
def test_any_bytes_of_a_binary_table_end_in_records_or_our_own_error(tmp_path, binary, place, put):
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    source = write_parquet(root) if binary == "parquet" else write_sqlite(root / "cdm.db")
    path = root / "visit_occurrence.parquet" if binary == "parquet" else source
    before = path.read_bytes()
    at = place % len(before)
    path.write_bytes(before[:at] + put + before[at + len(put) :])
    with contextlib.suppress(ForgetMIError):
        content(load(source))
