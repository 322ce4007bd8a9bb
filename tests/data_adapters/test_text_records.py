"""Texts and dialogues of one's own: tables with columns, folders whose paths say whose they are, and pieces."""

from __future__ import annotations

import datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.text_files import pieces
from forgetmi.errors import ConfigError, DataError, RequestError
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.values import LazyValue
from tests.data_adapters import text_sets
from tests.data_adapters.test_contract import content
from tests.data_adapters.text_sets import COLUMNS, NOTES, forget

TEXT = {**COLUMNS, "text": "words"}
ASKED = {**COLUMNS, "prompt": "asked", "answer": "words"}


def load(path, columns=TEXT, **options):
    return load_dataset("text_records", {"path": path, "columns": columns} | options)


def test_a_table_of_notes(tmp_path):
    data = load(text_sets.write_lines(tmp_path / "notes.jsonl", NOTES), attributes=["note_date", "visit"])
    assert [(r.institution, r.patient_id, r.study_id, r.sample_id, r.split) for r in data] == [
        ("north", "0012", "v1", "n1", "train"),
        ("north", "0012", "v2", "n2", "train"),
        ("south", "0013", "v3", "n3", "train"),
        ("south", "0014", "v4", "n4", "test"),
    ]
    assert data[0].modalities == {"text": "Lungs clear."} and data.modality_kinds == {"text": "text"}
    assert data[0].attributes == {"note_date": "2020-01-02", "visit": "v1"} and "note_date" not in data[2].attributes
    assert data.levels == ("institution", "patient", "study", "sample") and not data.skipped.total
    partition = resolve(data, ForgetRequest.of("patient", ["0012"]))
    assert [data[i].sample_id for i in partition.forget] == ["n1", "n2"]
    found = forget(data, "patient", remaining="exclude", institution="south")
    assert found == (["n3"], ["n1", "n2"])


def test_a_table_of_dialogues(tmp_path):
    data = load(text_sets.write_lines(tmp_path / "notes.jsonl", NOTES), ASKED)
    assert data[1].modalities == {"dialogue": {"prompt": "Node?", "answer": "A small node."}}
    assert data.modality_kinds == {"dialogue": "dialogue"}


def test_other_answers_where_there_are_some(tmp_path):
    notes = [{**NOTES[0], "made_up": "No node."}, {**NOTES[1], "made_up": " "}, *NOTES[2:]]
    data = load(text_sets.write_lines(tmp_path / "notes.jsonl", notes), {**ASKED, "alternate": "made_up"})
    without = load(text_sets.write_lines(tmp_path / "plain.jsonl", NOTES), ASKED)
    assert len(data) == len(without) > 1
    assert [data[i].value("dialogue").get("alternate") for i in range(len(data))] == [
        "No node.",
        *[None] * (len(data) - 1),
    ]


@pytest.mark.parametrize("form", ["list", "csv", "tsv", "parquet"])
def test_every_form_gives_the_same_records(form, tmp_path):
    expected = content(load(text_sets.write_lines(tmp_path / "notes.jsonl", NOTES), attributes=["note_date"]))
    frame = pd.DataFrame(NOTES)
    path = tmp_path / ("notes.json" if form == "list" else f"other.{form}")
    if form == "list":
        text_sets.write_list(path, NOTES)
    elif form == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    assert content(load(path, attributes=["note_date"])) == expected


def test_numbers_and_dates(tmp_path):
    """An id is what the file spells; dates of Parquet are dates to a query."""
    rows = [
        {"mrn": n, "when": datetime.date(2020 + n, 1, 2), "beds": 1.5, "ok": n == 1, "words": "a b"} for n in (1, 2, 3)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "n.parquet")
    data = load(tmp_path / "n.parquet", {"patient_id": "mrn", "text": "words"}, attributes=["when", "beds", "ok"])
    assert [(r.patient_id, r.sample_id) for r in data] == [("1", "0000001"), ("2", "0000002"), ("3", "0000003")]
    assert data[0].attributes == {"when": "2021-01-02", "beds": "1.5", "ok": "true"}
    columns = {"patient_id": "beds", "text": "words"}
    with pytest.raises(DataError, match="3 values of 'beds'") as caught:
        load(tmp_path / "n.parquet", columns)
    assert "whole number" in str(caught.value)
    with pytest.raises(DataError, match="1 values of 'x'"):
        load(
            text_sets.write_lines(tmp_path / "x.jsonl", [{"words": "a", "x": [1]}]), {"text": "words"}, attributes=["x"]
        )


def test_without_ids_each_text_is_taken_for_a_patient(tmp_path):
    data = load(text_sets.write_lines(tmp_path / "notes.jsonl", NOTES), {"text": "words"})
    assert data.levels == ("sample",) and len(data.patients()) == 4
    assert data.notes == ("no patient ids: each sample is taken for a patient, so one person may stand on both sides",)
    with pytest.raises(RequestError, match="cannot support a request at level patient"):
        resolve(data, ForgetRequest.of("patient", ["0012"]))
    data = load(tmp_path / "notes.jsonl", {"text": "words", "patient_id": "mrn", "institution": "site"})
    assert data.levels == ("institution", "patient", "sample")


def test_rows_that_make_no_record_are_counted(tmp_path):
    rows = [*NOTES, {**NOTES[0], "note": "n5", "words": " "}, {**NOTES[0], "note": "n6", "mrn": ""}, {"fold": "train"}]
    data = load(text_sets.write_lines(tmp_path / "notes.jsonl", rows))
    assert dict(data.skipped.counts) == {
        "column 'words' is blank": 1, "column 'mrn' is blank": 1, "column 'site' is blank": 1,
    }  # fmt: skip
    assert data.skipped.examples["column 'mrn' is blank"] == ("notes.jsonl:6",)


def test_what_is_wrong_with_a_table(tmp_path):
    def loaded(*rows, columns=TEXT):
        return load(text_sets.write_lines(tmp_path / "notes.jsonl", [*NOTES, *rows]), columns)

    with pytest.raises(DataError, match=r"1 values of 'note' in texts .* occur more than once") as caught:
        loaded({**NOTES[3], "words": "another"})
    assert caught.value.where == "notes.jsonl:5" and "notes.jsonl:5: n4" in str(caught.value)
    with pytest.raises(DataError, match="1 values of 'fold'"):
        loaded({**NOTES[3], "note": "n5", "fold": "held out"})
    with pytest.raises(DataError, match=r"1 patients .* more than one split"):
        loaded({**NOTES[0], "note": "n5", "fold": "test"})
    with pytest.raises(DataError, match=r"no row of texts .* has 'word'. Did you mean 'words'"):
        loaded(columns={**TEXT, "text": "word"})
    pd.DataFrame(NOTES).to_csv(tmp_path / "n.csv", index=False)
    with pytest.raises(DataError, match=r"has no column 'word'. Did you mean 'words'"):
        load(tmp_path / "n.csv", {"text": "word"})
    (tmp_path / "notes.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="no table of texts"):
        load(tmp_path / "notes.xlsx")
    with pytest.raises(DataError, match=r"there is no file gone.jsonl"):
        load(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "give columns .* or layout"),
        ({"columns": {"text": "a"}, "layout": "{patient}.txt"}, "not both"),
        ({"columns": {"prompt": "a"}}, "give text, or prompt and answer; got prompt"),
        ({"columns": {"text": "a", "answer": "b"}}, "got answer, text"),
        ({"columns": {"patient_id": "a"}}, "got none"),
        ({"columns": {"text": "a", "alternate": "b"}}, "beside prompt and answer"),
        ({"columns": {"text": "a", "patient": "b"}}, "patient"),
        ({"columns": {"prompt": "a", "answer": "b"}, "chunk_words": 3}, "are not cut"),
        ({"columns": {"text": "a"}, "chunk_words": -1}, "at least 1, not -1"),
        ({"layout": "{person}/{sample}.txt"}, "Did you mean|is unknown"),
        ({"layout": "{patient}/{patient}.txt"}, "at most once"),
        ({"layout": "notes.txt"}, "expected a path"),
        ({"layout": "{patient}.md"}, "expected a path"),
        ({"layout": "{study}.txt"}, "needs a {patient}"),
        ({"layout": "{patient}.txt", "attributes": ["a"]}, "a folder has none"),
    ],
)
def test_options_that_do_not_fit(options, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        load_dataset("text_records", {"path": tmp_path} | options)


def folder(root, layout, **options):
    return load_dataset("text_records", {"path": root, "layout": layout} | options)


def test_a_folder_of_letters(tmp_path):
    root = text_sets.write_notes_folder(tmp_path / "letters")
    data = folder(root, "{split}/{patient}/{sample}.txt")
    assert [(r.patient_id, r.sample_id, r.split) for r in data] == [
        ("0012", "train/0012/n1", "train"),
        ("0012", "train/0012/n2", "train"),
        ("0013", "train/0013/n3", "train"),
        ("0014", "test/0014/n4", "test"),
    ]
    assert all(isinstance(r.modalities["text"], LazyValue) for r in data) and data[0].value("text") == "Lungs clear."
    assert data.levels == ("patient", "sample")
    (root / "train" / "index.csv").write_text("a,b\n")
    (root / "train" / "0013" / "empty.txt").write_text("")
    (root / "train" / "0013" / "blank.txt").write_text(" \n")
    data = folder(root, "{split}/{patient}/{sample}.txt")
    assert dict(data.skipped.counts) == {"the path does not fit the layout": 1, "the file is empty": 1}
    assert next(r for r in data if r.sample_id.endswith("blank")).value("text") is None
    data = folder(root, "{split}/{patient}/{sample}.txt", chunk_words=2)
    assert data.skipped.counts["the file holds no word"] == 1 and data.levels == ("patient", "study", "sample")


def test_studies_of_a_folder_belong_to_their_patient(tmp_path):
    for name in ("p1_s1_a", "p1_s1_b", "p2_s1_a"):
        (tmp_path / f"{name}.txt").write_text(name)
    data = folder(tmp_path, "{patient}_{study}_{sample}.txt")
    assert [r.study_id for r in data] == ["p1/s1", "p1/s1", "p2/s1"]
    partition = resolve(data, ForgetRequest.of("study", ["p1/s1"]))
    assert [data[i].value("text") for i in partition.forget] == ["p1_s1_a", "p1_s1_b"]


def test_what_is_wrong_with_a_folder(tmp_path):
    root = text_sets.write_notes_folder(tmp_path / "letters")
    with pytest.raises(DataError, match="names no split") as caught:
        folder(root, "{patient}/{split}/{sample}.txt")
    assert "test/0014/n4" in str(caught.value) and "0014" not in caught.value.public
    with pytest.raises(DataError, match="holds no record"):
        folder(root, "{patient}.txt")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none holds no file"):
        folder(tmp_path / "none", "{patient}.txt")
    with pytest.raises(DataError, match="cannot be read"):
        folder(tmp_path / "gone", "{patient}.txt")
    (root / "train" / "0012" / "n1.txt").write_bytes(b"\xff\xfe")
    data = folder(root, "{split}/{patient}/{sample}.txt")
    with pytest.raises(DataError, match="cannot be decoded"):
        data[0].value("text")


@given(st.text(alphabet="ab \n\t\u3000.", min_size=1).filter(str.strip), st.integers(1, 5))
def test_pieces_make_the_text_again(text, words):
    found = list(pieces("d", text, words))
    assert "".join(piece for _, piece in found) == text
    counts = [len(piece.split()) for _, piece in found]
    assert all(n == words for n in counts[:-1]) and 1 <= counts[-1] <= words
    assert [name for name, _ in found] == sorted({name for name, _ in found})
    assert list(pieces("d", text, None)) == [("d", text)]


def test_pieces_keep_the_ids_of_their_text(tmp_path):
    data = load(text_sets.write_lines(tmp_path / "notes.jsonl", NOTES), attributes=["note_date"], chunk_words=2)
    assert [(r.sample_id, r.study_id, r.value("text")) for r in data][:3] == [
        ("n1#0000", "v1", "Lungs clear."),
        ("n2#0000", "v2", "A small "),
        ("n2#0001", "v2", "node."),
    ]
    assert data[2].attributes == {"note_date": "2021-03-04"}
