"""Made-up reports in the true Open-i format. Every sentence is invented."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def report_xml(
    number: int,
    *,
    mesh: Sequence[str] = ("normal",),
    images: Sequence[str] = (),
    indication: str = "",
    comparison: str = "",
    findings: str = "",
    impression: str = "",
) -> bytes:
    sections = {"COMPARISON": comparison, "INDICATION": indication, "FINDINGS": findings, "IMPRESSION": impression}
    body = "".join(
        f'<AbstractText Label="{name}">{text}</AbstractText>' if text else f'<AbstractText Label="{name}"/>'
        for name, text in sections.items()
    )
    heads = "".join(f"<major>{head}</major>" for head in mesh)
    parents = "".join(f'<parentImage id="{i}"><figureId>F1</figureId></parentImage>' for i in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><meta type="rr"/><uId id="CXR{number}"/>'
        f"<MedlineCitation><Article><Abstract>{body}</Abstract></Article></MedlineCitation>"
        f"<MeSH>{heads}<automatic>made up</automatic></MeSH>{parents}</eCitation>"
    ).encode()


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
