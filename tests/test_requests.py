"""Requests: every way to write one, and what resolving makes of a dataset small enough to work out by hand."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from forgetmi.errors import ConfigError, RequestError
from forgetmi.records import LEVELS, Record, RecordDataset
from forgetmi.requests import ForgetRequest, read_request, resolve


def _record(sample, study, patient, split="train", site="north", text="report"):
    return Record(sample, study, patient, site, {"image": 1.0, "text": text}, 0, split)


def _dataset(extra=(), levels=("institution", "patient", "study", "sample", "modality")):
    records = [
        _record("a1", "A1", "0001"),
        _record("a2", "A1", "0001"),
        _record("a3", "A2", "0001", text=None),
        _record("b1", "B1", "0002"),
        _record("c1", "C1", "0003", site="south"),
        _record("v1", "V1", "0004", "validation", site="south"),
        _record("t1", "T1", "0005", "test"),
        *extra,
    ]
    return RecordDataset(records, name="toy", levels=levels, modality_kinds={"image": "image", "text": "text"})


def _ids(partition, part):
    return {partition.dataset[i].sample_id for i in partition.indices(part)}


class TestReading:
    def test_level_and_id_columns_with_bom_crlf_blanks_and_duplicates(self, tmp_path):
        path = tmp_path / "request.csv"
        path.write_bytes("\ufefflevel , id\r\npatient, 0012 \r\n\r\n,\r\npatient,0007\r\npatient,0012\r\n".encode())
        request = read_request(path)
        assert request.level == request.id_level == "patient"
        assert request.ids == ("0012", "0007")
        assert request.places == ("request.csv:2", "request.csv:5")
        assert request.duplicates == 1

    @pytest.mark.parametrize(
        ("header", "level"),
        [
            ("patient_id", "patient"),
            ("subject_id", "patient"),
            ("PatientID", "patient"),
            ("study_id", "study"),
            ("sample_id", "sample"),
            ("dicom_id", "sample"),
            ("institution", "institution"),
        ],
    )
    def test_the_column_name_says_the_level(self, tmp_path, header, level):
        path = tmp_path / "r.csv.gz"
        path.write_bytes(gzip.compress(f"{header}\n0012\n".encode()))
        assert (read_request(path).level, read_request(path).ids) == (level, ("0012",))

    def test_a_level_picks_its_column_among_several(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("subject_id,study_id,dicom_id\n1,2,3\n")
        with pytest.raises(RequestError, match="several columns"):
            read_request(path)
        assert read_request(path, level="study").ids == ("2",)
        assert read_request(path, column="dicom_id").level == "sample"

    def test_a_file_without_a_header_is_refused_and_its_first_id_stays_private(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("10000032\n10000764\n")
        with pytest.raises(RequestError, match="no column") as caught:
            read_request(path)
        assert "10000032" in str(caught.value) and "10000032" not in caught.value.public

    def test_rows_of_two_levels_are_refused_with_their_rows(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("level,id\npatient,1\nstudy,2\n")
        with pytest.raises(RequestError) as caught:
            read_request(path)
        assert "r.csv:2: patient" in str(caught.value) and "r.csv:3: study" in str(caught.value)

    def test_a_level_that_contradicts_the_file_is_refused(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("level,id\npatient,1\n")
        with pytest.raises(RequestError, match="is at level patient"):
            read_request(path, level="study")

    def test_a_blank_id_is_listed_with_its_row(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("level,id\npatient,1\npatient, \n")
        with pytest.raises(RequestError) as caught:
            read_request(path)
        assert caught.value.private == ("r.csv:3",)

    def test_a_modality_column_makes_a_modality_request_of_what_the_ids_name(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("level,id,modality\npatient,1,text\npatient,1,image\npatient,2,image\npatient,2,text\n")
        request = read_request(path)
        assert (request.level, request.id_level) == ("modality", "patient")
        assert request.ids == ("1", "2") and set(request.modalities) == {"image", "text"}
        path.write_text("level,id,modality\nmodality,1,text\n")
        assert read_request(path).id_level == "sample"

    def test_different_modalities_for_different_ids_are_refused(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("level,id,modality\nsample,1,text\nsample,2,image\n")
        with pytest.raises(RequestError, match="different modalities"):
            read_request(path)

    def test_json(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"level": "modality", "ids": ["01", "1"], "modalities": ["text"]}))
        request = read_request(path)
        assert request.ids == ("01", "1") and request.modalities == ("text",) and request.id_level == "sample"
        assert request.places == ("r.json:ids[0]", "r.json:ids[1]")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"level": "patient", "idz": ["1"]}', "Did you mean 'ids'"),
            ('{"level": "patient", "ids": [1, 2]}', "2 of 2 ids are no text"),
            ('{"level": "patient", "ids": []}', "empty"),
            ('{"level": "patient", "ids": "1"}', "must be a list"),
            ('{"level": "pateint", "ids": ["1"]}', "Did you mean 'patient'"),
            ('{"level": "patient", "ids": ["1"], "modalities": ["text"]}', "no other may"),
            ('{"level": "modality", "ids": ["1"]}', "must name modalities"),
            ('{"level": "patient"', "no JSON"),
            ("[1]", "no JSON object"),
        ],
    )
    def test_json_that_is_wrong(self, tmp_path, content, message):
        path = tmp_path / "r.json"
        path.write_text(content)
        with pytest.raises(RequestError, match=message):
            read_request(path)

    @pytest.mark.parametrize("content", ["", "patient_id\n", "patient_id\n\n \n"])
    def test_an_empty_file_is_an_empty_request(self, tmp_path, content):
        path = tmp_path / "r.csv"
        path.write_text(content)
        with pytest.raises(RequestError, match="empty"):
            read_request(path)

    def test_missing_file_and_other_suffix(self, tmp_path):
        with pytest.raises(RequestError, match="no file"):
            read_request(tmp_path / "none.csv")
        with pytest.raises(RequestError, match="cannot be read"):
            read_request(tmp_path / "none.json")
        with pytest.raises(RequestError, match="no request file"):
            read_request(tmp_path / "r.xlsx")

    def test_a_lone_string_is_one_id_and_a_number_is_refused(self):
        assert ForgetRequest.of("patient", "0012").ids == ("0012",)
        with pytest.raises(RequestError, match="1 of 2 ids"):
            ForgetRequest.of("patient", ["1", 2])


class TestResolving:
    def test_patients(self):
        partition = resolve(_dataset(), ForgetRequest.of("patient", ["0001"]))
        assert _ids(partition, "forget") == {"a1", "a2", "a3"}
        assert _ids(partition, "retain") == {"b1", "c1"}
        assert _ids(partition, "validation") == {"v1"} and _ids(partition, "test") == {"t1"}
        assert partition.excluded == ()
        assert partition.leftovers == dict.fromkeys(LEVELS, 0)

    def test_all_unknown_ids_are_listed_with_their_rows_and_only_counted_in_public(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text("patient_id\n0001\n0099\n0098\n")
        with pytest.raises(RequestError) as caught:
            resolve(_dataset(), read_request(path))
        assert caught.value.private == ("0099 (r.csv:3)", "0098 (r.csv:4)")
        assert "2 of 3 patient ids" in caught.value.public
        assert "0099" not in caught.value.public

    def test_lost_leading_zeros_and_the_wrong_level_are_named_as_the_likely_cause(self):
        with pytest.raises(RequestError, match="leading zeros"):
            resolve(_dataset(), ForgetRequest.of("patient", ["1"]))
        with pytest.raises(RequestError, match="ids at level study"):
            resolve(_dataset(), ForgetRequest.of("patient", ["A1"]))

    def test_a_level_that_the_data_lacks_is_refused(self):
        data = _dataset(levels=("patient", "sample"))
        with pytest.raises(RequestError, match="cannot support a request at level study"):
            resolve(data, ForgetRequest.of("study", ["A1"]))
        with pytest.raises(RequestError, match="level modality"):
            resolve(data, ForgetRequest.of("modality", ["a1"], ["text"]))

    def test_ids_outside_the_train_split_are_listed(self):
        with pytest.raises(RequestError, match="no record in the train split") as caught:
            resolve(_dataset(), ForgetRequest.of("patient", ["0001", "0004", "0005"]))
        assert [line.split()[0] for line in caught.value.private] == ["0004", "0005"]

    def test_all_covering(self):
        with pytest.raises(RequestError, match="whole train split"):
            resolve(_dataset(), ForgetRequest.of("patient", ["0001", "0002", "0003"]))

    def test_a_study_whose_patient_has_others_is_refused_and_both_ways_out_are_named(self):
        with pytest.raises(RequestError) as caught:
            resolve(_dataset(), ForgetRequest.of("study", ["A2"]))
        assert "1 of their patients have 2 other samples in 1 studies" in caught.value.public
        assert "level patient" in caught.value.fix and 'remaining="exclude"' in caught.value.fix
        assert "0001" not in caught.value.public and "0001: 2 other samples" in caught.value.private

    def test_excluded_records_are_on_neither_side(self):
        partition = resolve(_dataset(), ForgetRequest.of("sample", ["a1"]), remaining="exclude")
        assert _ids(partition, "forget") == {"a1"} and _ids(partition, "excluded") == {"a2", "a3"}
        assert _ids(partition, "retain") == {"b1", "c1"}
        # left of patient 0001 at north: a2 in study A1 (named in part) and a3 in study A2
        assert partition.leftovers == dict(zip(LEVELS, (1, 1, 2, 2, 0, 0), strict=True))

    def test_a_narrow_request_that_is_the_whole_patient_needs_no_choice(self):
        assert _ids(resolve(_dataset(), ForgetRequest.of("study", ["A1", "A2"])), "forget") == {"a1", "a2", "a3"}

    def test_exclusion_that_leaves_nothing_is_refused(self):
        with pytest.raises(RequestError, match="whole train split"):
            resolve(_dataset(), ForgetRequest.of("sample", ["a1", "b1", "c1"]), remaining="exclude")

    def test_an_institution_takes_its_patients_out_of_validation_too(self):
        partition = resolve(_dataset(), ForgetRequest.of("institution", ["south"]))
        assert _ids(partition, "forget") == {"c1"} and _ids(partition, "validation") == set()
        assert partition.leftovers["sample"] == 1

    def test_a_patient_of_two_institutions_is_not_put_on_both_sides(self):
        data = _dataset([_record("c2", "C2", "0003", site="north")])
        with pytest.raises(RequestError, match="both sides"):
            resolve(data, ForgetRequest.of("institution", ["south"]))
        partition = resolve(data, ForgetRequest.of("institution", ["south"]), remaining="exclude")
        assert _ids(partition, "excluded") == {"c2"}

    def test_an_ambiguous_study_id_is_refused(self):
        data = _dataset([_record("d1", "B1", "0006")])
        with pytest.raises(RequestError, match="more than one patient"):
            resolve(data, ForgetRequest.of("study", ["B1"]))

    def test_one_modality_of_a_patient(self):
        request = ForgetRequest.of("modality", ["0001"], ["text"], id_level="patient")
        with pytest.raises(RequestError, match="both sides"):  # a3 has no text: it stays, and is the same patient's
            resolve(_dataset(), request)
        partition = resolve(_dataset(), request, remaining="exclude")
        assert _ids(partition, "forget") == {"a1", "a2"} and _ids(partition, "excluded") == {"a3"}
        assert partition.modalities == ("text",)
        assert partition.leftovers["modality"] == 2 and partition.leftovers["sample"] == 1
        assert all(r.modalities["image"] is None for r in partition.forget_records().values())

    def test_modalities_that_are_unknown_or_that_no_record_holds(self):
        with pytest.raises(RequestError, match="Did you mean 'text'"):
            resolve(_dataset(), ForgetRequest.of("modality", ["a1"], ["txt"]))
        with pytest.raises(RequestError, match="no record with text") as caught:
            resolve(_dataset(), ForgetRequest.of("modality", ["a3", "b1"], ["text"]))
        assert len(caught.value.private) == 1 and caught.value.private[0].startswith("a3 ")

    def test_the_order_of_the_ids_and_of_the_records_changes_nothing(self):
        data = _dataset()
        reordered = data.with_records(reversed(list(data)))
        one = resolve(data, ForgetRequest.of("patient", ["0001", "0003"]))
        two = resolve(reordered, ForgetRequest.of("patient", ["0003", "0001"]))
        assert (one.forget, one.retain, one.test) == (two.forget, two.retain, two.test)

    def test_every_record_is_accounted_for(self):
        data = _dataset([replace(_record("w1", "W1", "0007"), split="test")])
        partition = resolve(data, ForgetRequest.of("study", ["A1"]), remaining="exclude")
        parts = ("forget", "retain", "validation", "test", "excluded")
        assert sorted(i for part in parts for i in partition.indices(part)) == list(range(len(data)))

    def test_remaining_is_checked(self):
        with pytest.raises(ConfigError, match="Did you mean 'exclude'"):
            resolve(_dataset(), ForgetRequest.of("patient", ["0001"]), remaining="exclud")
