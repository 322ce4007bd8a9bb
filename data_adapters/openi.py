"""Open-i / IU X-Ray: the Indiana University chest X-ray reports (``ecgen-radiology/*.xml``) and their PNGs.

One XML is one report of one study. The source has no patient linkage, so only the levels study, sample, modality and
section are offered.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

from forgetmi.data_adapters.images import ImageFile
from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.records import Record, RecordDataset, Skipped
from forgetmi.splits import split_by_patient
from forgetmi.values import SectionedText

SECTIONS = ("comparison", "indication", "findings", "impression")
LICENSE_NOTE = (
    "CC BY-NC-ND 4.0, as every report states: no commercial use, and no changed version may be passed on. "
    "Cite the Indiana University Chest X-ray Collection."
)
_LARGEST_REPORT = 4 * 2**20  # bytes; the longest published report has 9 KB


class MalformedReportError(DataError):
    """One report cannot be read; the others can."""


@dataclass(frozen=True)
class OpenIReport:
    """One report.

    Attributes:
        uid: the report's id, ``uId@id`` ("CXR1").
        sections: lower-case section name to its text, whitespace folded; ``""`` where the section is empty.
        mesh: the ``MeSH/major`` headings in full ("Opacity/lung/base/left"), "normal" for a normal study.
        images: the ids of its images, ``parentImage@id``, in the file's order.
    """

    uid: str
    sections: Mapping[str, str]
    mesh: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def heads(self) -> frozenset[str]:
        """The headings without their qualifiers, in lower case: "opacity"."""
        return frozenset(heading.split("/")[0].strip().lower() for heading in self.mesh)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type declaration, without which XML can declare no entity."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _DoctypeFoundError


class _DoctypeFoundError(Exception):
    pass


def parse_report(content: bytes, place: str) -> OpenIReport:
    """One report from its XML.

    Args:
        content: the file's bytes.
        place: where they come from, for messages. The file's name is the report's number, hence private.

    Raises:
        MalformedReportError: this is no XML, or no report with an id.
        DataError: the file declares a document type or entities. Published reports never do; such files can be made
            to fill the memory or to read other files, so they are refused and not merely skipped.
    """
    try:
        # The bytes are searched first, so that the parser never starts on a bomb in a plain encoding; the tree
        # builder catches declarations that another encoding hides.
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise _DoctypeFoundError
        parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 - no doctype, hence no entities
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except _DoctypeFoundError:
        raise DataError(
            "a report declares a document type or entities",
            expected="plain XML, as Open-i publishes it",
            fix="do not use this file; get the archive again from its publisher",
            private=[place],
        ) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: an encoding that is unknown
        raise MalformedReportError(f"a report is not well-formed XML ({error})", private=[place]) from None
    identifier = root.find("uId")
    uid = "" if identifier is None else identifier.get("id", "").strip()
    if not uid:
        raise MalformedReportError("a report has no id", expected='<uId id="CXR..."/>', private=[place])
    sections: dict[str, str] = {}
    for element in root.iter("AbstractText"):
        name = element.get("Label", "").strip().lower()
        text = " ".join(" ".join(element.itertext()).split())
        sections[name] = f"{sections.get(name, '')} {text}".strip()
    mesh = tuple(text for e in root.findall("MeSH/major") if (text := (e.text or "").strip()))
    images = tuple(i for e in root.iter("parentImage") if (i := e.get("id", "").strip()))
    return OpenIReport(uid, sections, mesh, images)


def read_reports(source: Path) -> tuple[list[OpenIReport], list[tuple[str, str]]]:
    """Every report of an archive or a folder, in the order of their numbers.

    Args:
        source: ``NLMCXR_reports.tgz`` (any compression that tarfile knows; it is read in memory, nothing is
            extracted), or a folder with ``*.xml`` or ``ecgen-radiology/*.xml``.

    Returns:
        The reports, and (reason, place) of each file that is no readable report.

    Raises:
        DataError: the source is missing, broken or holds no report, or a file declares entities.
    """
    reports: list[OpenIReport] = []
    skipped: list[tuple[str, str]] = []
    if not source.exists():
        raise DataError(
            "the reports are not there",
            where=str(source),
            expected="NLMCXR_reports.tgz, or the folder that it unpacks to",
            fix="correct the option `reports`",
        )
    for place, content in _folder(source) if source.is_dir() else _archive(source, skipped):
        try:
            reports.append(parse_report(content, place))
        except MalformedReportError as error:
            skipped.append(("malformed report", f"{place}: {error.what}"))
    if not reports:
        raise DataError(
            f"no report was found, and {len(skipped)} files were skipped",
            where=str(source),
            expected="ecgen-radiology/*.xml with root eCitation",
            private=[f"{place} ({reason})" for reason, place in skipped[:10]],
        )
    return sorted(reports, key=lambda report: (len(report.uid), report.uid)), skipped


def _folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    inner = folder / "ecgen-radiology"
    for path in sorted((inner if inner.is_dir() else folder).glob("*.xml")):
        yield str(path), path.read_bytes()


def _archive(path: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isdir() or name.suffix != ".xml":
                    continue
                place = f"{path.name}:{member.name}"
                if not member.isfile() or name.is_absolute() or ".." in name.parts:
                    skipped.append(("link or unsafe name in the archive", place))
                elif member.size > _LARGEST_REPORT:
                    skipped.append(("file too large for a report", place))
                elif (stream := archive.extractfile(member)) is not None:
                    yield place, stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"the archive cannot be read ({error})", where=str(path), fix="get it again; the download may be cut short"
        ) from error


def exclusive_class(report: OpenIReport, classes: Mapping[str, tuple[str, ...]]) -> tuple[int | None, str]:
    """The one class whose MeSH heads the report has.

    Returns:
        Its index and ``""``, or ``None`` and the reason why there is not exactly one.
    """
    found = [i for i, heads in enumerate(classes.values()) if report.heads & {head.lower() for head in heads}]
    if len(found) == 1:
        return found[0], ""
    return None, "MeSH headings of several classes" if found else "MeSH headings of no class"


@dataclass(frozen=True)
class OpenI:
    """Adapter of the Open-i reports and PNGs.

    Attributes:
        reports: ``NLMCXR_reports.tgz``, or a folder with the XMLs.
        images: the folder with the PNGs of ``NLMCXR_png.tgz``; without it the records are text only.
        sections: the sections that make the text, in this order. Empty ones are left out; where all are, it is None.
        classes: class name to the MeSH heads that mean it ("pleural effusion"); classes exclude each other, and
            reports of none or of several are skipped and counted. Without it records have no label.
        per: ``"report"``, one record a report with the first image that it lists and that is there (the XML does not
            say which one is frontal), or ``"image"``, one record for each image with the report repeated.
        validation, test: shares of the reports, drawn from ``seed``; the source publishes no split.
        seed: of the split.
    """

    name: ClassVar[str] = "openi"
    summary: ClassVar[str] = "Open-i / IU X-Ray: reports (XML archive or folder) with PNGs where they are there"
    levels: ClassVar[tuple[str, ...]] = ("study", "sample", "modality", "section")
    license_note: ClassVar[str] = LICENSE_NOTE

    reports: Path
    images: Path | None = None
    sections: tuple[str, ...] = ("findings", "impression")
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    per: Literal["report", "image"] = "report"
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"sections: {name!r} is unknown. {did_you_mean(name, SECTIONS)}"
            for name in self.sections
            if name not in SECTIONS
        ]
        if not self.sections:
            problems.append(f"sections: name at least one of {', '.join(SECTIONS)}")
        if len(self.classes) == 1:
            problems.append("classes: one class alone cannot be told from another; name two or more")
        problems += [
            f"classes.{name}: name at least one MeSH head" for name, heads in self.classes.items() if not heads
        ]
        if self.per == "image" and self.images is None:
            problems.append("per: 'image' needs the folder of PNGs as `images`")
        if problems:
            raise ConfigError(problems)

    def load(self) -> RecordDataset:
        """Index the source.

        Raises:
            DataError: the source is missing or broken; see :func:`read_reports`.
            ConfigError: the shares of validation and test do not fit the number of reports.
        """
        reports, skipped = read_reports(Path(self.reports))
        files = self._files()
        records: list[Record] = []
        for report in reports:
            label, reason = exclusive_class(report, self.classes) if self.classes else (None, "")
            parts = {name: text for name in self.sections if (text := report.sections.get(name))}
            text = SectionedText(parts, separator=" ") if parts else None
            if not reason and text is None and not any(i in files for i in report.images):
                reason = "neither text nor image"
            if reason:
                skipped.append((reason, report.uid))
                continue
            for sample_id, image in self._samples(report, files):
                modalities: dict[str, Any] = {"text": text}
                if self.images is not None:
                    modalities["image"] = image
                records.append(Record(sample_id, report.uid, report.uid, "", modalities, label, "train"))
        dataset = RecordDataset(
            records,
            name=self.name,
            levels=self.levels,
            classes=tuple(self.classes),
            modality_kinds={"text": "text"} | ({} if self.images is None else {"image": "image"}),
            license_note=self.license_note,
            skipped=Skipped.collect(skipped),
            notes=self._notes(reports, files),
            sections={"text": self.sections},
        )
        if not self.validation and not self.test:
            return dataset
        return split_by_patient(dataset, validation=self.validation, test=self.test, seed=self.seed)

    def _files(self) -> dict[str, Path]:
        """Image id to file. Ids are looked up here and never made into a path, whatever an XML calls its images."""
        if self.images is None:
            return {}
        files = {path.stem: path for path in Path(self.images).glob("*.png")}
        if not files:
            raise DataError(
                "the folder of images holds no PNG",
                where=str(self.images),
                expected="the files of NLMCXR_png.tgz, such as CXR1_1_IM-0001-3001.png",
                fix="correct the option `images`, or leave it out to use the reports alone",
            )
        return files

    def _samples(self, report: OpenIReport, files: Mapping[str, Path]) -> list[tuple[str, ImageFile | None]]:
        found = [(i, ImageFile(files[i], channels=1) if i in files else None) for i in report.images]
        if self.per == "image" and found:
            return found
        return [(report.uid, next((image for _, image in found if image is not None), None))]

    def _notes(self, reports: list[OpenIReport], files: Mapping[str, Path]) -> tuple[str, ...]:
        notes = ["one report is taken as one study of one patient; the source has no patient linkage"]
        if self.images is not None:
            absent = sum(image not in files for report in reports for image in report.images)
            notes.append(
                f"{absent} of the images that the reports list are not in the folder: there the image is missing"
            )
        return tuple(notes)
