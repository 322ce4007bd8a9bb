"""MIMIC-CXR on a made-up release of nine films in the true layout."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.mimic_cxr import FINDINGS, SEVERITIES, MimicCxr, read_forget_mi_request
from forgetmi.errors import ConfigError, DataError, RequestError
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters import mimic_files as made_up
from tests.data_adapters.mimic_files import FILMS, dicom_id

EDEMA = FINDINGS.index("Edema")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    made_up.write_tables(folder)
    made_up.write_images(folder)
    made_up.write_reports(folder)
    return folder


def _load(root, **options):
    return load_dataset("mimic_cxr", {"root": root, "labels": "none"} | options)


def _path(root, number):
    subject, study = next((su, st) for su, st, n, *_ in FILMS if n == number)
    return root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom_id(number)}.jpg"


def test_every_film_is_a_record_with_its_split_image_and_text(root):
    data = _load(root)
    assert [r.sample_id for r in data] == [dicom_id(n) for n in range(1, 10)]
    assert [r.patient_id for r in data] == [film[0] for film in FILMS]
    assert [r.study_id for r in data] == [film[1] for film in FILMS]
    assert [r.split for r in data] == ["train"] * 5 + ["validation"] * 2 + ["test"] * 2
    assert data.levels == ("patient", "study", "sample", "modality", "section")
    assert "PhysioNet" in data.license_note
    for number, record in enumerate(data, start=1):
        np.testing.assert_allclose(record.value("image"), np.full((8, 8), 20 * number / 255), atol=2 / 255)
    assert data[1].value("text") == "The lungs are clear. The heart is of normal size.\nNo acute process."
    assert data[0].value("text") == data[1].value("text")
    assert data.skipped.total == 0


def test_a_missing_report_is_a_missing_modality_and_noted(root):
    data = _load(root)
    assert data[4].modalities["text"] is None
    assert data[6].modalities["text"] is not None and data[6].value("text") is None  # nothing usable in the file
    assert data.notes == ("1 of 7 studies have no report: their text is missing",)


def test_csv_and_csv_gz_are_alike_and_the_root_may_be_read_only(root, tmp_path):
    other = tmp_path / "plain"
    other.mkdir()
    made_up.write_tables(other, gz=False)
    before = sorted(os.walk(root))
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o555)
    try:
        zipped = _load(root, labels="chexpert", blank="zero")
        plain = _load(root, labels="chexpert", blank="zero", tables_root=other)
        zipped[0].value("image")
    finally:
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o755)
    key = [(r.sample_id, r.label, r.split) for r in zipped]
    assert key == [(r.sample_id, r.label, r.split) for r in plain]
    assert sorted(os.walk(root)) == before


def test_a_separate_reports_root(root, tmp_path):
    reports = tmp_path / "reports"
    made_up.write_reports(reports)
    for path in (root / "files").rglob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match="no report") as caught:
        _load(root)
    assert "reports_root" in caught.value.fix
    assert _load(root, reports_root=reports)[2].value("text") == "Mild edema."
    assert _load(root, modalities=["image"]).modality_kinds == {"image": "image"}


class TestLabels:
    def test_all_findings_of_a_study_on_each_of_its_films(self, root):
        data = _load(root, labels="chexpert")
        assert data.classes == FINDINGS
        labels = {r.sample_id: r.label for r in data}
        assert labels[dicom_id(1)] == labels[dicom_id(2)]
        assert [labels[dicom_id(n)][EDEMA] for n in (1, 3, 4)] == [0.0, 1.0, None]
        # study 50000004 mentions nothing; study 50000006 has no row: both are counted, not dropped silently
        assert data.skipped.counts == {"label unknown, or study not in the label file": 2}
        assert data.skipped.examples["label unknown, or study not in the label file"] == (
            "mimic-cxr-2.0.0-split.csv.gz:6",
            "mimic-cxr-2.0.0-split.csv.gz:8",
        )

    @pytest.mark.parametrize(
        ("uncertain", "blank", "expected"),
        [
            ("unknown", "unknown", {1: 0, 2: 0, 3: 1, 6: 0, 8: 1, 9: 1}),
            ("one", "unknown", {1: 0, 2: 0, 3: 1, 4: 1, 6: 0, 8: 1, 9: 1}),
            ("zero", "zero", {1: 0, 2: 0, 3: 1, 4: 0, 5: 0, 6: 0, 8: 1, 9: 1}),
        ],
    )
    def test_one_finding_under_each_policy(self, root, uncertain, blank, expected):
        data = _load(root, labels="negbio", target="Edema", uncertain=uncertain, blank=blank)
        assert data.classes == ("Edema: no", "Edema: yes")
        assert {r.sample_id: r.label for r in data} == {dicom_id(n): label for n, label in expected.items()}

    def test_a_value_out_of_range_names_its_row(self, root):
        table = root / "mimic-cxr-2.0.0-chexpert.csv"
        (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
        made_up.write_csv(table, ["study_id,Edema", "50000001,1.0", "50000002,2.0"], gz=False)
        with pytest.raises(DataError) as caught:
            _load(root, labels="chexpert", target="Edema")
        assert caught.value.private == ("mimic-cxr-2.0.0-chexpert.csv:3: '2.0'",)
        with pytest.raises(DataError, match="has no column 'Atelectasis'"):
            _load(root, labels="chexpert")

    def test_repeated_studies_in_the_label_file(self, root):
        (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
        made_up.write_csv(root / "mimic-cxr-2.0.0-chexpert.csv", ["study_id,Edema", "5,1", "5,0"], gz=False)
        with pytest.raises(DataError, match="more than once"):
            _load(root, labels="chexpert", target="Edema")


class TestViews:
    def test_only_those_asked_for_and_the_rest_is_counted(self, root):
        data = _load(root, views=["AP", "PA", ""])
        assert [r.sample_id for r in data] == [dicom_id(n) for n in (1, 3, 4, 5, 6, 8)]
        assert data.skipped.counts == {"view not asked for": 3}

    def test_images_without_a_view_go_when_only_named_views_are_asked_for(self, root):
        assert dicom_id(4) not in {r.sample_id for r in _load(root, views=["AP", "PA"])}

    def test_a_view_that_no_image_has(self, root):
        with pytest.raises(DataError, match="no image has a view"):
            _load(root, views=["ap"])


class TestForgetMi:
    @pytest.mark.parametrize("spelling", ["edeme_severity", "edema_severity"])
    def test_the_published_split_with_both_spellings(self, root, tmp_path, spelling):
        split = made_up.write_forget_mi(tmp_path, spelling)
        data = _load(root, labels="edema", forget_mi_split=split)
        assert data.classes == SEVERITIES
        assert [r.label for r in data] == [int(film[6]) for film in FILMS]
        assert [r.split for r in data] == ["train"] * 5 + ["validation"] * 2 + ["test"] * 2

    def test_validation_folds(self, root, tmp_path):
        split = made_up.write_forget_mi(tmp_path)
        data = _load(root, labels="edema", forget_mi_split=split, validation_folds=[2])
        assert [r.split for r in data][3:7] == ["validation", "validation", "train", "train"]
        assert {r.split for r in _load(root, forget_mi_split=split, validation_folds=[])} == {"train", "test"}

    def test_it_needs_no_other_table(self, root, tmp_path):
        split = made_up.write_forget_mi(tmp_path)
        for path in root.glob("*.gz"):
            path.unlink()
        assert len(_load(root, labels="edema", forget_mi_split=split)) == 9

    @pytest.mark.parametrize(("old", "new", "column"), [(",0,1", ",4,1", "edema_severity"), (",TEST", ",6", "fold")])
    def test_a_severity_or_a_fold_out_of_range(self, root, tmp_path, old, new, column):
        split = made_up.write_forget_mi(tmp_path)
        split.write_text(split.read_text().replace(old, new))
        with pytest.raises(DataError, match=f"2 cells of column '{column}'") as caught:
            _load(root, labels="edema", forget_mi_split=split)
        assert caught.value.private[0].startswith("split.csv:")

    def test_neither_spelling(self, root, tmp_path):
        split = made_up.write_forget_mi(tmp_path, "severity")
        with pytest.raises(DataError, match="no column 'edema_severity'"):
            _load(root, labels="edema", forget_mi_split=split)
        assert len(_load(root, forget_mi_split=split)) == 9

    @pytest.mark.parametrize(
        "row", ["{study}\t{text}", "dev-1\t2\t{study}\ta\t{text}", "0\t1\t{study}\t{text}"], ids=["two", "five", "four"]
    )
    def test_all_data_tsv(self, root, tmp_path, row):
        path = tmp_path / "all_data.tsv"
        path.write_text(
            row.format(study="50000001", text='a "quoted text') + "\n" + row.format(study="50000003", text="b") + "\n"
        )
        data = _load(root, text_tsv=path)
        assert data[0].value("text") == 'a "quoted text' and data[3].value("text") == "b"
        assert data[2].value("text") is None
        assert data.notes == ("5 of 7 studies have no report: their text is missing",)

    def test_all_data_with_two_texts_for_a_study_or_too_few_columns(self, root, tmp_path):
        path = tmp_path / "all_data.tsv"
        path.write_text("50000001\ta\n50000001\tb\n")
        with pytest.raises(DataError, match="two different texts") as caught:
            _load(root, text_tsv=path)
        assert "all_data.tsv:2" in caught.value.public and "50000001" not in caught.value.public
        path.write_text("a\tb\tc\n")
        with pytest.raises(DataError, match="3 columns"):
            _load(root, text_tsv=path)

    def test_a_published_forget_set_resolves_to_all_records_of_its_subjects(self, root, tmp_path):
        split = made_up.write_forget_mi(tmp_path)
        path = tmp_path / "forget_set_3per.csv"
        lines = split.read_text().splitlines()
        path.write_text("\n".join([lines[0].replace("edeme", "edema"), *lines[1:4]]) + "\n")
        request = read_forget_mi_request(path)
        assert (request.level, request.ids, request.duplicates) == ("patient", ("10000001",), 2)
        partition = resolve(_load(root, labels="edema", forget_mi_split=split), request)
        assert partition.counts()["forget"] == {"patients": 1, "studies": 2, "samples": 3}
        assert partition.counts()["retain"] == {"patients": 1, "studies": 2, "samples": 2}

    def test_a_file_that_is_no_forget_set(self, tmp_path):
        path = tmp_path / "f.csv"
        path.write_text("study_id\n1\n")
        with pytest.raises(RequestError, match="subject_id"):
            read_forget_mi_request(path)


class TestFiles:
    def test_missing_images_are_listed_or_skipped_and_counted(self, root):
        _path(root, 2).unlink()
        _path(root, 8).unlink()
        with pytest.raises(DataError, match="2 of 9 images are missing") as caught:
            _load(root)
        assert caught.value.private[0].startswith("mimic-cxr-2.0.0-split.csv.gz:3: ")
        assert "10000001" not in caught.value.public
        data = _load(root, on_missing_file="skip")
        assert len(data) == 7 and data.skipped.counts == {"image file is missing": 2}

    def test_a_truncated_image_is_named_when_it_is_read(self, root):
        path = _path(root, 1)
        path.write_bytes(path.read_bytes()[:-60])
        data = _load(root)
        with pytest.raises(DataError, match="truncated") as caught:
            data[0].value("image")
        assert str(path) in caught.value.private[0]

    def test_auto_takes_the_dicom_where_there_is_no_jpg(self, root):
        _path(root, 1).rename(_path(root, 1).with_suffix(".dcm"))
        assert _load(root)[0].modalities["image"].path.endswith(".dcm")
        with pytest.raises(DataError, match="1 of 9"):
            _load(root, image_format="jpg")
        with pytest.raises(DataError, match="8 of 9"):
            _load(root, image_format="dicom")

    def test_the_wrong_root(self, root):
        with pytest.raises(DataError, match="no folder 'files'") as caught:
            _load(root / "files", tables_root=root)
        assert "not `files` itself" in caught.value.fix

    def test_a_dicom_release_without_tables_says_where_they_are(self, root):
        (root / "mimic-cxr-2.0.0-split.csv.gz").unlink()
        with pytest.raises(DataError, match=r"mimic-cxr-2.0.0-split.csv") as caught:
            _load(root)
        assert "tables_root" in caught.value.fix

    def test_values_can_be_sent_to_workers(self, root):
        record = pickle.loads(pickle.dumps(_load(root)[0]))
        assert record.value("text").endswith("No acute process.")


class TestTables:
    def _split(self, root, rows):
        (root / "mimic-cxr-2.0.0-split.csv.gz").unlink()
        made_up.write_csv(root / "mimic-cxr-2.0.0-split.csv", ["dicom_id,study_id,subject_id,split", *rows], gz=False)

    def test_repeated_films(self, root):
        self._split(root, ["a,5,1,train", "b,5,1,train", "a,5,1,train"])
        with pytest.raises(DataError) as caught:
            _load(root)
        assert caught.value.private == ("a (mimic-cxr-2.0.0-split.csv:2)", "a (mimic-cxr-2.0.0-split.csv:4)")

    def test_a_study_of_two_subjects(self, root):
        self._split(root, ["a,5,1,train", "b,5,2,train"])
        with pytest.raises(DataError, match="'study_id'") as caught:
            _load(root)
        assert caught.value.private == ("mimic-cxr-2.0.0-split.csv:3: '5'",)

    def test_an_unknown_split_and_a_blank_id(self, root):
        self._split(root, ["a,5,1,holdout"])
        with pytest.raises(DataError, match=r"mimic-cxr-2.0.0-split.csv:2: 'holdout'"):
            _load(root)
        rows = [f"{dicom_id(n)},{st},{su},{split}" for su, st, n, _, split, *_ in FILMS]
        made_up.write_csv(
            root / "mimic-cxr-2.0.0-split.csv", ["dicom_id,study_id,subject_id,split", *rows, "x,5,,train"], gz=False
        )
        assert _load(root).skipped.counts == {"an id is blank": 1}

    def test_a_subject_in_two_splits(self, root):
        rows = [f"{dicom_id(n)},{st},{su},{'test' if n == 3 else split}" for su, st, n, _, split, *_ in FILMS]
        self._split(root, rows)
        with pytest.raises(DataError, match="more than one split"):
            _load(root)


def test_all_option_errors_at_once(root):
    with pytest.raises(ConfigError) as caught:
        MimicCxr(root=root, labels="edema", target="edema", modalities=(), validation_folds=(6,))
    assert len(caught.value.problems) == 5
    assert "Did you mean 'Edema'" in str(caught.value)
    with pytest.raises(ConfigError, match="Did you mean 'reports_root'"):
        load_dataset("mimic_cxr", {"root": root, "report_root": root})


def test_study_requests_and_one_modality(root):
    data = _load(root)
    with pytest.raises(RequestError, match="both sides"):
        resolve(data, ForgetRequest.of("study", ["50000002"]))
    partition = resolve(
        data, ForgetRequest.of("modality", ["10000002"], ["text"], id_level="patient"), remaining="exclude"
    )
    assert len(partition.forget) == 1 and len(partition.excluded) == 1  # one of the two studies has no report


def test_metadata_in_another_order_with_gaps_and_rows_of_no_image(tmp_path):
    made_up.write_tables(tmp_path, gz=False)
    made_up.write_images(tmp_path)
    path = tmp_path / "mimic-cxr-2.0.0-metadata.csv"
    header, first, *others = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(others), *[",10000001,50000001,x,AP,1"] * 2]) + "\n")
    options = {"root": tmp_path, "modalities": ["image"], "labels": "none", "attributes": ["ViewPosition"]}
    found = {r.sample_id: r.attributes.get("ViewPosition", "") for r in load_dataset("mimic_cxr", options)}
    missing = first.partition(",")[0]
    assert found == {dicom_id(n): "" if dicom_id(n) == missing else view for _, _, n, view, *_ in FILMS}
