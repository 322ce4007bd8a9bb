"""Sources of one hospital joined by patient: who is whom, what matches nothing, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from forgetmi.cli import app
from forgetmi.config import load_config
from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.persons import find_persons, issued, normal_form
from forgetmi.errors import ConfigError, DataError, RequestError
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters.dicom_files import BASE, ramp, write_dicom
from tests.data_adapters.factories import join as write_hospital
from tests.data_adapters.fhir_files import MRN, document, imaging, patient, report, write_lines

SPACE = "made-up numbers"


def table(path, *rows, label=False, split=False):
    """A manifest source: rows of (patient, study, text[, label][, split])."""
    extra = [name for name, wanted in (("label", label), ("split", split)) if wanted]
    lines = [",".join(["sample", "patient", "study", "words", *extra])]
    lines += [",".join([f"{path.stem}{n}", *row]) for n, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    columns = {"sample_id": "sample", "patient_id": "patient", "study_id": "study"}
    options = {
        "path": str(path),
        "columns": columns | {name: name for name in extra},
        "modalities": {path.stem: {"column": "words", "kind": "text"}},
    }
    if not label:
        options["label_kind"] = "none"
    if not split:
        options["split"] = {"validation": 0.0, "test": 0.0, "seed": 0}
    return {"adapter": "manifest", "options": options}


def load(sources, **options):
    return load_dataset("join", {"sources": sources, "id_space": SPACE, **options})


def texts(data, name):
    return {r.sample_id: r.value(name) for r in data}


@pytest.fixture
def two(tmp_path):
    return {
        "a": table(tmp_path / "a.csv", ("1", "s1", "one"), ("2", "s2", "two"), ("3", "s3", "three")),
        "b": table(tmp_path / "b.csv", ("1", "s1", "eins"), ("2", "s9", "zwei"), ("4", "s4", "vier")),
    }


def test_patients_are_joined_and_the_misses_of_both_sides_are_counted(two):
    data = load(two)
    assert texts(data, "a") == {"a0": "one", "a1": "two", "a2": "three"}
    assert texts(data, "b") == {"a0": "eins", "a1": "zwei", "a2": None}
    assert data.skipped.counts == {"b: its patient is not in a": 1}
    assert data.skipped.examples == {"b: its patient is not in a": ("b2",)}
    assert f"patients are joined by {SPACE}, compared as exact text" in data.notes
    said = "b is joined by patient: 2 of 3 records of a have something in it, 1 of its 3 records are used nowhere"
    assert said in data.notes
    assert data.modality_kinds == {"a": "text", "b": "text"}
    assert "modality" in data.levels and "institution" not in data.levels


def test_by_study_only_records_of_the_same_study_meet(two):
    two["b"]["by"] = "study"
    data = load(two)
    assert texts(data, "b") == {"a0": "eins", "a1": None, "a2": None}
    assert data.skipped.counts == {"b: its patient is not in a": 1, "b: its study is not in a": 1}


def test_the_base_can_be_another_source(two):
    data = load(two, base="b")
    assert texts(data, "a") == {"b0": "one", "b1": "two", "b2": None}
    assert data.skipped.counts == {"a: its patient is not in b": 1}


@pytest.mark.parametrize(
    ("written", "rules", "matches"),
    [("001", [], False), ("001", ["zeros"], True), (" 0 01", ["zeros", "blanks"], True), ("001", ["case"], False)],
)
def test_writings_of_one_id_are_one_only_when_that_is_asked_for(tmp_path, written, rules, matches):
    sources = {
        "a": table(tmp_path / "a.csv", ("1", "s1", "one"), ("x", "s2", "two")),
        "b": table(tmp_path / "b.csv", (written, "s1", "eins"), ("x", "s2", "zwei")),
    }
    data = load(sources, normalise=rules)
    assert texts(data, "b") == {"a0": "eins" if matches else None, "a1": "zwei"}
    if matches:  # a request may write it either way
        assert resolve(data, ForgetRequest.of("patient", [written.strip()])).forget == (0,)


def test_two_patients_of_one_source_never_become_one(tmp_path, two):
    two["b"] = table(tmp_path / "b.csv", ("1", "s1", "eins"), ("01", "s2", "jemand"))
    assert texts(load(two), "b")["a0"] == "eins"
    with pytest.raises(DataError, match="could mean two patients") as caught:
        load(two, normalise=["zeros"])
    assert "01" in str(caught.value) and "01" not in caught.value.public


def test_nobody_in_common_is_an_error_and_not_an_empty_modality(tmp_path, two):
    two["b"] = table(tmp_path / "b.csv", ("7", "s1", "sieben"))
    with pytest.raises(DataError, match="no patient of a is in any other source"):
        load(two)


def test_a_study_of_two_patients_is_refused(tmp_path, two):
    two["b"] = table(tmp_path / "b.csv", ("1", "s1", "eins"), ("3", "s2", "whose?"))
    two["b"]["by"] = "study"
    with pytest.raises(DataError, match="1 studies belong to one patient in a and to another in b") as caught:
        load(two)
    assert caught.value.private == ("s2",)


def test_several_records_of_a_patient_are_refused_or_the_first_is_taken(tmp_path, two):
    two["b"] = table(tmp_path / "b.csv", ("1", "s5", "late"), ("1", "s1", "early"), ("2", "s2", "zwei"))
    with pytest.raises(DataError, match="1 patients of b have several records for one patient"):
        load(two)
    data = load({**two, "b": {**two["b"], "several": "first"}})
    assert texts(data, "b") == {"a0": "early", "a1": "zwei", "a2": None}
    assert data.skipped.counts == {"b: another record of the same patient was taken": 1}
    assert any("first in the order of ids is taken, not of time" in note for note in data.notes)
    by_study = load({**two, "b": {**two["b"], "by": "study"}})
    assert texts(by_study, "b")["a0"] == "early"


def test_a_patients_record_goes_to_every_record_of_the_base(tmp_path):
    sources = {
        "a": table(tmp_path / "a.csv", ("1", "s1", "one"), ("1", "s2", "two"), ("2", "s3", "three")),
        "b": table(tmp_path / "b.csv", ("1", "s7", "eins")),
    }
    data = load(sources)
    assert texts(data, "b") == {"a0": "eins", "a1": "eins", "a2": None}
    # A narrower request leaves the other study, which holds the same text: it is counted, and on neither side.
    partition = resolve(data, ForgetRequest.of("study", ["s1"]), remaining="exclude")
    assert partition.forget == (0,) and partition.excluded == (1,) and partition.leftovers["study"] == 1
    with pytest.raises(RequestError, match="both sides"):
        resolve(data, ForgetRequest.of("study", ["s1"]))
    with pytest.raises(RequestError):  # a study of another source is no study here
        resolve(data, ForgetRequest.of("study", ["s7"]))


def test_labels_and_splits_come_from_one_source(tmp_path, two):
    rows = (("1", "s1", "eins", "yes", "train"), ("2", "s2", "zwei", "no", "test"))
    two["b"] = table(tmp_path / "b.csv", *rows, label=True, split=True)
    data = load(two)
    assert [(r.sample_id, r.label, r.split) for r in data] == [("a0", 1, "train"), ("a1", 0, "test")]
    assert data.classes == ("no", "yes")
    assert data.skipped.counts == {"no split": 1}
    two["c"] = table(tmp_path / "c.csv", ("1", "s1", "un", "maybe", "test"), label=True, split=True)
    with pytest.raises(DataError, match="several sources have labels: b, c"):
        load(two)
    with pytest.raises(DataError, match="several sources have splits: b, c"):
        load(two, labels="b")
    assert len(load(two, labels="b", splits="b")) == 2
    with pytest.raises(DataError, match="'a' has no labels"):
        load(two, labels="a", splits="b")


def test_records_without_a_label_are_left_out_and_counted(tmp_path, two):
    rows = (("1", "s1", "eins", "yes"), ("2", "s2", "zwei", "no"))
    data = load({**two, "b": table(tmp_path / "b.csv", *rows, label=True)})
    assert [r.sample_id for r in data] == ["a0", "a1"] and data.skipped.counts == {"no label": 1}


def test_different_labels_for_one_record_are_refused(tmp_path, two):
    rows = (("1", "s1", "eins", "yes"), ("1", "s2", "", "no"))
    two["b"] = table(tmp_path / "b.csv", *rows, label=True)
    with pytest.raises(DataError, match="different labels"):
        load(two)


def test_two_modalities_of_one_name_need_another_name(tmp_path, two):
    (tmp_path / "other").mkdir()
    two["b"] = table(tmp_path / "other" / "a.csv", ("1", "s1", "eins"))
    with pytest.raises(DataError, match="several modalities have one name: a"):
        load(two)
    data = load({**two, "b": {**two["b"], "rename": {"a": "letter"}}})
    assert texts(data, "letter")["a0"] == "eins"
    with pytest.raises(DataError, match="no modality 'leter'"):
        load({**two, "b": {**two["b"], "rename": {"leter": "letter"}}})


def test_a_source_without_patients_cannot_be_joined(tmp_path, two):
    two["b"]["options"]["columns"] = {"sample_id": "sample"}
    with pytest.raises(DataError, match="'b' has no patient ids"):
        load(two)


def test_skips_and_licences_of_the_sources_are_kept(tmp_path, two):
    two["b"] = table(tmp_path / "b.csv", ("1", "s1", "eins"), ("", "s2", "zwei"))
    data = load(two)
    assert data.skipped.counts == {"b: column 'patient' is blank": 1}
    assert data.license_note == "your own data: its licence and use agreement are not known to this package"


# ---- aliases and issuers


def films(folder, *rows):
    """(patient, issuer, study, accession)"""
    for n, (who, issuer, study, accession) in enumerate(rows):
        tags = {"IssuerOfPatientID": issuer or None, "AccessionNumber": accession}
        write_dicom(folder / f"IM{n}", ramp(n), patient=who, study=study, sop=str(n), **tags)
    return {"adapter": "dicom", "options": {"root": str(folder)}}


def letters(folder, *people, **source):
    """FHIR patients and a document of each."""
    write_lines(folder / "Patient.ndjson", *people)
    write_lines(folder / "Document.ndjson", *(document(f"d-{p['id']}", f"Patient/{p['id']}", p["id"]) for p in people))
    return {"adapter": "fhir", "options": {"root": str(folder), "modalities": ["text"]}, "ids": "other", **source}


def by_patient(data, name="text"):
    return {r.patient_id: r.value(name) for r in data}


def test_ids_of_different_issuers_are_different_people(tmp_path):
    sources = {
        "films": films(tmp_path / "films", ("1", "North", "1", ""), ("1", "South", "2", ""), ("2", "South", "3", "")),
        "notes": letters(tmp_path / "notes", patient("anna", mrn="1"), patient("bert", mrn="2")),
    }
    # Whose number 1 the notes mean, nobody can know: the bare numbers match nothing, and that is an error.
    with pytest.raises(DataError, match="no patient of films"):
        load(sources)
    with pytest.raises(DataError, match="come from 2 issuers: North, South"):
        load({**sources, "films": {**sources["films"], "ids": "any"}})
    data = load({**sources, "films": {**sources["films"], "ids": "own", "issuer": "South"}})
    assert by_patient(data) == {"1^^^North": None, "1^^^South": "anna", "2^^^South": "bert"}
    with pytest.raises(DataError, match="no id of issuer 'West'"):
        load({**sources, "films": {**sources["films"], "issuer": "West"}})


def test_one_issuer_is_found_by_itself(tmp_path):
    sources = {
        "films": {**films(tmp_path / "films", ("1", "North", "1", ""), ("2", "North", "2", "")), "ids": "any"},
        "notes": letters(tmp_path / "notes", patient("2", mrn="1"), patient("x", mrn="9")),
    }
    # FHIR's own id 2 is no record number: the film of patient 2 gets no note.
    assert by_patient(load(sources)) == {"1^^^North": "2", "2^^^North": None}


def test_numbers_of_two_systems_are_not_mixed(tmp_path):
    numbers = [{"system": MRN, "value": "7"}, {"system": "urn:insurance", "value": "5"}]
    sources = {
        "films": films(tmp_path / "films", ("5", "", "1", ""), ("7", "", "2", "")),
        "notes": letters(
            tmp_path / "notes",
            {**patient("anna", mrn="7"), "identifier": numbers},
        ),
    }
    with pytest.raises(DataError, match="come from 2 issuers"):
        load(sources)
    sources["notes"]["issuer"] = MRN
    assert by_patient(load(sources)) == {"5": None, "7": "anna"}


def test_a_person_with_two_ids_in_one_source_is_one_in_the_join(tmp_path):
    people = [patient("old", mrn="1", links=[("replaced-by", "Patient/new")]), patient("new", mrn="2")]
    sources = {
        "films": films(tmp_path / "films", ("1", "", "1", "A1"), ("2", "", "2", "A2"), ("3", "", "3", "A3")),
        "notes": {**letters(tmp_path / "notes", *people, several="first"), "request_ids": True},
    }
    data = load(sources)
    assert [(r.patient_id, r.value("text")) for r in data] == [("1", "new"), ("1", "new"), ("3", None)]
    assert "1 people have several patient ids in films, as another source says" in data.notes
    for written in ("1", "2", "new", "old"):
        assert resolve(data, ForgetRequest.of("patient", [written])).forget == (0, 1)
    assert resolve(data, ForgetRequest.of("study", ["A3"])).forget == (2,)


def test_two_ids_of_one_person_in_two_splits_are_refused(tmp_path):
    people = [patient("old", mrn="1", links=[("replaced-by", "Patient/new")]), patient("new", mrn="2")]
    rows = (("1", "s1", "one", "train"), ("2", "s2", "two", "test"))
    sources = {
        "a": table(tmp_path / "a.csv", *rows, split=True),
        "notes": letters(tmp_path / "notes", *people, several="first"),
    }
    with pytest.raises(DataError, match="one in one split and one in another"):
        load(sources)


def test_the_ids_of_another_source_are_followed_only_when_asked_for(tmp_path):
    sources = {
        "films": films(tmp_path / "films", ("1", "", "1", ""), ("2", "", "2", "")),
        "notes": letters(tmp_path / "notes", patient("2", mrn="1"), patient("anna", mrn="2"), patient("8", mrn="9")),
    }
    with pytest.raises(RequestError, match="are not in join"):
        resolve(load(sources), ForgetRequest.of("patient", ["anna"]))
    data = load({**sources, "notes": {**sources["notes"], "request_ids": True}})
    assert resolve(data, ForgetRequest.of("patient", ["anna"])).forget == (1,)
    # FHIR's Patient/2 is the films' patient 1, and the films have another patient 2.
    assert resolve(data, ForgetRequest.of("patient", ["2"])).forget == (1,)
    assert any(note.endswith("a request cannot use them") for note in data.notes)
    for stranger in ("8", "9"):  # someone who has no film
        with pytest.raises(RequestError, match="are not in join"):
            resolve(data, ForgetRequest.of("patient", [stranger]))


def test_reports_meet_films_of_the_same_study(tmp_path):
    people = [patient("anna", mrn="1"), patient("bert", mrn="2")]
    folder = tmp_path / "notes"
    write_lines(folder / "Patient.ndjson", *people)
    write_lines(folder / "ImagingStudy.ndjson", imaging("i1", "Patient/anna", f"{BASE}.1.1"))
    write_lines(
        folder / "DiagnosticReport.ndjson",
        report("r1", "Patient/anna", "by uid", imagingStudy=[{"reference": "ImagingStudy/i1"}]),
        report("r2", "Patient/bert", "of no study"),
    )
    notes = {"adapter": "fhir", "options": {"root": str(folder), "modalities": ["text"]}, "ids": "other", "by": "study"}
    sources = {"films": films(tmp_path / "films", ("1", "", "1", "A1"), ("2", "", "2", "A2")), "notes": notes}
    data = load(sources)
    assert by_patient(data) == {"1": "by uid", "2": None}
    assert data.skipped.counts == {"notes: its study is not in films": 1}


def test_ids_and_their_issuers():
    assert issued("1^^^A|B") == ("A|B", "1") and issued("|5") == ("", "5") and issued("s|5|6") == ("s", "5|6")
    assert normal_form(" 00 Ab", ("blanks", "zeros", "case")) == "ab" and normal_form("000", ("zeros",)) == "0"


def test_persons_do_not_depend_on_the_order_of_sources():
    def one(name, patients, aliases):
        records = [Record(f"{name}{p}", "s", p, "", {}, None, "train") for p in patients]
        return RecordDataset(records, name=name, levels=("patient",), aliases={"patient": aliases})

    data = {"x": one("x", "ab", {"k": "a", "l": "b"}), "y": one("y", "kz", {"l": "z"}), "z": one("z", "q", {"k": "q"})}
    which = dict.fromkeys(data, ("any", None))
    first = find_persons(data, which, (), SPACE)
    turned = find_persons(dict(reversed(data.items())), which, (), SPACE)
    groups = [
        {frozenset(n for n in nodes if p.of(*n) == number) for number in {p.of(*n) for n in nodes}}
        for p in (first, turned)
        for nodes in [[("x", "a"), ("x", "b"), ("y", "k"), ("y", "z"), ("z", "q")]]
    ]
    expected = {frozenset({("x", "a"), ("y", "k"), ("z", "q")}), frozenset({("x", "b"), ("y", "z")})}
    assert groups == [expected, expected]


# ---- options, configuration, command line


def test_every_wrong_option_is_named_at_once(tmp_path, two):
    two["b"]["options"]["labell"] = "x"
    sources = {**two, "c": {"adapter": "dcom"}, "d": {"adapter": "join"}}
    with pytest.raises(ConfigError) as caught:
        load_dataset("join", {"sources": sources, "id_space": " ", "base": "bb"})
    text = str(caught.value)
    for words in ("sources.b.options: unknown option 'labell'", "Did you mean 'dicom'", "cannot be joined", "id_space",
                  "'bb' is no source"):  # fmt: skip
        assert words in text
    with pytest.raises(ConfigError, match="two or more"):
        load_dataset("join", {"sources": {"a": two["a"]}, "id_space": SPACE})


def _config(tmp_path, source):
    """A run.yaml beside the source with relative paths in the join's options."""

    def short(value):
        if isinstance(value, dict):
            return {key: short(item) for key, item in value.items()}
        return value if isinstance(value, str | int | float | list) else str(value.relative_to(tmp_path))

    settings = {
        "data": {"adapter": "join", **short(source.options)},
        "request": {"level": "patient", "ids": ["001"]},
        "model": {
            "modalities": {
                "image": {"size": 8},
                "letter": {"kind": "text", "vocab_size": 32, "max_length": 8, "min_frequency": 1},
            },
            "encoders": {
                "image": {"name": "small_resnet", "widths": [4]},
                "letter": {"name": "small_transformer", "dim": 8, "layers": 1, "heads": 2},
            },
            "dim": 8,
        },
        "unlearning": {"method": "retrain"},
        "run": {"key_file": "site.key"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_paths_of_a_joins_sources_are_relative_to_the_config(tmp_path, monkeypatch):
    source = write_hospital(tmp_path)
    monkeypatch.chdir("/")
    adapter = load_config(_config(tmp_path, source)).adapter
    assert adapter.adapters["films"].root == tmp_path / "films"
    assert adapter.adapters["letters"].path == tmp_path / "letters.csv"
    assert len(adapter.load()) == 6


def test_forgetmi_check_on_a_join(tmp_path, monkeypatch):
    path = _config(tmp_path, write_hospital(tmp_path))
    found = tmp_path / "found.json"
    done = CliRunner().invoke(app, ["check", "-c", str(path), "--json", str(found)])
    assert done.exit_code == 0, done.output
    result = json.loads(found.read_text())
    assert result["splits"]["train"]["present"] == {"image": 4, "text": 4, "letter": 4}
    assert result["splits"]["test"]["present"] == {"image": 2, "text": 1, "letter": 2}
    assert result["skipped"] == {"letters: its patient is not in films": 1}
    assert result["request"]["parts"]["forget"] == {"patients": 1, "studies": 2, "samples": 2}
    inside = CliRunner().invoke(app, ["check", "-c", str(path), "--json", str(tmp_path / "films" / "x.json")])
    assert inside.exit_code == 2 and "data folder" in inside.output
