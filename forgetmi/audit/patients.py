"""Risk of single patients. Who they are goes into a restricted file; only how risk is spread goes into the evidence.

A patient's p-value under a model is the share of outsiders (test patients) who stand out at least as much
(:func:`forgetmi.attacks.membership.patients.risk_table`): ``known`` counts high scores (the model knows the patient
well), ``marked`` low ones (it treats the patient worse than others). Under a model that never saw the patients p is
uniform on its steps, if forgotten and test patients are alike and have as many records (a highest of more records is
higher). A patient is *flagged* at the operating point of the decision box, ``people_fpr``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forgetmi.attacks.membership.patients import risk_table
from forgetmi.audit.measurements import Measurement
from forgetmi.audit.options import AuditOptions
from forgetmi.audit.scores import PartInfo
from forgetmi.metrics.roc import Bools, Floats, Ints

FILE = "patients_restricted.csv"
READERS = "the site's own people who answer the request; it is not handed on with this report"
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
COLUMNS = (
    "patient",
    "part",
    "records",
    "p_known_original",
    "p_known_unlearned",
    "p_known_retrained_median",
    "p_marked_unlearned",
    "flagged_original",
    "flagged_unlearned",
)


@dataclass(frozen=True)
class PatientRisks:
    """P-values of patients under every model.

    Attributes:
        patients: codes, as in the parts [n].
        records: how many records each has [n].
        known, marked: p-values [2 + R, n], original and unlearned first.
        flagged: whether the patient is found at the declared operating point [2 + R, n].
    """

    patients: Ints
    records: Ints
    known: Floats
    marked: Floats
    flagged: Bools


def forgotten_risks(
    models: Sequence[Measurement], parts: Mapping[str, PartInfo], options: AuditOptions
) -> PatientRisks:
    """Risk of the forgotten patients by the headline attack.

    Args:
        models: original, unlearned, retrained ones.
        parts: as they were attacked.
        options: name the headline and the operating point.
    """

    def scores(measurement: Measurement) -> Floats:
        found = measurement.attacks[options.headline].scores
        assert found is not None  # the audit refuses a headline without scores
        return found

    return _risks([scores(m) for m in models], parts, "forget", options)


def retained_risks(models: Sequence[Measurement], parts: Mapping[str, PartInfo], options: AuditOptions) -> PatientRisks:
    """Risk of the patients who stay in training, by the attack on the loss, which needs nothing but the model."""

    def scores(measurement: Measurement) -> Floats:
        losses = [np.asarray(measurement.scores.parts[part]["nll"], dtype=np.float64) for part in ("retain", "test")]
        return -np.concatenate(losses)

    return _risks([scores(m) for m in models], parts, "retain", options)


def _risks(scores: Sequence[Floats], parts: Mapping[str, PartInfo], part: str, options: AuditOptions) -> PatientRisks:
    member = np.repeat([True, False], [parts[part].patients.size, parts["test"].patients.size])
    patients = np.concatenate([parts[part].patients, parts["test"].patients])
    known = [risk_table(values, member, patients, fpr=options.people_fpr) for values in scores]
    marked = [risk_table(-values, member, patients, fpr=options.people_fpr) for values in scores]
    return PatientRisks(
        patients=known[0].patients,
        records=known[0].n_records,
        known=np.stack([table.p_value for table in known]),
        marked=np.stack([table.p_value for table in marked]),
        flagged=np.stack([table.flagged for table in known]),
    )


def risk_section(
    forgotten: PatientRisks, retained: PatientRisks, parts: Mapping[str, PartInfo], options: AuditOptions
) -> dict[str, Any]:
    """How risk is spread: counts at levels of p, beside what is expected of models that never saw the patients.

    With fewer than ``min_cell`` forgotten patients there is no spread to speak of, and none is given.
    """
    n, outsiders = forgotten.patients.size, parts["test"].n_patients
    few = n < options.min_cell

    def spread(p: Floats) -> list[dict[str, Any]]:
        counted = []
        for level in LEVELS:
            steps = int(level * (1 + outsiders) + 1e-9)
            if steps >= 1 and not few:
                counts = [int((row <= level + 1e-12).sum()) for row in p]
                rest = {"original": counts[0], "unlearned": counts[1], "retrained": counts[2:]}
                counted.append({"p": level, "expected": n * steps / (1 + outsiders), **rest})
        return counted

    return {
        "attack": options.headline,
        "definition": "p = (1 + outsiders who score at least as high) / (1 + outsiders); a patient scores as the "
        "highest of their records; retained patients: attack on the loss",
        "flag_level": options.people_fpr,
        "n_patients": n,
        "n_outsiders": outsiders,
        "min_cell": options.min_cell,
        "reason": f"fewer than {options.min_cell} forgotten patients: their spread would be about single people"
        if few
        else None,
        "known": spread(forgotten.known),
        "marked": spread(forgotten.marked),
        "retained": _retained(retained, options),
        "file": FILE,
        "file_readers": READERS,
    }


def _retained(risks: PatientRisks, options: AuditOptions) -> dict[str, Any]:
    """Counts of flagged patients; small ones are not told, nor what they would follow from."""
    flagged = risks.flagged
    newly = [int((row & ~flagged[0]).sum()) for row in flagged[1:]]
    no_longer = int((flagged[0] & ~flagged[1]).sum())

    def told(count: int) -> int | None:
        return None if 0 < count < options.min_cell else count

    before, after, new, gone = map(told, (int(flagged[0].sum()), int(flagged[1].sum()), newly[0], no_longer))
    # after = before + new - gone: of the four never one alone is held back, for it would follow from the others
    if None in (before, new, gone):
        after = None
    elif after is None:
        gone = None
    return {
        "patients": risks.patients.size,
        "flagged_before": before,
        "flagged_after": after,
        "newly_flagged": new,
        "no_longer_flagged": gone,
        "newly_flagged_retrained": [told(count) for count in newly[1:]],
    }


def restricted_table(forgotten: PatientRisks, retained: PatientRisks, pseudonyms: Sequence[str]) -> str:
    """The restricted file: all forgotten patients, and the retained ones whom unlearning brought to be flagged.

    Args:
        forgotten, retained: risks.
        pseudonyms: of each patient code; keyed hashes, never ids.

    Returns:
        CSV, the most exposed first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    rose = retained.flagged[1] & ~retained.flagged[0]
    for part, risks, chosen in (
        ("forget", forgotten, np.arange(forgotten.patients.size)),
        ("retain", retained, np.flatnonzero(rose)),
    ):
        names = [pseudonyms[int(code)] for code in risks.patients]
        order = sorted((float(risks.known[1, i]), names[i], i) for i in chosen.tolist())
        for _, name, i in order:
            known = risks.known[:, i]
            writer.writerow(
                [
                    name,
                    part,
                    int(risks.records[i]),
                    *(f"{value:.6g}" for value in (known[0], known[1], np.median(known[2:]), risks.marked[1, i])),
                    *("yes" if flag else "no" for flag in risks.flagged[:2, i]),
                ]
            )
    return text.getvalue()
