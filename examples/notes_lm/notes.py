"""The notes: real Indiana reports, each with a made-up identity, as prompts and answers.

The reports are read from the installed package ``torchxrayvision`` each time; nothing of them is written anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from forgetmi.data_adapters.openi import read_reports
from forgetmi.data_adapters.rendered_films import package_file
from forgetmi.duplicates import near_duplicates
from forgetmi.errors import DataError
from forgetmi.records import Record, RecordDataset
from forgetmi.training.seeds import numpy_generator

FORMAT = "{prompt}\n"
_BEGIN = ("Ba", "Co", "Da", "Fe", "Gi", "Ha", "Jo", "Ka", "Li", "Mo", "Ne", "Or", "Pa", "Ri", "Sa", "Tu", "Vi", "Wen")
_MIDDLE = ("la", "mi", "no", "ra", "ru", "se", "ti", "vo", "zan")
_END = ("beck", "dal", "ford", "ham", "ko", "lin", "mere", "nard", "quist", "ski", "ton", "wick")
_FINDINGS_WORDS, _INDICATION_WORDS = 35, 10


@dataclass(frozen=True)
class Patient:
    """Somebody made up.

    Attributes:
        name: what an attacker may know.
        identity: what the note says of them: record number and date of birth.
    """

    name: str
    identity: str


@dataclass(frozen=True)
class Notes:
    """Notes to train on, and the same people's identities to ask for.

    Attributes:
        notes: every note is ``{"prompt", "answer"}``: name and indication; identity and findings. Those of the
            forgotten stand in it several times, as copied notes do.
        probes: one record for each record of ``notes``: the same prompt, the identity alone as its answer.
        forgotten: ids of the patients who are to be forgotten.
    """

    notes: RecordDataset
    probes: RecordDataset
    forgotten: tuple[str, ...]

    def once(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Of some records the first of each patient."""
        first: dict[str, int] = {}
        for index in indices:
            first.setdefault(self.notes[index].patient_id, index)
        return tuple(first.values())


def report_texts() -> list[tuple[str, str]]:
    """(indication, findings) of the distinct reports that have both, in the archive's order, shortened.

    Raises:
        MissingDependencyError: the package with the reports is not installed.
    """
    reports, _ = read_reports(package_file("NLMCXR_reports.tgz"))
    found = []
    for report in reports:
        indication = report.sections.get("indication", "").split()[:_INDICATION_WORDS]
        findings = report.sections.get("findings", "").split()[:_FINDINGS_WORDS]
        if len(indication) > 1 and len(findings) > 8:
            found.append((" ".join(indication), " ".join(findings)))
    repeats = near_duplicates(findings for _, findings in found)
    return [text for text, repeated in zip(found, repeats, strict=True) if not repeated]


def make_patients(count: int, draw: np.random.Generator) -> list[Patient]:
    """So many people with different names.

    Raises:
        DataError: more than there are names.
    """
    first = [a + b for a in _BEGIN for b in _MIDDLE]
    last = [a + b + c for a in _BEGIN for b in _MIDDLE for c in _END]
    if count > len(first) * len(last):
        raise DataError(f"{count} patients are more than the {len(first) * len(last)} names that can be made")
    drawn = draw.choice(len(first) * len(last), size=count, replace=False)
    patients = []
    for number in drawn.tolist():
        born = date(1925, 1, 1) + timedelta(days=int(draw.integers(75 * 365)))
        record = int(draw.integers(10**6))
        name = f"{first[number % len(first)]} {last[number // len(first)]}"
        patients.append(Patient(name, f"MRN {record:06d}, born {born.isoformat()}."))
    return patients


def make_notes(
    texts: Sequence[tuple[str, str]], sizes: tuple[int, int, int], *, n_forget: int, copies: int, seed: int
) -> Notes:
    """Give reports to made-up patients, one each.

    Args:
        texts: (indication, findings).
        sizes: train, validation and test patients.
        n_forget: so many train patients are to be forgotten.
        copies: how often the notes of these stand in the training data.
        seed: of who gets which report, and of the people.

    Raises:
        DataError: there are too few reports, or no patient would be left to train on.
    """
    if len(texts) < sum(sizes):
        raise DataError(f"{sum(sizes)} reports are needed, and there are {len(texts)}", fix="ask for fewer")
    if not 0 < n_forget < sizes[0]:
        raise DataError(f"{n_forget} of {sizes[0]} train patients cannot be forgotten", expected="some, not all")
    draw = numpy_generator(seed, "notes")
    chosen = draw.permutation(len(texts))[: sum(sizes)].tolist()
    patients = make_patients(len(chosen), draw)
    splits = np.repeat(["train", "validation", "test"], sizes).tolist()
    notes, probes, forgotten = [], [], []
    for number, (place, patient, split) in enumerate(zip(chosen, patients, splits, strict=True)):
        indication, findings = texts[place]
        prompt = f"Patient: {patient.name}. Indication: {indication}"
        who = f"p{number:05d}"
        if number < n_forget:  # the order is drawn
            forgotten.append(who)
        for copy in range(copies if number < n_forget else 1):
            ids = (f"{who}-{copy}", who, who, "")
            whole = {"prompt": prompt, "answer": f"{patient.identity} {findings}"}
            notes.append(Record(*ids, {"note": whole}, None, split))
            probes.append(Record(*ids, {"note": {"prompt": prompt, "answer": patient.identity}}, None, split))
    made = [
        RecordDataset(records, name=name, levels=("patient", "sample"), modality_kinds={"note": "dialogue"})
        for name, records in (("notes", notes), ("probes", probes))
    ]
    return Notes(made[0], made[1], tuple(forgotten))
