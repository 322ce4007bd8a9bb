"""How long two large sources take to index, and how much memory: MIMIC-CXR-JPG with a request, and NIH ChestX-ray14.

    python benchmarks/ingest.py [--quick] [--folder SCRATCH] [--results FOLDER]

Tables of the true columns and sizes are made up in a scratch folder, with an empty file for each film, so that
looking for missing films is part of the measurement. Each run is a process of its own. Limits: MIMIC-CXR-JPG
(377,110 films, 227,827 studies, 65,379 patients) with 1,000 patients resolved in 10 s and 1.5 GB; NIH (112,120
films) in 2 s. With --quick, a hundredth of each is read, which says nothing about the limits.

The exit status is 1 where, at the full sizes, the time of the processor or the memory is over a limit. The time on the
clock is reported, and is longer where others use the machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIMIC = (65_379, 227_827, 377_110)  # patients, studies, films
NIH = (30_805, 112_120)  # patients, films
REQUESTED = 1000  # patients
REPEATS = 3
LIMITS = {"mimic_cxr": {"seconds": 10.0, "peak_mb": 1500.0}, "nih_cxr14": {"seconds": 2.0, "peak_mb": 1500.0}}


def spread(parents: int, children: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """The parent of each child [children]: every parent has one at least, the others fall at random."""
    return np.sort(np.concatenate([np.arange(parents), draw.integers(0, parents, children - parents)]))


def write_gz(path: Path, header: str, rows: list[str]) -> None:
    """A gzipped table."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1, newline="") as stream:
        stream.write("\n".join([header, *rows]) + "\n")


def make_mimic(folder: Path, scale: int) -> None:
    """The tables of MIMIC-CXR-JPG 2.1.0 and empty films; of every size the ``scale``-th part."""
    n_patients, n_studies, n_films = (n // scale for n in MIMIC)
    draw = np.random.default_rng(0)
    subject_of_study = spread(n_patients, n_studies, draw)
    study_of_film = spread(n_studies, n_films, draw)
    subjects = np.sort(draw.choice(10_000_000, n_patients, replace=False)) + 10_000_000
    studies = draw.choice(10_000_000, n_studies, replace=False) + 50_000_000
    part = draw.choice(["train", "validate", "test"], n_patients, p=[0.985, 0.007, 0.008])
    words = draw.integers(0, 2**32, (n_films, 5), dtype=np.uint64)
    films = ["-".join(f"{word:08x}" for word in row) for row in words.tolist()]
    view = draw.choice(["AP", "PA", "LATERAL", "LL", ""], n_films, p=[0.39, 0.26, 0.22, 0.09, 0.04]).tolist()
    study = studies[study_of_film].tolist()
    patient = subject_of_study[study_of_film]
    subject, split = subjects[patient].tolist(), part[patient].tolist()
    rows = zip(films, study, subject, split, strict=True)
    write_gz(
        folder / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        [f"{film},{st},{su},{sp}" for film, st, su, sp in rows],
    )
    write_gz(
        folder / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
        [
            f'{film},{su},{st},"CHEST (PA, LAT)",{v},3056,2544,{21800101 + st % 27},{93126 + st % 999}.531,'
            '"CHEST (PA, LAT)",postero-anterior,Erect'
            for film, su, st, v in zip(films, subject, study, view, strict=True)
        ],
    )
    findings = draw.choice(["1.0", "0.0", "-1.0", ""], (n_studies, 14), p=[0.15, 0.05, 0.03, 0.77]).tolist()
    owner = subjects[subject_of_study].tolist()
    labels = [f"{su},{st},{','.join(row)}" for su, st, row in zip(owner, studies.tolist(), findings, strict=True)]
    write_gz(
        folder / "mimic-cxr-2.0.0-chexpert.csv.gz",
        "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
        "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices",
        labels[: -8 // scale],  # a few studies have no label
    )
    for film, su, st in zip(films, subject, study, strict=True):
        place = f"{folder}/files/p{str(su)[:2]}/p{su}/s{st}"
        os.makedirs(place, exist_ok=True)
        os.close(os.open(f"{place}/{film}.jpg", os.O_CREAT | os.O_WRONLY))
    chosen = draw.choice(subjects[part == "train"][:-2], REQUESTED // scale, replace=False).tolist()
    (folder / "request.csv").write_text("\n".join(["subject_id", *map(str, chosen)]) + "\n")


def make_nih(folder: Path, scale: int) -> None:
    """The table, the two lists and empty films of NIH ChestX-ray14; of every size the ``scale``-th part."""
    n_patients, n_films = (n // scale for n in NIH)
    draw = np.random.default_rng(1)
    patient = spread(n_patients, n_films, draw)
    first = np.searchsorted(patient, np.arange(n_patients))
    visit = np.arange(n_films) - first[patient]
    names = ["Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pleural_Thickening"]
    rows: list[str] = []
    lists: dict[str, list[str]] = {"train_val": [], "test": []}
    (folder / "images").mkdir()
    test = draw.random(n_patients) < 0.09
    for who, number, kind in zip(
        patient.tolist(), visit.tolist(), draw.integers(0, 128, n_films).tolist(), strict=True
    ):
        film = f"{who + 1:08d}_{number:03d}.png"
        found = "|".join(name for bit, name in enumerate(names) if kind >> bit & 1) or "No Finding"
        rows.append(f"{film},{found},{number},{who + 1},58,M,PA,2682,2749,0.143,0.143")
        lists["test" if test[who] else "train_val"].append(film)
        os.close(os.open(f"{folder}/images/{film}", os.O_CREAT | os.O_WRONLY))
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    for name, films in lists.items():
        (folder / f"{name}_list.txt").write_text("\n".join(films) + "\n")


def measure(adapter: str, folder: Path) -> dict[str, Any]:
    """Index a source in this process, which has read nothing else."""
    import pandas  # noqa: F401 - its import is not what is measured

    from forgetmi.data_adapters import load_dataset
    from forgetmi.requests import read_request, resolve

    options: dict[str, Any] = {"root": folder}
    if adapter == "mimic_cxr":
        options |= {"modalities": ["image"], "blank": "zero", "attributes": ["ViewPosition", "StudyDate"]}
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    data = load_dataset(adapter, options)
    loaded = time.perf_counter()
    partition = resolve(data, read_request(folder / "request.csv")) if adapter == "mimic_cxr" else None
    end = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "adapter": adapter,
        "records": len(data),
        "studies": len({(r.patient_id, r.study_id) for r in data}) if "study" in data.levels else None,
        "patients": len(data.patients()),
        "skipped": data.skipped.total,
        "requested_patients": 0 if partition is None else len(partition.patients("forget")),
        "load_s": round(loaded - start, 2),
        "resolve_s": round(end - loaded, 2),
        "seconds": round(end - start, 2),
        "user_s": round(used.ru_utime - before.ru_utime, 2),
        "system_s": round(used.ru_stime - before.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024),
    }


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median time, with the largest memory of all and every time on the clock."""
    ordered = sorted(runs, key=lambda run: run["seconds"])
    middle = ordered[len(ordered) // 2]
    return {
        **middle,
        "peak_mb": max(run["peak_mb"] for run in runs),
        "all_seconds": [run["seconds"] for run in runs],
        "all_user_s": [run["user_s"] for run in runs],
    }


def report(results: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The results as a page."""
    lines = [
        "# Indexing large sources",
        "",
        "Made-up tables of the true columns and sizes, one empty file a film, everything in the page cache.",
        f"`python benchmarks/ingest.py{' --quick' * (machine['scale'] > 1)}` on {machine['cores']} cores, Python "
        f"{machine['python']}; other processes used the machine too (its load was {machine['load']} when it began).",
        f"Median run of {REPEATS} by the time on the clock; limits, which are for the full sizes, in brackets.",
        "",
        "| source | films | patients | load s | resolve s | clock s (all) | processor s, user + system | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        limit = LIMITS[r["adapter"]]
        runs = ", ".join(map(str, r["all_seconds"]))
        lines.append(
            f"| {r['adapter']} | {r['records']:,} | {r['patients']:,} | {r['load_s']} | {r['resolve_s']} | "
            f"{r['seconds']} [{limit['seconds']:g}] ({runs}) | {r['user_s']} + {r['system_s']} | "
            f"{r['peak_mb']} [{limit['peak_mb']:g}] |"
        )
    asked = next((r["requested_patients"] for r in results if r["requested_patients"]), 0)
    lines += [
        "",
        "MIMIC-CXR: split, metadata (two attributes) and CheXpert labels read from `.csv.gz`, films only; a CSV "
        f"request of {asked:,} patients resolved. Records without a label are left out.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the tables, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="where the tables are made (and deleted); a temporary one by default"
    )
    parser.add_argument(
        "--results", type=Path, help="where results are written: benchmarks/results; with --quick, nowhere"
    )
    parser.add_argument("--quick", action="store_true", help="a hundredth of the sizes, one run of each")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and use what is already in it")
    parser.add_argument("--measure", choices=sorted(LIMITS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return 0
    scratch = given.folder or Path(tempfile.mkdtemp(prefix="forgetmi-ingest-"))
    machine: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "scale": 100 if given.quick else 1,
    }
    results = []
    made = []
    try:
        for name, make in (("mimic_cxr", make_mimic), ("nih_cxr14", make_nih)):
            folder = scratch / name
            if not folder.exists():
                made.append(folder)
                folder.mkdir(parents=True)
                make(folder, machine["scale"])
            command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
            runs = []
            for _ in range(1 if given.quick else REPEATS):
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                runs.append(json.loads(done.stdout))
            results.append(median_run(runs))
            print(json.dumps(results[-1]))
    finally:
        if not given.keep:
            for folder in made:
                shutil.rmtree(folder)
            if given.folder is None:
                shutil.rmtree(scratch)
    target = given.results or (None if given.quick else Path(__file__).parent / "results")
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine, "limits": LIMITS, "results": results}
        (target / "ingest.json").write_text(json.dumps(content, indent=2) + "\n")
        (target / "ingest.md").write_text(report(results, machine))
    return int(not given.quick and any(is_over(result) for result in results))  # the limits are for the full sizes


def is_over(result: dict[str, Any]) -> bool:
    """Whether a run needed more of the processor, or more memory, than its limit."""
    limit = LIMITS[result["adapter"]]
    return result["user_s"] + result["system_s"] > limit["seconds"] or result["peak_mb"] > limit["peak_mb"]


if __name__ == "__main__":
    raise SystemExit(main())
