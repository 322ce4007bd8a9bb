"""Tiny MIMIC-IV tables with the full headers of the release. Nothing in them is a patient's."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEADERS = {
    "hosp/patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "hosp/admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,"
    "hospital_expire_flag",
    "hosp/labevents": "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,"
    "valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    "hosp/d_labitems": "itemid,label,fluid,category",
    "hosp/provider": "provider_id",
    "hosp/emar": "subject_id,hadm_id,emar_id,emar_seq,poe_id,pharmacy_id,enter_provider_id,charttime,medication,"
    "event_txt,scheduletime,storetime",
    "hosp/diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "icu/icustays": "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    "icu/chartevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,"
    "warning",
    "note/discharge": "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
    "note/radiology": "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
    "ed/edstays": "subject_id,hadm_id,stay_id,intime,outtime,gender,race,arrival_transport,disposition",
    "ed/triage": "subject_id,stay_id,temperature,heartrate,resprate,o2sat,sbp,dbp,pain,acuity,chiefcomplaint",
}
# 1 has two admissions, 2 one, 3 none but a note and labs outside of any.
ROWS: dict[str, list[dict[str, Any]]] = {
    "hosp/patients": [
        {"subject_id": 10000001, "gender": "F", "anchor_age": 52},
        {"subject_id": 10000002, "gender": "M", "anchor_age": 71},
        {"subject_id": 10000003, "gender": "F", "anchor_age": 33},
    ],
    "hosp/admissions": [
        {"subject_id": 10000001, "hadm_id": 21, "admittime": "2150-01-01 10:00:00", "hospital_expire_flag": 0,
         "race": "WHITE"},
        {"subject_id": 10000001, "hadm_id": 22, "admittime": "2151-01-01 10:00:00", "hospital_expire_flag": 1},
        {"subject_id": 10000002, "hadm_id": 23, "admittime": "2140-01-01 10:00:00", "hospital_expire_flag": 0},
    ],
    "hosp/labevents": [
        {"labevent_id": 1, "subject_id": 10000001, "hadm_id": 21, "itemid": 50912, "charttime": "2150-01-02 08:00:00",
         "value": "1.5", "valuenum": 1.5, "valueuom": "mg/dL"},
        {"labevent_id": 2, "subject_id": 10000001, "hadm_id": 21, "itemid": 50912, "charttime": "2150-01-01 12:00:00",
         "value": "0.5", "valuenum": 0.5, "valueuom": "mg/dL"},
        {"labevent_id": 3, "subject_id": 10000001, "hadm_id": "", "itemid": 50912, "charttime": "2149-01-01 12:00:00",
         "value": "9", "valuenum": 9, "valueuom": "mg/dL"},
        {"labevent_id": 4, "subject_id": 10000002, "hadm_id": 23, "itemid": 50912, "charttime": "2140-01-01 12:00:00",
         "value": "133", "valuenum": 133, "valueuom": "umol/L"},
        {"labevent_id": 5, "subject_id": 10000002, "hadm_id": 23, "itemid": 51463, "charttime": "2140-01-01 12:00:00",
         "value": "FEW"},
        {"labevent_id": 6, "subject_id": 10000003, "hadm_id": "", "itemid": 50912, "charttime": "2139-01-01 12:00:00",
         "value": "1", "valuenum": 1, "valueuom": "mg/dL"},
    ],
    "hosp/d_labitems": [{"itemid": 50912, "label": "Creatinine"}],
    "hosp/provider": [{"provider_id": "P1"}],
    "hosp/emar": [{"subject_id": 10000001, "hadm_id": 21, "emar_id": "e"}],
    "hosp/diagnoses_icd": [
        {"subject_id": 10000001, "hadm_id": 21, "seq_num": 1, "icd_code": "I5022", "icd_version": 10},
        {"subject_id": 10000001, "hadm_id": 22, "seq_num": 1, "icd_code": "4280", "icd_version": 10},
        {"subject_id": 10000002, "hadm_id": 23, "seq_num": 1, "icd_code": "4280", "icd_version": 9},
    ],
    "icu/icustays": [
        {"subject_id": 10000001, "hadm_id": 21, "stay_id": 31, "first_careunit": "MICU",
         "intime": "2150-01-01 11:00:00"},
    ],
    "icu/chartevents": [
        {"subject_id": 10000001, "hadm_id": 21, "stay_id": 31, "charttime": "2150-01-01 12:00:00", "itemid": 220045,
         "value": "80", "valuenum": 80, "valueuom": "bpm"},
        {"subject_id": 10000001, "hadm_id": 21, "stay_id": 31, "charttime": "2150-01-01 13:00:00", "itemid": 220045,
         "value": "100", "valuenum": 100, "valueuom": "bpm"},
    ],
    "note/discharge": [
        {"note_id": "10000001-DS-21", "subject_id": 10000001, "hadm_id": 21, "note_type": "DS",
         "charttime": "2150-01-09 00:00:00", "text": "went home,\nquoted \"well\""},
    ],
    "note/radiology": [
        {"note_id": "10000001-RR-14", "subject_id": 10000001, "hadm_id": 21, "note_type": "RR",
         "charttime": "2150-01-01 11:00:00", "text": "clear lungs"},
        {"note_id": "10000003-RR-15", "subject_id": 10000003, "hadm_id": "", "note_type": "RR",
         "charttime": "2139-01-01 11:00:00", "text": "no fracture"},
    ],
    "ed/edstays": [
        {"subject_id": 10000001, "hadm_id": 21, "stay_id": 41, "intime": "2150-01-01 07:00:00",
         "arrival_transport": "AMBULANCE"},
        {"subject_id": 10000003, "hadm_id": "", "stay_id": 42, "intime": "2139-01-01 10:00:00",
         "arrival_transport": "WALK IN"},
    ],
    "ed/triage": [
        {"subject_id": 10000001, "stay_id": 41, "temperature": 98.6, "heartrate": 90, "acuity": 2,
         "chiefcomplaint": "Dyspnea"},
        {"subject_id": 10000003, "stay_id": 42, "heartrate": 60, "chiefcomplaint": "Fall"},
    ],
}  # fmt: skip


def write_table(root: Path, table: str, rows: Sequence[Mapping[str, Any]], *, gz: bool = True) -> Path:
    """A table with its full header; ids and cells as the release writes them."""
    path = root / f"{table}.csv{'.gz' if gz else ''}"
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if gz else open
    with opener(path, "wt", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, HEADERS[table].split(","), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_release(root: Path, *, gz: bool = True, **changes: Sequence[Mapping[str, Any]]) -> Path:
    """All tables; ``changes`` replaces rows by the table's last name (``labevents=[...]``)."""
    for table, rows in ROWS.items():
        write_table(root, table, changes.get(table.split("/")[1], rows), gz=gz)
    return root
