"""Broken files end in records or in our own error that says where; never in another exception, never in a hang.

``-m slow`` tries 1,000 mutated files of each format, the default 15.
"""

from __future__ import annotations

import gzip
import json
import signal
from contextlib import contextmanager

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgetmi.data_adapters import load_dataset
from forgetmi.errors import ConfigError, DataError, RequestError
from forgetmi.records import Record, RecordDataset
from forgetmi.requests import read_request, resolve
from tests.data_adapters import text_sets
from tests.data_adapters.dicom_files import slices
from tests.data_adapters.factories import FACTORIES, Source
from tests.data_adapters.fuzzing import mutate
from tests.data_adapters.omop_files import write_parquet, write_sqlite
from tests.data_adapters.test_contract import content

FEW, MANY, SECONDS = 15, 1000, 20
# What is wrong between the files of a source, or in none of them: there is no one file to name.
NO_FILE = (
    *("more than one split", "occur more than once", "holds no record", "too few", "no patient of", "several sources"),
    *("in no file", "have several records for one", "different studies", "none of the", "people have"),
)


def manifest_parquet(folder):
    source = FACTORIES["manifest"](folder)
    pd.read_csv(folder / "m.csv", dtype=str).to_parquet(folder / "m.parquet")
    (folder / "m.csv").unlink()
    return Source({**source.options, "path": folder / "m.parquet"}, folder, source.breakable)


def omop_parquet(folder):
    write_parquet(folder)
    return Source({"root": folder}, folder, folder)


def omop_database(folder):
    path = write_sqlite(folder / "cdm.db")
    return Source({"root": path}, folder, path)


def fhir_zipped(folder):
    source = FACTORIES["fhir"](folder)
    for path in sorted(folder.glob("*.ndjson")):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
    return source


def dicom_volume(folder):
    slices(folder, [0, 1, 2], series="5")
    slices(folder, [3, 5, 7], series="6", patient="2", study="2")
    return Source({"root": folder, "unit": "volume"}, folder, folder)


def tofu_parquet(folder):
    sets = text_sets.tofu_sets()
    for name in ("forget10", "retain90", "holdout10"):
        text_sets.write_parquet(folder / name / "train-00000-of-00001.parquet", sets[name])
    return Source({"root": folder, "questions_per_author": 2}, folder, folder)


def tofu_perturbed(folder):
    for name, rows in text_sets.tofu_sets().items():
        if name.endswith("_perturbed"):
            text_sets.write_lines(folder / f"{name}.json", rows)
    sets = {"train": ["forget10_perturbed", "retain_perturbed"], "test": ["real_authors_perturbed"]}
    return Source({"root": folder, "questions_per_author": 2, **sets}, folder, folder)


def muse_lists(folder):
    for name, rows in text_sets.muse_sets().items():
        if name.startswith("knowmem"):
            text_sets.write_list(folder / f"{name}.json", rows)
    return Source({"root": folder, "part": "knowmem"}, folder, folder)


def wmdp_questions(folder):
    text_sets.write_list(folder / "wmdp-mcqs" / "cyber_questions.json", text_sets.wmdp_questions())
    return Source({"root": folder, "part": "questions"}, folder, folder)


def text_folder(folder):
    text_sets.write_notes_folder(folder)
    return Source({"path": folder, "layout": "{split}/{patient}/{sample}.txt"}, folder, folder)


def text_csv(folder):
    pd.DataFrame(text_sets.NOTES).to_csv(folder / "notes.csv", index=False)
    columns = {**text_sets.COLUMNS, "text": "words"}
    return Source({"path": folder / "notes.csv", "columns": columns, "chunk_words": 2}, folder, folder)


# Format to (adapter, what writes a source): the adapters' own small sources, and other forms of some of them.
FORMATS = {name: (name, make) for name, make in FACTORIES.items()} | {
    "manifest, Parquet": ("manifest", manifest_parquet),
    "omop, Parquet": ("omop", omop_parquet),
    "omop, SQLite": ("omop", omop_database),
    "fhir, gz": ("fhir", fhir_zipped),
    "dicom, volumes": ("dicom", dicom_volume),
    "tofu, Parquet": ("tofu", tofu_parquet),
    "tofu, perturbed": ("tofu", tofu_perturbed),
    "muse, lists": ("muse", muse_lists),
    "wmdp, questions": ("wmdp", wmdp_questions),
    "text_records, folder": ("text_records", text_folder),
    "text_records, CSV": ("text_records", text_csv),
}


class Hang(BaseException):
    """Not an Exception, so that no handler of the code under test can swallow it."""


@contextmanager
def in_time():
    def stop(*_):
        raise Hang(f"no end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(many):
    return settings(
        max_examples=MANY if many else FEW,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def check_source(form, folder, many):
    folder.mkdir()
    name, make = FORMATS[form]
    source = make(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    originals = {path: path.read_bytes() for path in files}
    known = {r.sample_id: (r.study_id, r.patient_id) for r in load_dataset(name, source.options)}
    tables = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".gz", ".tgz", ".txt", ".parquet", ".db")

    @fuzz(many)
    @given(st.randoms(use_true_random=True))
    def one(rng):
        path = rng.choice(files)
        try:
            way = mutate(path, originals[path], rng)
            with in_time():
                outcome(path, way)
        finally:
            path.write_bytes(originals[path])

    def outcome(path, way):
        try:
            data = load_dataset(name, source.options)
        except DataError as error:
            names = (
                {p.name for p in files} | {p.parent.name for p in files} | {p.name.removesuffix(".gz") for p in files}
            )
            said = any(n and n in str(error) for n in names) or any(words in error.what for words in NO_FILE)
            assert said, f"{path.name} ({way}): the error names no file: {error}"  # noqa: PT017
            return
        except ConfigError as error:  # a share of too few patients
            assert "too few" in str(error)  # noqa: PT017
            return
        for record in data:
            try:
                for modality in record.modalities:
                    record.value(modality)
            except DataError as error:
                assert path.name in str(error) or path.stem in str(error), f"{path.name}: {error}"  # noqa: PT017
        ids = [(r.patient_id, r.study_id, r.sample_id) for r in data]
        assert ids == sorted(ids) and all(type(cell) is str for key in ids for cell in key)
        if path.suffix not in tables and name != "dicom" and not (name == "join" and path.parent.name == "films"):
            # A broken picture or report changes what is shown, never whose it is.
            assert all(known[r.sample_id] == (r.study_id, r.patient_id) for r in data)

    one()


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_few_broken_files_of_each_format(form, tmp_path):
    check_source(form, tmp_path / "source", many=False)


@pytest.mark.slow
@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_thousand_broken_files_of_each_format(form, tmp_path):
    check_source(form, tmp_path / "source", many=True)


# ---- requests


def small_dataset():
    rows = [("i1", "s1", "p1"), ("i2", "s1", "p1"), ("i3", "s2", "p1"), ("i4", "s3", "p2"), ("i5", "s4", "0012")]
    attributes = {"StudyDate": "20200102", "Manufacturer": "ACME"}
    records = [Record(i, s, p, "north", {"image": 1, "text": "x"}, 0, "train", attributes) for i, s, p in rows]
    return RecordDataset(
        [*records, Record("i9", "s9", "p9", "south", {"image": 1, "text": "y"}, 1, "test", attributes)],
        name="small",
        levels=("institution", "patient", "study", "sample", "modality"),
        classes=("no", "yes"),
        modality_kinds={"image": "image", "text": "text"},
        aliases={"patient": {"MRN7": "p2"}, "study": {"A1": "s1"}},
    )


def deletion(url):
    return {"request": {"method": "DELETE", "url": url}}


def request_files(folder):
    """Format to (file that is read, file that is broken)."""
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [deletion("Patient/p1"), deletion("Binary/1")]}
    manifest = {
        "transactionTime": "2020-01-01T00:00:00Z",
        "requiresAccessToken": False,
        "output": [],
        "deleted": [{"type": "Bundle", "url": "https://ehr.example/deleted.ndjson"}],
        "link": [{"relation": "next", "url": "x"}],
    }
    query = {"level": "study", "query": {"StudyDate": {"from": "2019-01-01"}, "Manufacturer": ["ACME"]}}
    written = {
        "plain.csv": "patient_id\np1\n0012\n",
        "levels.csv": "level,id,modality\nsample,i1,image\nsample,i4,image\n",
        "ids.json": json.dumps({"level": "modality", "ids": ["i1"], "modalities": ["image"], "id_level": "sample"}),
        "query.json": json.dumps(query),
        "list.txt": "# a list\nMRN: mrn7, Accession: A1\nPatient/p1;12\n",
        "manifest.json": json.dumps(manifest),
        "deleted.ndjson": json.dumps(bundle) + "\n" + json.dumps({**bundle, "entry": [deletion("Patient/p2")]}) + "\n",
    }
    for name, text in written.items():
        (folder / name).write_text(text)
    files = {name: (folder / name, folder / name) for name in written}
    return {**files, "deleted.ndjson": (folder / "manifest.json", folder / "deleted.ndjson")}


REQUESTS = ("plain.csv", "levels.csv", "ids.json", "query.json", "list.txt", "manifest.json", "deleted.ndjson")


def check_request(name, folder, many):
    read, broken = request_files(folder)[name]
    original = broken.read_bytes()
    dataset = small_dataset()

    @fuzz(many)
    @given(st.randoms(use_true_random=True))
    def one(rng):
        try:
            mutate(broken, original, rng)
            with in_time():
                try:
                    request = read_request(read, dataset=dataset, level="patient" if name == "list.txt" else None)
                    assert request.ids and all(type(i) is str and i for i in request.ids)
                    partition = resolve(dataset, request, remaining="exclude")
                    assert partition.forget and not set(partition.forget) & set(partition.retain)
                except RequestError as error:
                    assert read.name in str(error) or broken.name in str(error) or "small" in str(error), str(error)  # noqa: PT017
        finally:
            broken.write_bytes(original)

    one()


@pytest.mark.parametrize("name", REQUESTS)
def test_a_few_broken_requests(name, tmp_path):
    check_request(name, tmp_path, many=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_a_thousand_broken_requests(name, tmp_path):
    check_request(name, tmp_path, many=True)


# ---- the order of rows and columns means nothing


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_the_order_of_columns_means_nothing(name, tmp_path):
    import csv

    folder = tmp_path / "source"
    folder.mkdir()
    source = FACTORIES[name](folder)
    tables = sorted(
        path for path in folder.rglob("*.csv") if path.name != "scp_statements.csv"
    )  # its index has no name
    if not tables:
        pytest.skip("this source has no CSV")
    expected = content(load_dataset(name, source.options))
    for path in tables:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [list(reversed(row)) for row in csv.reader(stream)]
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    assert content(load_dataset(name, source.options)) == expected
