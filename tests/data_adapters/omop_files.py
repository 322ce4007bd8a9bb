"""Tiny OMOP CDM 5.4 tables with their full headers, as files or in SQLite. Nothing in them is a patient's."""

from __future__ import annotations

import csv
import gzip
import io
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEADERS = {
    "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_concept_id,"
    "ethnicity_concept_id,location_id,provider_id,care_site_id,person_source_value,gender_source_value,"
    "gender_source_concept_id,race_source_value,race_source_concept_id,ethnicity_source_value,"
    "ethnicity_source_concept_id",
    "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,"
    "visit_end_date,visit_end_datetime,visit_type_concept_id,provider_id,care_site_id,visit_source_value,"
    "visit_source_concept_id,admitted_from_concept_id,admitted_from_source_value,discharged_to_concept_id,"
    "discharged_to_source_value,preceding_visit_occurrence_id",
    "note": "note_id,person_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_title,note_text,"
    "encoding_concept_id,language_concept_id,provider_id,visit_occurrence_id,visit_detail_id,note_source_value,"
    "note_event_id,note_event_field_concept_id",
    "measurement": "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,"
    "measurement_time,measurement_type_concept_id,operator_concept_id,value_as_number,value_as_concept_id,"
    "unit_concept_id,range_low,range_high,provider_id,visit_occurrence_id,visit_detail_id,measurement_source_value,"
    "measurement_source_concept_id,unit_source_value,unit_source_concept_id,value_source_value,measurement_event_id,"
    "meas_event_field_concept_id",
    "observation": "observation_id,person_id,observation_concept_id,observation_date,observation_datetime,"
    "observation_type_concept_id,value_as_number,value_as_string,value_as_concept_id,qualifier_concept_id,"
    "unit_concept_id,provider_id,visit_occurrence_id,visit_detail_id,observation_source_value,"
    "observation_source_concept_id,unit_source_value,qualifier_source_value,value_source_value,observation_event_id,"
    "obs_event_field_concept_id",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,"
    "condition_start_datetime,condition_end_date,condition_end_datetime,condition_type_concept_id,"
    "condition_status_concept_id,stop_reason,provider_id,visit_occurrence_id,visit_detail_id,condition_source_value,"
    "condition_source_concept_id,condition_status_source_value",
    "death": "person_id,death_date,death_datetime,death_type_concept_id,cause_concept_id,cause_source_value,"
    "cause_source_concept_id",
    "note_nlp": "note_nlp_id,note_id,section_concept_id,snippet,offset,lexical_variant,note_nlp_concept_id,"
    "note_nlp_source_concept_id,nlp_system,nlp_date,nlp_datetime,term_exists,term_temporal,term_modifiers",
    "specimen": "specimen_id,person_id,specimen_concept_id",
    "concept_ancestor": "ancestor_concept_id,descendant_concept_id,min_levels_of_separation,max_levels_of_separation",
    "care_site": "care_site_id,care_site_name,place_of_service_concept_id",
}
# MIMIC's OMOP build hashes its ids: they are negative, and beyond what a float can hold.
FIRST, SECOND, THIRD = -6001002003004005007, -6001002003004005006, 12
CREATININE, HEART_FAILURE, CONGESTIVE = 3016723, 316139, 319835


def _measured(number: int, person: int, visit: Any, when: str, **more: Any) -> dict[str, Any]:
    row = {"measurement_id": number, "person_id": person, "measurement_concept_id": CREATININE,
           "measurement_date": when[:10], "measurement_datetime": when, "visit_occurrence_id": visit}  # fmt: skip
    return {**row, "unit_concept_id": 8840, **more}


def _told(number: int, person: int, visit: Any, when: str, text: str) -> dict[str, Any]:
    return {"note_id": number, "person_id": person, "note_date": when, "note_text": text, "visit_occurrence_id": visit}


ROWS: dict[str, list[dict[str, Any]]] = {
    "person": [
        {"person_id": FIRST, "gender_concept_id": 8532, "year_of_birth": 1950, "race_concept_id": 0,
         "person_source_value": "0012"},
        {"person_id": SECOND, "gender_concept_id": 8507, "year_of_birth": 1961, "person_source_value": "M2"},
        {"person_id": THIRD, "year_of_birth": 1970, "person_source_value": "M3"},
    ],
    "visit_occurrence": [
        {"visit_occurrence_id": -5, "person_id": FIRST, "visit_concept_id": 9201, "visit_start_date": "2020-01-01",
         "care_site_id": 77, "visit_source_value": "CSN1"},
        {"visit_occurrence_id": 6, "person_id": FIRST, "visit_concept_id": 9202, "visit_start_date": "2021-01-01"},
        {"visit_occurrence_id": 7, "person_id": SECOND, "visit_start_date": "2020-05-05"},
    ],
    "note": [
        _told(2, FIRST, -5, "2020-01-02", 'went home,\nquoted "well"'),
        _told(1, FIRST, -5, "2020-01-01", "clear lungs"),
        _told(7, THIRD, "", "2020-03-03", "no fracture"),
    ],
    "measurement": [
        _measured(1, FIRST, -5, "2020-01-03 08:00:00", value_as_number=1.5),
        _measured(2, FIRST, -5, "2020-01-02 08:00:00", value_as_number=0.5),
        _measured(3, FIRST, "", "2020-01-02 08:00:00", value_as_number=9),
        _measured(4, SECOND, 7, "2020-05-05 08:00:00", value_as_number=133, unit_concept_id=0,
                  unit_source_value="umol/L"),
        _measured(5, SECOND, 7, "2020-05-05 08:00:00", measurement_concept_id=0, unit_concept_id="",
                  measurement_source_value="LAB9", value_source_value="FEW"),
        _measured(6, SECOND, 7, "2020-05-05 08:00:00", measurement_concept_id=3009261, unit_concept_id="",
                  value_as_concept_id=9189),
        _measured(7, SECOND, 7, "2020-05-05 08:00:00", measurement_concept_id=0, value_as_number=1),
    ],
    "observation": [
        {"observation_id": 1, "person_id": FIRST, "observation_concept_id": 4275495, "observation_date": "2020-01-01",
         "value_as_string": "never", "visit_occurrence_id": -5},
    ],
    "condition_occurrence": [
        {"condition_occurrence_id": 1, "person_id": FIRST, "condition_concept_id": CONGESTIVE,
         "condition_start_date": "2020-01-01", "visit_occurrence_id": -5},
        {"condition_occurrence_id": 2, "person_id": FIRST, "condition_concept_id": HEART_FAILURE,
         "condition_start_date": "2020-01-01", "visit_occurrence_id": ""},
        {"condition_occurrence_id": 3, "person_id": SECOND, "condition_concept_id": 0,
         "condition_start_date": "2020-05-05", "visit_occurrence_id": 7, "condition_source_value": "X"},
    ],
    "death": [{"person_id": FIRST, "death_date": "2022-01-01"}],
    "note_nlp": [{"note_nlp_id": 1, "note_id": 1, "lexical_variant": "clear"}],
    "specimen": [],
    "care_site": [{"care_site_id": 77, "care_site_name": "North"}],
}  # fmt: skip
ANCESTORS = [
    {"ancestor_concept_id": HEART_FAILURE, "descendant_concept_id": CONGESTIVE},
    {"ancestor_concept_id": HEART_FAILURE, "descendant_concept_id": HEART_FAILURE},
]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    """A table by the name of its file, gzipped where the name says so."""
    names = HEADERS[path.name.partition(".")[0].lower()].split(",")
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, restval="", delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    written = stream.getvalue().encode()
    path.write_bytes(gzip.compress(written, mtime=0) if path.suffix == ".gz" else written)
    return path


def write_files(folder: Path, suffix: str = ".csv", **tables: Sequence[Mapping[str, Any]]) -> Path:
    """The whole CDM; ``tables`` takes the place of tables of those names."""
    for name, rows in {**ROWS, **tables}.items():
        write_table(folder / f"{name}{suffix}", rows)
    return folder


def write_parquet(folder: Path, **tables: Sequence[Mapping[str, Any]]) -> Path:
    """The whole CDM as Parquet, numbers as numbers; ``measurement`` as a folder of parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, rows in {**ROWS, **tables}.items():
        columns = {
            column: [None if row.get(column, "") == "" else row[column] for row in rows]
            for column in HEADERS[name].split(",")
        }
        table = pa.table(columns)
        if name == "measurement":
            (folder / name).mkdir()
            pq.write_table(table.slice(0, 3), folder / name / "part-0.parquet")
            pq.write_table(table.slice(3), folder / name / "part-1.parquet")
        else:
            pq.write_table(table, folder / f"{name}.parquet")
    return folder


def write_sqlite(path: Path, **tables: Sequence[Mapping[str, Any]]) -> Path:
    """The whole CDM in SQLite, ids as integers and dates as text."""
    with sqlite3.connect(path) as connection:
        for name, rows in {**ROWS, **tables}.items():
            columns = HEADERS[name].split(",")
            kinds = {
                f'"{c}"': "BIGINT" if c.endswith("_id") else "DATE" if c.endswith("_date") else "" for c in columns
            }
            declared = ", ".join(f"{column} {kind}" for column, kind in kinds.items())
            connection.execute(f"CREATE TABLE {name} ({declared})")
            cells = [[None if row.get(c, "") == "" else row[c] for c in columns] for row in rows]
            connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", cells)
    connection.close()
    return path
