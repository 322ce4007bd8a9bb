"""A small source of the true format for every adapter, for the contract test. A new adapter adds a function here.

A factory gets an empty folder that it may fill, and says how to load what it wrote. Nothing in it is a patient's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.data_adapters import (
    fhir_files,
    film_files,
    mimic_files,
    mimic_iv_files,
    omop_files,
    ptb_xl_files,
    text_sets,
)
from tests.data_adapters.dicom_files import BASE, ramp, write_dicom
from tests.data_adapters.film_files import write_image
from tests.data_adapters.openi_files import report_xml, write_archive, write_folder


@dataclass(frozen=True)
class Source:
    """What a factory wrote.

    Attributes:
        options: the adapter's options, as in the YAML.
        root: the folder into which the adapter may not write; everything that the factory wrote is below it.
        breakable: one file of it that holds a record's value (an image, a text, an archive). The contract test
            overwrites it with bytes that are no such thing, and expects a typed error that names it, or a counted skip.
        lazy: whether images are read only when they are used. Off for formats that torchvision reads as a whole.
    """

    options: Mapping[str, Any]
    root: Path
    breakable: Path
    lazy: bool = True


def dicom(folder: Path) -> Source:
    for n in range(1, 7):
        tags = {"patient": f"00{(n + 1) // 2}", "study": str(n), "sop": str(n), "AccessionNumber": f"A{n}"}
        write_dicom(folder / f"day{n % 2}" / f"IM{n}", ramp(n), **tags)
    return Source({"root": folder}, folder, folder / "day1" / "IM1")


def indiana_demo(folder: Path) -> Source:
    heads = ["normal", "Opacity/lung", "Cardiomegaly/mild", "Pleural Effusion/left"]
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty"]
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(words, 9)) for _ in range(20)]
    files = {f"{i}.xml": report_xml(i, mesh=[heads[i % 4]], findings=text) for i, text in enumerate(texts, start=1)}
    archive = write_archive(folder / "NLMCXR_reports.tgz", files)
    counts = {"n_train": 8, "n_validation": 3, "n_test": 4}
    return Source({"reports": archive, "masks": "ellipses", "image_size": 16, **counts}, folder, archive)


def join(folder: Path) -> Source:
    """Films from DICOM, reports of the same studies from FHIR, and a table of laboratory values and splits."""
    films, reports = folder / "films", folder / "reports"
    for n in range(1, 7):
        tags = {"patient": f"00{(n + 1) // 2}", "study": str(n), "sop": str(n), "IssuerOfPatientID": "North"}
        write_dicom(films / f"IM{n}", ramp(n), **tags)
    people = [fhir_files.patient(f"p-{n}", mrn=f"00{n}") for n in (1, 2, 3, 4)]
    fhir_files.write_lines(reports / "Patient.ndjson", *people)
    studies = [fhir_files.imaging(f"i{n}", f"Patient/p-{(n + 1) // 2}", f"{BASE}.1.{n}") for n in range(1, 6)]
    fhir_files.write_lines(reports / "ImagingStudy.ndjson", *studies)
    told = [
        fhir_files.report(f"r{n}", f"Patient/p-{(n + 1) // 2}", imagingStudy=[{"reference": f"ImagingStudy/i{n}"}])
        for n in range(1, 6)
    ]
    fhir_files.write_lines(reports / "DiagnosticReport.ndjson", *told)
    rows = ["mrn,finding,fold,words", "001,yes,train,a b", "002,no,train,c d", "003,yes,test,e f", "009,no,test,g h"]
    (folder / "letters.csv").write_text("\n".join(rows) + "\n")
    letters = {
        "path": folder / "letters.csv",
        "columns": {"sample_id": "mrn", "patient_id": "mrn", "label": "finding", "split": "fold"},
        "modalities": {"letter": {"column": "words", "kind": "text"}},
    }
    options = {
        "sources": {
            "films": {"adapter": "dicom", "options": {"root": films}, "ids": "any"},
            "reports": {
                "adapter": "fhir",
                "options": {"root": reports, "modalities": ["text"]},
                "ids": "other",
                "by": "study",
            },
            "letters": {"adapter": "manifest", "options": letters},
        },
        "id_space": "made-up numbers of North",
    }
    return Source(options, folder, films / "IM1")


def manifest(folder: Path) -> Source:
    rows = ["image_id,exam,mrn,site,finding,fold,file,text"]
    for number, fold in enumerate(("train", "train", "train", "val", "test"), start=1):
        write_image(folder / "img" / f"{number}.png", 40 * number)
        mrn = f"00{(number + 1) // 2 if fold == 'train' else number}"
        rows.append(
            f"i{number},e{number},{mrn},north,{'normal' if number % 2 else 'edema'},{fold},img/{number}.png,a b"
        )
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    (folder / "labs.csv").write_text("mrn,days,test,value\n001,-3,hdl,54\n001,2,hdl,NA\n004,0,chol,181\n")
    labs = {"path": folder / "labs.csv", "id_column": "mrn", "name": "test", "value": "value", "time": "days"}
    ids = {"sample_id": "image_id", "study_id": "exam", "patient_id": "mrn", "institution": "site"}
    options = {
        "path": folder / "m.csv",
        "columns": {**ids, "label": "finding", "split": "fold"},
        "modalities": {
            "image": {"column": "file", "kind": "image"},
            "report": {"column": "text", "kind": "text"},
            "row": {"columns": ["site"], "longitudinal": labs, "kind": "tabular"},
        },
    }
    return Source(options, folder, folder / "img" / "1.png")


def mimic_cxr(folder: Path) -> Source:
    mimic_files.write_tables(folder)
    mimic_files.write_images(folder)
    mimic_files.write_reports(folder)
    options = {"root": folder, "blank": "zero", "attributes": ["ViewPosition", "StudyTime"]}
    return Source(options, folder, next(iter(sorted(folder.rglob("*.jpg")))))


def mimic_iv(folder: Path) -> Source:
    mimic_iv_files.write_release(folder, gz=False)
    return Source({"root": folder}, folder, folder / "hosp" / "labevents.csv")


def fhir(folder: Path) -> Source:
    people = [fhir_files.patient(f"p-{n}", mrn=f"M{n}", gender="female") for n in range(3)]
    people.append(fhir_files.patient("p-old", links=[("replaced-by", "Patient/p-0")]))
    fhir_files.write_lines(folder / "Patient.ndjson.gz", *people)
    fhir_files.write_lines(
        folder / "Encounter.ndjson", *(fhir_files.encounter(f"e{n}", f"Patient/p-{n}") for n in (0, 1))
    )
    visit = {"encounter": {"reference": "Encounter/e1"}}
    fhir_files.write_lines(
        folder / "DiagnosticReport.000.ndjson",
        *(fhir_files.report(f"r{n}", f"Patient/p-{n}", f"lungs {n}") for n in (0, 1, 2)),
        fhir_files.report("r3", "Patient/p-old", "an older film"),
    )
    letters = fhir_files.write_lines(folder / "DocumentReference.ndjson", fhir_files.document("d1", "Patient/p-1"))
    fhir_files.write_lines(
        folder / "Observation.ndjson", fhir_files.observation("o1", "Patient/p-1", "1-1", 5, **visit)
    )
    return Source({"root": folder}, folder, letters)


def omop(folder: Path) -> Source:
    omop_files.write_files(folder)
    return Source({"root": folder}, folder, folder / "measurement.csv")


def openi(folder: Path) -> Source:
    files = {f"{i}.xml": report_xml(i, images=[f"CXR{i}_IM-1"], findings=f"made up {i}") for i in range(1, 11)}
    write_folder(folder / "ecgen-radiology", files)
    for number in range(1, 11):
        write_image(folder / "png" / f"CXR{number}_IM-1.png", 20 * number)
    options = {"reports": folder / "ecgen-radiology", "images": folder / "png"}
    return Source(options, folder, folder / "png" / "CXR1_IM-1.png")


def chexpert(folder: Path) -> Source:
    film_files.write_chexpert(folder)
    options = {"root": folder, "blank": "zero", "test": 0.34}
    return Source(options, folder, folder / film_files.CHEXPERT[0][0])


def chexpert_plus(folder: Path) -> Source:
    film_files.write_chexpert_plus(folder)
    options = {"root": folder, "labels": folder / "chexbert_labels" / "impression_fixed.json", "blank": "zero"}
    return Source(options, folder, (folder / film_files.CHEXPERT[0][0]).with_suffix(".png"))


def iu_xray(folder: Path) -> Source:
    film_files.write_iu(folder)
    options = {"root": folder, "validation": 0.25, "test": 0.25}
    return Source(options, folder, folder / "images" / "images_normalized" / film_files.IU_FILMS[0][1])


def medmnist(folder: Path) -> Source:
    path = folder / "organmnist3d.npz"
    np.savez_compressed(path, **film_files.medmnist_arrays((5, 6, 7)))
    return Source({"path": path}, folder, path)


def nih_cxr14(folder: Path) -> Source:
    film_files.write_nih(folder)
    options = {"root": folder, "validation": 0.34}
    return Source(options, folder, folder / "images_001" / "images" / film_files.NIH[0][0])


def padchest(folder: Path) -> Source:
    film_files.write_padchest(folder)
    return Source({"root": folder, "validation": 0.25, "test": 0.25}, folder, folder / "0" / "a_1.png")


def ptb_xl(folder: Path) -> Source:
    ptb_xl_files.write_release(folder)
    options = {"root": folder, "modalities": ["signal", "text", "tabular"]}
    return Source(options, folder, folder / "records100" / "00000" / "00001_lr.dat")


def r2gen(folder: Path) -> Source:
    path = film_files.write_r2gen(folder, mimic=True)
    return Source({"path": path}, folder, next(iter(sorted(folder.rglob("*.jpg")))))


def torchvision_set(folder: Path) -> Source:
    film_files.write_idx(folder, zipped=True)
    options = {"dataset": "fashion_mnist", "root": folder}
    return Source(options, folder, folder / "train-images-idx3-ubyte.gz", lazy=False)


def clinical_notes(folder: Path) -> Source:
    mimic_iv_files.write_release(folder, gz=False)
    options = {"source": "mimic_iv", "options": {"root": folder, "unit": "note", "modalities": ["text"]}}
    return Source(options, folder, folder / "note" / "discharge.csv")


def lume(folder: Path) -> Source:
    text_sets.write_lume(folder)
    return Source({"root": folder}, folder, folder / "forget.jsonl")


def muse(folder: Path) -> Source:
    text_sets.write_muse(folder)
    return Source({"root": folder, "chunk_words": 5}, folder, folder / "raw" / "retain1.json")


def safe_rlhf(folder: Path) -> Source:
    text_sets.write_safe_rlhf(folder)
    return Source({"root": folder}, folder, folder / "data" / "Alpaca-7B" / "test.jsonl")


def text_records(folder: Path) -> Source:
    path = text_sets.write_lines(folder / "notes.jsonl", text_sets.NOTES)
    columns = {**text_sets.COLUMNS, "prompt": "asked", "answer": "words"}
    return Source({"path": path, "columns": columns, "attributes": ["note_date"]}, folder, path)


def tofu(folder: Path) -> Source:
    text_sets.write_tofu(folder)
    return Source({"root": folder, "questions_per_author": 2}, folder, folder / "retain90.json")


def wmdp(folder: Path) -> Source:
    text_sets.write_wmdp(folder)
    return Source({"root": folder}, folder, folder / "wmdp-corpora" / "cyber-forget-corpus.jsonl")


FACTORIES: dict[str, Callable[[Path], Source]] = {
    "chexpert": chexpert,
    "chexpert_plus": chexpert_plus,
    "clinical_notes": clinical_notes,
    "dicom": dicom,
    "fhir": fhir,
    "indiana_demo": indiana_demo,
    "iu_xray": iu_xray,
    "join": join,
    "lume": lume,
    "manifest": manifest,
    "medmnist": medmnist,
    "mimic_cxr": mimic_cxr,
    "mimic_iv": mimic_iv,
    "muse": muse,
    "nih_cxr14": nih_cxr14,
    "omop": omop,
    "openi": openi,
    "padchest": padchest,
    "ptb_xl": ptb_xl,
    "r2gen": r2gen,
    "safe_rlhf": safe_rlhf,
    "text_records": text_records,
    "tofu": tofu,
    "torchvision_set": torchvision_set,
    "wmdp": wmdp,
}
