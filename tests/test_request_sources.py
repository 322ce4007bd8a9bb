"""Requests as they arrive: deletions of an EHR, a clerk's list, a query; on data worked out by hand."""

from __future__ import annotations

import gzip
import json

import pytest

from forgetmi.errors import RequestError
from forgetmi.records import Record, RecordDataset
from forgetmi.request_list import loose
from forgetmi.request_query import Query
from forgetmi.requests import ForgetRequest, read_request, resolve

BUNDLE = {"resourceType": "Bundle", "type": "transaction"}


def _record(sample, study, patient, split="train", site="north", **attributes):
    return Record(sample, study, patient, site, {"image": 1.0}, 0, split, attributes)


def _dataset(extra=(), aliases=None):
    records = [
        _record("a1", "1.2.840.1", "0012", StudyDate="20190105", Manufacturer="ACME"),
        _record("a2", "1.2.840.2", "0012", StudyDate="20200701", Manufacturer="Other"),
        _record("b1", "1.2.840.3", "P7x", StudyDate="20190630", Manufacturer="acme ", site="south"),
        _record("c1", "1.2.840.4", "300", StudyDate="", Manufacturer="ACME"),
        _record("d1", "1.2.840.5", "400", StudyDate="20181231", Manufacturer="Other"),
        _record("t1", "1.2.840.6", "500", "test", StudyDate="20190301", Manufacturer="ACME"),
        *extra,
    ]
    default = {
        "patient": {"MRN-77": "0012", "old-P7x": "P7x", "gone": "nobody"},
        "study": {"ACC0042": "1.2.840.1"},
    }
    return RecordDataset(
        records,
        name="toy",
        levels=("institution", "patient", "study", "sample", "modality"),
        modality_kinds={"image": "image"},
        aliases=default if aliases is None else aliases,
    )


def _forget(request, **options):
    partition = resolve(_dataset(), request, **options)
    return {partition.dataset[i].sample_id for i in partition.forget}


class TestLinks:
    def test_two_ids_of_one_person_name_that_person_once(self):
        assert _forget(ForgetRequest.of("patient", ["MRN-77"])) == {"a1", "a2"}
        assert _forget(ForgetRequest.of("patient", ["0012", "MRN-77"])) == {"a1", "a2"}
        assert _forget(ForgetRequest.of("study", ["ACC0042"]), remaining="exclude") == {"a1"}

    def test_an_id_of_somebody_without_a_record_says_so(self):
        with pytest.raises(RequestError, match="someone without a record"):
            resolve(_dataset(), ForgetRequest.of("patient", ["gone"]))

    def test_an_alias_at_another_level_is_named_as_the_likely_cause(self):
        with pytest.raises(RequestError, match="1 of them are ids at level study"):
            resolve(_dataset(), ForgetRequest.of("patient", ["ACC0042"]))

    def test_what_remains_is_always_said(self):
        whole = resolve(_dataset(), ForgetRequest.of("patient", ["0012"]))
        assert whole.remains() == ("nothing: every record of the patients concerned is to be forgotten",)
        part = resolve(_dataset(), ForgetRequest.of("study", ["ACC0042"]), remaining="exclude")
        assert part.remains()[0].startswith("1 of the patients concerned keep 1 other sample in 1 study")
        blind = RecordDataset(list(_dataset()), name="toy", levels=("study", "sample"))
        found = resolve(blind, ForgetRequest.of("study", ["1.2.840.3"]))
        assert "not known" in found.remains()[0]


class TestDeletions:
    def _write(self, tmp_path, lines, *, gz=False, deleted=None, **more):
        content = "\n".join(json.dumps(line) if not isinstance(line, str) else line for line in lines).encode()
        name = "del.ndjson.gz" if gz else "del.ndjson"
        (tmp_path / name).write_bytes(gzip.compress(content) if gz else content)
        manifest = tmp_path / "manifest.json"
        entry = {"type": "Bundle", "url": "https://ehr.example/bulk/7/del.ndjson"}
        manifest.write_text(json.dumps({"transactionTime": "2026-01-01T00:00:00Z", "output": [], **more,
                                        "deleted": [entry] if deleted is None else deleted}))  # fmt: skip
        return manifest

    def _bundle(self, *urls, method="DELETE", kind="transaction"):
        entries = [{"request": {"method": method, "url": url}} for url in urls]
        return {"resourceType": "Bundle", "type": kind, "entry": entries}

    @pytest.mark.parametrize("gz", [False, True])
    def test_patients_of_the_deleted_entries_and_others_are_counted(self, tmp_path, gz):
        lines = [
            self._bundle("Patient/0012"),
            "",
            self._bundle("Observation/1", "https://ehr.example/fhir/Patient/P7x/_history/3", "Observation/2"),
        ]
        request = read_request(self._write(tmp_path, lines, gz=gz))
        name = "del.ndjson.gz" if gz else "del.ndjson"
        assert (request.level, request.kind) == ("patient", "fhir")
        assert request.ids == ("0012", "P7x") and request.places == (f"{name}:1", f"{name}:3")
        assert request.notes == ("deleted resources that are no patients were not used: Observation 2",)

    @pytest.mark.parametrize(
        "line",
        [
            "{",
            "[1]",
            {"resourceType": "Patient", "id": "1"},
            {"resourceType": "Bundle", "type": "searchset", "entry": []},
            {**BUNDLE, "entry": [{"request": {"method": "PUT", "url": "Patient/1"}}]},
            {**BUNDLE, "entry": [{"request": {"method": "DELETE", "url": "Patient?x=1"}}]},
            {**BUNDLE, "entry": ["Patient/1"]},
        ],
    )  # fmt: skip
    def test_a_line_that_is_no_deletion_is_an_error_with_its_place(self, tmp_path, line):
        with pytest.raises(RequestError) as caught:
            read_request(self._write(tmp_path, [self._bundle("Patient/0012"), line]))
        assert caught.value.where == "del.ndjson:2"

    def test_only_other_resources_is_no_request(self, tmp_path):
        with pytest.raises(RequestError, match="no deleted patient among 1") as caught:
            read_request(self._write(tmp_path, [self._bundle("Observation/9")]))
        assert "Observation 1" in caught.value.fix

    @pytest.mark.parametrize(
        "url", ["https://ehr.example/none.ndjson", "", None, "https://ehr.example/..", "http://[", 3]
    )
    def test_a_file_that_is_not_beside_the_manifest(self, tmp_path, url):
        with pytest.raises(RequestError):
            read_request(self._write(tmp_path, [], deleted=[{"type": "Bundle", "url": url}]))

    def test_no_other_folder_is_read_whatever_the_url_says(self, tmp_path):
        inner = tmp_path / "inner"
        inner.mkdir()
        (tmp_path / "del.ndjson").write_text(json.dumps(self._bundle("Patient/secret")))
        manifest = self._write(inner, [self._bundle("Patient/0012")], deleted=[{"url": "../del.ndjson"}])
        assert read_request(manifest).ids == ("0012",)

    def test_further_pages_are_said(self, tmp_path):
        manifest = self._write(tmp_path, [self._bundle("Patient/0012")], link=[{"relation": "next", "url": "x"}])
        assert "further pages" in read_request(manifest).notes[0]


class TestLists:
    def _read(self, tmp_path, text, dataset=None, **options):
        path = tmp_path / "list.txt"
        path.write_text(text, encoding="utf-8")
        return read_request(path, dataset=dataset or _dataset(), **options)

    @pytest.mark.parametrize(
        "typed",
        [
            "0012",
            "12",
            " 00 12 ",
            "MRN: 12",
            "mrn#0012",
            "MRN-77",
            "mrn - 77",
            "Patient/0012",
            "Patient ID = 12",
            "'12'",
            "１２",
        ],
    )
    def test_a_patient_as_a_clerk_types_it(self, tmp_path, typed):
        request = self._read(tmp_path, f"# removed on request\n\n{typed}\n")
        assert (request.level, request.ids, request.places) == ("patient", ("0012",), ("list.txt:3",))

    @pytest.mark.parametrize(
        "typed",
        [
            "urn:oid:1.2.840.1",
            "1.2.840.1",
            "ACC0042",
            "acc 0042",
            "Accession No. ACC0042",
            "StudyInstanceUID: 1.2.840.1",
        ],
    )
    def test_a_study_as_a_clerk_types_it(self, tmp_path, typed):
        request = self._read(tmp_path, typed)
        assert (request.level, request.ids) == ("study", ("1.2.840.1",))

    def test_several_ids_on_a_line_and_what_was_made_of_them(self, tmp_path):
        request = self._read(tmp_path, "12, p7X; MRN-77\t300\n")
        assert request.ids == ("0012", "P7x", "300") and request.duplicates == 1
        assert request.notes == (
            "1 of 4 ids were found through other ids of the same patient or study",
            "2 of 4 ids differ from the data's in case, blanks, leading zeros or a prefix",
        )

    def test_an_id_that_could_mean_two_patients_is_refused_naming_both(self, tmp_path):
        data = _dataset([_record("e1", "1.2.840.9", "12")])
        with pytest.raises(RequestError, match="more than one patient or study") as caught:
            self._read(tmp_path, "300\n12\n", data)
        assert caught.value.private == ("12 (list.txt:2): patient 0012 or patient 12",)
        assert "0012" not in caught.value.public

    def test_a_number_that_is_a_patient_and_a_study_needs_its_label(self, tmp_path):
        data = _dataset([_record("e1", "300", "600")])
        with pytest.raises(RequestError, match="more than one") as caught:
            self._read(tmp_path, "300", data)
        assert caught.value.private == ("300 (list.txt:1): patient 300 or study 300",)
        assert self._read(tmp_path, "MRN: 300", data).ids == ("300",)
        assert self._read(tmp_path, "study: 300", data).level == "study"

    def test_both_levels_need_a_statement_and_patient_widens(self, tmp_path):
        with pytest.raises(RequestError, match="patients and studies"):
            self._read(tmp_path, "MRN: 300\nACC0042\n")
        request = self._read(tmp_path, "MRN: 300\nACC0042\n", level="patient")
        assert request.ids == ("300", "0012") and "1 study ids were widened" in request.notes[-1]
        with pytest.raises(RequestError, match="level study was asked"):
            self._read(tmp_path, "MRN: 300", level="study")
        with pytest.raises(RequestError, match="level 'sample'"):
            self._read(tmp_path, "300", level="sample")

    def test_unknown_ids_and_labels_are_all_listed(self, tmp_path):
        with pytest.raises(RequestError, match="2 of 3") as caught:
            self._read(tmp_path, "300\n9\nMRN: ACC0042\n")
        assert caught.value.private == ("9 (list.txt:2)", "ACC0042 (list.txt:3)")
        with pytest.raises(RequestError, match="label that is not known") as caught:
            self._read(tmp_path, "Bed: 300")
        assert "list.txt:1" in caught.value.private[0] and "300" not in caught.value.public
        with pytest.raises(RequestError, match="empty"):
            self._read(tmp_path, "# nothing\n")

    def test_a_list_needs_data(self, tmp_path):
        (tmp_path / "list.txt").write_text("1")
        with pytest.raises(RequestError, match="looked up"):
            read_request(tmp_path / "list.txt")

    def test_loose_forms(self):
        assert loose("0 0 7A ") == loose("7a") != loose("70a")
        assert loose("000") == "0" and loose("URN:OID:1.2") == "1.2"


class TestQueries:
    def _find(self, level="study", missing="leave", **conditions):
        return Query.from_mapping({"level": level, "query": conditions, "missing": missing}).find(_dataset())

    def test_a_range_of_dates_both_ends_included(self):
        request = self._find(StudyDate={"from": "2019-01-05", "to": "20190630"})
        assert request.ids == ("1.2.840.1", "1.2.840.3") and request.kind == "query"
        assert "1 records of validation and test fit it too: the model was not trained on them" in request.notes
        assert "1 train records were not taken: the data does not say whether they fit" in request.notes
        assert self._find(StudyDate={"to": 20181231}).ids == ("1.2.840.5",)

    def test_a_record_that_cannot_be_judged_is_refused_unless_another_condition_settles_it(self):
        with pytest.raises(RequestError, match="for 1 of 5 train records"):
            self._find(missing="refuse", StudyDate={"from": "2019-01-01"})
        # c1 has no date, but it is of another site, so that the date does not matter
        request = self._find(missing="refuse", StudyDate={"from": "2019-01-01"}, institution="SOUTH")
        assert request.ids == ("1.2.840.3",)

    def test_values_in_any_case_and_any_of_several(self):
        assert set(self._find(Manufacturer="acme").ids) == {"1.2.840.1", "1.2.840.3", "1.2.840.4"}
        assert len(self._find(Manufacturer=["ACME", "other"]).ids) == 5

    def test_the_level_says_what_is_forgotten_of_what_fits(self):
        conditions = {"Manufacturer": "ACME", "StudyDate": {"to": "2019-02-01"}}
        assert self._find("sample", **conditions).ids == ("a1",)
        assert _forget(self._find("patient", **conditions)) == {"a1", "a2"}
        assert self._find("institution", institution="south").ids == ("south",)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"level": "study", "query": {}}, "at least one condition"),
            ({"level": "study", "query": {"A": {"frm": "1"}}}, "from and to"),
            ({"level": "study", "query": {"StudyDate": {"from": "2019"}}}, "no date"),
            ({"level": "study", "query": {"Rows": {"from": "many"}}}, "no number"),
            ({"level": "study", "query": {"Rows": {"from": 5, "to": 4}}}, "after"),
            ({"level": "study", "query": {"A": True}}, "expected a text"),
            ({"level": "study", "query": {"A": "x"}, "mising": "leave"}, "Did you mean 'missing'"),
            ({"query": {"A": "x"}, "missing": "maybe"}, "refuse or leave"),
        ],
    )
    def test_queries_that_are_wrong(self, content, message):
        with pytest.raises(RequestError, match=message):
            Query.from_mapping(content)

    def test_unknown_attributes_and_nothing_found(self):
        with pytest.raises(RequestError, match="Did you mean 'Manufacturer'"):
            self._find(Manufacturr="ACME")
        with pytest.raises(RequestError, match="Manufacturer: 3, institution: 1"):
            self._find(Manufacturer="acme", institution="south", StudyDate={"from": "2030-01-01"})
        bare = RecordDataset([_record("x", "x", "x")], name="bare", levels=("patient",))
        with pytest.raises(RequestError, match="does not say this"):
            Query.from_mapping({"level": "patient", "query": {"institution": "north"}}).find(bare)

    def test_from_a_file(self, tmp_path):
        path = tmp_path / "q.json"
        path.write_text(json.dumps({"level": "sample", "query": {"Manufacturer": "other"}}))
        assert read_request(path, dataset=_dataset()).ids == ("a2", "d1")
        with pytest.raises(RequestError, match="looked up"):
            read_request(path)
