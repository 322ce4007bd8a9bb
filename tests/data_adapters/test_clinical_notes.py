"""The notes of other adapters as texts: whose they are stays, everything but the text goes."""

from __future__ import annotations

import pytest
import yaml

from forgetmi.data_adapters import ADAPTERS, load_dataset
from forgetmi.errors import ConfigError, DataError, RequestError
from forgetmi.requests import ForgetRequest, resolve
from forgetmi.settings import absolute_paths, read_settings
from tests.data_adapters import fhir_files, mimic_files, mimic_iv_files, omop_files
from tests.data_adapters.openi_files import report_xml, write_folder


def notes(source, options, **more):
    return load_dataset("clinical_notes", {"source": source, "options": options} | more)


def openi(root, sections=("indication", "findings", "impression")):
    files = {
        f"{n}.xml": report_xml(n, indication="cough" if n < 3 else "", findings=f"clear {n}", impression="normal")
        for n in (1, 2, 3, 4)
    }
    write_folder(root / "ecgen-radiology", files)
    return {"reports": root, "sections": list(sections), "validation": 0.0, "test": 0.0}


def test_notes_of_mimic_iv_by_patient(tmp_path):
    options = {"root": mimic_iv_files.write_release(tmp_path), "unit": "note"}
    whole, data = load_dataset("mimic_iv", options), notes("mimic_iv", options)
    assert [(r.patient_id, r.study_id, r.sample_id, r.value("text")) for r in data] == [
        (r.patient_id, r.study_id, r.sample_id, r.value("text")) for r in whole
    ]
    assert set(whole.modality_kinds) == {"text", "tabular"} and data.modality_kinds == {"text": "text"}
    assert data.levels == ("patient", "study", "sample") and data.license_note == whole.license_note
    partition = resolve(data, ForgetRequest.of("patient", ["10000001"]))
    assert sorted(data[i].value("text") for i in partition.forget) == ["clear lungs", 'went home,\nquoted "well"']


def test_notes_of_omop_are_found_by_the_hospitals_numbers(tmp_path):
    omop_files.write_files(tmp_path)
    whole = load_dataset("omop", {"root": tmp_path, "unit": "note", "modalities": ["text"]})
    data = notes("omop", {"root": tmp_path, "unit": "note", "modalities": ["text"]})
    assert data.aliases == whole.aliases and data.aliases["patient"]
    other, canonical = next((other, own) for other, own in data.aliases["patient"].items() if own in data.patients())
    by_number = resolve(data, ForgetRequest.of("patient", [other]))
    assert by_number.forget == resolve(data, ForgetRequest.of("patient", [canonical])).forget


def test_a_report_on_each_of_its_films_is_one_record(tmp_path):
    mimic_files.write_tables(tmp_path)
    mimic_files.write_images(tmp_path)
    mimic_files.write_reports(tmp_path)
    options = {"root": tmp_path, "modalities": ["text"], "labels": "none"}
    whole, data = load_dataset("mimic_cxr", options), notes("mimic_cxr", options)
    said = {(r.study_id, r.value("text")) for r in whole if r.value("text") is not None}
    assert len(whole) == 9 and len(data) == len(said)
    assert {(r.study_id, r.value("text")) for r in data} == said
    silent = sum(r.value("text") is None for r in whole)
    assert dict(data.skipped.counts) == {"no note": silent, "the same note of the same study": 9 - silent - len(said)}
    assert "section" in data.levels  # the whole note is the text: a part of it can be named


def test_sections_make_a_dialogue(tmp_path):
    data = notes("openi", openi(tmp_path), prompt=["indication"], answer=["findings", "impression"])
    assert [r.modalities for r in data] == [
        {"dialogue": {"prompt": "cough", "answer": f"clear {n} normal"}} for n in (1, 2)
    ]
    assert dict(data.skipped.counts) == {"no section for the prompt": 2}
    assert data.levels == ("study", "sample")
    assert type(data[0].value("dialogue")["answer"]) is str


def test_a_section_can_be_forgotten_where_the_note_is_whole(tmp_path):
    data = notes("openi", openi(tmp_path))
    partition = resolve(data, ForgetRequest.of("section", ["CXR1"], ["findings"], id_level="study"))
    ((record),) = partition.forget_records().values()
    assert str(record.value("text")) == "clear 1"
    cut = notes("openi", openi(tmp_path), chunk_words=2)
    assert "section" not in cut.levels and [r.sample_id for r in cut][:2] == ["CXR1#0000", "CXR1#0001"]
    with pytest.raises(RequestError, match="cannot support"):
        resolve(cut, ForgetRequest.of("section", ["CXR1"], ["findings"], id_level="study"))


def test_labels_and_films_are_left_out(tmp_path):
    options = openi(tmp_path) | {"classes": {"normal": ["normal"], "opacity": ["opacity"]}}
    assert {r.label for r in load_dataset("openi", options)} == {0}
    data = notes("openi", options)
    assert {r.label for r in data} == {None} and data.classes == ()


def test_notes_of_fhir(tmp_path):
    fhir_files.write_lines(tmp_path / "Patient.ndjson", fhir_files.patient("p1", mrn="7"), fhir_files.patient("p2"))
    fhir_files.write_lines(
        tmp_path / "DiagnosticReport.ndjson",
        *(fhir_files.report(f"r{n}", f"Patient/p{n}", f"made up {n}") for n in (1, 2)),
    )
    data = notes("fhir", {"root": tmp_path, "unit": "note", "modalities": ["text"]})
    partition = resolve(data, ForgetRequest.of("patient", ["7"]))
    assert [data[i].value("text") for i in partition.forget] == ["made up 1"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"source": "clinical_notes"}, "an adapter that reads notes"),
        ({"source": "open_i"}, "Did you mean 'openi'"),
        ({"options": {"report": "x"}}, "Did you mean 'reports'"),
        ({"prompt": ["indication"]}, "for prompt and for answer, or for neither"),
        ({"prompt": ["findings"], "answer": ["findings"]}, "prompt and answer share findings"),
        ({"prompt": ["indication"], "answer": ["findings"], "chunk_words": 3}, "are not cut"),
        ({"chunk_words": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_fit(options, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        load_dataset("clinical_notes", {"source": "openi", "options": openi(tmp_path)} | options)


def test_what_the_source_does_not_have(tmp_path):
    with pytest.raises(DataError, match=r"no text 'note'. Available: text"):
        notes("openi", openi(tmp_path), text="note")
    with pytest.raises(DataError, match=r"no section 'history'. Available: findings, indication"):
        notes("openi", openi(tmp_path, ["findings", "indication"]), prompt=["history"], answer=["findings"])


def test_paths_of_the_source_are_relative_to_the_config(tmp_path):
    options = {"source": "openi", "options": openi(tmp_path / "reports") | {"reports": "reports"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": options}))
    settings = read_settings(tmp_path / "run.yaml")
    found = absolute_paths(ADAPTERS["clinical_notes"], settings.values["data"], "data", settings)
    assert found["options"]["reports"] == tmp_path / "reports"
    assert len(load_dataset("clinical_notes", found)) == 4
