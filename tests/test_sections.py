"""Texts that remember their sections, and requests that name one of them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.report_sections import report_text
from forgetmi.errors import DataError, RequestError
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import ForgetRequest, read_request, resolve
from forgetmi.values import LazySections, SectionedText, only_sections
from tests.data_adapters import mimic_files
from tests.data_adapters.openi_files import report_xml, write_folder


@dataclass(frozen=True)
class Later:
    """A text that is read when it is used."""

    sections: tuple

    def load(self):
        return SectionedText(dict(self.sections)) if self.sections else None


BOTH = (("findings", "Clear lungs."), ("impression", "Normal."))


def _dataset(sections=("findings", "impression")):
    records = [
        Record("a1", "A1", "1", "", {"image": 1.0, "text": Later(BOTH)}, 0, "train"),
        Record("a2", "A2", "1", "", {"image": 1.0, "text": Later(BOTH[:1])}, 0, "train"),
        Record("b1", "B1", "2", "", {"image": None, "text": SectionedText(dict(BOTH))}, 0, "train"),
        Record("c1", "C1", "3", "", {"image": 1.0, "text": None}, 0, "train"),
    ]
    return RecordDataset(
        records,
        name="toy",
        levels=("patient", "study", "sample", "modality"),
        modality_kinds={"image": "image", "text": "text"},
        sections={"text": sections},
    )


class TestText:
    def test_it_is_the_joined_text_without_blank_sections(self):
        text = SectionedText({"a": "one", "b": "  ", "c": "two"})
        assert text == "one\ntwo" and isinstance(text, str) and list(text.sections) == ["a", "c"]
        assert SectionedText({"a": "one", "c": "two"}, separator=" ") == "one two"

    def test_it_survives_the_way_to_another_process(self):
        text = pickle.loads(pickle.dumps(SectionedText(dict(BOTH), separator=" ")))
        assert (text, text.sections, text.separator) == ("Clear lungs. Normal.", dict(BOTH), " ")

    def test_parts_and_what_has_none(self):
        text = SectionedText(dict(BOTH))
        assert only_sections(text, ["impression"]) == "Normal." and only_sections(text, ["x"]) is None
        assert only_sections(None, ["x"]) is None
        later = only_sections(Later(BOTH), ["impression"])
        assert isinstance(later, LazySections) and later.load() == "Normal."
        assert LazySections(Later(()), ("impression",)).load() is None
        with pytest.raises(DataError, match="not kept in sections"):
            only_sections("plain", ["impression"])
        with pytest.raises(DataError, match="no section"):
            SectionedText({"a": " "})


class TestRequests:
    def test_a_section_is_forgotten_like_a_modality(self):
        request = ForgetRequest.of("section", ["1"], ["impression"], id_level="patient")
        with pytest.raises(RequestError, match="both sides"):  # a2 has no impression, and is the same patient's
            resolve(_dataset(), request)
        partition = resolve(_dataset(), request, remaining="exclude")
        data = partition.dataset
        assert [data[i].sample_id for i in partition.forget] == ["a1"]
        (seen,) = partition.forget_records().values()
        assert seen.value("text") == "Normal." and seen.modalities["image"] is None
        assert data[partition.forget[0]].value("text") == "Clear lungs.\nNormal."
        assert partition.leftovers["modality"] == 1 and partition.leftovers["section"] == 1
        assert partition.leftovers["sample"] == 1
        said = " ".join(partition.remains())
        assert "1 other sample" in said and "other sections" in said and "other modalities" in said

    def test_a_section_of_one_sample_with_its_modality(self):
        partition = resolve(_dataset(), ForgetRequest.of("section", ["b1"], ["text.findings"]))
        assert next(iter(partition.forget_records().values())).value("text") == "Clear lungs."

    def test_sections_that_are_unknown_or_that_no_record_has(self):
        with pytest.raises(RequestError, match="Did you mean 'impression'"):
            resolve(_dataset(), ForgetRequest.of("section", ["b1"], ["impresion"]))
        with pytest.raises(RequestError, match="no record with impression"):
            resolve(_dataset(), ForgetRequest.of("section", ["a2"], ["impression"]))
        with pytest.raises(RequestError, match="cannot support a request at level section"):
            resolve(_dataset(()), ForgetRequest.of("section", ["b1"], ["impression"]))

    def test_one_name_in_two_modalities_must_say_which(self):
        data = RecordDataset(list(_dataset()), name="t", levels=(), sections={"a": ("s",), "b": ("s",)})
        assert data.section_parts(["a.s", "b.s", "a.s"]) == {"a": ("s",), "b": ("s",)}
        with pytest.raises(DataError, match="several modalities"):
            data.section_parts(["s"])

    def test_from_files(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("level,id,section\nstudy,A1,impression\n")
        request = read_request(path)
        assert (request.level, request.id_level, request.modalities) == ("section", "study", ("impression",))
        path.write_text("level,id,section,modality\nstudy,A1,impression,text\n")
        with pytest.raises(RequestError, match="do not agree"):
            read_request(path)
        path = tmp_path / "r.json"
        path.write_text('{"level": "section", "ids": ["a1"], "sections": ["text.impression"]}')
        assert read_request(path).modalities == ("text.impression",)
        path.write_text('{"level": "modality", "ids": ["a1"], "sections": ["text"]}')
        with pytest.raises(RequestError, match="level 'section'"):
            read_request(path)


class TestAdapters:
    def test_openi(self, tmp_path):
        xml = report_xml(1, findings="Clear lungs.", impression="Normal.", images=())
        other = report_xml(2, findings="Dense.", images=())
        write_folder(tmp_path, {"1.xml": xml, "2.xml": other})
        data = load_dataset("openi", {"reports": tmp_path, "validation": 0, "test": 0})
        assert "section" in data.levels and data[0].value("text") == "Clear lungs. Normal."
        partition = resolve(data, ForgetRequest.of("section", ["CXR1"], ["impression"]))
        assert partition.forget_records()[0].value("text") == "Normal."

    def test_mimic_cxr_and_what_its_metadata_say(self, tmp_path):
        mimic_files.write_tables(tmp_path)
        mimic_files.write_images(tmp_path)
        mimic_files.write_reports(tmp_path)
        data = load_dataset("mimic_cxr", {"root": tmp_path, "labels": "none", "attributes": ["ViewPosition"]})
        request = ForgetRequest.of("section", ["50000001"], ["impression"], id_level="study")
        partition = resolve(data, request, remaining="exclude")
        assert {r.value("text") for r in partition.forget_records().values()} == {"No acute process."}
        views = {r.sample_id: r.attributes.get("ViewPosition") for r in data}
        assert views[mimic_files.dicom_id(2)] == "LATERAL" and views[mimic_files.dicom_id(4)] is None
        path = tmp_path / "q.json"
        path.write_text('{"level": "sample", "query": {"ViewPosition": "pa"}}')
        with pytest.raises(RequestError, match="for 1 of 5 train records"):
            read_request(path, dataset=data)
        path.write_text('{"level": "sample", "query": {"ViewPosition": "pa"}, "missing": "leave"}')
        assert read_request(path, dataset=data).ids == (mimic_files.dicom_id(1),)

    def test_a_report_without_the_wanted_sections_says_which_one_it_gives(self):
        assert report_text(mimic_files.REPORTS["50000005"]).sections.keys() == {"last_paragraph"}
