"""What of the settings may be shown."""

from __future__ import annotations

import pytest

from forgetmi.runs.redact import without_folders


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/data/Dr Smith/records.csv", "records.csv"),
        ("/data/Dr Smith/", "Dr Smith"),
        ("Dr Smith/my records.csv", "my records.csv"),
        (r"C:\Users\Dr Smith\records.csv", "records.csv"),
        (r"\\server\share\records.csv", "records.csv"),
        ("~/records.csv", "records.csv"),
        ("records.csv", "records.csv"),
        ("fracture / dislocation", "fracture / dislocation"),
        (0.5, 0.5),
    ],
)
def test_a_path_is_shown_by_its_last_part(given, shown):
    assert without_folders({"data": [given]}) == {"data": [shown]}


def test_what_people_wrote_about_the_case_stays():
    assert without_folders({"case": {"basis": "GDPR 17(1)/(b)"}}) == {"case": {"basis": "GDPR 17(1)/(b)"}}
