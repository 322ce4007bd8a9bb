"""FHIR bulk exports: references in every form, one person under two ids, and two people under one."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError, ForgetMIError
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters.fhir_files import (
    MRN,
    attachment,
    document,
    encounter,
    imaging,
    observation,
    patient,
    report,
    write_lines,
)


def load(root, **options):
    return load_dataset("fhir", {"root": root, **options})


def texts(data):
    return {r.sample_id: (r.patient_id, r.value("text")) for r in data}


def test_the_type_is_what_the_line_says_in_any_file_nested_or_zipped(tmp_path):
    write_lines(tmp_path / "Observation.000.ndjson", patient("p1"))  # the file's name is wrong on purpose
    write_lines(tmp_path / "deep" / "MimicPatient.ndjson.gz", report("r1", "Patient/p1"), patient("p2"))
    write_lines(tmp_path / "x.jsonl", document("d1", "Patient/p2"))
    (tmp_path / "manifest.json").write_text(json.dumps({"output": [], "deleted": []}))
    data = load(tmp_path)
    assert texts(data) == {"DiagnosticReport/r1": ("p1", "clear lungs"), "DocumentReference/d1": ("p2", "a letter")}
    assert data.skipped.total == 0
    assert data[0].attributes == {"NoteDate": "2020-01-02"}


UUID = "0b1c7d1e-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("own", "reference"),
    [
        ("p1", "Patient/p1"),
        ("p1", "Patient/p1/_history/3"),
        ("p1", "https://ehr.example/fhir/Patient/p1"),
        ("p1", "https://ehr.example/fhir/r4/Patient/p1/_history/3"),
        (UUID, f"urn:uuid:{UUID}"),
        ("p1", f"Patient?identifier={MRN}|M1"),
        ("p1", "Patient?identifier=http%3A%2F%2Fhospital.example%2Fmrn%7CM1"),
    ],
)
def test_every_form_of_a_reference(tmp_path, own, reference):
    write_lines(tmp_path / "a.ndjson", report("r1", reference), patient(own, mrn="M1"))
    assert texts(load(tmp_path)) == {"DiagnosticReport/r1": (own, "clear lungs")}


def test_a_reference_by_identifier_only(tmp_path):
    by_mrn = {**report("r1", ""), "subject": {"identifier": {"system": MRN, "value": "M1"}}}
    other = {**report("r2", ""), "subject": {"identifier": {"system": "http://other.example", "value": "M1"}}}
    write_lines(tmp_path / "a.ndjson", by_mrn, other, patient("p1", mrn="M1"))
    data = load(tmp_path)
    assert list(texts(data)) == ["DiagnosticReport/r1"]
    assert data.skipped.examples == {"subject is not among the Patients of the export": ("a.ndjson:2",)}


def test_bundle_lines_and_their_urn_addresses(tmp_path):
    first = {"fullUrl": f"urn:uuid:{UUID}", "resource": patient("p1", mrn="M1")}
    second = {"fullUrl": "urn:uuid:22", "resource": report("r1", f"urn:uuid:{UUID}")}
    deleted = {"request": {"method": "DELETE", "url": "Patient/p9"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [second, first, deleted, {"resource": 3}]}
    write_lines(tmp_path / "a.ndjson", bundle)
    data = load(tmp_path)
    assert texts(data) == {"DiagnosticReport/r1": ("p1", "clear lungs")}
    assert data.skipped.examples == {"entry of a Bundle is no FHIR resource": ("a.ndjson:1",)}
    assert any(note.startswith("1 entries ask for a deletion") for note in data.notes)


@pytest.mark.parametrize(
    ("links", "canonical"),
    [
        ({"a": [("replaced-by", "Patient/b")]}, "b"),
        ({"b": [("replaces", "Patient/a")]}, "b"),
        ({"a": [("seealso", "Patient/b")]}, "a"),
        ({"b": [("refer", "Patient/a")]}, "a"),
        ({"a": [("replaced-by", "https://ehr.example/fhir/Patient/b")]}, "b"),
        ({"a": [("replaced-by", "Patient/b")], "b": [("replaces", "Patient/a")]}, "b"),
    ],
)
def test_a_link_makes_two_ids_one_person(tmp_path, links, canonical):
    base = "https://ehr.example/fhir/" if "https" in str(links) else ""
    people = [patient(i, mrn=f"M{i}", links=links.get(i, ())) for i in ("a", "b", "c")]
    reports = [report(f"r{i}", f"{base}Patient/{i}") for i in ("a", "b", "c")]
    write_lines(tmp_path / "x.ndjson", *reports, *people)
    data = load(tmp_path)
    assert [r.patient_id for r in data] == sorted([canonical, canonical, "c"])
    other = "ab".replace(canonical, "")
    aliases = data.aliases["patient"]
    assert aliases[other] == aliases["Ma"] == aliases["Mb"] == canonical and aliases["Mc"] == "c"
    assert any(note.startswith("1 Patient resources are linked") for note in data.notes)


def test_a_request_by_a_merged_id_or_a_record_number_finds_all_of_the_person(tmp_path):
    chain = [
        patient("a", mrn="M1", links=[("replaced-by", "Patient/b")]),
        patient("b", links=[("replaced-by", "Patient/c")]),
    ]
    write_lines(tmp_path / "p.ndjson", *chain, patient("c"), patient("d", mrn="M4"))
    write_lines(tmp_path / "r.ndjson", *(report(f"r{i}", f"Patient/{i}") for i in "abcd"))
    data = load(tmp_path)
    for typed in ("a", "b", "c", "M1", f"{MRN}|M1"):
        assert resolve(data, ForgetRequest.of("patient", [typed])).forget == (0, 1, 2)
    assert {data[i].patient_id for i in (0, 1, 2)} == {"c"}


def test_one_number_in_two_systems_is_nobodys_alias(tmp_path):
    write_lines(
        tmp_path / "p.ndjson",
        patient("p1", mrn="100"),
        patient("p2", mrn="100", system="http://other.example"),
        patient("p3", mrn="p1"),  # a record number that is somebody else's id
    )
    write_lines(tmp_path / "r.ndjson", *(report(f"r{i}", f"Patient/p{i}") for i in (1, 2, 3)))
    data = load(tmp_path)
    aliases = data.aliases["patient"]
    assert aliases == {f"{MRN}|100": "p1", "http://other.example|100": "p2", f"{MRN}|p1": "p3"}
    assert any(note.startswith("2 other ids of a patient lead to several") for note in data.notes)


def test_two_systems_in_one_folder_are_refused(tmp_path):
    write_lines(tmp_path / "p.ndjson", patient("1", birthDate="1950-01-01"), patient("1", birthDate="1990-12-31"))
    with pytest.raises(DataError, match="two dates of birth"):
        load(tmp_path)
    write_lines(tmp_path / "p.ndjson", patient("1"), patient("2"))
    write_lines(tmp_path / "r.ndjson", report("r", "Patient/1"), report("r", "Patient/2"))
    with pytest.raises(DataError, match="stands for two patients' resources") as caught:
        load(tmp_path)
    assert caught.value.where == "r.ndjson:2"


@pytest.mark.parametrize("other", ["https://b.example/fhir/Patient/1", "Patient/1"])
def test_references_that_may_mean_another_server(tmp_path, other):
    own = "https://a.example/fhir"
    write_lines(tmp_path / "p.ndjson", patient("1"), report("r1", f"{own}/Patient/1"), report("r2", other))
    with pytest.raises(DataError, match="may have a Patient/1 of its own"):
        load(tmp_path)
    data = load(tmp_path, base_url=f"{own}/")
    assert len(data) == (1 if other.startswith("https") else 2)
    assert data.skipped.total == 2 - len(data)


def test_a_report_that_names_another_patients_visit_or_study_is_refused(tmp_path):
    base = [patient("1"), patient("2"), encounter("e1", "Patient/1"), imaging("i1", "Patient/1", "1.2.3")]
    for wrong in ({"encounter": {"reference": "Encounter/e1"}}, {"imagingStudy": [{"reference": "ImagingStudy/i1"}]}):
        write_lines(tmp_path / "a.ndjson", *base, report("r1", "Patient/2", **wrong))
        with pytest.raises(DataError, match="of another patient") as caught:
            load(tmp_path)
        assert caught.value.where == "a.ndjson:5"


def test_reports_join_images_by_study_instance_uid_and_accession(tmp_path):
    study = {"imagingStudy": [{"reference": "ImagingStudy/i1"}]}
    related = {"context": {"related": [{"reference": "ImagingStudy/i2"}]}}
    write_lines(
        tmp_path / "a.ndjson",
        *(patient("1"), patient("2")),
        *(imaging("i1", "Patient/1", "1.2.840.1", "A1"), imaging("i2", "Patient/2", "1.2.840.2", "A2")),
        *(imaging("i3", "Patient/2", "1.2.840.3", "A2"), imaging("i4", "Patient/2", "")),
        *(report("r1", "Patient/1", **study), document("d1", "Patient/2", **related), report("r2", "Patient/2")),
    )
    data = load(tmp_path)
    assert {r.sample_id: r.study_id for r in data} == {
        "DiagnosticReport/r1": "1.2.840.1",
        "DocumentReference/d1": "1.2.840.2",
        "DiagnosticReport/r2": "DiagnosticReport/r2",
    }
    assert data.aliases["study"]["A1"] == data.aliases["study"]["i1"] == "1.2.840.1"
    assert "A2" not in data.aliases["study"]  # on two studies
    assert data.skipped.examples == {"ImagingStudy without a StudyInstanceUID": ("a.ndjson:6",)}
    assert resolve(data, ForgetRequest.of("study", ["A1"])).forget == (0,)


def test_text_of_attachments(tmp_path):
    latin = attachment("Größe", "text/plain; charset=ISO-8859-1", "latin-1")
    html = attachment("<p>Heart &amp; lungs</p><script>no()</script><p>clear</p>", "text/html")
    binary = {"contentType": "text/plain", "url": "Binary/b1"}
    far = {"contentType": "application/pdf", "url": "https://elsewhere.example/1.pdf"}
    several = [{"attachment": a} for a in (latin, latin, html)]
    write_lines(
        tmp_path / "a.ndjson",
        patient("1"),
        {"resourceType": "Binary", "id": "b1", **attachment("stored apart")},
        document("d1", "Patient/1", content=several),
        report("r1", "Patient/1", presentedForm=[binary]),
        report("r2", "Patient/1", presentedForm=[far], conclusion="only a conclusion"),
        report("r3", "Patient/1", presentedForm=[far]),
        report("r4", "Patient/1", presentedForm=[{"contentType": "application/pdf", "data": "JVBERi0="}]),
        report("r5", "Patient/1", presentedForm=[{"contentType": "text/plain", "data": "%%%"}]),
        report("r6", "Patient/1", presentedForm=[{"contentType": "text/plain; charset=zip", "data": "YQ=="}]),
        report("r7", "Patient/1", presentedForm=[]),
        report("r8", "Patient/1", status="entered-in-error"),
    )
    data = load(tmp_path)
    assert {k: v for k, (_, v) in texts(data).items()} == {
        "DocumentReference/d1": "Größe\n\nHeart & lungs\nclear",
        "DiagnosticReport/r1": "stored apart",
        "DiagnosticReport/r2": "only a conclusion",
    }
    assert data.skipped.counts == {
        "DiagnosticReport: attachment is stored elsewhere": 1,
        "DiagnosticReport: attachment of type application/pdf holds no text": 1,
        "DiagnosticReport: attachment cannot be decoded": 2,
        "DiagnosticReport: no text": 1,
        "DiagnosticReport is entered-in-error": 1,
    }


def test_one_text_shown_twice_is_one_record_and_like_texts_of_other_days_stay(tmp_path):
    later = {"effectiveDateTime": "2021-05-05"}
    write_lines(
        tmp_path / "a.ndjson",
        *(patient("1"), patient("2"), report("r1", "Patient/1"), document("d1", "Patient/1", "clear lungs")),
        *(report("r2", "Patient/1", **later), report("r3", "Patient/2")),
    )
    data = load(tmp_path)
    assert sorted(texts(data)) == ["DiagnosticReport/r1", "DiagnosticReport/r2", "DiagnosticReport/r3"]
    assert data.skipped.examples == {"same text, day and visit as a DiagnosticReport": ("a.ndjson:4",)}


def test_observations_of_a_visit_become_a_row(tmp_path):
    visit = {"encounter": {"reference": "Encounter/e1"}}
    pressure = observation("o5", "Patient/1", "85354-9", None, **visit, component=[
        {"code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
         "valueQuantity": {"value": 120, "unit": "mm[Hg]"}},
    ])  # fmt: skip
    local = observation("o6", "Patient/1", "", 7, **visit)
    local["code"] = {"coding": [{"system": "urn:lab", "code": "2160-0"}]}
    write_lines(
        tmp_path / "a.ndjson",
        *(patient("1", gender="female", birthDate="1950-05-05"), patient("2"), encounter("e1", "Patient/1")),
        observation("o1", "Patient/1", "2160-0", 2.0, "mg/dL", time="2020-01-03", **visit),
        observation("o2", "Patient/1", "2160-0", 1.0, "mg/dL", time="2020-01-02", **visit),
        observation("o3", "Patient/1", "2160-0", 88, "umol/L", **visit),
        observation("o4", "Patient/1", "5778-6", "yellow", **visit),
        *(pressure, local, observation("o7", "Patient/1", "9-9", 5), observation("o8", "Group/1", "9-9", 5)),
        observation("o9", "Patient/1", "1-1", 5, status="entered-in-error", **visit),
        {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/1"}},
    )
    data = load(tmp_path, unit="visit", modalities=["tabular"])
    (record,) = data
    assert (record.sample_id, record.patient_id) == ("e1", "1") and record.attributes == {"VisitDate": "2020-01-02"}
    assert record.value("tabular") == {
        "gender": "female",
        "birth_year": 1950.0,
        "encounter_class": "IMP",
        "2160-0 [mg/dL]": 2.0,  # the last in time, not in the file
        "2160-0 [umol/L]": 88.0,
        "5778-6": "yellow",
        "8480-6 [mm[Hg]]": 120.0,
        "urn:lab|2160-0": 7.0,  # the same code in another system is another column
    }
    assert "1 measurements belong to no visit: they are in no record" in data.notes
    assert any("were not read: Condition (1)" in note for note in data.notes)
    assert data.skipped.counts == {"subject is a Group": 1, "Observation is entered-in-error": 1}
    (whole,) = [r for r in load(tmp_path, unit="patient", modalities=["tabular"], codes=["9-9"]) if r.patient_id == "1"]
    assert whole.value("tabular") == {"gender": "female", "birth_year": 1950.0, "9-9": 5.0}


HEART_FAILURE = {"heart failure": ["http://hl7.org/fhir/sid/icd-10-cm|I50"], "asthma": ["urn:local|195967001"]}


def condition(identifier, code, status="confirmed", system="http://hl7.org/fhir/sid/icd-10-cm", visit="", subject="1"):
    found = {
        "resourceType": "Condition",
        "id": identifier,
        "subject": {"reference": f"Patient/{subject}"},
        "verificationStatus": {"coding": [{"code": status}]},
        "code": {"coding": [{"system": system, "code": code}]},
    }
    return {**found, **({"encounter": {"reference": f"Encounter/{visit}"}} if visit else {})}


def test_diagnoses_of_visits_and_of_patients(tmp_path):
    lists = {**encounter("e2", "Patient/1"), "diagnosis": [{"condition": {"reference": "Condition/c2"}}]}
    write_lines(
        tmp_path / "a.ndjson",
        *(patient("1"), patient("2"), encounter("e1", "Patient/1"), lists, encounter("e3", "Patient/2")),
        condition("c1", "I50.9", visit="e1"),
        condition("c2", "I50.9", "provisional"),  # known to belong to e2 by the Encounter alone
        condition("c3", "195967001", "refuted", "urn:local", visit="e3", subject="2"),
        condition("c4", "I50", system="http://hl7.org/fhir/sid/icd-9-cm", visit="e3", subject="2"),
        condition("c5", "195967001", system="urn:local"),  # of no visit
        condition("c6", "I50", "entered-in-error", visit="e3", subject="2"),
    )
    data = load(tmp_path, unit="visit", modalities=["tabular"], diagnoses=HEART_FAILURE)
    assert {r.sample_id: r.label for r in data} == {"e1": (1.0, 0.0), "e2": (None, 0.0), "e3": (0.0, 0.0)}
    assert data.classes == ("heart failure", "asthma")
    assert "1 Conditions belong to no visit: they label no record" in data.notes
    assert data.skipped.examples == {"Condition is entered-in-error": ("a.ndjson:11",)}
    assert not any("were not read" in note for note in data.notes)
    whole = [patient("3", gender="male"), *({**p, "gender": "female"} for p in (patient("1"), patient("2")))]
    write_lines(tmp_path / "b.ndjson", *whole)
    data = load(tmp_path, unit="patient", modalities=["tabular"], diagnoses=HEART_FAILURE)
    assert {r.sample_id: r.label for r in data} == {"1": (1.0, 1.0), "2": (0.0, 0.0)}
    assert data.skipped.counts["no label"] == 1  # nothing says that 3 is healthy


def test_a_condition_of_another_patients_visit_is_refused(tmp_path):
    write_lines(
        tmp_path / "a.ndjson",
        *(patient("1"), patient("2"), encounter("e1", "Patient/1")),
        condition("c1", "I50", visit="e1", subject="2"),
    )
    with pytest.raises(DataError, match="visit of another patient") as caught:
        load(tmp_path, unit="visit", modalities=["tabular"], diagnoses=HEART_FAILURE)
    assert caught.value.where == "a.ndjson:4"


def test_resources_that_the_options_do_not_ask_for_are_not_kept(tmp_path):
    write_lines(tmp_path / "a.ndjson", patient("1"), report("r", "Patient/1"), observation("o", "Patient/1", "1-1", 5))
    data = load(tmp_path, modalities=["text"])
    assert any(note.endswith("were not read: Observation (1)") for note in data.notes)


def test_malformed_lines_are_counted_and_named(tmp_path):
    write_lines(
        tmp_path / "a.ndjson",
        *("\ufeff" + json.dumps(patient("1")), "", "{", "[1]", "null", '{"id": "x"}', '{"resourceType": 5}'),
        *("[" * 100_000, '{"resourceType": "Patient"}', '{"resourceType": "Patient", "id": "a/b"}'),
        report("r1", "Patient/1"),
    )
    with (tmp_path / "a.ndjson").open("ab") as stream:
        stream.write(b'{"resourceType": "Patient", "id": "\xff"}\n')
    data = load(tmp_path)
    assert len(data) == 1
    assert data.skipped.counts == {"line is no FHIR resource": 7, "id is missing or malformed": 2}
    assert data.skipped.examples["line is no FHIR resource"][0] == "a.ndjson:3"
    assert data.skipped.examples["line is no FHIR resource"][-1] == "a.ndjson:12"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"no \.ndjson file"):
        load(tmp_path)
    write_lines(tmp_path / "r.ndjson", report("r1", "Patient/1"))
    with pytest.raises(DataError, match="holds no Patient resource"):
        load(tmp_path)
    whole = gzip.compress(json.dumps(patient("1")).encode() * 100)
    (tmp_path / "p.ndjson.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"p\.ndjson\.gz cannot be read"):
        load(tmp_path)


def test_labels_by_any_id_of_a_person(tmp_path):
    people = [patient("a", mrn="007", links=[("replaced-by", "Patient/b")]), patient("b"), patient("c", mrn="8")]
    write_lines(tmp_path / "x.ndjson", *people, *(report(f"r{i}", f"Patient/{i}") for i in "abc"))
    labels = {"path": tmp_path / "y.csv", "id_column": "mrn", "ids": "patient", "label": "y"}
    (tmp_path / "y.csv").write_text("mrn,y\n007,sick\n8,well\n")
    data = load(tmp_path, labels=labels)
    assert [(r.patient_id, r.label) for r in data] == [("b", 0), ("b", 0), ("c", 1)]
    (tmp_path / "y.csv").write_text("mrn,y\n007,sick\nb,well\n8,well\n")
    with pytest.raises(DataError, match="by its different ids, and differ") as caught:
        load(tmp_path, labels=labels)
    assert caught.value.private == ("y.csv:2", "y.csv:3")


def test_wrong_options_are_listed_together(tmp_path):
    labels = {"path": "y.csv", "id_column": "a", "ids": "mrn", "label": "y"}
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, modalities=["tabular"], labels=labels, diagnoses={"a": ["I50"]})
    assert len(caught.value.problems) == 4


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.just("Patient/1"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["reference", "value", "id"]), inner),
    max_leaves=4,
)
RESOURCES = [
    patient("1", mrn="M", links=[("seealso", "Patient/2")], birthDate="1950", gender="male"),
    report("r1", "Patient/1", encounter={"reference": "Encounter/e1"}, imagingStudy=[{"reference": "ImagingStudy/i"}]),
    document("d1", "Patient/1", context={"encounter": [{"reference": "Encounter/e1"}], "related": []}),
    observation("o1", "Patient/1", "1-1", 5, "kg", component=[{"code": {"text": "x"}, "valueInteger": 3}]),
    encounter("e1", "Patient/1"),
    imaging("i", "Patient/1", "1.2.3", "A1"),
    condition("c", "I50", visit="e1"),
]


@st.composite
def mutated(draw):
    """One of the resources with one value, at any depth, replaced."""
    resource = json.loads(json.dumps(draw(st.sampled_from(RESOURCES))))
    place = resource
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        place[key] = draw(VALUES)
        return resource


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    broken=mutated(),
    unit=st.sampled_from(["note", "visit", "patient"]),
    diagnoses=st.sampled_from([None, HEART_FAILURE]),
)
def test_any_value_in_any_place_ends_in_records_or_our_own_error(tmp_path, broken, unit, diagnoses):
    lines = [patient("1"), patient("2"), report("r0", "Patient/2"), *RESOURCES[1:], broken]
    write_lines(tmp_path / "a.ndjson", *lines)
    try:
        data = load(tmp_path, unit=unit, diagnoses=diagnoses)
    except ForgetMIError:
        return
    for record in data:
        str((record.value("text"), record.value("tabular"))).encode()  # fit to be written
