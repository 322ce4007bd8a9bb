"""Tables with several rows a patient, on tiny files of NAFLD's true format (as R writes them)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.manifest import Manifest
from forgetmi.errors import ConfigError, DataError, ForgetMIError
from forgetmi.modalities.tabular import TabularModality
from forgetmi.settings import absolute_paths, read_settings

NAFLD1 = """\
"rownames","id","age","male","weight","height","bmi","case.id","futime","status"
3631,1,57,0,60,163,22.69,10630,6261,0
8458,2,67,0,70.4,168,24.88,14817,624,0
6298,3,53,1,NA,NA,NA,3,1783,1
15398,4,56,1,109.1,NA,NA,6628,3143,0
"""
NAFLD2 = """\
"rownames","id","days","test","value"
135077,1,-459,"hdl",75
313143,1,183,"hdl",64
8,1,-100,"hdl",54
9,1,-100,"chol",181
10,2,-5,"fib4",1.25
11,2,0,"smoke",0
12,3,30,"hdl",40
13,99,1,"hdl",1
"""
NAFLD3 = """\
"rownames","id","days","event"
1,1,-300,"htn"
2,1,-200,"htn"
3,1,4000,"diabetes"
4,4,-1,"htn"
"""


@pytest.fixture
def root(tmp_path):
    for number, words in enumerate((NAFLD1, NAFLD2, NAFLD3), start=1):
        (tmp_path / f"nafld{number}.csv").write_text(words)
    return tmp_path


def options(root, **modalities):
    return {
        "path": root / "nafld1.csv",
        "columns": {"sample_id": "id", "patient_id": "id", "label": "status"},
        "classes": ["alive", "dead"],
        "split": {"validation": 0.25, "test": 0.25, "seed": 0},
        "modalities": modalities,
    }


def labs(root, **more):
    return {"path": root / "nafld2.csv", "id_column": "id", "name": "test", "value": "value", "time": "days", **more}


def load(root, **modalities):
    return load_dataset("manifest", options(root, **modalities))


def rows(data, name="row"):
    return {r.patient_id: r.value(name) for r in data}


def read(root, **more):
    return rows(load(root, row={"kind": "tabular", "longitudinal": labs(root, **more)}))


def test_columns_of_the_manifest_and_the_last_value_of_each_test(root):
    row = {"kind": "tabular", "columns": ["age", "male", "bmi"], "longitudinal": labs(root)}
    data = load(root, row=row)
    assert data.modality_kinds == {"row": "tabular"} and data.levels == ("patient", "sample", "modality")
    assert rows(data) == {
        "1": {"age": "57", "male": "0", "bmi": "22.69", "chol": 181.0, "hdl": 64.0},  # of day 183, not the file's last
        "2": {"age": "67", "male": "0", "bmi": "24.88", "fib4": 1.25, "smoke": 0.0},
        "3": {"age": "53", "male": "1", "hdl": 40.0},  # NA is missing
        "4": {"age": "56", "male": "1"},
    }
    assert "1 of 8 rows of nafld2.csv are about nobody in the manifest" in data.notes
    assert {r.patient_id: r.label for r in data} == {"1": 0, "2": 0, "3": 1, "4": 0}
    assert TabularModality.fit([r.value("row") for r in data]).features > 0


def test_nothing_after_the_index_day_counts(root):
    data = load(root, row={"kind": "tabular", "longitudinal": labs(root, until=0)})
    assert rows(data) == {
        "1": {"chol": 181.0, "hdl": 54.0},
        "2": {"fib4": 1.25, "smoke": 0.0},  # day 0 itself counts
        "3": None,  # its one value came later
        "4": None,
    }
    assert "2 values of nafld2.csv are later than the records' times: they do not count" in data.notes


@pytest.mark.parametrize(
    ("how", "value"), [("last", 64.0), ("first", 75.0), ("mean", 193 / 3), ("min", 54.0), ("max", 75.0), ("count", 3.0)]
)
def test_what_several_values_become(root, how, value):
    assert read(root, aggregate=[how], names=["hdl"])["1"] == {"hdl": pytest.approx(value)}


def test_several_aggregates_are_several_columns(root):
    found = read(root, aggregate=["last", "mean"], names=["hdl"], until=0)["1"]
    assert found == {"hdl (last)": 54.0, "hdl (mean)": 64.5}


def test_events_are_counted(root):
    events = {"path": root / "nafld3.csv", "id_column": "id", "name": "event", "time": "days", "until": 0}
    data = load(root, past={"kind": "tabular", "longitudinal": {**events, "aggregate": ["count"]}})
    assert rows(data, "past") == {"1": {"htn": 2.0}, "2": None, "3": None, "4": {"htn": 1.0}}


def test_wide_tables_and_dates_and_a_limit_for_each_record(tmp_path):
    (tmp_path / "m.csv").write_text("exam,mrn,day,y\ne1,007,2020-02-01,a\ne2,007,2021-01-01,a\ne3,008,2020-01-01,b\n")
    (tmp_path / "visits.tsv").write_text(
        "mrn\tdate\tbili\tstage\n007\t2020-06-01\t2\tIII\n007\t2020-01-31T23:00:00Z\t1\tII\n"
        "008\t2020-01-01\t\tI\n7\t2020-01-01\t9\tI\n"
    )
    table = {"path": tmp_path / "visits.tsv", "id_column": "mrn", "values": ["bili", "stage"], "time": "date"}
    data = load_dataset(
        "manifest",
        {
            "path": tmp_path / "m.csv",
            "columns": {"sample_id": "exam", "patient_id": "mrn", "label": "y"},
            "split": {"validation": 0, "test": 0, "seed": 0},
            "modalities": {"row": {"kind": "tabular", "longitudinal": {**table, "until_column": "day"}}},
        },
    )
    assert {r.sample_id: r.value("row") for r in data} == {
        "e1": {"bili": 1.0, "stage": "II"},
        "e2": {"bili": 2.0, "stage": "III"},
        "e3": {"stage": "I"},
    }
    assert "1 of 4 rows of visits.tsv are about nobody in the manifest" in data.notes  # 7 is not 007
    assert data.skipped.total == 0


def test_rows_that_cannot_be_used_are_counted(root):
    more = '1,5,"",1\n1,x,hdl,2\n1,,hdl,3\n,5,hdl,4\n1,5,hdl,NA\n1,5,hdl,high\n1,5,hdl,inf\n'
    (root / "nafld2.csv").write_text('"id","days","test","value"\n1,4,hdl,10\n' + more)
    data = load(root, row={"kind": "tabular", "longitudinal": labs(root, aggregate=["mean"])})
    assert rows(data)["1"] == {"hdl": 10.0}
    assert data.skipped.examples == {
        "column 'test' is blank": ("nafld2.csv:3",),
        "column 'days' is no number and no date": ("nafld2.csv:4", "nafld2.csv:5"),
        "column 'id' is blank": ("nafld2.csv:6",),
        "column 'value' holds no value": ("nafld2.csv:7",),
        "mean need numbers": ("nafld2.csv:8", "nafld2.csv:9"),
    }
    words = load(root, row={"kind": "tabular", "longitudinal": labs(root)})
    assert rows(words)["1"] == {"hdl": "inf"}  # the last of that day in the file's order, as a word


def test_ids_that_match_nothing_and_clocks_that_differ(root):
    (root / "nafld2.csv").write_text('"id","days","test","value"\n01,1,hdl,5\n')
    with pytest.raises(DataError, match=r"none of the 1 rows of nafld2\.csv is about a patient"):
        read(root)
    (root / "nafld2.csv").write_text('"id","days","test","value"\n1,1,hdl,5\n1,2020-01-01,hdl,5\n')
    with pytest.raises(DataError, match=r"some times of nafld2\.csv"):
        read(root)
    (root / "nafld2.csv").write_text('"id","days","test","value"\n1,1,hdl,5\n')
    with pytest.raises(DataError, match=r"some times of nafld2\.csv"):
        read(root, until="2020-01-01")
    with pytest.raises(DataError, match="has no column 'sex'"):
        read(root, until_column="sex")
    with pytest.raises(DataError, match="2 cells of column 'height' are no number") as caught:
        read(root, until_column="height")
    assert caught.value.where == "nafld1.csv:4"


def test_one_name_for_a_column_and_a_measurement_is_refused(root):
    (root / "nafld2.csv").write_text('"id","days","test","value"\n1,1,age,5\n')
    with pytest.raises(DataError, match="column of the manifest too: age"):
        load(root, row={"kind": "tabular", "columns": ["age"], "longitudinal": labs(root)})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"kind": "tabular"}, "needs columns"),
        ({"kind": "tabular", "column": "age"}, "needs columns"),
        ({"kind": "text"}, "needs column"),
        ({"kind": "text", "column": "age", "columns": ["age"]}, "are for kind tabular"),
        ({"kind": "text", "column": "age", "channels": 1}, "are for kind image"),
    ],
)
def test_settings_that_do_not_fit_the_kind(root, given, problem):
    with pytest.raises(ConfigError, match=problem):
        load(root, row=given)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"name": "test", "value": "v", "values": ["a"], "time": "days"}, 2),
        ({"time": "days"}, 1),
        ({"values": ["a"], "value": "b", "aggregate": []}, 2),
        ({"name": "test"}, 2),
        ({"name": "test", "value": "v", "aggregate": ["mean", "mean"], "until": "soon", "until_column": "x"}, 4),
    ],
)
def test_wrong_settings_of_the_table(root, given, count):
    with pytest.raises(ConfigError) as caught:
        load(root, row={"kind": "tabular", "longitudinal": {"path": "n.csv", "id_column": "id", **given}})
    assert len(caught.value.problems) == count


def test_its_path_is_relative_to_the_settings(root):
    lines = [
        "data:",
        "  adapter: manifest",
        "  path: nafld1.csv",
        "  columns: {sample_id: id, label: status}",
        "  split: {validation: 0.25, test: 0.25, seed: 0}",
        "  modalities:",
        "    row:",
        "      kind: tabular",
        "      longitudinal: {path: nafld2.csv, id_column: id, ids: sample, name: test, value: value, time: days}",
    ]
    (root / "run.yaml").write_text("\n".join(lines) + "\n")
    found = read_settings(root / "run.yaml")
    given = {name: value for name, value in found.values["data"].items() if name != "adapter"}
    data = load_dataset("manifest", absolute_paths(Manifest, given, "data", found))
    assert rows(data)["1"]["hdl"] == 64.0


CELLS = st.sampled_from(["", "0", "-1", "1e400", "NaN", "nan", "x", '"', "é", "\x00", "2020-01-01", "9" * 400, "NA"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(0, 7),
    column=st.integers(0, 4),
    cell=CELLS,
    cut=st.none() | st.integers(0, 200),
    how=st.sampled_from([["last"], ["mean", "count"], ["min", "first"]]),
)
def test_any_cell_ends_in_records_or_our_own_error(root, row, column, cell, cut, how):
    lines = [line.split(",") for line in NAFLD2.split("\n")]
    lines[row][column] = cell
    (root / "nafld2.csv").write_bytes("\n".join(map(",".join, lines)).encode()[:cut])
    try:
        found = read(root, aggregate=how)
    except ForgetMIError:
        return
    TabularModality.fit([{"age": "1"}, *(values for values in found.values() if values)])
