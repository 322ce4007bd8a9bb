"""Other ids of a person or a study, as part of a dataset."""

from __future__ import annotations

import pytest

from forgetmi.errors import DataError
from forgetmi.records import Record, RecordDataset


def dataset(aliases=None, patients=("p1", "p2")):
    records = [Record(f"s{p}", f"st{p}", p, "", {}, 0, "train") for p in patients]
    return RecordDataset(records, name="made", levels=("patient", "study"), aliases=aliases)


def test_aliases_are_kept_and_copied_to_other_records_of_the_same_source():
    given = {"patient": {"MRN1": "p1", "gone": "p9"}, "study": {"A1": "stp1"}}
    made = dataset(given)
    assert made.aliases == given
    assert made.with_records(made[:1]).aliases == given
    given["patient"]["MRN2"] = "p2"
    assert "MRN2" not in made.aliases["patient"]
    assert dataset().aliases == {}


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"sample": {"x": "sp1"}}, "level 'sample'"),
        ({"patient": {"p2": "p1"}}, "id of a different patient"),  # p2 is somebody else here
        ({"patient": {"a": "b", "b": "p1"}}, "lead to another alias"),
        ({"study": {"stp2": "stp1"}}, "id of a different study"),
    ],
)
def test_an_alias_that_could_mean_two_things_is_refused(aliases, message):
    with pytest.raises(DataError, match=message) as caught:
        dataset(aliases)
    assert "p2" not in caught.value.public
