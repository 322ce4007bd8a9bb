from __future__ import annotations

import importlib.metadata
import pickle
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.indiana_demo import (
    CLASSES,
    IndianaDemo,
    demo_text,
)
from forgetmi.data_adapters.openi import parse_report
from forgetmi.data_adapters.rendered_films import RenderedFilm, lung_masks, package_file
from forgetmi.duplicates import normalised_words
from forgetmi.errors import ConfigError, DataError, MissingDependencyError
from tests.data_adapters.openi_files import report_xml, write_archive, write_folder

HEADS = ["normal", "Opacity/lung", "Cardiomegaly/mild", "Pleural Effusion/left"]
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]


def sentence(number):
    generator = np.random.default_rng(number)
    return " ".join(generator.choice(WORDS, 9)) + "."


@pytest.fixture
def source(tmp_path):
    files = {f"{i}.xml": report_xml(i, mesh=[HEADS[i % 4]], findings=sentence(i)) for i in range(1, 41)}
    files["41.xml"] = report_xml(41, mesh=["Opacity", "Cardiomegaly"], findings=sentence(41))
    files["42.xml"] = report_xml(42, mesh=["Scoliosis"], findings=sentence(42))
    files["43.xml"] = report_xml(43, findings=f"{sentence(7).upper()} 2!", indication="XXXX")  # repeats number 7
    files["44.xml"] = report_xml(44, comparison="XXXX.", impression="Only an impression.")
    files["45.xml"] = b"<eCitation>"
    return write_folder(tmp_path / "ecgen-radiology", files)


def options(source, **changes):
    return {
        "reports": source,
        "masks": "ellipses",
        "n_train": 20,
        "n_validation": 6,
        "n_test": 8,
        "image_size": 32,
        **changes,
    }


def contents(dataset):
    return [(r.sample_id, r.label, r.split, r.modalities["text"], r.value("image").tobytes()) for r in dataset]


def test_records_and_what_is_skipped(source):
    dataset = load_dataset("indiana_demo", options(source))
    assert [len(dataset.indices(split)) for split in ("train", "validation", "test")] == [20, 6, 8]
    assert dataset.skipped.counts == {
        "MeSH headings of several classes": 1,
        "MeSH headings of no class": 1,
        "text nearly repeats another report's": 1,
        "no text": 1,
        "malformed report": 1,
        "more than n_train, n_validation and n_test ask for": 6,
    }
    assert dataset.skipped.examples["text nearly repeats another report's"] == ("CXR43",)
    assert len(dataset) + dataset.skipped.total == 45
    for record in dataset:
        number = int(record.sample_id.removeprefix("CXR"))
        assert record.sample_id == record.study_id == record.patient_id
        assert record.label == number % 4 and record.modalities["text"] == sentence(number)
        image = record.value("image")
        assert image.shape == (32, 32) and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    assert dataset.levels == ("patient", "study", "sample", "modality")
    assert dataset.classes == ("normal", "opacity", "cardiomegaly", "effusion")
    assert dataset.modality_kinds == {"image": "image", "text": "text"}


def test_at_most_so_many_of_one_class_are_kept_and_the_rest_is_counted(source):
    whole = IndianaDemo(**options(source, n_train=20, n_validation=6, n_test=100)).load()
    limited = IndianaDemo(**options(source, n_train=8, n_validation=4, n_test=100, max_per_class=5)).load()
    classes = [record.label for record in limited]
    assert all(classes.count(i) == 5 for i in range(4))
    assert limited.skipped.counts["more than max_per_class of one class"] == len(whole) - 20
    assert {r.sample_id for r in limited} < {r.sample_id for r in whole}
    with pytest.raises(ConfigError, match="max_per_class"):
        IndianaDemo(max_per_class=0)


def test_notes_say_what_every_report_must_show(source):
    dataset = IndianaDemo(**options(source)).load()
    notes = " | ".join(dataset.notes)
    assert "films are rendered from report labels, not X-rays" in notes
    assert "each report is taken as one patient" in notes and "CC BY-NC-ND 4.0" in notes
    test = [record.label for record in dataset if record.split == "test"]
    counts = ", ".join(f"{name} {test.count(i)}" for i, name in enumerate(CLASSES))
    assert f"test: 8 reports ({counts})" in dataset.notes
    assert "instead of" not in notes


def test_the_test_split_is_cut_first_and_a_note_says_so(source):
    dataset = IndianaDemo(**options(source, n_train=30, n_test=100)).load()
    assert [len(dataset.indices(split)) for split in ("train", "validation", "test")] == [30, 6, 4]
    assert "the test split has 4 reports instead of 100: the source has no more" in dataset.notes
    with pytest.raises(DataError, match="40 usable reports") as caught:
        IndianaDemo(**options(source, n_train=34)).load()
    assert "n_train" in caught.value.public


def test_the_seed_decides_everything(source, tmp_path):
    first, again, other = (contents(IndianaDemo(**options(source, seed=seed)).load()) for seed in (3, 3, 4))
    assert first == again
    assert {row[0]: row[2] for row in first} != {row[0]: row[2] for row in other}
    films = [{row[0]: row[4] for row in rows} for rows in (first, other)]
    assert all(films[0][uid] != films[1][uid] for uid in films[0].keys() & films[1].keys())
    assert len(set(films[0].values())) == len(first)

    files = {path.name: path.read_bytes() for path in source.iterdir()}
    archive = write_archive(tmp_path / "reports.tgz", dict(reversed(files.items())))
    assert contents(IndianaDemo(**options(archive, seed=3)).load()) == first


def test_reading_writes_nothing(source):
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    contents(IndianaDemo(**options(source)).load())
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before


LEAKING = (
    "Normal heart, abnormality absent; normally sized. Opacities and an opacity, opacified base. Airspace disease, "
    "air-space disease, air space. CONSOLIDATIONS, consolidative. Infiltrates. Pneumonia, bronchopneumonia. "
    "Cardiomegaly, enlargement, enlarged, nonenlarged. Effusion, effusions."
)


def test_hard_text_is_short_and_names_no_class():
    report = parse_report(
        report_xml(1, indication=LEAKING, comparison="None.", findings="One two three pneumonia five six seven"), "here"
    )
    text = demo_text(report, hard=True, findings_words=5)
    assert text.endswith("None. One two three xxxx five")
    leaks = [
        "normal",
        "opaci",
        "airspace",
        "air-space",
        "consolidat",
        "infiltrat",
        "pneumonia",
        "cardiomegal",
        "enlarg",
        "effusion",
    ]
    assert not [leak for leak in leaks if leak in text.lower()] and "air space" not in text
    assert text.count("xxxx") == 21
    for words in CLASSES.values():
        assert not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in words)
    assert demo_text(report, hard=True, findings_words=0).endswith("None.")
    assert demo_text(report, hard=False, findings_words=5) == f"{LEAKING} One two three pneumonia five six seven"


def clean(finding, uid="CXR1", masks="ellipses", **changes):
    return RenderedFilm(uid, finding, 0, **{"noise": 0.0, "masks": masks, **changes}).load().astype(float)


@pytest.mark.parametrize("uid", [f"CXR{i}" for i in range(12)])
def test_each_finding_can_be_seen(uid):
    """The same seed and id draw the same chest, so that a film less the normal one is the finding."""
    normal, size = clean("normal", uid), 64
    lung = normal < np.quantile(normal[16:56, 8:56], 0.3)

    blob = clean("opacity", uid) - normal
    assert blob.min() > -1e-6 and 0.15 < blob.max() < 0.5
    assert 0.005 < (blob > 0.1).mean() < 0.12

    heart = clean("cardiomegaly", uid) - normal
    assert heart.min() > -0.03
    widened = np.flatnonzero((heart > 0.1).sum(0) >= 3)
    assert widened.min() < size / 2 < widened.max(), "wider to both sides"
    assert (heart > 0.1).mean() > 0.01

    fluid = (clean("effusion", uid) - normal) > 0.1
    assert fluid.mean() > 0.015
    rows = np.flatnonzero(fluid.any(1))
    assert rows.min() > np.flatnonzero(lung.any(1)).min() + 8, "the upper lung stays free"
    left, right = fluid[:, : size // 2 - 4].sum(), fluid[:, size // 2 + 4 :].sum()
    assert min(left, right) == 0, "one side only"


def test_noise_is_added_to_the_same_picture_and_clipped():
    base = clean("opacity")
    inside = (base > 0.35) & (base < 0.65)
    for sd in (0.02, 0.1):
        difference = (clean("opacity", noise=sd) - base)[inside]
        assert difference.std() == pytest.approx(sd, rel=0.1) and abs(difference.mean()) < 3 * sd / inside.sum() ** 0.5
    one, two = (clean("opacity", uid=uid, noise=0.1) - clean("opacity", uid=uid) for uid in ("CXR1", "CXR2"))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1
    heavy = clean("opacity", noise=2.0)
    assert heavy.min() == 0 and heavy.max() == 1


def test_films_travel_to_workers_and_draw_from_no_global_state():
    film = RenderedFilm("CXR9", "effusion", 5, masks="ellipses")
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 - to see that it is left alone
    first = film.load()
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(film)).load(), first)
    np.random.seed(None)  # noqa: NPY002
    assert first.shape == (64, 64) and len(state) == 624
    for size in (16, 28, 96):
        assert RenderedFilm("CXR9", "opacity", 5, size, masks="ellipses").load().shape == (size, size)


def test_options_are_checked_all_at_once(source):
    with pytest.raises(ConfigError) as caught:
        load_dataset("indiana_demo", options(source, n_train=0, image_size=15, image_noise=-1.0, findings_words=-1))
    message = str(caught.value)
    assert all(name in message for name in ("n_train", "image_size", "image_noise", "findings_words"))
    with pytest.raises(ConfigError, match="Did you mean 'masks'"):
        load_dataset("indiana_demo", {"mask": "ellipses"})


@pytest.mark.parametrize("where", ["no distribution", "no file"])
def test_a_missing_package_is_named(monkeypatch, tmp_path, where):
    class Empty:
        def locate_file(self, path):
            return tmp_path / path

    def absent(name):
        if where == "no file":
            return Empty()
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    for changes in ({}, {"masks": "ellipses"}):
        with pytest.raises(MissingDependencyError, match=r"forgetmi\[cxr\]") as caught:
            load_dataset("indiana_demo", changes)
        assert "demo's reports" in str(caught.value)


@pytest.fixture(scope="module")
def published():
    try:
        importlib.metadata.distribution("torchxrayvision")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchxrayvision, which holds the published reports, is not installed")
    return IndianaDemo().load()


def test_the_published_reports_make_the_demo(published):
    assert len(published) + published.skipped.total == 3955
    assert [len(published.indices(split)) for split in ("train", "validation", "test")] == [1200, 200, 371]
    labels = [record.label for record in published]
    assert [labels.count(i) for i in range(4)] == [1101, 388, 236, 46]
    texts = [normalised_words(record.modalities["text"]) for record in published]
    assert len(set(texts)) == len(texts) and all(texts)
    banned = re.compile(
        "normal|opacit|opacif|airspace|consolidat|infiltrate|pneumonia|cardiomegal|enlarge|effusion", re.IGNORECASE
    )
    assert [r.sample_id for r in published if banned.search(r.modalities["text"])] == []


def test_every_published_report_states_the_licence_that_the_note_names(published):
    with tarfile.open(package_file("NLMCXR_reports.tgz")) as archive:
        contents = [archive.extractfile(member).read() for member in archive if member.isfile()]
    stated = sum(b"creativecommons.org/licenses/by-nc-nd/4.0" in content for content in contents)
    assert stated == len(contents) == 3955
    assert "CC BY-NC-ND 4.0" in published.license_note


def test_real_lung_masks(published):
    masks = lung_masks(64)
    assert masks.shape == (434, 64, 64) and masks.dtype == np.float32 and 0 <= masks.min() < masks.max() <= 1
    assert not masks.flags.writeable
    pictures = np.stack([record.value("image") for record in published[:200]])
    assert pictures.shape == (200, 64, 64) and np.isfinite(pictures).all()
    for uid in ("CXR1", "CXR2", "CXR3"):  # lungs are dark, findings are brighter
        normal = clean("normal", uid, "lungs")
        for finding in ("opacity", "cardiomegaly", "effusion"):
            assert clean(finding, uid, "lungs").mean() > normal.mean() + 0.002


def test_the_package_with_the_reports_is_never_imported():
    code = (
        "import sys; from forgetmi.data_adapters import load_dataset\n"
        "try: load_dataset('indiana_demo', {})[0].value('image')\n"
        "except ImportError: pass\n"
        "assert 'torchxrayvision' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
