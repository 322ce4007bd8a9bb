"""A made-up release in the true layout: 4 subjects, 7 studies, 9 films of 8x8 pixels. Nothing in it is a patient's."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

FINDINGS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
# subject, study, film number, view, split, fold, severity
FILMS = [
    ("10000001", "50000001", 1, "PA", "train", "1", "0"),
    ("10000001", "50000001", 2, "LATERAL", "train", "1", "0"),
    ("10000001", "50000002", 3, "AP", "train", "1", "2"),
    ("10000002", "50000003", 4, "", "train", "2", "3"),
    ("10000002", "50000004", 5, "AP", "train", "2", "1"),
    ("12000003", "50000005", 6, "PA", "validate", "5", "0"),
    ("12000003", "50000006", 7, "LL", "validate", "5", "1"),
    ("19000004", "50000007", 8, "AP", "test", "TEST", "2"),
    ("19000004", "50000007", 9, "LATERAL", "test", "TEST", "2"),
]
# study -> (Edema, Pneumonia); study 50000006 has no row
EDEMA = {
    "50000001": ("0.0", ""),
    "50000002": ("1.0", "-1.0"),
    "50000003": ("-1.0", "1.0"),
    "50000004": ("", ""),
    "50000005": ("0.0", "0.0"),
    "50000007": ("1.0", ""),
}
REPORTS = {
    "50000001": """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // eval

 FINDINGS:

 The lungs are clear.  The heart is of
 normal size.

 IMPRESSION:

 No acute process.
""",
    "50000002": """                                 FINAL REPORT
 CHEST RADIOGRAPH

 IMPRESSION:  Mild edema.
""",
    "50000003": """                                 FINAL REPORT
 ADDENDUM:

 IMPRESSION:  The tube has moved.
 ______________________________________________________________________________
                                 FINAL REPORT
 FINDINGS:  A tube is seen.

 IMPRESSION:  The tube is in place.
""",
    "50000005": """                                 FINAL REPORT
 HISTORY:  Cough.

 There is no pneumonia in this film.
""",
    "50000006": """                                 FINAL REPORT
 INDICATION:  ___
""",
    "50000007": "                                 FINAL REPORT\n IMPRESSON:  Effusion.\n",
}


def dicom_id(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


def write_csv(path: Path, lines: list[str], *, gz: bool) -> None:
    content = "\r\n".join(lines).encode() + b"\r\n"
    target = path.with_name(path.name + ".gz") if gz else path
    target.write_bytes(gzip.compress(content, mtime=0) if gz else content)


def write_tables(folder: Path, *, gz: bool = True) -> None:
    rows = [(dicom_id(n), study, subject, view, split) for subject, study, n, view, split, _, _ in FILMS]
    write_csv(
        folder / "mimic-cxr-2.0.0-split.csv",
        ["dicom_id,study_id,subject_id,split", *(f"{d},{st},{su},{split}" for d, st, su, _, split in rows)],
        gz=gz,
    )
    write_csv(
        folder / "mimic-cxr-2.0.0-metadata.csv",
        [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,StudyTime",
            *(f'{d},{su},{st},"CHEST (PA, LAT)",{view},93126.5' for d, st, su, view, _ in rows),
        ],
        gz=gz,
    )
    findings = FINDINGS.split(",")
    lines = []
    for study, (edema, pneumonia) in EDEMA.items():
        subject = next(su for su, st, *_ in FILMS if st == study)
        cells = {"Edema": edema, "Pneumonia": pneumonia}
        lines.append(",".join([subject, study, *(cells.get(name, "") for name in findings)]))
    for name in ("chexpert", "negbio"):
        write_csv(folder / f"mimic-cxr-2.0.0-{name}.csv", [f"subject_id,study_id,{FINDINGS}", *lines], gz=gz)


def write_images(folder: Path) -> None:
    for subject, study, number, *_ in FILMS:
        path = folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom_id(number)}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(path)


def write_reports(folder: Path) -> None:
    """All but that of study 50000004."""
    for subject, study, *_ in FILMS:
        if study in REPORTS:
            path = folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(REPORTS[study])


def write_forget_mi(folder: Path, spelling: str = "edeme_severity") -> Path:
    path = folder / "split.csv"
    lines = [f"{su},{st},{dicom_id(n)},{severity},{fold}" for su, st, n, _, _, fold, severity in FILMS]
    write_csv(path, [f"subject_id,study_id,dicom_id,{spelling},fold", *lines], gz=False)
    return path
