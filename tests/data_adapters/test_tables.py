"""Tables: ids stay what they are, and whatever is wrong is named with its row."""

from __future__ import annotations

import gzip
import sys

import pandas as pd
import pytest

from forgetmi.data_adapters.tables import places, read_table, require_unique
from forgetmi.errors import DataError, MissingDependencyError

LONG = "123456789012345678901234567890123456"


def test_ids_keep_zeros_and_digits_and_cells_are_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        f'\ufeffid,study,value,text\r\n 0012 ,{LONG},-1.0," a, b"\r\n\r\n0013,NA,,"two\r\nlines"\r\n7,,1,z\r\n'.encode()
    )
    frame = read_table(path, columns=["id", "study"], ids=["id", "study"], optional=["value", "text", "absent"])
    assert list(frame.columns) == ["id", "study", "value", "text"]
    assert frame["id"].tolist() == ["0012", "0013", "7"]
    assert frame["study"].tolist() == [LONG, "NA", ""]
    assert frame["value"].tolist() == ["-1.0", "", "1"]
    assert frame["text"].tolist() == [" a, b", "two\r\nlines", "z"]
    assert places(frame) == ["t.csv:2", "t.csv:4", "t.csv:6"]


@pytest.mark.parametrize("stored", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("asked", ["t.csv", "t.csv.gz"])
def test_gz_and_plain_stand_for_each_other(tmp_path, stored, asked):
    content = b"id\n01\n"
    (tmp_path / stored).write_bytes(gzip.compress(content) if stored.endswith("gz") else content)
    frame = read_table(tmp_path / asked, columns=["id"], ids=["id"])
    assert frame["id"].tolist() == ["01"] and frame.attrs["file"] == stored


def test_tsv(tmp_path):
    (tmp_path / "t.tsv").write_text("id\ttext\n1\ta,b\n")
    assert read_table(tmp_path / "t.tsv", columns=["text"])["text"].tolist() == ["a,b"]


def test_parquet_integers_and_integers_with_gaps(tmp_path):
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"id": [12, 13], "gap": [5e7 + 1, None], "name": ["01", None], "value": [1.5, None]})
    frame.to_parquet(path)
    read = read_table(path, columns=["id", "gap", "name", "value"], ids=["id", "gap", "name"])
    assert read["id"].tolist() == ["12", "13"]
    assert read["gap"].tolist() == ["50000001", ""]
    assert read["name"].tolist() == ["01", ""]
    assert read["value"].tolist() == ["1.5", ""]
    assert places(read) == ["t.parquet:1", "t.parquet:2"]


def test_a_parquet_float_that_lost_digits_is_refused(tmp_path):
    pd.DataFrame({"id": [float(LONG)]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no exact whole number"):
        read_table(tmp_path / "t.parquet", columns=["id"], ids=["id"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    pd.DataFrame({"id": ["1"]}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"forgetmi\[parquet\]"):
        read_table(tmp_path / "t.parquet", columns=["id"])


def _error(path, content, columns=("id",)):
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path, columns=columns, ids=["id"])
    return caught.value


def test_missing_column_with_a_suggestion(tmp_path):
    error = _error(tmp_path / "t.csv", b"id,edeme_severity\n1,2\n", ("id", "edema_severity"))
    assert "Did you mean 'edeme_severity'" in str(error) and "t.csv:1" in str(error)


def test_semicolons_are_recognised(tmp_path):
    assert "semicolons" in str(_error(tmp_path / "t.csv", b"id;label\n1;2\n"))


def test_missing_file_names_both_spellings(tmp_path):
    with pytest.raises(DataError, match=r"t.csv or t.csv.gz"):
        read_table(tmp_path / "t.csv", columns=["id"])


@pytest.mark.parametrize("short", [b"3\n", b"3,4,5\n"])
def test_ragged_rows_are_all_listed(tmp_path, short):
    error = _error(tmp_path / "t.csv", b"id,b\n1,2\n" + short + b"5,6\n" + short)
    assert "2 rows" in error.public
    assert [line.partition(": ")[0] for line in error.private] == ["t.csv:3", "t.csv:5"]


def test_undecodable_text_names_the_row(tmp_path):
    assert "t.csv:3" in str(_error(tmp_path / "t.csv", b"id,b\n1,x\n2,caf\xe9\n"))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"id,b\n", b"id,b\n\n"])
def test_a_file_without_a_row_is_refused(tmp_path, content):
    _error(tmp_path / "t.csv", content)


def test_other_broken_files(tmp_path):
    assert "t.csv:3" in str(_error(tmp_path / "t.csv", b'id,b\n1,2\n"3,4\n5,6\n'))
    assert "two columns" in str(_error(tmp_path / "u.csv", b"id,id\n1,2\n"))
    assert "cannot be read" in str(_error(tmp_path / "v.csv.gz", gzip.compress(b"id\n" + b"1\n" * 5000)[:-9]))
    assert "cannot be read" in str(_error(tmp_path / "w.parquet", b"no parquet"))
    assert "no delimited file" in str(_error(tmp_path / "x.xlsx", b"PK"))


def test_repeated_ids_are_listed_and_blank_ones_are_none(tmp_path):
    (tmp_path / "t.csv").write_text("id,b\n7,1\n8,1\n,1\n7,1\n,1\n")
    with pytest.raises(DataError, match="1 values") as caught:
        require_unique(read_table(tmp_path / "t.csv", columns=["id"]), "id")
    assert caught.value.private == ("7 (t.csv:2)", "7 (t.csv:5)")
    (tmp_path / "t.csv").write_text("id,b\n7,1\n,1\n,1\n")
    require_unique(read_table(tmp_path / "t.csv", columns=["id"]), "id")


def test_a_long_listing_is_cut_and_says_so(tmp_path):
    error = _error(tmp_path / "t.csv", b"id,b\n" + b"1\n" * 130)
    assert len(error.private) == 101 and error.private[-1] == "... and 30 more" and "130 rows" in error.public
