"""Manifests: what a table that a hospital writes becomes, and what is said when it is wrong."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError
from forgetmi.requests import ForgetRequest, resolve

COLUMNS = {
    "sample_id": "image_id",
    "study_id": "exam",
    "patient_id": "mrn",
    "institution": "site",
    "label": "finding",
    "split": "fold",
}
MODALITIES = {"image": {"column": "file", "kind": "image"}, "report": {"column": "text", "kind": "text"}}
HEADER = "image_id,exam,mrn,site,finding,fold,file,text"
ROWS = [
    "i3,e2,0002,north,effusion,val,img/3.png,small effusion",
    "i1,e1,0001,north,normal,train,img/1.png,clear",
    'i2,e1,0001,north,normal,TRAIN,img/2.png,"two, lines"',
    "i4,e3,0003,south,normal,Test,,no film",
    "i5,e4,0004,south,effusion,training,img/5.png, ",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for number in (1, 2, 3, 5):
        Image.fromarray(np.full((4, 4), 51 * number, np.uint8)).save(tmp_path / "img" / f"{number}.png")
    return tmp_path


def _load(folder, rows=ROWS, header=HEADER, name="m.csv", **options):
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return load_dataset("manifest", {"path": folder / name, "columns": COLUMNS, "modalities": MODALITIES} | options)


def test_records(folder):
    data = _load(folder)
    assert [r.sample_id for r in data] == ["i1", "i2", "i3", "i4", "i5"]
    assert [r.patient_id for r in data] == ["0001", "0001", "0002", "0003", "0004"]
    assert [r.split for r in data] == ["train", "train", "validation", "test", "train"]
    assert data.classes == ("effusion", "normal")
    assert [r.label for r in data] == [1, 1, 0, 1, 0]
    assert data.levels == ("institution", "patient", "study", "sample", "modality")
    assert data.modality_kinds == {"image": "image", "report": "text"}
    np.testing.assert_allclose(data[2].value("image"), np.full((4, 4), 0.6), rtol=1e-6)
    assert data[1].value("report") == "two, lines"
    assert data[3].value("image") is None and data[4].value("report") is None
    assert data.skipped.total == 0 and data.notes == ()


def test_parquet_and_tsv_and_gz_give_the_same_records(folder):
    csv = _load(folder)
    frame = pd.read_csv(folder / "m.csv", dtype=str)
    frame.to_parquet(folder / "m.parquet")
    frame.to_csv(folder / "m.tsv", sep="\t", index=False)
    frame.to_csv(folder / "n.csv.gz", index=False)
    for name in ("m.parquet", "m.tsv", "n.csv"):
        other = load_dataset("manifest", {"path": folder / name, "columns": COLUMNS, "modalities": MODALITIES})
        assert list(other) == list(csv)


def test_a_read_only_folder_is_enough_and_nothing_is_written(folder):
    data = _load(folder)
    before = sorted(os.walk(folder))
    folder.chmod(0o555)
    try:
        load_dataset("manifest", {"path": str(folder / "m.csv"), "columns": COLUMNS, "modalities": MODALITIES})
        data[0].value("image")
    finally:
        folder.chmod(0o755)
    assert sorted(os.walk(folder)) == before


def test_rows_without_an_id_or_label_are_counted_with_their_place(folder):
    data = _load(
        folder, [*ROWS, "i6,e6,,south,normal,train,,x", "i7,e7,0007,south,,train,,x", ",e8,8,s,normal,train,,x"]
    )
    assert len(data) == 5
    assert data.skipped.counts == {"column 'mrn' is blank": 1, "no label": 1, "column 'image_id' is blank": 1}
    assert data.skipped.examples["no label"] == ("m.csv:8",)


def test_missing_images_are_all_listed_or_skipped(folder):
    (folder / "img" / "2.png").unlink()
    (folder / "img" / "5.png").unlink()
    with pytest.raises(DataError, match=r"2 of 4 files of modality 'image'") as caught:
        _load(folder)
    assert [line.partition(": ")[0] for line in caught.value.private] == ["m.csv:4", "m.csv:6"]
    data = _load(folder, on_missing_file="skip")
    assert {r.sample_id for r in data} == {"i1", "i3", "i4"}
    assert data.skipped.counts == {"file of modality 'image' is missing": 2}


def test_a_wrong_root_is_said_once_and_never_skipped(folder):
    with pytest.raises(DataError, match="none of the 4"):
        _load(folder, root=folder / "elsewhere", on_missing_file="skip")


def test_text_files(folder):
    (folder / "a.txt").write_text("clear lungs")
    modalities = {"note": {"column": "text", "kind": "text_file"}}
    data = _load(folder, ["i1,e1,1,n,a,train,,a.txt", "i2,e2,2,n,b,train,,"], modalities=modalities)
    assert data[0].value("note") == "clear lungs" and data[1].value("note") is None
    assert data.modality_kinds == {"note": "text"}


class TestLabels:
    def _labels(self, folder, cells, **options):
        rows = [f"i{i},e{i},p{i},s,{cell},train,,x" for i, cell in enumerate(cells)]
        data = _load(folder, rows, **options)
        return [r.label for r in data], data.classes

    def test_numbers_are_sorted_as_numbers(self, folder):
        assert self._labels(folder, ["10", "9", "2.0"]) == ([2, 1, 0], ("2", "9", "10"))

    def test_class_names_or_their_indices(self, folder):
        options = {"classes": ["normal", "mild", "severe"], "label_kind": "ordinal"}
        assert self._labels(folder, ["severe", "0", "2", "mild"], **options)[0] == [2, 0, 2, 1]

    @pytest.mark.parametrize("cell", ["3", "-1", "1.5", "sever"])
    def test_out_of_range_or_unknown(self, folder, cell):
        with pytest.raises(DataError, match="one of normal, mild, severe, or 0 to 2") as caught:
            self._labels(folder, ["0", cell, "1", cell], classes=["normal", "mild", "severe"], label_kind="ordinal")
        assert caught.value.private == (f"m.csv:3: {cell!r}", f"m.csv:5: {cell!r}")

    def test_classes_that_are_numbers_are_not_taken_for_indices(self, folder):
        assert self._labels(folder, ["1", "2"], classes=["2", "1"])[0] == [1, 0]

    @pytest.mark.parametrize(
        ("uncertain", "blank", "expected"),
        [
            ("unknown", "unknown", [(1, 0), (None, 1), (0, None)]),
            ("zero", "unknown", [(1, 0), (0, 1), (0, None)]),
            ("one", "zero", [(1, 0), (1, 1), (0, 0)]),
        ],
    )
    def test_multilabel_policies(self, folder, uncertain, blank, expected):
        rows = ["i1,e,p,s,1.0,train,0,x", "i2,e,p,s,-1,train,1,x", "i3,e,p,s,0,train,,x"]
        data = _load(
            folder,
            rows,
            columns=COLUMNS | {"label": ["finding", "file"]},
            modalities={"report": MODALITIES["report"]},
            label_kind="multilabel",
            uncertain=uncertain,
            blank=blank,
        )
        assert [r.label for r in data] == expected and data.classes == ("finding", "file")

    def test_multilabel_rows_without_any_known_label_are_counted_and_other_numbers_refused(self, folder):
        options = {"columns": COLUMNS | {"label": ["finding"]}, "label_kind": "multilabel"}
        labels, _ = self._labels(folder, ["1", "-1.0", ""], **options)
        assert labels == [(1.0,)]
        with pytest.raises(DataError, match="cannot be used") as caught:
            self._labels(folder, ["1", "2", "yes"], **options)
        assert caught.value.private == ("m.csv:3: '2'", "m.csv:4: 'yes'")

    def test_no_labels(self, folder):
        columns = {k: v for k, v in COLUMNS.items() if k != "label"}
        assert self._labels(folder, ["", "x"], columns=columns, label_kind="none") == ([None, None], ())


class TestErrors:
    def test_missing_column(self, folder):
        with pytest.raises(DataError, match="Did you mean 'finding'"):
            _load(folder, columns=COLUMNS | {"label": "findings"})

    def test_repeated_sample_ids(self, folder):
        with pytest.raises(DataError) as caught:
            _load(folder, [*ROWS, ROWS[0]])
        assert caught.value.private == ("i3 (m.csv:2)", "i3 (m.csv:7)")

    def test_unknown_split(self, folder):
        with pytest.raises(DataError, match="'fold'") as caught:
            _load(folder, [*ROWS, "i6,e6,6,s,normal,holdout,,x", "i7,e6,6,s,normal,,,x"])
        assert caught.value.private == ("m.csv:7: 'holdout'", "m.csv:8: ''")

    def test_a_patient_in_two_splits(self, folder):
        with pytest.raises(DataError, match="more than one split"):
            _load(folder, [*ROWS, "i6,e6,0001,s,normal,test,,x"])

    def test_all_option_errors_at_once(self, folder):
        with pytest.raises(ConfigError) as caught:
            _load(folder, label_kind="ordinal", split={"validation": 0.1, "test": 0.1, "seed": 0}, modalities={})
        assert len(caught.value.problems) == 3

    @pytest.mark.parametrize(
        "options",
        [
            {"columns": COLUMNS | {"patient": "mrn"}},
            {"modalities": {"image": {"column": "file", "kind": "picture"}}},
            {"modalities": {"image": {"column": "file", "kind": "image", "chanels": 1}}},
            {"on_missing_file": "ignore"},
            {"label_kind": "multiclas"},
            {"classes": ["a", "a"]},
        ],
    )
    def test_wrong_options(self, folder, options):
        with pytest.raises(ConfigError):
            _load(folder, **options)


class TestSplitsAndLevels:
    def test_drawn_by_patient(self, folder):
        rows = [f"i{i},e{i},p{i // 2},s,normal,,,x" for i in range(20)]
        columns = {k: v for k, v in COLUMNS.items() if k != "split"}
        shares = {"validation": 0.2, "test": 0.3, "seed": 1}
        data = _load(folder, rows, columns=columns, split=shares)
        patients = {
            split: {r.patient_id for r in data if r.split == split} for split in ("train", "validation", "test")
        }
        assert {split: len(found) for split, found in patients.items()} == {"train": 5, "validation": 2, "test": 3}
        assert list(_load(folder, rows[::-1], columns=columns, split=shares)) == list(data)

    def test_only_sample_ids(self, folder):
        columns = {k: v for k, v in COLUMNS.items() if k in ("sample_id", "label", "split")}
        data = _load(folder, columns=columns)
        assert data.levels == ("sample", "modality")
        assert data[0].patient_id == data[0].study_id == "i1" and data[0].institution == ""
        assert "each sample is taken for a patient" in data.notes[0]

    def test_a_patient_id_at_two_institutions_is_noted(self, folder):
        data = _load(folder, [*ROWS, "i6,e9,0001,south,normal,train,,x"])
        assert data.notes[0].startswith("1 patient ids occur at another institution")

    def test_a_request_resolves(self, folder):
        partition = resolve(_load(folder), ForgetRequest.of("patient", ["0001"]))
        assert len(partition.forget) == 2 and len(partition.retain) == 1


def test_attributes_are_kept_as_written_and_blanks_say_nothing(folder):
    header = f"{HEADER},sex,age"
    rows = [f"{row},{said}" for row, said in zip(ROWS, ["F,71", " M ,", "M,40", ",", "F,8"], strict=True)]
    data = _load(folder, rows, header, attributes=["sex", "age"])
    found = {r.sample_id: dict(r.attributes) for r in data}
    assert found["i3"] == {"sex": "F", "age": "71"}
    assert found["i1"] == {"sex": "M"}
    assert found["i4"] == {}
    with pytest.raises(DataError, match="ethnicity"):
        _load(folder, rows, header, attributes=["ethnicity"])
    assert all(not r.attributes for r in _load(folder))
