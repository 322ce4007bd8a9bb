from __future__ import annotations

import importlib.metadata
import tarfile

import numpy as np
import pytest
from PIL import Image

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.openi import MalformedReportError, OpenI, exclusive_class, parse_report, read_reports
from forgetmi.errors import ConfigError, DataError
from tests.data_adapters.openi_files import report_xml, write_archive, write_folder

CLASSES = {"normal": ("normal",), "opacity": ("opacity", "Pneumonia"), "effusion": ("pleural effusion",)}
FILES = {
    "ecgen-radiology/1.xml": report_xml(
        1, findings="Quiet\n   lungs.", impression="Fine.", images=["CXR1_a", "CXR1_b"]
    ),
    "ecgen-radiology/2.xml": report_xml(2, mesh=["Opacity/lung/base/left"], impression="A shadow.", images=["CXR2_a"]),
    "ecgen-radiology/3.xml": report_xml(3, mesh=["Opacity", "Pleural Effusion/left"], findings="Two things."),
    "ecgen-radiology/4.xml": report_xml(4, mesh=["Scoliosis"], findings="A curve."),
    "ecgen-radiology/10.xml": report_xml(10, mesh=["Pneumonia"], indication="Cough.", images=["CXR10_a"]),
    "ecgen-radiology/11.xml": report_xml(11, indication="Nothing else."),
    "ecgen-radiology/12.xml": b"<eCitation><uId id='CXR12'></eCitation>",
    "ecgen-radiology/13.xml": b"<eCitation></eCitation>",
}
SHARES = {"validation": 0.0, "test": 0.0}


@pytest.fixture
def pngs(tmp_path):
    folder = tmp_path / "png"
    folder.mkdir()
    for i, name in enumerate(["CXR1_b", "CXR10_a", "CXR2_a"]):
        Image.fromarray(np.full((4, 6), 51 * (i + 1), np.uint8)).save(folder / f"{name}.png")
    return folder


def comparable(dataset):
    return [(r.sample_id, r.study_id, r.patient_id, r.label, r.split, dict(r.modalities)) for r in dataset]


def test_one_report():
    report = parse_report(FILES["ecgen-radiology/1.xml"], "here")
    assert report.uid == "CXR1"
    assert report.sections == {"comparison": "", "indication": "", "findings": "Quiet lungs.", "impression": "Fine."}
    assert report.mesh == ("normal",) and report.images == ("CXR1_a", "CXR1_b")
    assert parse_report(FILES["ecgen-radiology/3.xml"], "here").heads == {"opacity", "pleural effusion"}


@pytest.mark.parametrize("content", [b"", b"no xml", b"<a>", b"<a/>", b"<?xml version='1.0' encoding='nonsense'?><a/>"])
def test_what_is_no_report_is_malformed(content):
    with pytest.raises(MalformedReportError) as caught:
        parse_report(content, "folder/7.xml")
    assert "7.xml" in str(caught.value) and "7.xml" not in caught.value.public


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<eCitation><uId id="CXR1"/><t>&b;</t></eCitation>'
)


@pytest.mark.parametrize(
    "content",
    [
        BOMB.encode(),
        BOMB.replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"),
        b'<!DOCTYPE e SYSTEM "file:///etc/hostname"><eCitation><uId id="CXR1"/></eCitation>',
    ],
    ids=["bomb", "bomb in UTF-16", "outside file"],
)
def test_entities_are_refused_for_the_whole_source(tmp_path, content):
    with pytest.raises(DataError, match="entities") as caught:
        parse_report(content, "here")
    assert not isinstance(caught.value, MalformedReportError)
    source = write_archive(tmp_path / "reports.tgz", {"1.xml": FILES["ecgen-radiology/1.xml"], "2.xml": content})
    with pytest.raises(DataError, match="entities"):
        read_reports(source)


def test_archive_and_folders_read_alike(tmp_path):
    archive = write_archive(tmp_path / "reports.tgz", FILES)
    folder = write_folder(tmp_path / "unpacked", FILES)
    sets = [
        load_dataset("openi", {"reports": str(source), "classes": CLASSES, **SHARES})
        for source in (archive, folder, folder / "ecgen-radiology")
    ]
    assert comparable(sets[0]) == comparable(sets[1]) == comparable(sets[2])
    assert sets[0].skipped.counts == sets[1].skipped.counts


def test_records_and_what_is_skipped(tmp_path):
    dataset = OpenI(write_folder(tmp_path, FILES), classes=CLASSES, **SHARES).load()
    assert [(r.sample_id, r.label, r.modalities["text"]) for r in dataset] == [
        ("CXR1", 0, "Quiet lungs. Fine."),
        ("CXR2", 1, "A shadow."),
    ]
    assert dataset.skipped.counts == {
        "malformed report": 2,
        "MeSH headings of several classes": 1,
        "MeSH headings of no class": 1,
        "neither text nor image": 2,
    }
    assert any("12.xml" in place for place in dataset.skipped.examples["malformed report"])
    assert dataset.levels == ("study", "sample", "modality", "section") and "patient" not in OpenI.levels
    assert dataset.modality_kinds == {"text": "text"} and dataset.classes == tuple(CLASSES)
    assert "BY-NC-ND" in dataset.license_note and any("no patient linkage" in note for note in dataset.notes)
    assert len(dataset) + dataset.skipped.total == len(FILES)


def test_without_classes_every_report_with_text_stays_unlabelled(tmp_path):
    dataset = OpenI(write_folder(tmp_path, FILES), sections=("indication", "findings"), **SHARES).load()
    assert {r.sample_id: r.modalities["text"] for r in dataset} == {
        "CXR1": "Quiet lungs.",
        "CXR3": "Two things.",
        "CXR4": "A curve.",
        "CXR10": "Cough.",
        "CXR11": "Nothing else.",
    }
    assert {r.label for r in dataset} == {None} and dataset.classes == ()


def test_one_record_a_report_takes_the_first_image_that_is_there(tmp_path, pngs):
    dataset = OpenI(write_folder(tmp_path / "xml", FILES), images=pngs, classes=CLASSES, **SHARES).load()
    records = {r.sample_id: r for r in dataset}
    assert set(records) == {"CXR1", "CXR2", "CXR10"}
    np.testing.assert_allclose(records["CXR1"].value("image"), np.full((4, 6), 0.2), atol=1e-6)
    np.testing.assert_allclose(records["CXR2"].value("image"), np.full((4, 6), 0.6), atol=1e-6)
    assert records["CXR10"].modalities["text"] is None and records["CXR10"].value("image").dtype == np.float32
    assert any(note.startswith("1 of the images") for note in dataset.notes)


def test_one_record_an_image(tmp_path, pngs):
    dataset = OpenI(write_folder(tmp_path / "xml", FILES), images=pngs, per="image", classes=CLASSES, **SHARES).load()
    found = {r.sample_id: (r.study_id, r.modalities["image"] is None) for r in dataset}
    assert found == {
        "CXR1_a": ("CXR1", True),  # listed, but no such PNG
        "CXR1_b": ("CXR1", False),
        "CXR2_a": ("CXR2", False),
        "CXR10_a": ("CXR10", False),
    }


def test_names_that_leave_the_folder_are_harmless(tmp_path, pngs):
    good = FILES["ecgen-radiology/1.xml"]
    path = write_archive(tmp_path / "reports.tgz", {"../../evil.xml": good, "/tmp/evil.xml": good, "ok/1.xml": good})
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("5.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        archive.add(path.parent / "reports.tgz", "not-a-report.tgz")
    reports, skipped = read_reports(path)
    assert [r.uid for r in reports] == ["CXR1"]
    assert [reason for reason, _ in skipped] == ["link or unsafe name in the archive"] * 2
    with pytest.raises(DataError, match="no report"):
        read_reports(tmp_path / "links.tar")

    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "outside.png")
    source = write_folder(tmp_path / "xml", {"1.xml": report_xml(1, findings="A.", images=["../outside"])})
    assert OpenI(source, images=pngs, **SHARES).load()[0].modalities["image"] is None


def test_reading_writes_nothing(tmp_path, pngs):
    write_folder(tmp_path / "xml", FILES)
    write_archive(tmp_path / "reports.tgz", FILES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for source in (tmp_path / "xml", tmp_path / "reports.tgz"):
        for record in OpenI(source, images=pngs, **SHARES).load():
            record.value("image")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_split_is_by_report_and_from_the_seed(tmp_path, pngs):
    files = {f"{i}.xml": report_xml(i, findings=f"Number {i}.", images=[f"{i}_a", f"{i}_b"]) for i in range(1, 21)}
    source = write_folder(tmp_path / "xml", files)

    def splits(seed):
        return {r.sample_id: r.split for r in OpenI(source, images=pngs, per="image", seed=seed).load()}

    found = splits(0)
    assert sorted(found.values()).count("test") == 8 and sorted(found.values()).count("validation") == 4
    assert all(found[f"{i}_a"] == found[f"{i}_b"] for i in range(1, 21))
    assert splits(0) == found != splits(1)


def test_options_are_checked_all_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_dataset("openi", {"reports": "x", "sections": ["finding"], "classes": {"one": []}, "per": "image"})
    message = str(caught.value)
    assert all(part in message for part in ("findings", "two or more", "classes.one", "`images`"))
    with pytest.raises(ConfigError, match="report' or 'image"):
        load_dataset("openi", {"reports": "x", "per": "film"})


def test_missing_and_broken_sources_say_so(tmp_path, pngs):
    with pytest.raises(DataError, match="not there"):
        OpenI(tmp_path / "absent.tgz").load()
    path = write_archive(
        tmp_path / "cut.tgz", {f"{i}.xml": FILES["ecgen-radiology/1.xml"] + bytes(i) for i in range(9)}
    )
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match="cannot be read"):
        OpenI(path).load()
    (tmp_path / "empty").mkdir()
    source = write_folder(tmp_path / "xml", FILES)
    with pytest.raises(DataError, match="no PNG"):
        OpenI(source, images=tmp_path / "empty").load()


def test_the_published_reports():
    try:
        distribution = importlib.metadata.distribution("torchxrayvision")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchxrayvision, which holds the published reports, is not installed")
    reports, skipped = read_reports(distribution.locate_file("torchxrayvision/data/NLMCXR_reports.tgz"))
    assert len(reports) == len({r.uid for r in reports}) == 3955 and not skipped
    assert len({i for r in reports for i in r.images}) == sum(len(r.images) for r in reports) == 7470
    assert sum(bool(r.sections["findings"] or r.sections["impression"]) for r in reports) == 3927
    heads = [r.heads for r in reports]
    assert [sum(h in found for found in heads) for h in ("normal", "opacity", "cardiomegaly")] == [1391, 455, 375]
    assert sum(exclusive_class(r, CLASSES)[0] == 0 for r in reports) == 1391
