"""Measured, declared, combined: kept apart, and never one score.

*Measured* are the rates of the decision box: TPR = forgotten patients found / forgotten patients, FPR = outsiders
accused / outsiders. *Declared* are what people entered: the prior pi (share of members among those whom an attacker
would ask about), how many people that is, records a person. *Combined*, where pi was declared (Bayes):

    precision = pi TPR / (pi TPR + (1 - pi) FPR)      of those whom the attacker names, the share who were members
    exposed subjects = subjects * pi * TPR            members among them whom the attacker names
    exposed records = exposed subjects * records a person

Intervals: TPR and FPR each have an exact (Clopper-Pearson) interval at 1 - alpha/2, so that both hold at 1 - alpha; the
combined figures are monotone in both and take the worst and best ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetmi.metrics.intervals import clopper_pearson

_DECLARED = ("prior", "subjects", "records_per_subject", "sensitivity", "harm")


def precision(prior: float, tpr: float, fpr: float) -> float | None:
    """Share of members among those who are named: pi TPR / (pi TPR + (1 - pi) FPR); ``None`` where nobody is."""
    named = prior * tpr + (1.0 - prior) * fpr
    return prior * tpr / named if named > 0.0 else None


def combine(case: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``declared`` of an evidence document.

    Args:
        case: as declared (:class:`forgetmi.audit.case.Case`).
        evidence: has ``people`` and ``options``.

    Returns:
        What was declared, what was measured, and what follows; ``combined`` is ``None`` where no prior was declared.
    """
    options = evidence["options"]
    people, declared = evidence["people"], {name: case.get(name) for name in _DECLARED}
    level = people["level"]

    def rates(found: Mapping[str, Any]) -> dict[str, Any]:
        tpr = clopper_pearson(found["found"], people["patients"], 1.0 - (1.0 - level) / 2.0)
        fpr = clopper_pearson(found["accused"], people["outsiders"], 1.0 - (1.0 - level) / 2.0)
        return {
            "tpr": found["found"] / people["patients"],
            "tpr_low": tpr.low,
            "tpr_high": tpr.high,
            "fpr": found["accused"] / people["outsiders"],
            "fpr_low": fpr.low,
            "fpr_high": fpr.high,
        }

    known = people["known"]
    measured: dict[str, Any] = {
        "original": rates(known["original"]),
        "unlearned": rates(known["unlearned"]),
        "retrained": [rates(found) for found in known["retrained"]],
    }
    prior = declared["prior"]
    return {
        **declared,
        "operating_point": f"people_fpr = {options['people_fpr']:g}, attack {options['headline']}",
        "level": level,
        "measured": measured,
        "combined": None
        if prior is None
        else {
            "original": _combined(measured["original"], declared),
            "unlearned": _combined(measured["unlearned"], declared),
            "retrained": [_combined(found, declared) for found in measured["retrained"]],
        },
        "reason": "no prior was declared (case.prior): nothing is combined" if prior is None else None,
    }


def _combined(measured: Mapping[str, float], declared: Mapping[str, Any]) -> dict[str, Any]:
    prior, subjects, records = (declared[name] for name in ("prior", "subjects", "records_per_subject"))
    ends = {"": ("tpr", "fpr"), "_low": ("tpr_low", "fpr_high"), "_high": ("tpr_high", "fpr_low")}
    found: dict[str, Any] = {}
    for end, (tpr, fpr) in ends.items():
        exposed = None if subjects is None else subjects * prior * measured[tpr]
        found[f"precision{end}"] = precision(prior, measured[tpr], measured[fpr])
        found[f"exposed_subjects{end}"] = exposed
        found[f"exposed_records{end}"] = None if exposed is None or records is None else exposed * records
    return found
