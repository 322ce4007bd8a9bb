"""Folders of DICOM files: every trap of hospital exports, on tiny files and on those that pydicom brings."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings

import numpy as np
import pydicom.data
import pytest
from pydicom.uid import JPEGLSLossless

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError, MissingDependencyError
from tests.data_adapters.dicom_files import BASE, item, ramp, slices, write_dicom

REAL = os.path.join(os.path.dirname(pydicom.data.__file__), "test_files")


def load(root, **options):
    return load_dataset("dicom", {"root": root, **options})


def only_value(root, **options):
    (record,) = load(root, **options)
    return record.value(options.get("unit", "image"))


def test_any_name_any_depth_and_what_is_no_image_is_counted(tmp_path):
    write_dicom(tmp_path / "IM000001", ramp(), sop="1", StudyDate="20200102")
    write_dicom(tmp_path / "a" / "b" / "c.dcm", ramp(), sop="2")
    write_dicom(tmp_path / "a" / "report", None, sop="3", Modality="SR")
    write_dicom(tmp_path / "DICOMDIR", ramp(), sop="4")
    write_dicom(tmp_path / "index", ramp(), sop="5", SOPClassUID="1.2.840.10008.1.3.10")
    write_dicom(tmp_path / "nobody", ramp(), sop="6", PatientID="")
    (tmp_path / "readme.txt").write_text("no DICOM")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\x00\xff")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    data = load(tmp_path)
    assert [r.sample_id for r in data] == [f"{BASE}.3.1", f"{BASE}.3.2"]
    assert data[0].attributes == {"Modality": "CT", "StudyDate": "20200102"}
    assert data.skipped.counts["no image (Modality SR)"] == 1
    assert data.skipped.counts["DICOMDIR (an index, no image)"] == 2
    assert data.skipped.counts["PatientID is blank"] == 1
    assert data.skipped.counts["no DICOM file (no DICM at byte 128)"] == 2
    assert data.skipped.counts["no regular file"] == 1
    assert data.skipped.total == 8
    assert ("cut",) in data.skipped.examples.values()


def test_without_preamble_only_when_forced(tmp_path):
    write_dicom(tmp_path / "with", ramp(), sop="1")
    write_dicom(tmp_path / "without", ramp(), sop="2", preamble=False)
    data = load(tmp_path)
    assert len(data) == 1 and data.skipped.examples == {"no DICOM file (no DICM at byte 128)": ("without",)}
    assert len(load(tmp_path, force=True)) == 2


def test_the_patient_is_the_pair_of_id_and_issuer(tmp_path):
    write_dicom(tmp_path / "1", ramp(), patient="0012", sop="1", IssuerOfPatientID="NORTH")
    write_dicom(tmp_path / "2", ramp(), patient="0012", sop="2", study="2", IssuerOfPatientID="SOUTH")
    write_dicom(tmp_path / "3", ramp(), patient="7", sop="3", study="3", IssuerOfPatientID="SOUTH")
    write_dicom(tmp_path / "4", ramp(), patient="12", sop="4", study="4")
    data = load(tmp_path)
    assert data.patients() == {"0012^^^NORTH", "0012^^^SOUTH", "7^^^SOUTH", "12"}
    assert data.aliases["patient"] == {"7": "7^^^SOUTH"}  # "0012" alone could be either
    assert any(note.startswith("1 PatientIDs occur under several issuers") for note in data.notes)


def test_other_ids_are_aliases_unless_they_are_somebody_else(tmp_path):
    write_dicom(tmp_path / "1", ramp(), patient="1", sop="1", OtherPatientIDs=["OLD1", "2"])
    write_dicom(tmp_path / "2", ramp(), patient="2", sop="2", study="2")
    sequence = item(PatientID="OLD3", IssuerOfPatientID="NORTH")
    write_dicom(tmp_path / "3", ramp(), patient="3", sop="3", study="3", OtherPatientIDsSequence=sequence)
    data = load(tmp_path)
    assert data.aliases["patient"] == {"OLD1": "1", "OLD3^^^NORTH": "3"}
    assert any(note.startswith("1 OtherPatientIDs are another patient's id") for note in data.notes)


def test_accession_numbers_lead_to_one_study_or_to_none(tmp_path):
    for i, (study, accession) in enumerate([("1", "A1"), ("2", "A2"), ("3", "A2"), ("4", "")]):
        write_dicom(tmp_path / str(i), ramp(), study=study, sop=str(i), AccessionNumber=accession)
    data = load(tmp_path)
    assert data.aliases["study"] == {"A1": f"{BASE}.1.1"}
    assert any(note.startswith("1 AccessionNumbers stand on several studies") for note in data.notes)


def test_one_image_under_two_patients_is_refused_and_a_copy_is_counted(tmp_path):
    write_dicom(tmp_path / "1", ramp(), patient="1", sop="1")
    write_dicom(tmp_path / "copy", ramp(), patient="1", sop="1")
    data = load(tmp_path)
    assert len(data) == 1
    assert data.skipped.examples == {"copy of another file (same SOPInstanceUID)": ("copy",)}
    write_dicom(tmp_path / "wrong", ramp(), patient="2", sop="1")
    with pytest.raises(DataError, match="under another patient") as caught:
        load(tmp_path)
    assert caught.value.private == ("1, wrong",)


def test_headers_that_name_people_are_counted_for_the_report(tmp_path):
    write_dicom(tmp_path / "1", ramp(), sop="1", PatientIdentityRemoved="YES", BurnedInAnnotation="NO")
    assert load(tmp_path).notes == ()
    write_dicom(tmp_path / "2", ramp(), sop="2", BurnedInAnnotation="YES", PatientName="Made^Up")
    write_dicom(tmp_path / "3", ramp(), sop="3", PatientIdentityRemoved="NO")
    notes = " ".join(load(tmp_path).notes)
    assert "2 of 3 DICOM files do not say PatientIdentityRemoved" in notes
    assert "1 DICOM files say BurnedInAnnotation = YES" in notes
    assert "Made" not in notes


def test_warnings_of_the_reader_name_nobody(tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dicom(tmp_path / "1", ramp(), StudyDate="secret name", InstanceNumber="3", patient="7" * 90)
    caplog.clear()  # the writer's own
    with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        (record,) = load(tmp_path)
        record.value("image")
    assert not seen and not caplog.records
    assert record.patient_id == "7" * 90


def test_institution_is_a_level_only_where_every_file_names_it(tmp_path):
    write_dicom(tmp_path / "1", ramp(), sop="1", InstitutionName="North")
    data = load(tmp_path)
    assert "institution" in data.levels and data[0].institution == "North"
    write_dicom(tmp_path / "2", ramp(), sop="2")
    data = load(tmp_path)
    assert "institution" not in data.levels and data[0].institution == ""


def test_pixels_sixteen_bits_rescale_window_and_monochrome1(tmp_path):
    write_dicom(tmp_path / "16" / "1", ramp(65520))
    np.testing.assert_allclose(only_value(tmp_path / "16"), ramp(65520) / 65535, atol=1e-6)
    # HU = 2 * stored - 10; window 6 wide around 5: (x - 4.5) / 5 + 0.5 (PS3.3 C.11.2.1.2)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -10, "WindowCenter": 5, "WindowWidth": 6}
    write_dicom(tmp_path / "window" / "1", ramp(), **tags)
    hounsfield = 2.0 * ramp() - 10
    expected = np.clip((hounsfield - 4.5) / 5 + 0.5, 0, 1)
    np.testing.assert_allclose(only_value(tmp_path / "window"), expected, atol=1e-5)
    write_dicom(tmp_path / "inverted" / "1", ramp(), PhotometricInterpretation="MONOCHROME1", **tags)
    np.testing.assert_allclose(only_value(tmp_path / "inverted"), 1 - expected, atol=1e-5)
    for name, wanted in (("window", expected), ("inverted", 1 - expected)):
        np.testing.assert_allclose(only_value(tmp_path / name, unit="volume"), wanted[None], atol=1e-5)


def test_frames_become_records_of_their_own(tmp_path):
    frames = np.stack([ramp(), ramp(100), ramp(200)]).astype(np.uint8)
    write_dicom(tmp_path / "cine", frames)
    data = load(tmp_path)
    assert [r.sample_id for r in data] == [f"{BASE}.3.1#{n}" for n in (1, 2, 3)]
    for record, frame in zip(data, frames, strict=True):
        np.testing.assert_allclose(record.value("image"), frame / 255, atol=1e-6)
    write_dicom(tmp_path / "single", ramp(), sop="2")
    data = load(tmp_path, frames="skip")
    assert len(data) == 1 and data.skipped.examples == {"several frames": ("cine",)}
    assert load(tmp_path, unit="volume").skipped.total == 0


def test_slices_are_ordered_by_position_not_by_number_or_name(tmp_path):
    slices(tmp_path, [30, 10, 20, 0])
    data = load(tmp_path, unit="volume")
    (record,) = data
    assert record.sample_id == f"{BASE}.2.5" and data.modality_kinds == {"volume": "volume"}
    volume = record.value("volume")
    assert volume.shape == (4, 4, 4)
    np.testing.assert_allclose(volume[:, 0, 0] * 65535, [0, 10, 20, 30], atol=0.01)
    assert not [note for note in data.notes if "series" in note]


def test_a_folder_of_mixed_series_is_grouped_first(tmp_path):
    slices(tmp_path, [0, 10, 20], series="5")
    slices(tmp_path, [5, 15], series="6")
    volumes = {r.sample_id: r.value("volume") for r in load(tmp_path, unit="volume")}
    assert {uid: v.shape[0] for uid, v in volumes.items()} == {f"{BASE}.2.5": 3, f"{BASE}.2.6": 2}
    np.testing.assert_allclose(volumes[f"{BASE}.2.6"][:, 0, 0] * 65535, [5, 15], atol=0.01)


def test_series_that_make_no_volume_are_counted_file_by_file(tmp_path):
    slices(tmp_path, [0, 10], series="1")
    slices(tmp_path, [0, 0], series="2")  # two time points
    slices(tmp_path, [0, 10], series="3", ImagePositionPatient=None, InstanceNumber=None)
    slices(tmp_path, [0], series="4")
    write_dicom(tmp_path / "big", np.zeros((6, 6), np.uint16), series="4", sop="4.9")
    slices(tmp_path, [0], series="6")
    slices(tmp_path / "turned", [9], series="6", sop="6.9", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    data = load(tmp_path, unit="volume")
    assert len(data) == 1
    assert data.skipped.counts == {
        "several slices of the series lie at one position (time series)": 2,
        "slices of the series cannot be ordered (no position, no number of its own)": 2,
        "slices of the series differ in size": 2,
        "slices of the series lie in different planes": 2,
    }


def test_order_by_number_and_uneven_distances_are_told(tmp_path):
    slices(tmp_path, [0, 10], series="1", ImagePositionPatient=None)
    slices(tmp_path, [0, 10, 40], series="2")
    data = load(tmp_path, unit="volume")
    assert sum("ordered by InstanceNumber" in n or "uneven distances" in n for n in data.notes) == 2
    by_number = next(r for r in data if r.sample_id.endswith(".1")).value("volume")
    np.testing.assert_allclose(by_number[:, 0, 0] * 65535, [10, 0], atol=0.01)  # numbered backwards


def test_one_scale_for_all_slices_even_where_the_slope_differs(tmp_path):
    """PET: stored values mean different things on each slice."""
    for i, slope in enumerate((1.0, 4.0)):
        place = {"ImagePositionPatient": [0, 0, i], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        pixels = np.full((2, 2), 200 if i == 0 else 50, np.uint8)
        write_dicom(tmp_path / str(i), pixels, sop=str(i), RescaleSlope=slope, RescaleIntercept=0, **place)
    volume = only_value(tmp_path, unit="volume")
    np.testing.assert_allclose(volume, 200 / (4 * 255), atol=1e-6)


def test_a_window_in_the_units_of_the_modality(tmp_path):
    slices(tmp_path, [0, 100, 200], RescaleSlope=1, RescaleIntercept=-100)
    volume = only_value(tmp_path, unit="volume", window=(0.5, 201))
    np.testing.assert_allclose(volume[:, 0, 0], [0, 0.5, 1], atol=1e-6)


def test_enhanced_objects_keep_position_and_rescale_in_their_frames(tmp_path):
    frames = np.stack([np.full((2, 2), v, np.uint8) for v in (30, 10, 20)])
    groups = []
    for z, slope in ((3, 1.0), (1, 1.0), (2, 2.0)):
        place = item(ImagePositionPatient=[0, 0, z])
        groups += item(
            PlanePositionSequence=place,
            PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            PixelMeasuresSequence=item(PixelSpacing=[1, 1]),
            PixelValueTransformationSequence=item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US"),
        )
    write_dicom(tmp_path / "1", frames, PerFrameFunctionalGroupsSequence=groups)
    volume = only_value(tmp_path, unit="volume", window=(50.5, 101))
    np.testing.assert_allclose(volume[:, 0, 0], [0.10, 0.40, 0.30], atol=1e-6)


def test_spacing_is_resampled_by_monai(tmp_path):
    pytest.importorskip("monai")
    slices(tmp_path, [0, 10, 20, 30])  # 10 mm between slices, 2 between rows, 0.5 between columns
    volume = only_value(tmp_path, unit="volume", spacing=(5.0, 2.0, 0.25), window=(15.5, 31))
    assert volume.shape == (7, 4, 7)  # 30 mm in steps of 5, 6 in steps of 2, 1.5 in steps of 0.25
    np.testing.assert_allclose(volume[:, 2, 1] * 30, [0, 5, 10, 15, 20, 25, 30], atol=1e-3)


def test_without_monai_the_extra_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        load(tmp_path, unit="volume", spacing=(1.0, 1.0, 1.0))
    assert "forgetmi[volumes]" in str(caught.value)


def test_a_spacing_that_the_files_do_not_say(tmp_path):
    slices(tmp_path, [0, 10], PixelSpacing=None)
    with pytest.raises(DataError, match="distances between the voxels"):
        only_value(tmp_path, unit="volume", spacing=(1.0, 1.0, 1.0))


def test_a_missing_decoder_is_named_when_the_folder_is_indexed(tmp_path, monkeypatch):
    shutil.copy(os.path.join(REAL, "MR_small_jpeg_ls_lossless.dcm"), tmp_path)
    monkeypatch.setattr(
        "forgetmi.data_adapters.dicom.missing_decoders",
        lambda syntax: ["JPEG-LS Lossless", "pyjpegls"] if syntax == JPEGLSLossless else [],
    )
    with pytest.raises(DataError, match="1 files of JPEG-LS Lossless") as caught:
        load(tmp_path)
    assert "pyjpegls" in caught.value.public


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"])
def test_compressed_forms_of_one_image_are_that_image(tmp_path, name):
    shutil.copy(os.path.join(REAL, "MR_small.dcm"), tmp_path / "plain")
    expected = only_value(tmp_path)
    (tmp_path / "plain").unlink()
    shutil.copy(os.path.join(REAL, name), tmp_path)
    np.testing.assert_array_equal(only_value(tmp_path), expected)


@pytest.mark.parametrize("unit", ["image", "volume"])
def test_a_folder_of_odd_real_files_ends_in_records_and_our_own_errors(tmp_path, monkeypatch, unit):
    monkeypatch.setattr("forgetmi.data_adapters.dicom.missing_decoders", lambda _: [])
    data = load(REAL, unit=unit)
    assert len(data) > 15 and data.skipped.total > 50
    readable = 0
    for record in data:
        try:
            value = record.value(unit)
        except DataError:
            continue
        readable += 1
        assert value.dtype == np.float32 and 0 <= value.min() <= value.max() <= 1
    assert readable >= len(data) - 6


LABELS = {"id_column": "key", "label": "finding"}


def table(tmp_path, rows, header="key,finding"):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        ("PatientID", ("001", "002")),
        ("AccessionNumber", ("A1", "A2")),
        ("StudyInstanceUID", (f"{BASE}.1.1", f"{BASE}.1.2")),
        ("SOPInstanceUID", (f"{BASE}.3.1", f"{BASE}.3.2")),
    ],
)
def test_labels_by_any_id_as_exact_text(tmp_path, ids, keys):
    for n in ("1", "2"):
        write_dicom(tmp_path / "d" / n, ramp(), patient=f"00{n}", study=n, sop=n, AccessionNumber=f"A{n}")
    write_dicom(tmp_path / "d" / "3", ramp(), patient="3", study="3", sop="3", AccessionNumber="A3")
    path = table(tmp_path, [f"{keys[0]},edema,train", f"{keys[1]},normal,test", "1,edema,train"], "key,finding,fold")
    data = load(tmp_path / "d", labels={**LABELS, "path": path, "ids": ids, "split": "fold"})
    assert data.classes == ("edema", "normal")
    assert [(r.patient_id, r.label, r.split) for r in data] == [("001", 0, "train"), ("002", 1, "test")]
    assert data.skipped.examples == {"no label": ("3",)}
    assert "1 of 3 rows of the label table name nothing in the data" in data.notes


def test_a_label_that_could_be_two_peoples_is_refused(tmp_path):
    write_dicom(tmp_path / "d" / "1", ramp(), patient="1", sop="1", study="1", IssuerOfPatientID="N")
    write_dicom(tmp_path / "d" / "2", ramp(), patient="1", sop="2", study="2", IssuerOfPatientID="S")
    path = table(tmp_path, ["1,edema"])
    with pytest.raises(DataError, match="more than one patient") as caught:
        load(tmp_path / "d", labels={**LABELS, "path": path, "ids": "PatientID"})
    assert caught.value.private == ("labels.csv:2",)
    path = table(tmp_path, ["1^^^N,edema", "1^^^S,normal"])
    data = load(tmp_path / "d", labels={**LABELS, "path": path, "ids": "PatientID"})
    assert [r.label for r in data] == [0, 1]


def test_a_table_of_other_ids_is_refused(tmp_path):
    write_dicom(tmp_path / "d" / "1", ramp(), patient="0012")
    with pytest.raises(DataError, match="none of the 1 ids"):
        load(tmp_path / "d", labels={**LABELS, "path": table(tmp_path, ["12,edema"]), "ids": "PatientID"})


def test_multilabel_and_modality_filter(tmp_path):
    write_dicom(tmp_path / "d" / "1", ramp(), sop="1", Modality="CR")
    write_dicom(tmp_path / "d" / "2", ramp(), sop="2", Modality="CT")
    path = table(tmp_path, ["1,1,-1"], "key,a,b")
    labels = {"path": path, "id_column": "key", "ids": "PatientID", "label": ["a", "b"], "kind": "multilabel"}
    data = load(tmp_path / "d", labels=labels, modalities=["CR"])
    assert [r.label for r in data] == [(1.0, None)] and data.classes == ("a", "b")
    assert data.skipped.counts == {"Modality CT not asked for": 1}


def test_wrong_options_are_listed_together(tmp_path):
    labels = {"path": "x.csv", "id_column": "a", "ids": "PatientId", "label": "b"}
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, window=(0, 0), spacing=(1, 1, 0), labels=labels)
    assert len(caught.value.problems) == 4
    assert "Did you mean 'PatientID'?" in str(caught.value)
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no record"):
        load(tmp_path)
