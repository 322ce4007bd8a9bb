"""Groups of records: known names, bands of age, and nothing that would name a person."""

from __future__ import annotations

import numpy as np
import pytest

from forgetmi.records import Record, RecordDataset
from forgetmi.runs.groups import MOST_VALUES, age_band, groups_of


def dataset(n=40, label=lambda i: i % 3, classes=("none", "mild", "severe"), **attributes):
    records = [
        Record(
            sample_id=f"s{i:03d}",
            study_id=f"t{i:03d}",
            patient_id=f"p{i:03d}",
            institution="A" if i < 15 else "B",
            modalities={},
            label=label(i),
            split="train",
            attributes={name: make(i) for name, make in attributes.items()},
        )
        for i in range(n)
    ]
    return RecordDataset(records, name="made up", levels=["patient"], classes=classes)


@pytest.mark.parametrize(
    ("text", "band"),
    [("045Y", "40 to 64"), ("67", "65 to 79"), ("67.0", "65 to 79"), ("300", "80 and more"), ("006M", "0 to 17"),
     ("17", "0 to 17"), ("18", "18 to 39"), ("80", "80 and more"), ("old", ""), ("", "")],
)  # fmt: skip
def test_ages_become_bands(text, band):
    assert age_band(text) == band


def test_site_label_and_attributes_make_groups_in_the_order_of_the_records():
    found = groups_of(
        dataset(
            PatientSex=lambda i: "F" if i % 2 else "M", PatientAge=lambda i: f"{20 + i:03d}Y", Projection=lambda i: ""
        )
    )
    assert set(found) == {"site", "label", "sex", "age"}  # a blank attribute says nothing
    assert found["site"].tolist() == ["A"] * 15 + ["B"] * 25
    assert found["label"][:4].tolist() == ["none", "mild", "severe", "none"]
    assert found["sex"][:2].tolist() == ["M", "F"]
    assert set(found["age"]) == {"18 to 39", "40 to 64"}


def test_what_would_name_people_makes_no_group(caplog):
    caplog.set_level("INFO", logger="forgetmi")
    found = groups_of(dataset(StudyDate=lambda i: f"202601{i:02d}", Device=lambda i: "one"))
    assert "StudyDate" not in found
    assert "Device" not in found  # one value for all
    assert "StudyDate (40 values)" in caplog.text
    assert "20260101" not in caplog.text
    assert all(len(np.unique(values)) <= MOST_VALUES for values in found.values())


def test_several_findings_are_one_group():
    def findings(i):
        return [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (None, 1.0)][i % 4]

    found = groups_of(dataset(label=findings, classes=("edema", "fracture")))
    assert found["label"][:4].tolist() == ["none", "edema", "several", "fracture"]
