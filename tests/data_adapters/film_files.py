"""Made-up releases of film collections in their true layouts. Every name, number and sentence is invented."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CHEXPERT_FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
# path, view, AP/PA, Edema, Pneumonia
CHEXPERT = [
    ("train/patient00001/study1/view1_frontal.jpg", "Frontal", "AP", "1.0", ""),
    ("train/patient00001/study1/view2_lateral.jpg", "Lateral", "", "1.0", ""),
    ("train/patient00001/study2/view1_frontal.jpg", "Frontal", "PA", "-1.0", "0.0"),
    ("train/patient00002/study1/view1_frontal.jpg", "Frontal", "AP", "0.0", "1.0"),
    ("train/patient00003/study1/view1_frontal.jpg", "Frontal", "AP", "", ""),
    ("valid/patient64541/study1/view1_frontal.jpg", "Frontal", "AP", "0.0", "0.0"),
]
PLUS_HEADER = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_narrative,section_clinical_history,section_history,section_comparison,section_technique,"
    "section_procedure_comments,section_findings,section_impression,section_end_of_impression,section_summary,"
    "section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
)
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,ReportID,Report,"
    "MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
)
# A 36-digit study and a 39-digit patient: as floats they would all be one.
STUDY, PATIENT = "204541000000000000000000000000000123", "178213000000000000000000000000000000456"
# image, folder, study, patient, projection, report, method, labels
PADCHEST_ROWS = [
    ("a_1.png", "0", STUDY, PATIENT, "PA", "sin alteracion", "Physician", "['normal', ' unchanged']"),
    ("a_2.png", "0", STUDY, PATIENT, "L", "sin alteracion", "Physician", "['normal', ' unchanged']"),
    ("b_1.png", "54", f"{STUDY[:-1]}4", f"{PATIENT[:-1]}7", "AP", "", "RNN_model", "['pleural effusion ', '']"),
    ("c_1.png", "1", f"{STUDY[:-1]}5", f"{PATIENT[:-1]}8", "PA", "cardiomegali", "RNN_model", "['cardiomegaly']"),
    ("d_1.png", "1", f"{STUDY[:-1]}6", f"{PATIENT[:-1]}9", "PA", "dudoso", "RNN_model", ""),
    ("e_1.png", "1", f"{STUDY[:-1]}7", "", "PA", "sin pacient", "RNN_model", "['normal']"),
    ("f_1.png", "1", f"{STUDY[:-1]}8", f"{PATIENT[:-1]}0", "PA", "normal", "Physician", "['normal']"),
]
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
# film, labels, patient, list, folder number
NIH = [
    ("00000001_000.png", "Cardiomegaly", "1", "train_val", 1),
    ("00000001_001.png", "Cardiomegaly|Emphysema", "1", "train_val", 1),
    ("00000002_000.png", "No Finding", "2", "train_val", 1),
    ("00000013_000.png", "Pleural_Thickening|Infiltration", "13", "train_val", 12),
    ("00000014_000.png", "Hernia", "14", "test", 12),
    ("00030805_000.png", "No Finding", "30805", "test", 12),
]
# uid, MeSH, findings, impression
IU_REPORTS = [
    ("1", "normal", "made up findings one", "made up impression one"),
    ("2", "Cardiomegaly/borderline;Pulmonary Artery/enlarged", "", "made up impression XXXX"),
    ("3", "Opacity/lung/base/left", "made up findings three", ""),
    ("4", "normal", "", ""),
    ("10", "Opacity/lung;Cardiomegaly", "made up findings ten", "made up"),
]
IU_FILMS = [
    ("1", "1_IM-0001-4001.dcm.png", "Frontal"),
    ("1", "1_IM-0001-3001.dcm.png", "Lateral"),
    ("2", "2_IM-0652-1001.dcm.png", "Frontal"),
    ("4", "4_IM-2050-1001.dcm.png", "Frontal"),
    ("10", "10_IM-0002-1001.dcm.png", "Frontal"),
]


def write_image(path: Path, value: int = 100, *, side: int = 8, bits: int = 8) -> Path:
    """A flat grey image, PNG or JPEG by its suffix; PNG of 16 bits too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8 if bits == 8 else np.uint16)).save(path)
    return path


def write_lines(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_chexpert(folder: Path, prefix: str = "CheXpert-v1.0-small/") -> Path:
    names = CHEXPERT_FINDINGS.split(",")
    for part in ("train", "valid"):
        lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_FINDINGS}"]
        for number, (path, view, position, edema, pneumonia) in enumerate(CHEXPERT, start=1):
            if path.startswith(part):
                cells = {"Edema": edema, "Pneumonia": pneumonia}
                lines.append(f"{prefix}{path},Female,0,{view},{position},{','.join(cells.get(n, '') for n in names)}")
                write_image(folder / path, 10 * number)
        write_lines(folder / f"{part}.csv", lines)
    return folder


def write_chexpert_plus(folder: Path) -> Path:
    """Films as PNG, the table, and ``impression_fixed.json`` with a label for all films but the last."""
    header = PLUS_HEADER.split(",")
    lines, labels = [PLUS_HEADER], []
    for number, (path, view, position, edema, pneumonia) in enumerate(CHEXPERT, start=1):
        cells = {
            "path_to_image": path,
            "path_to_dcm": path.replace(".jpg", ".dcm"),
            "frontal_lateral": view,
            "ap_pa": position,
            "deid_patient_id": path.split("/")[1],
            "patient_report_date_order": "7",
            "section_findings": '"made up,\n findings"' if number < 3 else "",
            "section_impression": f"impression {number}" if number != 4 else "",
            "split": path.split("/")[0],
        }
        lines.append(",".join(cells.get(name, "") for name in header))
        values = dict.fromkeys(CHEXPERT_FINDINGS.split(","))
        values["Edema"], values["Pneumonia"] = (float(v) if v else None for v in (edema, pneumonia))
        labels.append(json.dumps({"path_to_image": path, **values}))
        write_image((folder / path).with_suffix(".png"), 10 * number)
    write_lines(folder / "df_chexpert_plus_240401.csv", lines)
    write_lines(folder / "chexbert_labels" / "impression_fixed.json", labels[:-1])
    return folder


def write_padchest(folder: Path) -> Path:
    header = PADCHEST_HEADER.split(",")
    lines = [PADCHEST_HEADER]
    for number, (image, place, study, patient, projection, report, method, labels) in enumerate(PADCHEST_ROWS):
        cells = {
            "": str(number),
            "ImageID": image,
            "ImageDir": place,
            "StudyID": study,
            "PatientID": patient,
            "PatientBirth": "1950.0",
            "Projection": projection,
            "Report": report,
            "MethodLabel": method,
            "Labels": f'"{labels}"',
        }
        lines.append(",".join(cells.get(name, "") for name in header))
        write_image(folder / place / image, 8000 * (number + 1), bits=16)
    write_lines(folder / PADCHEST, lines)
    return folder


def write_nih(folder: Path, *, one_folder: bool = False) -> Path:
    lines = [NIH_HEADER]
    for number, (film, labels, patient, _, place) in enumerate(NIH, start=1):
        lines.append(f"{film},{labels},{int(film[9:12])},{patient},58,M,PA,2682,2749,0.143,0.143")
        inner = folder / "images" if one_folder else folder / f"images_{place:03d}" / "images"
        write_image(inner / film, 10 * number)
    write_lines(folder / "Data_Entry_2017_v2020.csv", lines)
    for name in ("train_val", "test"):
        write_lines(folder / f"{name}_list.txt", [film for film, _, _, part, _ in NIH if part == name])
    return folder


def write_iu(folder: Path) -> Path:
    lines = ["uid,MeSH,Problems,image,indication,comparison,findings,impression"]
    lines += [f'{uid},{mesh},{mesh},"Chest, 2 views",,,{findings},{end}' for uid, mesh, findings, end in IU_REPORTS]
    write_lines(folder / "indiana_reports.csv", lines)
    write_lines(folder / "indiana_projections.csv", ["uid,filename,projection", *(",".join(row) for row in IU_FILMS)])
    for number, (_, name, _) in enumerate(IU_FILMS, start=1):
        write_image(folder / "images" / "images_normalized" / name, 10 * number)
    return folder


def write_r2gen(folder: Path, *, mimic: bool = False) -> Path:
    """``annotation.json`` and its films: MIMIC-CXR's form with ids as numbers, or IU X-Ray's with two films each."""
    parts: dict[str, list] = {}
    for number, part in enumerate(("train", "train", "train", "val", "test"), start=1):
        entry = {"id": f"CXR{number}_IM-{number:04d}", "report": f"made up report {number} .", "split": part}
        films = [f"{entry['id']}/{i}.png" for i in (0, 1)]
        if mimic:
            subject, study = (
                10000000 + (number + 1) // 2 * (part == "train") + number * (part != "train"),
                5000000 + number,
            )
            films = [f"p10/p{subject}/s{study}/{number:08x}.jpg"]
            entry |= {"id": f"{number:08x}", "subject_id": subject, "study_id": study}
        parts.setdefault(part, []).append(entry | {"image_path": films})
        for index, film in enumerate(films):
            write_image(folder / "images" / film, 20 * number + index)
    (folder / "annotation.json").write_text(json.dumps(parts))
    return folder / "annotation.json"


def medmnist_arrays(shape: tuple[int, ...] = (28, 28), *, labels: int = 1) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("val", 3), ("test", 4)):
        arrays[f"{part}_images"] = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count * labels).reshape(count, labels) % 2).astype(np.uint8)
    return arrays


def write_idx(folder: Path, *, zipped: bool = False, train: int = 20, test: int = 5) -> Path:
    """The four files of MNIST and Fashion-MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    for part, count in (("train", train), ("t10k", test)):
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 0x801, count)
            + (np.arange(count) % 10).astype("u1").tobytes(),
        }
        for name, content in files.items():
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return folder


def write_cifar10(folder: Path) -> Path:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    draw = np.random.default_rng(2)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = draw.integers(0, 256, (4, 3072), dtype=np.uint8)
        (inner / name).write_bytes(pickle.dumps({"data": data, "labels": [number, 1, 2, 9]}))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (inner / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return folder
