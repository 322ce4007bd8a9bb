"""Delimited files: cells as written, the line of every row, whatever way they are read."""

from __future__ import annotations

import csv
import gc
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgetmi import delimited
from forgetmi.delimited import read_delimited
from forgetmi.errors import DataError
from forgetmi.memory import uncollected


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cells_and_lines(tmp_path, name, end):
    rows = ["id,text,more", "1,a,x", '2,"b, c",y', "3,,z"]
    table = read_delimited(write(tmp_path / name, "\ufeff" + end.join(rows) + end))
    assert table.header == ("id", "text", "more")
    assert [tuple(row) for row in table.rows] == [("1", "a", "x"), ("2", "b, c", "y"), ("3", "", "z")]
    assert list(table.lines) == [2, 3, 4]


def test_blank_lines_and_cells_of_several_lines_keep_the_numbers_right(tmp_path):
    path = write(tmp_path / "a.csv", '\n\nid,text\n\n1,"two\nlines"\n\n2,b\n')
    table = read_delimited(path)
    assert [tuple(row) for row in table.rows] == [("1", "two\nlines"), ("2", "b")]
    assert list(table.lines) == [5, 8]


@pytest.mark.parametrize("at", [2, 3, 4, 5, 9])
def test_an_odd_row_in_any_chunk_is_found_and_named(tmp_path, at, monkeypatch):
    monkeypatch.setattr(delimited, "_CHUNK", 3)
    lines = ["id,text", *(f"{n},x" for n in range(2, 10))]
    odd = [*lines[: at - 1], "1,2,3", *lines[at:]]
    with pytest.raises(DataError, match="1 rows of") as caught:
        read_delimited(write(tmp_path / "a.csv", "\n".join(odd)))
    assert caught.value.where == f"a.csv:{at}"
    odd = [*lines[: at - 1], '1,"never closed', *lines[at:]]
    with pytest.raises(DataError, match="cannot be split into cells"):
        read_delimited(write(tmp_path / "a.csv", "\n".join(odd)))
    quoted = [*lines[: at - 1], '1,"a\nb"', *lines[at:]]
    table = read_delimited(write(tmp_path / "a.csv", "\n".join(quoted)))
    assert list(table.lines) == [*range(2, at + 1), *range(at + 2, 11)]


def test_only_the_columns_that_are_kept(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,c\n1,2,3\n4,5,6\n")
    for kept in (["b"], ["c", "a"], ["a", "b", "c"]):
        table = read_delimited(path, keep=lambda header, kept=kept: kept)
        assert table.header == tuple(kept)
        expected = [
            [{"a": "1", "b": "2", "c": "3"}[k] for k in kept],
            [{"a": "4", "b": "5", "c": "6"}[k] for k in kept],
        ]
        assert [list(row) for row in table.rows] == expected


def test_without_a_header_the_first_row_is_a_row(tmp_path):
    table = read_delimited(write(tmp_path / "a.tsv", '\n5\t"x\n6\ty\n'), header=False, quoting=False)
    assert [tuple(row) for row in table.rows] == [("5", '"x'), ("6", "y")] and list(table.lines) == [2, 3]


CELLS = st.text(st.sampled_from('ab ,"\n\r0'), max_size=4)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), max_size=7)))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    width = len(rows[0]) if rows else 2
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([[f"h{n}" for n in range(width)], *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_CHUNK", 2)
        table = read_delimited(path)
    assert [list(row) for row in table.rows] == rows
    assert list(table.lines) == sorted(set(table.lines)) and len(table.lines) == len(rows)


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_as_it_was_afterwards(on):
    (gc.enable if on else gc.disable)()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() is on
        with pytest.raises(KeyError):
            _fail()
        assert gc.isenabled() is on
    finally:
        gc.enable()


@uncollected()
def _fail():
    return {}["nothing"]
