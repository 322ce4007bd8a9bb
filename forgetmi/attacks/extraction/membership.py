"""Are identifiers of people whom the model was trained on more exposed than those of people whom it never saw?

Exposure is an absolute number only as far as the alternatives are like true identifiers: a model may find real dates of
birth likelier than days drawn at random, and need have seen nobody for that. People whom nobody trained on have real
identifiers too. So the two are compared: were membership of no consequence, a forgotten person's exposure would be
above a test person's as often as below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forgetmi.attacks.extraction.exposure import Exposures
from forgetmi.errors import AuditError
from forgetmi.metrics.figure import Figure, measure
from forgetmi.metrics.intervals import LEVEL, N_RESAMPLES, PatientBootstrap
from forgetmi.metrics.roc import Bools, Floats, auc_statistic, mean_statistic
from forgetmi.metrics.testing import PermutationNull, permutation_null


@dataclass(frozen=True)
class ExposureComparison:
    """Exposure of two groups of people under one model.

    Attributes:
        members, others: mean bits of a person, of each group.
        auc: the chance that a member is more exposed than another, ties half.
        null: the same with membership dealt out to these people at random.
        bits: of each person: the mean over their identifiers [P].
        member: of each person [P].
        patient: the code that was given for each person [P].
    """

    members: Figure
    others: Figure
    auc: Figure
    null: PermutationNull
    bits: Floats
    member: Bools
    patient: np.ndarray

    @property
    def p_value(self) -> float:
        """Of an AUC as high as this one if membership is of no consequence (one-sided, by permutation)."""
        return self.null.p_greater

    def to_dict(self) -> dict[str, Any]:
        """All but what is of single persons, JSON-able."""
        figures = {name: getattr(self, name).to_dict() for name in ("members", "others", "auc")}
        return {**figures, "p_value": self.p_value, "null": self.null.to_dict()}


def compare_exposures(
    found: Exposures,
    member: ArrayLike,
    patients: ArrayLike,
    rng: np.random.Generator,
    *,
    n_permutations: int = 1000,
    n_resamples: int = N_RESAMPLES,
    level: float = LEVEL,
) -> ExposureComparison:
    """Compare the identifiers of members (forgotten people) with those of others (test people), person by person.

    Args:
        found: exposures of N records of both.
        member: whether each is a member's [N].
        patients: of each [N], as integer codes; records without an identifier play no part.
        rng: of the permutations and the intervals.
        n_permutations: of people.
        n_resamples, level: of the intervals.

    Raises:
        AuditError: not one entry a record, a group in which nobody has an identifier, a person in both groups.
    """
    truth, codes = np.asarray(member, dtype=np.bool_), np.asarray(patients)
    if truth.shape != (found.n_records,) or codes.shape != truth.shape:
        raise AuditError(f"{truth.shape} memberships and {codes.shape} patients for {found.n_records} records")
    patient, place = np.unique(codes[found.record], return_inverse=True)
    held = np.bincount(place)
    bits = np.bincount(place, found.bits) / held
    inside = np.bincount(place, truth[found.record])
    if (inside > 0).sum() == 0 or (inside > 0).all():
        raise AuditError(
            "exposure cannot be compared: one of the two groups has no identifier whose format is known",
            fix="give identifiers with the records, or formats for their kinds",
        )
    if ((inside > 0) & (inside < held)).any():
        raise AuditError("exposure cannot be compared: people stand in both groups", expected="disjoint by patient")
    is_member = inside > 0

    def mean_of(name: str, chosen: Bools) -> Figure:
        bootstrap = PatientBootstrap(patient[chosen], rng, n_resamples=n_resamples, level=level)
        sentence = "The identifiers of a person are exposed by {value:.2f} bits."
        statistic = mean_statistic(bits[chosen])
        return measure(name, statistic, bootstrap, direction="remembers_above", sentence=sentence)

    bootstrap = PatientBootstrap(patient, rng, n_resamples=n_resamples, strata=is_member, level=level)
    auc = measure(
        "exposure_auc",
        auc_statistic(bits, is_member),
        bootstrap,
        direction="remembers_above",
        sentence="A member's identifiers are more exposed than another person's with a chance of {value:.3f}.",
        bounds=(0.0, 1.0),
        counts={"n_members": int(is_member.sum()), "n_others": int((~is_member).sum())},
    )
    null = permutation_null(bits, is_member, patient, rng, n_permutations)
    return ExposureComparison(
        mean_of("exposure_of_members", is_member),
        mean_of("exposure_of_others", ~is_member),
        auc,
        null,
        bits,
        is_member,
        patient,
    )
