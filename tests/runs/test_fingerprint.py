"""The fingerprint of data with known twins, gaps and broken files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from forgetmi.config import load_config
from forgetmi.records import RecordDataset
from forgetmi.runs.fingerprint import tables, take_fingerprint
from forgetmi.runs.prepare import prepare
from tests.data_adapters.dicom_files import write_dicom
from tests.runs.tiny_source import tiny_settings, write_source

LONG = "the heart is large and the lungs are clear without any fluid on the left or on the right side today"


def _prepared(tmp_path, change=None, **changes):
    source = write_source(tmp_path / "source")
    with (source / "records.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for number, row in enumerate(rows[1:]):
        row[3] = " ".join(f"word{chr(97 + number % 26)}{chr(97 + i)}{chr(97 + number // 26)}" for i in range(6))
    draw = np.random.default_rng(5)
    for number in range(72):  # films that are nothing like each other
        pixels = draw.integers(0, 256, size=(16, 18), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"film{number}.png")
    if change:
        change(source, rows[1:])
    with (source / "records.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return prepare(load_config(tiny_settings(source, **changes)), create_key=False)


def _row(rows, sample):
    return next(row for row in rows if row[0] == f"SECRET-{sample}")


def _twins(source, rows):
    # s01 belongs to p01, who is to be forgotten; s00 is retained, s40 is a test record
    film = np.asarray(Image.open(source / "film1.png"))
    Image.fromarray(film).save(source / "film0.png")
    Image.fromarray((film // 2 + 20).astype(np.uint8)).save(source / "film40.png")
    _row(rows, "s01")[3] = LONG
    _row(rows, "s00")[3] = LONG.upper() + "!"
    _row(rows, "s40")[3] = LONG + " again"


def test_clean_data_has_no_twin_and_nothing_is_missing(tmp_path):
    found = take_fingerprint(_prepared(tmp_path), sample=None).found
    for item in found["duplicates"].values():
        assert item["compared"] == 72 and item["nothing_to_compare"] == 0
        assert not any(item["exact"].values()) and not any(item["near"].values())
    assert found["read"]["records"] == found["read"]["of"] == 72 and found["read"]["unreadable"] == {}
    assert found["identifiers"]["patients_in_several_splits"] == 0
    assert found["request"]["remains"] == ["nothing: every record of the patients concerned is to be forgotten"]


def test_twins_across_parts_are_counted_exact_and_near(tmp_path):
    taken = take_fingerprint(_prepared(tmp_path, _twins), sample=None)
    for name in ("image", "text"):
        item = taken.found["duplicates"][name]
        assert {pair: n for pair, n in item["exact"].items() if n} == {"forget/retain": 1}
        assert {pair: n for pair, n in item["near"].items() if n} == {
            "forget/retain": 1,
            "forget/test": 1,
            "retain/test": 1,
        }
    assert "image: SECRET-s01 and SECRET-s00" in taken.twins
    assert all(len(pair) == 2 for pair in taken.found["duplicate_samples"])


def test_questions_with_their_answers_are_compared_as_texts(tmp_path):
    """Of records in which a question stands beside its answer; other keys (another answer) play no part."""
    prepared = _prepared(tmp_path)
    question = "what is seen in the chest film of the patient who came on a monday in may"
    same = {"s01": (question, LONG), "s00": (question.upper(), LONG + "!"), "s40": (question, LONG + " again")}
    records = []
    for n, record in enumerate(prepared.dataset):
        own = [f"{word}{chr(97 + n % 26)}{chr(97 + n // 26)}" for word in ("why", "who", "him", "her", "they", "we")]
        prompt, answer = same.get(record.sample_id.removeprefix("SECRET-"), (" ".join(own[:3]), " ".join(own[3:])))
        value = {"prompt": prompt, "answer": answer, "alternate": f"other {own[0]}"}
        records.append(replace(record, modalities={"text": value}))
    dataset = RecordDataset(
        records, name="qa", levels=prepared.dataset.levels, classes=prepared.dataset.classes,
        modality_kinds={"text": "dialogue"},
    )  # fmt: skip
    changed = replace(prepared, dataset=dataset, partition=replace(prepared.partition, dataset=dataset), modalities={})
    item = take_fingerprint(changed, sample=None).found["duplicates"]["text"]
    assert item["kind"] == "dialogue" and item["compared"] == 72
    assert {pair: n for pair, n in item["exact"].items() if n} == {"forget/retain": 1}
    assert {pair: n for pair, n in item["near"].items() if n} == {
        "forget/retain": 1,
        "forget/test": 1,
        "retain/test": 1,
    }


def test_no_id_is_in_what_is_saved_or_printed(tmp_path):
    taken = take_fingerprint(_prepared(tmp_path, _twins), sample=None)
    assert "SECRET" not in json.dumps(taken.found)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables(taken.found))
    text = console.export_text()
    assert "SECRET" not in text and "forget / retain" in text and "read: all records, 8 of them to be forgotten" in text


def test_broken_flat_and_wordless_values_are_counted(tmp_path):
    def change(source, rows):
        (source / "film3.png").write_bytes(b"no image")
        Image.fromarray(np.full((16, 18), 7, np.uint8)).save(source / "film5.png")
        _row(rows, "s07")[3] = "..."
        _row(rows, "s08")[3] = ""

    taken = take_fingerprint(_prepared(tmp_path, change), sample=None)
    found = taken.found
    assert found["read"]["unreadable"] == {"image": 1}
    assert len(found["read"]["unreadable_samples"]) == 1
    assert taken.unreadable[0].startswith("SECRET-s03, image") and "film3.png" in taken.unreadable[0]
    assert found["duplicates"]["image"] == {**found["duplicates"]["image"], "compared": 70, "nothing_to_compare": 1}
    assert found["duplicates"]["text"] == {**found["duplicates"]["text"], "compared": 70, "nothing_to_compare": 1}


def test_headers_in_which_names_may_stand_are_counted(tmp_path):
    def change(source, rows):
        said = [{"PatientIdentityRemoved": "YES"}, {"PatientIdentityRemoved": "NO"}, {"BurnedInAnnotation": "YES"}]
        for number, tags in enumerate(said):
            film = np.asarray(Image.open(source / f"film{number}.png")).astype(np.uint16)
            write_dicom(source / f"film{number}.dcm", film, **tags)
            _row(rows, f"s{number:02d}")[2] = f"film{number}.dcm"

    taken = take_fingerprint(_prepared(tmp_path, change), sample=None)
    assert taken.found["headers"] == {"dicom_files": 3, "identity_not_removed": 2, "burned_in_annotation": 1}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables(taken.found))
    assert "of 3 DICOM files, 2 do not say that names were removed, 1 say" in console.export_text()


@pytest.mark.parametrize(("sample", "read", "forget"), [(0, 0, 0), (5, 5, 5), (20, 20, 8), (500, 72, 8)])
def test_a_sample_is_bounded_takes_forget_records_first_and_is_stated(tmp_path, sample, read, forget):
    prepared = _prepared(tmp_path)
    found = take_fingerprint(prepared, sample=sample).found
    assert (found["read"]["records"], found["read"]["forget_records"]) == (read, forget)
    assert take_fingerprint(prepared, sample=sample).found == found


def test_narrow_requests_say_what_remains(tmp_path):
    request = {"level": "sample", "ids": ["SECRET-s01"], "remaining": "exclude"}
    found = take_fingerprint(_prepared(tmp_path, request=request), sample=0).found
    assert found["request"]["remains"][0].startswith("1 of the patients concerned keep 1 other sample")
